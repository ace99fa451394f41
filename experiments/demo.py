"""Question:  does exact match alone teach a memory what to keep and an answer what to trust?
Command:   make demo
"""

from mr1jax.config import Config, OptimizerConfig


def answerer() -> Config:
    """The Answer Agent first, on banks that the warm Manager keeps."""
    return Config(agent="answerer", conversations=64, steps=60, prompts_per_step=16, optimizer=OptimizerConfig(learning_rate=1e-3))


def manager() -> Config:
    """Then the Manager, with the trained Answer Agent frozen as its judge."""
    return Config(
        agent="manager",
        conversations=64,
        steps=60,
        prompts_per_step=10,
        questions_per_state=3,
        optimizer=OptimizerConfig(learning_rate=1e-3),
    )
