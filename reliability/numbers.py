"""Numbers that are not finite, planted anywhere in a step: the update is not done, and nothing but the counter of steps has changed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from tiny import LANGUAGE

from mr1jax import update
from mr1jax.agents import answerer
from mr1jax.config import replace
from mr1jax.step import Tasks, init_state, train_step
from reliability.outcome import Outcome
from reliability.processes import bits
from reliability.program import make_config, make_tasks
from reliability.spec import Spec

PLANTS = ("nothing", "reward", "logits", "loss", "gradient")


class Planted:
    """A train step in which one number can be made not finite: which, is an argument of the one compiled program."""

    def __init__(self, config, patch):
        self.config, self._which = config, 0
        whole_reward, whole_loss = answerer.reward, update.policy_loss

        def reward(*arguments, **named):
            whole = whole_reward(*arguments, **named)
            return jnp.where(self._which == PLANTS.index("reward"), jnp.nan, whole)

        def policy_loss(log_prob, *arguments):
            loss, metrics = whole_loss(log_prob, *arguments)
            loss = jnp.where(self._which == PLANTS.index("loss"), jnp.inf, loss)
            no_slope = jnp.where(self._which == PLANTS.index("gradient"), jnp.sum(log_prob) * 0, 1.0)
            return loss + jnp.sqrt(no_slope) - jax.lax.stop_gradient(jnp.sqrt(no_slope)), metrics | {"loss": loss}  # sqrt has none at 0

        patch.setattr(answerer, "reward", reward)
        patch.setattr(update, "policy_loss", policy_loss)
        self._run = jax.jit(self._step)
        self.start = jax.jit(lambda seed: init_state(config, tiny.both(seed), jax.random.key(seed)))

    def _step(self, state, tasks, which):
        self._which = which
        try:
            return train_step(state, tasks, LANGUAGE, config=self.config)
        finally:
            self._which = 0

    def __call__(self, state, tasks, plant):
        return self._run(state, tasks, PLANTS.index(plant))


def skip_bad_numbers(seeds: int) -> Outcome:
    """Plants NaN or infinity in reward, logits, loss and gradient: both agents, both algorithms, with so many parameters each."""
    outcome = Outcome()
    for agent in ("answerer", "manager"):
        for algorithm in ("grpo", "ppo"):
            with pytest.MonkeyPatch.context() as patch:
                planted, tasks = Planted(make_config(Spec(agent, algorithm)), patch), tiny.at(make_tasks(agent), slice(8))
                for seed in range(seeds):
                    for plant in PLANTS:
                        check_plant(outcome, planted, tasks, plant, seed)
    return outcome


def check_plant(outcome: Outcome, planted: Planted, tasks: Tasks, plant: str, seed: int) -> None:
    """Does one step with one number planted, and looks at what it has changed."""
    config, state = planted.config, planted.start(seed)
    if plant == "logits":
        own = state.params[config.agent]
        spoilt = own | {"final_norm": own["final_norm"].at[seed % 16].set(jnp.inf)}
        state = replace(state, params=state.params | {config.agent: spoilt})
    after, metrics = planted(state, tasks, plant)
    point = f"{config.agent} by {config.loss.algorithm}, {plant}, seed {seed}"
    outcome.check(bool(metrics["skipped"]) == (plant != "nothing"), f"{point}: skipped is {metrics['skipped']}")
    same = bits(replace(after, step=state.step)) == bits(state)
    outcome.check(same == (plant != "nothing"), f"{point}: parameters and moments {'stay' if same else 'change'}")
    outcome.check(int(after.step) == 1, f"{point}: step is {after.step}")
    finite = {name: bool(np.isfinite(metrics[name])) for name in ("loss", "grad_norm")}
    wanted = {"nothing": (True, True), "reward": (False, False), "loss": (False, True), "gradient": (True, False)}
    if plant in wanted:  # logits may do either
        outcome.check((finite["loss"], finite["grad_norm"]) == wanted[plant], f"{point}: finite are {finite}")
