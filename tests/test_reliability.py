"""The frame of `make reliability`: what is counted, written and printed. The short versions of its tests stand beside what they test."""

import json

from reliability.outcome import Outcome, run_tests, write_outcomes


def test_counts_are_written_and_a_test_that_raises_is_one_failure(tmp_path):
    """Oracle: counts by hand, in the file and in the table; the tests after one that raises still run."""

    def mixed():
        outcome = Outcome(lost=2)
        for number in range(5):
            outcome.check(number % 2 == 0, f"{number} is odd")
        return outcome

    def breaks():
        raise KeyError("gone")

    def clean():
        return Outcome(tried=1)

    results = {name: (outcome, seconds) for name, outcome, seconds in run_tests({"mixed": mixed, "breaks": breaks, "clean": clean})}
    table = write_outcomes(tmp_path / "runs/report.json", results)
    tests = json.loads((tmp_path / "runs/report.json").read_text())["tests"]
    counts = {name: (test["tried"], test["failures"], test["lost"], test["examples"]) for name, test in tests.items()}
    assert counts == {
        "mixed": (5, 2, 2, ["1 is odd", "3 is odd"]),
        "breaks": (1, 1, 0, ["KeyError: 'gone'"]),
        "clean": (1, 0, 0, []),
    }
    assert [line.split()[:4] for line in table.splitlines()[1:4]] == [
        ["mixed", "5", "2", "2"],
        ["breaks", "1", "1", "0"],
        ["clean", "1", "0", "0"],
    ]
    assert "  mixed: 1 is odd" in table
    assert [outcome.is_clean for outcome, _ in results.values()] == [False, False, True]
    assert not Outcome().is_clean
