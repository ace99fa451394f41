"""What `make bench-peers` does with the systems it times, played by small programs, and what counts as equal work."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

import bench.__main__ as bench_main
from bench import results
from bench.peers.__main__ import WARM_UP, main, make_work
from bench.peers.work import PARAMETERS, Clock, Seen, finish
from bench.workload import BASE
from mr1jax.model.transformer import init_params

ROOT = Path(__file__).parents[1]
# Plays a system: notes that it was called, and takes as long as the list says that has a row for each of its calls.
PLAYER = """
import json, pathlib, sys
name, calls, seconds, work = sys.argv[1], pathlib.Path(sys.argv[2]), json.loads(sys.argv[3]), json.loads(sys.argv[4])
before = calls.read_text().split() if calls.exists() else []
calls.write_text(" ".join([*before, name]))
print("a line that is no result")
wall = seconds[before.count(name)]
assert len(wall) == work["timed"] and work["response_length"] == 32
print(json.dumps({"wall_s": wall, "cpu_s": [2 * second for second in wall], "versions": {name: "1.0"}}))
"""
SECONDS = {
    "mr1jax": [[1, 1, 4], [2, 2, 2], [1, 4, 5]],
    "trl": [[6, 6, 6], [9, 8, 7], [8, 8, 99]],
    "tunix": [[3, 5, 7], [4, 4, 4], [6, 6, 6]],
}


@pytest.fixture(autouse=True)
def all_cores():
    """Gives this process back the cores that `main` takes away."""
    cores = os.sched_getaffinity(0)
    yield
    os.sched_setaffinity(0, cores)


@pytest.fixture
def play(tmp_path):
    """Runs the comparison on played systems, some of them replaced by programs of one line: (exit status, who was called in turn)."""
    calls = tmp_path / "calls"

    def run(path, rounds=3, **replaced):
        systems = {name: (sys.executable, "-c", PLAYER, name, str(calls), json.dumps(seconds)) for name, seconds in SECONDS.items()}
        systems |= {name: (sys.executable, "-c", program) for name, program in replaced.items()}
        status = main(["--rounds", str(rounds), "--steps", "3"], systems, path)
        return status, calls.read_text().split() if calls.exists() else []

    return run


def test_systems_take_turns(play, tmp_path):
    """Oracle: the order written out. Three calls of one system in a row would leave it the machine of one time."""
    status, calls = play(tmp_path / "results.json")
    assert status == 0
    assert calls == ["mr1jax", "trl", "tunix", "mr1jax", "trl", "tunix", "mr1jax", "trl", "tunix"]


def test_medians_and_ratios(play, tmp_path, capsys):
    """Oracle: arithmetic by hand. Medians of rounds: 1 2 4, 6 8 8 and 5 4 6; so ratios are 6 4 2 and 5 2 1.5."""
    path = tmp_path / "results.json"
    play(path)
    row = json.loads(path.read_text())["workload_w"]
    assert (row["mr1jax_s"], row["trl_s"], row["tunix_s"]) == (2, 8, 5)
    assert (row["mr1jax_cpu_s"], row["trl_cpu_s"], row["tunix_cpu_s"]) == (4, 16, 10)
    assert row["trl_over_mr1jax"] == {"median": 4, "min": 2, "max": 6}
    assert row["tunix_over_mr1jax"] == {"median": 2, "min": 1.5, "max": 5}
    assert row["versions"]["trl"] == {"trl": "1.0"}
    assert row["machine"]["cores"] == 2
    assert [one["trl"]["wall_s"] for one in row["rounds"]] == SECONDS["trl"]
    printed = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["trl", "8.00", "16.00", "4.00,", "2.00", "to", "6.00"] in printed


def test_other_results_are_kept(play, tmp_path):
    """Oracle: the file that was there, whose row of this comparison alone is replaced; nothing lies beside it."""
    path = tmp_path / "results.json"
    path.write_text(json.dumps({"step": {"answerer": {"step_s": 2.5}}, "workload_w": {"mr1jax_s": 77}}))
    play(path)
    after = json.loads(path.read_text())
    assert after["step"] == {"answerer": {"step_s": 2.5}}
    assert after["workload_w"]["mr1jax_s"] == 2
    assert sorted(each.name for each in tmp_path.iterdir()) == ["calls", "results.json"]


@pytest.mark.parametrize(
    ("program", "sentence"),
    [
        ("import sys; print('{}'); sys.exit('This was not workload W: it slept.')", "trl failed with status 1"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "trl failed with status -9"),
        ("print('all is well')", "trl did not print the seconds of 3 steps"),
        ("pass", "trl did not print the seconds of 3 steps"),
        ("""print('{"wall_s": [1, 2], "cpu_s": [1, 2], "versions": {"trl": "1"}}')""", "trl did not print the seconds of 3 steps"),
    ],
)
def test_failure_leaves_the_file_alone(play, tmp_path, capsys, program, sentence):
    """Oracle: the bytes of the file before, and no other file; the rest of the round is not run."""
    path = tmp_path / "results.json"
    path.write_bytes(b'{"workload_w":  1}')
    status, calls = play(path, trl=program)
    said = capsys.readouterr().err
    assert status == 2
    assert sentence in said
    assert ("it slept" in said) == ("it slept" in program)  # the end of what the program itself said
    assert calls == ["mr1jax"]
    assert path.read_bytes() == b'{"workload_w":  1}'
    assert sorted(each.name for each in tmp_path.iterdir()) == ["calls", "results.json"]


def test_absent_environment_is_named(tmp_path, capsys):
    """Oracle: the sentence and the exit status; no file is made."""
    assert main([], {"trl": ("nowhere/python", "-m", "bench.peers.trl_step")}, tmp_path / "results.json") == 2
    assert capsys.readouterr().err == "bench.peers: there is no nowhere/python to run trl with; `make bench-peers` sets it up\n"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("text", ["", "[1]", '{"step": '])
def test_damaged_file_is_refused_at_once(play, tmp_path, capsys, text):
    """Oracle: nobody was called, and the file is as it was."""
    path = tmp_path / "results.json"
    path.write_text(text)
    assert play(path) == (2, [])
    assert "holds no JSON object; remove it" in capsys.readouterr().err
    assert path.read_text() == text


def test_make_bench_keeps_the_comparison(tmp_path, monkeypatch):
    """Oracle: the row that was there, and one room that measures 3."""
    path = tmp_path / "results.json"
    path.write_text(json.dumps({"workload_w": {"trl_s": 8}, "bank": 1}))
    monkeypatch.setattr(results, "RESULTS", path)
    monkeypatch.setattr(bench_main, "ROOMS", {"bank": type("Room", (), {"measure": staticmethod(lambda: 3)})})
    bench_main.main()
    after = json.loads(path.read_text())
    assert (after["workload_w"], after["bank"]) == ({"trl_s": 8}, 3)
    assert after["machine"]["jax"] == jax.__version__


def test_the_sizes_that_are_told_are_those_of_w():
    """Oracle: the parameters of a Qwen2 counted by hand from what peers are told, and those of our own model without PPO's value head."""
    work = make_work(BASE, 5)
    heads, kv = work.num_heads * work.head_dim, work.num_kv_heads * work.head_dim
    attention = work.d_model * (2 * heads + 2 * kv) + heads + 2 * kv  # four matrices, and three with a bias
    layer = attention + 3 * work.d_model * work.d_ff + 2 * work.d_model  # the MLP and two norms
    assert work.vocab_size * work.d_model + work.num_layers * layer + work.d_model == PARAMETERS
    ours = jax.eval_shape(lambda: init_params(BASE.config.model, jax.random.key(0)))
    assert sum(leaf.size for leaf in jax.tree.leaves(ours)) - ours["value_head"].size == PARAMETERS
    assert (work.prompts, work.group, work.prompt_length, work.response_length, work.kl_coef) == (4, 8, 512, 32, 0.04)
    assert (work.rows, work.steps, work.timed) == (32, WARM_UP + 5, 5)


