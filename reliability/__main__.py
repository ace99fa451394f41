"""`make reliability`: the long versions of what `make test` holds in short ones. Writes one table and runs/reliability/report.json."""

import logging
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import conftest  # noqa: F401  eight fake devices, as the tests have them; before anything makes an array
import jax

from reliability import answer_hacks, damage, honesty, kills, layouts, manager_hacks, numbers, poison, resuming, sameness, security
from reliability.fuzz import fuzz
from reliability.outcome import Outcome, run_tests, write_outcomes
from reliability.records import try_records
from reliability.sequences import try_sequences
from reliability.settings import try_command_line, try_settings

REPORT = Path("runs/reliability/report.json")

TESTS: dict[str, Callable[[], Outcome]] = {
    "kill": partial(kills.survive_kills, points=60),
    "stop": partial(resuming.stop_and_resume, points=5),
    "stop-two-processes": resuming.stop_two_processes,
    "resume": partial(resuming.resume_in_new_process, ("answerer", "manager"), ("grpo", "ppo"), resuming.MESHES),
    "damage": partial(damage.notice_damage, points=1000),
    "other-runs": damage.refuse_other_runs,
    "other-mesh": layouts.restore_elsewhere,
    "bad-numbers": partial(numbers.skip_bad_numbers, seeds=20),
    "same-seed": partial(sameness.repeat_runs, seeds=2),
    "other-seed": partial(sameness.draw_other_samples, seeds=20),
    "answer-hacks": partial(answer_hacks.answers, points=300, seed=1),
    "answer-tokens": partial(answer_hacks.any_tokens, points=20_000, seed=1),
    "answer-lists": partial(answer_hacks.listing, points=300, seed=1),
    "manager-lines": partial(manager_hacks.lines, points=128, seed=1),
    "manager-hacks": partial(manager_hacks.profits, points=400, seed=1),
    "manager-junk": partial(manager_hacks.full_of_junk, points=16, seed=1),
    "data-leaks": partial(honesty.leaks, points=40, seed=1),
    "data-near": partial(honesty.near, points=200, seed=1),
    "security-source": security.source,
    "security-templates": security.templates,
    "security-names": partial(security.names, points=3000, seed=1),
    "poison": partial(poison.poisoned, points=1000, seed=1),
    "poison-tokens": poison.spelled,
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
    jax.config.update("jax_disable_most_optimizations", True)  # programs so small spend their time in the compiler
    logging.getLogger("mr1jax").setLevel(logging.ERROR)  # checkpoints that are passed over are what is tested
    outcomes = {}
    for name, outcome, seconds in run_tests({name: TESTS[name] for name in sys.argv[1:] or TESTS}):
        print(f"{name}: {outcome.tried} tried, {len(outcome.failures)} failures, {outcome.lost} lost, {seconds:.0f} s", flush=True)
        outcomes[name] = (outcome, seconds)
    print(f"\n{write_outcomes(REPORT, outcomes)}\n\nwritten to {REPORT}")
    sys.exit(not all(outcome.is_clean for outcome, _ in outcomes.values()))


if __name__ == "__main__":
    main()
