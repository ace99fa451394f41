"""`make reliability`: the long versions of what `make test` holds in short ones. Writes one table and runs/reliability/report.json."""

import sys
from collections.abc import Callable
from pathlib import Path

from reliability.outcome import Outcome, run_tests, write_outcomes

REPORT = Path("runs/reliability/report.json")

TESTS: dict[str, Callable[[], Outcome]] = {}


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
