"""What a test of reliability found, and the table and file that all of them are written to."""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from mr1jax.report import align, write_whole

_SHOWN = 3  # failures of a test that are printed


@dataclass
class Outcome:
    """Counts what a test tried, what of it failed, and what was lost by it: steps, batches or records, gone or done twice."""

    tried: int = 0
    failures: list[str] = field(default_factory=list)
    lost: int = 0

    def check(self, holds: bool, otherwise: str) -> None:
        """Counts one point, and where it does not hold keeps the clause that says so."""
        self.tried += 1
        if not holds:
            self.failures.append(otherwise)

    @property
    def is_clean(self) -> bool:
        return self.tried > 0 and not self.failures and not self.lost


def run_tests(tests: dict[str, Callable[[], Outcome]]) -> Iterator[tuple[str, Outcome, float]]:
    """Runs tests one after another and yields name, outcome and seconds; one that raises is one failure more, not the end of them."""
    for name, test in tests.items():
        started = time.monotonic()
        try:
            outcome = test()
        except Exception as error:  # noqa: BLE001  whatever it is, the other tests are still worth running
            outcome = Outcome(1, [f"{type(error).__name__}: {error}"])
        yield name, outcome, time.monotonic() - started


def write_outcomes(path: Path, outcomes: dict[str, tuple[Outcome, float]]) -> str:
    """Writes the counts as JSON, {"tests": {name: {"tried", "failures", "lost", "seconds", "examples"}}}; returns them as a table."""
    tests = {
        name: {
            "tried": outcome.tried,
            "failures": len(outcome.failures),
            "lost": outcome.lost,
            "seconds": round(seconds, 1),
            "examples": outcome.failures[:_SHOWN],
        }
        for name, (outcome, seconds) in outcomes.items()
    }
    write_whole(path, json.dumps({"tests": tests}, indent=2) + "\n")
    lines = [[name, *(str(test[count]) for count in ("tried", "failures", "lost", "seconds"))] for name, test in tests.items()]
    examples = [f"  {name}: {example}" for name, test in tests.items() for example in test["examples"]]
    return "\n".join([align([["test", "tried", "failures", "lost", "seconds"], *lines]), *examples])
