"""A checkpoint is of no mesh: what eight devices saved goes on on one, and the other way round."""

import shutil
import tempfile
from pathlib import Path

import tiny
from tiny import LANGUAGE

from mr1jax.train import train
from reliability.outcome import Outcome
from reliability.processes import bits
from reliability.program import make_config, make_tasks
from reliability.spec import Spec

Mesh = tuple[int, int, int]  # devices along data, fsdp, tensor
PAIRS: tuple[tuple[Mesh, Mesh], ...] = (
    ((2, 2, 2), (1, 1, 1)),
    ((1, 1, 1), (2, 2, 2)),
    ((1, 2, 1), (8, 1, 1)),
    ((1, 1, 8), (1, 8, 1)),
    ((1, 8, 1), (1, 1, 2)),
)
_TOLERANCE = 1e-6  # of the next loss


def restore_elsewhere(pairs: tuple[tuple[Mesh, Mesh], ...] = PAIRS, agent: str = "answerer") -> Outcome:
    """Goes on, on the second mesh of each pair, from what was saved on the first: equal values, and the next loss equal to 1e-6."""
    outcome = Outcome()
    for source, target in pairs:
        with tempfile.TemporaryDirectory() as scratch:
            saved, moved = Path(scratch) / "saved", Path(scratch) / "moved"
            state, _ = _train(saved, source, agent, steps=2)
            shutil.copytree(saved, moved)
            restored, _ = _train(moved, target, agent, steps=2)
            (_, loss), (_, moved_loss) = _train(saved, source, agent, steps=3), _train(moved, target, agent, steps=3)
        outcome.check(bits(restored) == bits(state), f"{source} to {target}: other values")
        outcome.check(abs(loss - moved_loss) <= _TOLERANCE, f"{source} to {target}: the next loss is {moved_loss}, not {loss}")
    return outcome


def _train(folder: Path, mesh: Mesh, agent: str, steps: int):
    config = make_config(Spec(agent, mesh=mesh, steps=steps))
    state, records, _ = train(config, tiny.both(), make_tasks(agent), LANGUAGE, folder)
    return state, records[-1]["loss"]
