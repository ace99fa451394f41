"""Question:  is an operation judged better four turns later, when what it dropped or kept has had time to matter?
Command:   make train EXP=grpo_manager_branch4
Minutes:   4 on one core: a step of 4 states takes 3.3 CPU seconds there, one of grpo_manager's 16 takes 1.6
Expected:  fewer dead groups than grpo_manager's; slower by the clock, since every turn reads a prompt for each member
Measured:  1,848 test questions, exact match, three seeds, beside the start's Answer Agent: start 46.6, grpo_manager 69.8 [66.2, 73.2],
           this agent 72.7 [69.7, 75.6], p = 0.0001 in pairs; at first 16 % of the groups are dead, 50 % there
"""

from mr1jax.config import Config, LossConfig, OptimizerConfig

PARTNER = "grpo_answer"  # whose agent completes the pair that `make eval` evaluates


def get_config() -> Config:
    return Config(
        agent="manager",
        conversations=256,
        steps=72,
        prompts_per_step=4,
        horizon=4,
        questions_per_state=8,
        loss=LossConfig(algorithm="grpo"),
        optimizer=OptimizerConfig(learning_rate=4e-4),
    )
