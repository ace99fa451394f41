"""Question:  what does PPO teach the answerer?
Command:   make train EXP=ppo_answer
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