WORK = dataclasses.replace(make_work(BASE, 1), prompts=2, group=2, prompt_length=8, response_length=3)  # 3 steps of 4 responses
EQUAL = Seen(
    parameters=PARAMETERS,
    dtype="float32",
    prompts=[8, 8, 8],
    responses=[3] * 12,
    kl=[0.0, 1e-8, 2e-8],
    moved=[1e-6, 2e-6],
    reference_moved=[0.0, 0.0],
)


@pytest.mark.parametrize(
    ("different", "words"),
    [
        ({"parameters": PARAMETERS + 1}, "4,002,049 parameters"),
        ({"dtype": "bfloat16"}, "bfloat16"),
        ({"prompts": [8, 8]}, "prompts of [8, 8] tokens"),
        ({"prompts": [8, 7, 8]}, "prompts of [8, 7, 8] tokens"),
        ({"responses": [3] * 11 + [2]}, "{3: 11, 2: 1}"),
        ({"responses": [3] * 11}, "{3: 11}"),
        ({"moved": [1e-6, 0.0]}, "1 of its 2 tensors did not move"),
        ({"moved": [1e-6, float("nan")]}, "1 of its 2 tensors did not move"),
        ({"reference_moved": [0.0, 1e-6]}, "its reference moved by 1.0e-06"),
        ({"reference_moved": [0.0, float("nan")]}, "its reference moved by nan"),
        ({"kl": [0.0, 0.0, 0.0]}, "must be above 0"),
        ({"kl": [0.0, 0.0, float("nan")]}, "must be above 0"),
        ({"kl": []}, "over 3 steps"),
    ],
)
def test_other_work_is_seen(different, words):
    """Oracle: one planted difference each; without one, nothing is said."""
    assert EQUAL.other_work(WORK) is None
    assert words in dataclasses.replace(EQUAL, **different).other_work(WORK)


