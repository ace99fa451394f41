"""Question:  does it matter that a group starts from one bank (the critique of Memory-R2, arXiv 2605.21768)?
Command:   make train EXP=grpo_manager_independent
Minutes:   4 on one core: a step of 8 states takes 3.9 CPU seconds there
Expected:  as grpo_manager, more slowly: part of what a group's rewards differ by was decided before the operation that they judge
Measured:  1,848 test questions, exact match, three seeds, beside the start's Answer Agent: start 46.6, grpo_manager 69.8 [66.2, 73.2],
           this agent 67.9 [63.5, 73.1], p = 0.008 in pairs, below; at first 12 % of the groups are dead, 50 % there
"""

from mr1jax.config import Config, LossConfig, OptimizerConfig

PARTNER = "grpo_answer"  # whose agent completes the pair that `make eval` evaluates


def get_config() -> Config:
    return Config(
        agent="manager",
        conversations=256,
        steps=60,
        prompts_per_step=8,
        lead=8,  # turns of its own before the one that is compared, by the same questions as in grpo_manager
        loss=LossConfig(algorithm="grpo"),
        optimizer=OptimizerConfig(learning_rate=4e-4),
    )
