"""The short versions of what `make reliability` runs at length, and the frame in which it counts, writes and prints."""

import json

import pytest
from tiny import unoptimised  # noqa: F401

from reliability import damage, kills, layouts, resuming, sameness
from reliability.outcome import Outcome, run_tests, write_outcomes


def assert_clean(outcome, tried):
    assert outcome.failures == []
    assert outcome.lost == 0
    assert outcome.tried >= tried


def test_a_killed_run_resumes_from_its_last_good_step():
    """Oracle: a run that nothing befell, bit for bit; kills where a file is touched and while a save goes on."""
    assert_clean(kills.survive_kills(points=3, seed=1), 3)


def test_a_run_goes_on_in_a_new_process_as_if_it_had_not_stopped():
    """Oracle: the run of twice the steps in one process: parameters, moments, reference, keys, data and log, bit for bit."""
    assert_clean(resuming.resume_in_new_process(("manager",), ("ppo",), ((1, 1, 1),)), 1)


def test_a_terminated_run_saves_and_ends_with_its_status():
    """Oracle: the step that was logged before the signal, status 75, and the run that nothing befell."""
    assert_clean(resuming.stop_and_resume(points=1), 1)


@pytest.mark.slow
def test_two_processes_stop_at_one_step():
    """Oracle: their statuses, and that one step was saved, though one of them got the signal."""
    assert_clean(resuming.stop_two_processes(), 2)


def test_random_damage_is_noticed():
    """Oracle: the damage done, and the bits of the step before."""
    assert_clean(damage.notice_damage(points=40), 30)


def test_the_checkpoint_of_another_run_is_refused():
    """Oracle: what was changed: optimizer, seed, algorithm, model, agent, data."""
    assert_clean(damage.refuse_other_runs(), 8)


def test_a_run_moves_to_another_mesh():
    """Oracle: the values that were saved, and the next loss on the mesh that they were saved on."""
    assert_clean(layouts.restore_elsewhere((((2, 2, 2), (1, 1, 1)),)), 2)


def test_other_seeds_draw_other_samples():
    """Oracle: every row against those of other seeds, of its group, and of the same seed again."""
    assert_clean(sameness.draw_other_samples(seeds=3), 6)


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
