"""Question:  what does PPO teach the Answer Agent?
Command:   make train EXP=ppo_answer
Minutes:   5 to 8 on two CPU cores beside other work
Expected:  as grpo_answer, more slowly: the value head starts from nothing
Measured:  1,848 test questions, exact match, one seed: start 46.6 [44.4, 48.9], this agent 47.5 [45.3, 49.7], with ppo_manager 70.0
           [67.8, 72.2]
"""

from mr1jax.config import Config, LossConfig, OptimizerConfig

PARTNER = "ppo_manager"  # whose agent completes the pair that `make eval` evaluates


def get_config() -> Config:
    return Config(
        agent="answerer",
        conversations=256,
        steps=120,
        prompts_per_step=24,
        loss=LossConfig(algorithm="ppo"),
        optimizer=OptimizerConfig(learning_rate=1.5e-4),
    )
