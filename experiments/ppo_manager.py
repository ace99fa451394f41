"""Question:  what does PPO teach the Memory Manager?
Command:   make train EXP=ppo_manager
Minutes:   5 to 10 on two CPU cores beside other work
Expected:  as grpo_manager
Measured:  1,848 test questions, exact match, one seed: start 46.6 [44.4, 48.9], this agent 68.7 [66.4, 71.0]; of 4,200 facts it adds
           1,223, updates by 934 and ignores 2,043
"""

from mr1jax.config import Config, LossConfig, OptimizerConfig

PARTNER = "ppo_answer"  # whose agent completes the pair that `make eval` evaluates


def get_config() -> Config:
    return Config(
        agent="manager",
        conversations=256,
        steps=90,
        prompts_per_step=16,
        loss=LossConfig(algorithm="ppo"),
        optimizer=OptimizerConfig(learning_rate=4e-4),
    )