def test_timed_steps_are_those_after_the_warm_up(capsys):
    """Oracle: differences by hand. Two steps of warm-up end at 10 and 13, so the timed two take 2 and 4 seconds."""
    clock = Clock(wall=[10.0, 13.0, 15.0, 19.0], cpu=[1.0, 2.0, 5.0, 6.5])
    work = dataclasses.replace(WORK, warm_up=2, timed=2)
    seen = dataclasses.replace(EQUAL, prompts=[8] * 4, responses=[3] * 16, kl=[0.0, 0.0, 0.0, 1e-8])
    finish(work, clock, seen, {"trl": "1.16.0"})
    printed = json.loads(capsys.readouterr().out)
    assert (printed["wall_s"], printed["cpu_s"], printed["versions"]) == ([2.0, 4.0], [3.0, 1.5], {"trl": "1.16.0"})


@pytest.mark.parametrize(
    ("clock", "seen", "words"),
    [
        (Clock(wall=[1.0, 2.0, 3.0], cpu=[1.0, 2.0, 3.0]), dataclasses.replace(EQUAL, moved=[0.0]), "1 of its 1 tensors did not move"),
        (Clock(wall=[1.0, 2.0], cpu=[1.0, 2.0]), EQUAL, "it marked 2 steps, not 3"),
    ],
)
def test_other_work_prints_no_result(capsys, clock, seen, words):
    """Oracle: the sentence that the process ends with, and nothing on standard output."""
    with pytest.raises(SystemExit, match=words):
        finish(WORK, clock, seen, {})
    assert not capsys.readouterr().out


@pytest.mark.parametrize(("system", "variable"), [("trl", "PYTHON311"), ("tunix", "PYTHON312")])
def test_python_that_does_not_run_is_named(tmp_path, system, variable):
    """Oracle: the sentence of the Makefile; no environment is begun."""
    (tmp_path / "bench").symlink_to(ROOT / "bench")
    command = ["make", "-f", str(ROOT / "Makefile"), f".venv-peers/{system}/.ready", f"{variable}=false"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr.startswith(
        f"false does not run here, which make bench-peers needs; name one that does: make bench-peers {variable}="
    )
    assert [each.name for each in tmp_path.iterdir()] == ["bench"]
