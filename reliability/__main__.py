"""`make reliability`: the long versions of what `make test` holds in short ones. Writes one table and runs/reliability/report.json."""

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from reliability.fuzz import fuzz
from reliability.outcome import Outcome, run_tests, write_outcomes
from reliability.records import try_records
from reliability.sequences import try_sequences
from reliability.settings import try_command_line, try_settings

REPORT = Path("runs/reliability/report.json")

TESTS: dict[str, Callable[[], Outcome]] = {
    "sequences": partial(try_sequences, 100_000),
    "records": partial(try_records, 10_000),
    "settings": partial(try_settings, 1_000),
    "command-line": try_command_line,
    "fuzz": partial(fuzz, 12),  # seconds a target
}


def main() -> None:
    """Runs the tests that are named, or all; exit status 1 where one of them failed or lost something."""
    unknown = [name for name in sys.argv[1:] if name not in TESTS]
    if unknown:
        print(f"reliability: there is no test {unknown[0]!r}; name some of {', '.join(TESTS)}", file=sys.stderr)
        sys.exit(2)
    outcomes = {}
    for name, outcome, seconds in run_tests({name: TESTS[name] for name in sys.argv[1:] or TESTS}):
        print(f"{name}: {outcome.tried} tried, {len(outcome.failures)} failures, {outcome.lost} lost, {seconds:.0f} s", flush=True)
        outcomes[name] = (outcome, seconds)
    print(f"\n{write_outcomes(REPORT, outcomes)}\n\nwritten to {REPORT}")
    sys.exit(not all(outcome.is_clean for outcome, _ in outcomes.values()))


if __name__ == "__main__":
    main()
