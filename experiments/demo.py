"""Question:  does exact match alone teach a memory what to keep and an answer what to trust?
Command:   make demo
Minutes:   8 on two CPU cores, after set-up
Expected:  the Answer Agent reads better and abstains where nothing fits; the Manager ignores chatter, so more of what is asked stays
Measured:  see the README: its table is the one that this command printed
"""

from mr1jax.config import Config, OptimizerConfig


def answerer() -> Config:
    """The Answer Agent first, on banks that forgot nothing."""
    return Config(agent="answerer", conversations=96, steps=40, prompts_per_step=24, optimizer=OptimizerConfig(learning_rate=1.5e-4))


def manager() -> Config:
    """Then the Manager, with the trained Answer Agent frozen as its judge."""
    return Config(agent="manager", conversations=256, steps=90, prompts_per_step=16, optimizer=OptimizerConfig(learning_rate=4e-4))
