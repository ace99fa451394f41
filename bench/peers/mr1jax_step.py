"""Times steps of mr1jax: the compiled program of bench/workload.py on a new batch each. A step ends where the next begins.

python -m bench.peers.mr1jax_step '<JSON of a Work>'
"""

import platform
from importlib.metadata import version

import jax
import jax.numpy as jnp

from bench.peers.work import Clock, Seen, finish, told
from bench.workload import BASE, Program
from mr1jax.structs import Array, PyTree


def main() -> None:
    """Does the steps and prints their seconds."""
    work, clock, program = told(), Clock(), Program(BASE)
    start = jax.tree.map(jnp.copy, backbone(program.state.params[program.config.agent]))  # the step is given its state for good
    prompts_P, shown = [], []
    for _ in range(work.steps):
        prompt_PL, length_P = program.batch()
        program.state, each = jax.block_until_ready(program.step(program.state, prompt_PL, length_P))
        clock.mark()
        prompts_P.append(length_P)
        shown.append(each)
    names = ("mr1jax", "jax", "jaxlib")
    finish(work, clock, look(program, start, prompts_P, shown), {"python": platform.python_version()} | {n: version(n) for n in names})


def backbone(params: PyTree) -> PyTree:
    """Returns the parameters without the value head, which is PPO's: GRPO neither reads nor moves its row."""
    return {name: leaf for name, leaf in params.items() if name != "value_head"}


def look(program: Program, start: PyTree, prompts_P: list[Array], shown: list[dict[str, Array]]) -> Seen:
    """Collects what the steps left behind."""
    trained, reference = backbone(program.state.params[program.config.agent]), backbone(program.state.reference)
    leaves = jax.tree.leaves(trained)
    return Seen(
        parameters=sum(leaf.size for leaf in leaves),
        dtype=str(jnp.result_type(*leaves)),
        prompts=[int(length) for length_P in prompts_P for length in set(length_P.tolist())],
        responses=[length for each in shown for length in each["length"].ravel().tolist()],
        kl=[float(each["kl"]) for each in shown],
        moved=changes(start, trained),
        reference_moved=changes(start, reference),
    )


def changes(before: PyTree, after: PyTree) -> list[float]:
    """Returns the largest change of each tensor."""
    return [float(jnp.abs(new - old).max()) for old, new in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True)]


if __name__ == "__main__":
    main()
