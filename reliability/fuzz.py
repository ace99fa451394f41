"""Fuzzes the loaders and the packer, guided by the branches that an input takes (atheris), each target in a process of its own.

    python -m reliability.fuzz TARGET [libFuzzer's flags and folders]

Where atheris is not installed the same targets are given seeds that are damaged at random.
"""

import importlib.util
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from reliability.outcome import Outcome

NAMES = ("conversations_as_json", "conversations_spoilt", "examples", "weights", "packing")
STARTING = 40  # seconds that importing may take besides
INSTRUMENTED = ["mr1jax.data.locomo", "mr1jax.data.records", "mr1jax.model.weights", "mr1jax.text.packing"]
# libFuzzer's alarm, half the timeout, does not ring in a run of twelve seconds: a hang is for `_run` to end.
FLAGS = ["-timeout=60", "-rss_limit_mb=6000", "-max_len=8192", "-print_final_stats=1"]
WORDS = "sample_id conversation observation qa session_1 session_1_date_time dia_id D1:1 blip_caption category null".split()


def fuzz(seconds: float, names: tuple[str, ...] = NAMES, seed: int = 1) -> Outcome:
    """Gives each target inputs for so many seconds; a point is one input, and a target stops at its first failure."""
    if importlib.util.find_spec("atheris") is None:
        print(f"fuzz: there is no atheris for Python {sys.version.split()[0]} here; inputs are damaged at random instead", flush=True)
        return try_at_random(round(200 * seconds), names, seed)
    outcome = Outcome()
    for name in names:
        tried, failure = _guided(name, seconds, seed)
        outcome.tried += tried
        outcome.failures += [f"{name}: {failure}"] if failure else []
    return outcome


def try_at_random(count: int, names: tuple[str, ...] = NAMES, seed: int = 1) -> Outcome:
    """Gives each target `count` inputs, its seeds with some bytes changed, in this process."""
    from reliability.targets import TARGETS, seeds

    outcome = Outcome()
    for name in names:
        rng, sound = random.Random(seed), seeds(name)
        for number in range(count):
            data = bytearray(sound[number % len(sound)])
            for _ in range(rng.randint(0, 8) if number >= len(sound) else 0):
                place = rng.randrange(len(data))
                data[place : place + rng.randint(0, 3)] = rng.randbytes(rng.randint(0, 3))
            try:
                TARGETS[name](bytes(data[: rng.choice((len(data), len(data), rng.randint(0, len(data))))]))
                failure = ""
            except Exception as error:  # noqa: BLE001  whatever it is, it is what is looked for
                failure = f"{name}, input {number} of seed {seed}: {type(error).__name__}: {error}"[:500]
            outcome.check(not failure, failure)
    return outcome


def _guided(name: str, seconds: float, seed: int) -> tuple[int, str]:
    """Runs one target under atheris: how many inputs it was given, and what went wrong, "" where nothing did."""
    with tempfile.TemporaryDirectory() as folder:
        for part in ("corpus", "found", "scratch"):
            (Path(folder) / part).mkdir()
        (Path(folder) / "words").write_text("".join(f'"{word}"\n' for word in WORDS))
        flags = [
            f"-max_total_time={max(1, round(seconds))}",
            f"-seed={seed}",
            f"-artifact_prefix={folder}/found/",
            f"-dict={folder}/words",
            *FLAGS,
        ]
        command = [sys.executable, "-m", "reliability.fuzz", name, *flags, f"{folder}/corpus"]
        status, said = _run(
            command, os.environ | {"TMPDIR": f"{folder}/scratch", "PYTHONPATH": os.pathsep.join(sys.path)}, seconds + STARTING
        )
        found = [(path.name, path.read_bytes()[:200]) for path in (Path(folder) / "found").iterdir()]
    counted = re.search(r"stat::number_of_executed_units:\s*(\d+)", said)
    tried = int(counted[1]) if counted else 0
    if status == 0 and tried and not found:
        return tried, ""
    raised = re.search(r"Uncaught Python exception: ===\n(.*)", said)
    return tried, f"exit status {status}, {raised[1][:300] if raised else said[-300:]!r}, input {found}"


def _run(command: list[str], environment: dict[str, str], limit: float) -> tuple[int, str]:
    """Runs a command: (exit status, all it wrote). One that does not end is aborted, so that it says where it is and leaves its input."""
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=environment, stdout=pipe, stderr=subprocess.STDOUT, text=True, errors="replace") as process:
        for patience, stop in ((limit, signal.SIGABRT), (10.0, signal.SIGKILL), (None, signal.SIGKILL)):
            try:
                said, _ = process.communicate(timeout=patience)
                break
            except subprocess.TimeoutExpired:
                process.send_signal(stop)
        return process.returncode, said


def main() -> None:
    """Fuzzes the target that is named first; the folder that is named last begins with the seeds."""
    import atheris

    name, *arguments = sys.argv[1:]
    with atheris.instrument_imports(include=INSTRUMENTED):
        from reliability.targets import TARGETS, seeds
    for number, data in enumerate(seeds(name)):
        (Path(arguments[-1]) / f"seed{number}").write_bytes(data)
    atheris.Setup([sys.argv[0], *arguments], TARGETS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
