"""Question:  does a curriculum help the replay of whole conversations? Its first phase: conversations of 24 facts
Command:   make train EXP=grpo_manager_short && make train EXP=grpo_manager_long
Minutes:   2 on one core
Expected:  the bank is full after 16 facts, so there is something to learn, and a reward is shared by 24 decisions instead of 42
Measured:  see grpo_manager_long
"""

from mr1jax.config import Config, LossConfig, OptimizerConfig

PARTNER = "grpo_answer"  # whose agent completes the pair that `make eval` evaluates


def get_config() -> Config:
    return Config(
        agent="manager",
        conversations=256,
        steps=28,
        prompts_per_step=1,
        horizon=1_000,
        max_facts=24,
        questions_per_state=24,
        loss=LossConfig(algorithm="grpo"),
        optimizer=OptimizerConfig(learning_rate=4e-4),
    )
