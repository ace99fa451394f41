"""Question:  what does GRPO teach the Memory Manager?
Command:   make train EXP=grpo_manager
Minutes:   5 to 10 on two CPU cores beside other work
Expected:  it ignores chatter and puts a fact in the place of the one that it changes
Measured:  1,848 test questions, exact match, one seed: start 46.6 [44.4, 48.9], this agent 69.4 [67.1, 71.8]; of 4,200 facts it adds
           1,230, updates by 959 and ignores 2,011
"""

from mr1jax.config import Config, LossConfig, OptimizerConfig

PARTNER = "grpo_answer"  # whose agent completes the pair that `make eval` evaluates


def get_config() -> Config:
    return Config(
        agent="manager",
        conversations=256,
        steps=90,
        prompts_per_step=16,
        loss=LossConfig(algorithm="grpo"),
        optimizer=OptimizerConfig(learning_rate=4e-4),
    )
