"""`make bench-service`: the agent in use. Prints what it finds and writes bench/service.json; other parts keep what they had."""

import argparse
import os
import platform
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax

from bench import results
from bench.service import isolation, kill, load, million, turn

RESULTS = Path(__file__).parents[1] / "service.json"


def main(arguments: list[str]) -> int:
    """Runs the parts that are named, or all, each in a folder of its own that is removed; returns the exit status."""
    parser = argparse.ArgumentParser(prog="bench.service", description="measure the agent in use")
    parser.add_argument("parts", nargs="*", metavar="PART", help="load, kill, million, isolation, turn; all of them where none is named")
    parser.add_argument("--seconds", type=float, default=60.0, help="of each number of clients")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    parts = _parts(options.seconds)
    unknown = [name for name in options.parts if name not in parts]
    if unknown:
        print(f"bench.service: there is no part {unknown[0]!r}; name some of {', '.join(parts)}", file=sys.stderr)
        return 2
    try:
        measured = results.read(options.results)  # before minutes are spent
    except ValueError as error:
        print(f"bench.service: {error}", file=sys.stderr)
        return 2
    for name in options.parts or parts:
        measured[name] = _measure(parts[name])
        results.write(options.results, measured | _summary(measured))
    print(f"written to {options.results}")
    return int(_is_wrong(measured))


def _parts(seconds: float) -> dict[str, Callable[[Path], dict[str, Any]]]:
    return {
        "turn": lambda _: turn.measure(),
        "load": partial(load.measure, seconds=seconds),
        "kill": kill.measure,
        "million": million.measure,
        "isolation": isolation.measure,
    }


def _measure(part: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
    """Runs one part; what else the machine did then stands beside what was found."""
    before = os.getloadavg()
    with tempfile.TemporaryDirectory() as scratch:
        found = part(Path(scratch))
    machine = {"platform": platform.platform(), "cores": os.cpu_count(), "jax": jax.__version__}
    return found | {"machine": machine, "load_average": {"before": before, "after": os.getloadavg()}}


def _summary(measured: dict[str, Any]) -> dict[str, Any]:
    """Puts beside the parts what is asked for first: speed by the number of clients, and what was lost or told to another."""
    clients = measured.get("load", {}).get("clients", {})
    speed = {name: {count: of[name] for count, of in clients.items()} for name in ("adds_per_s", "answers_per_s")}
    times = {
        name: {count: {kind: of[kind][name] for kind in ("adds", "answers")} for count, of in clients.items()}
        for name in ("p50_ms", "p95_ms", "p99_ms")
    }
    found = {name: measured[part][name] for part, name in (("kill", "lost"), ("isolation", "cross_user")) if part in measured}
    return (speed | times if clients else {}) | found


def _is_wrong(measured: dict[str, Any]) -> bool:
    """Whether a write was lost, or something told that is another's. Speed depends on the machine, and is only reported."""
    return bool(measured.get("kill", {}).get("lost")) or bool(measured.get("isolation", {}).get("cross_user"))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
