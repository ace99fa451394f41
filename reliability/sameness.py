"""The same seed does the same, bit for bit; another seed draws other responses, in every row of a group."""

import jax
import numpy as np
import tiny
from tiny import LANGUAGE

from mr1jax.config import GREEDY, replace
from mr1jax.model.transformer import prefill
from mr1jax.rl.sampling import generate
from mr1jax.structs import Generation
from mr1jax.train import train
from reliability.outcome import Outcome
from reliability.processes import bits, timeless
from reliability.program import make_config, make_tasks
from reliability.spec import Spec

_NUM_TOKENS = 24  # at random out of some forty: no two rows are alike by chance
_NO_END = tiny.TOKENIZER.vocab_size  # no token: every row has its full length


def repeat_runs(seeds: int) -> Outcome:
    """Trains both agents by both algorithms twice with each seed: the same parameters and log; two seeds give two runs."""
    outcome = Outcome()
    for agent, algorithm in (("answerer", "grpo"), ("answerer", "ppo"), ("manager", "grpo"), ("manager", "ppo")):
        tasks, seen = make_tasks(agent), []
        for seed in range(seeds):
            config = replace(make_config(Spec(agent, algorithm, steps=3)), seed=seed)
            runs = [train(config, tiny.both(), tasks, LANGUAGE) for _ in range(2)]
            states, logs = [bits(state) for state, _, _ in runs], [timeless(records) for _, records, _ in runs]
            outcome.check(states[0] == states[1] and logs[0] == logs[1], f"{agent} by {algorithm}, seed {seed}: two runs differ")
            seen.append(logs[0])
        outcome.check(all(log != seen[0] for log in seen[1:]), f"{agent} by {algorithm}: two seeds give one run")
    return outcome


def draw_other_samples(seeds: int) -> Outcome:
    """Draws groups of responses with many seeds: no row is that of the same place under another seed, nor of another in its group."""
    outcome, (P, G) = Outcome(), (4, 8)
    prompt_PL, length_P = np.tile(np.arange(2, 12, dtype=np.int32), (P, 1)), np.full(P, 10, np.int32)
    params, config = tiny.params(), tiny.CONFIG

    def draw(key: jax.Array, sampling=config.sampling) -> Generation:
        cache = prefill(config.model, params, prompt_PL, length_P)
        return generate(
            config.model, params, cache, key, group_size=G, num_tokens=_NUM_TOKENS, grammar=None, eos_id=_NO_END, sampling=sampling
        )

    drawn = [np.asarray(jax.jit(draw)(jax.random.key(seed)).tokens).reshape(P * G, -1) for seed in range(seeds)]
    for seed, rows in enumerate(drawn):
        alike = P * G - len({row.tobytes() for row in rows})
        outcome.check(alike == 0, f"seed {seed}: {alike} rows of one rollout are alike")
        again = np.asarray(jax.jit(draw)(jax.random.key(seed)).tokens).reshape(P * G, -1)
        outcome.check(np.array_equal(again, rows), f"seed {seed}: drawn twice it differs")
        for other in range(seed):
            same = int(np.sum(np.all(rows == drawn[other], axis=1)))
            outcome.check(same == 0, f"seeds {other} and {seed}: {same} rows are the same")
    greedy = np.asarray(jax.jit(draw, static_argnames="sampling")(jax.random.key(0), sampling=GREEDY).tokens).reshape(P * G, -1)
    outcome.check(len({row.tobytes() for row in greedy}) == 1, "greedy rows of equal prompts differ")
    return outcome
