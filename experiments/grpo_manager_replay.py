"""Question:  does one reward at the end of a conversation teach what to keep (algorithm 5 of the paper)?
Command:   make train EXP=grpo_manager_replay
Minutes:   4 on one core: a step of one conversation, 336 decisions, takes about 7.5 CPU seconds there
Expected:  hardly anything in this time: 42 decisions share a reward, and 8 rewards are all that a step sees
Measured:  1,848 test questions, exact match, three seeds, beside the start's Answer Agent: start 46.6, grpo_manager 69.8 [66.2, 73.2],
           this agent 59.1 [56.5, 61.6]; it learns to ignore chatter (46 % NOOP) and never to UPDATE
"""

from mr1jax.config import Config, LossConfig, OptimizerConfig

PARTNER = "grpo_answer"  # whose agent completes the pair that `make eval` evaluates


def get_config() -> Config:
    return Config(
        agent="manager",
        conversations=256,
        steps=32,
        prompts_per_step=1,
        horizon=1_000,  # to the end of any conversation, and so from an empty bank
        questions_per_state=24,
        loss=LossConfig(algorithm="grpo"),
        optimizer=OptimizerConfig(learning_rate=4e-4),
    )
