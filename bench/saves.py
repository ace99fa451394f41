"""What saving costs the steps around it, and how fast a checkpoint is verified, on the demo's Answer Agent.

A block of steps in which a save begins is taken in turn with one without; both do the same number of steps on other batches.
"""

import statistics
import tempfile
import time
from pathlib import Path

import jax

from bench.step import Step, make_batches
from mr1jax import checkpoint
from mr1jax.cli import load_experiment
from mr1jax.manifest import files_of
from mr1jax.prepare import load_start

STEPS = 4  # of a block: the first begins once the save does


def measure(rounds: int = 12) -> dict[str, float]:
    """Times blocks of steps with and without a save, and reads what was saved. Medians over rounds; seconds, MB."""
    start = load_start(load_experiment("demo").answerer())
    step, batches = Step(start, start.config), make_batches(start)
    for _ in range(2):
        jax.block_until_ready(step(next(batches)))
    with tempfile.TemporaryDirectory() as scratch, checkpoint.Saver(scratch, max_to_keep=2) as saver:
        calm, saving, blocked = [], [], []
        for number in range(1, rounds + 1):
            calm.append(_block(step, batches))
            began = time.monotonic()
            saver.save(number, step.state, {})
            blocked.append(time.monotonic() - began)
            saving.append(blocked[-1] + _block(step, batches))
            saver.wait()
        result = _verify(Path(scratch))
    added = statistics.median(with_save / without - 1 for with_save, without in zip(saving, calm, strict=True))
    result |= {"blocked_s": statistics.median(blocked), "block_s": statistics.median(calm), "added_share": added, "steps": STEPS}
    print(
        f"saving {result['megabytes']:.1f} MB: {1000 * result['blocked_s']:.0f} ms before the next step may begin, {added:.1%} added to "
        f"{STEPS} steps of {result['block_s'] / STEPS:.2f} s; verified at {result['verified_mb_per_s']:.0f} MB/s"
    )
    return result


def _block(step: Step, batches) -> float:
    drawn = [next(batches) for _ in range(STEPS)]
    started = time.monotonic()
    for batch in drawn:
        jax.block_until_ready(step(batch))
    return time.monotonic() - started


def _verify(directory: Path) -> dict[str, float]:
    step = checkpoint.saved_steps(directory)[-1]
    folder = directory / f"step_{step:08d}"
    size = sum((folder / name).stat().st_size for name in files_of(folder)) / 1e6
    seconds = []
    for _ in range(5):
        started = time.monotonic()
        assert not checkpoint.verify(directory, step)
        seconds.append(time.monotonic() - started)
    return {"megabytes": size, "verified_mb_per_s": size / statistics.median(seconds)}
