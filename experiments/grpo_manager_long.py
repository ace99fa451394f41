"""Question:  does a curriculum help the replay of whole conversations? Its second phase, compared with grpo_manager_replay
Command:   make train EXP=grpo_manager_short && make train EXP=grpo_manager_long
Minutes:   2 on one core; with the first phase as long as grpo_manager_replay
Expected:  better than grpo_manager_replay, which starts with the longest
Measured:  1,848 test questions, exact match, three seeds, beside the start's Answer Agent: start 46.6, grpo_manager 69.8 [66.2, 73.2],
           grpo_manager_replay 59.1 [56.5, 61.6], this agent 74.1 [72.0, 76.2], the best there is: it ignores 49 % and updates by 17 %
"""

from mr1jax.config import Config, LossConfig, OptimizerConfig

PARTNER = "grpo_answer"  # whose agent completes the pair that `make eval` evaluates


def get_config() -> Config:
    return Config(
        agent="manager",
        conversations=256,
        steps=16,
        prompts_per_step=1,
        horizon=1_000,
        questions_per_state=24,
        manager_from="runs/grpo_manager_short",
        loss=LossConfig(algorithm="grpo"),
        optimizer=OptimizerConfig(learning_rate=4e-4),
    )
