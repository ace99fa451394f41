"""Question:  what does GRPO teach the Answer Agent?
Command:   make train EXP=grpo_answer
Minutes:   5 to 8 on two CPU cores beside other work
Expected:  better reading where a question goes through another person; little elsewhere, since it reads well from the start
Measured:  1,848 test questions, exact match, one seed: start 46.6 [44.4, 48.9], this agent 48.2 [46.0, 50.4], with grpo_manager 71.1
           [68.9, 73.4]
"""

from mr1jax.config import Config, LossConfig, OptimizerConfig

PARTNER = "grpo_manager"  # whose agent completes the pair that `make eval` evaluates


def get_config() -> Config:
    return Config(
        agent="answerer",
        conversations=256,
        steps=120,
        prompts_per_step=24,
        loss=LossConfig(algorithm="grpo"),
        optimizer=OptimizerConfig(learning_rate=1.5e-4),
    )
