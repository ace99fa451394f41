"""The launcher, against a gcloud that records what it is asked and answers as it is told."""

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
WHERE = ["--zone=us-central1-a", "--project=mine"]
GCLOUD = """#!{python}
import json, pathlib, sys
folder = pathlib.Path({folder!r})
with (folder / "calls").open("a") as file:
    print(json.dumps(sys.argv[1:]), file=file)
answers = json.loads((folder / "answers").read_text())
for index, (words, printed, status) in enumerate(answers):
    if all(any(word in argument for argument in sys.argv) for word in words.split()):
        (folder / "answers").write_text(json.dumps(answers[:index] + answers[index + 1 :]))
        print(printed)
        sys.exit(status)
"""


@pytest.fixture
def launch(tmp_path):
    """Runs the launcher in a copy of nothing but experiments: (status, calls of gcloud, standard output, standard error)."""
    folder = tmp_path / "bin"
    folder.mkdir()
    gcloud = folder / "gcloud"
    gcloud.write_text(GCLOUD.format(python=sys.executable, folder=str(tmp_path)))
    gcloud.chmod(gcloud.stat().st_mode | stat.S_IXUSR)
    (folder / "git").write_text("#!/bin/sh\nexit 0\n")
    (folder / "git").chmod(0o755)

    def run(*options, answers=(), experiment="grpo_answer", path=None):
        (tmp_path / "answers").write_text(json.dumps(answers))
        command = [
            sys.executable,
            str(ROOT / "tpu/launch.py"),
            experiment,
            "--tpu",
            "my-tpu",
            "--zone",
            "us-central1-a",
            "--project",
            "mine",
        ]
        environment = {**os.environ, "PATH": path or f"{folder}:/usr/bin:/bin"}
        done = subprocess.run([*command, *options], capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=60)
        calls = (tmp_path / "calls").read_text().splitlines() if (tmp_path / "calls").is_file() else []
        return done.returncode, [json.loads(call)[2:] for call in calls], done.stdout, done.stderr

    return run


def kinds(calls):
    return [" ".join(call[:2]) for call in calls]


CREATE, DESCRIBE, DELETE = (f"queued-resources {verb}" for verb in ("create", "describe", "delete"))
SCP, SSH = "tpu-vm scp", "tpu-vm ssh"
ACTIVE = ["describe", "ACTIVE", 0]


def test_a_training_goes_through_all_its_stations(launch):
    """Oracle: the calls of gcloud, in their order, with their arguments."""
    status, calls, _, _ = launch("--spot", "--type", "v6e-8", "--", "--steps", "5", answers=[ACTIVE])
    assert status == 0
    assert kinds(calls) == [CREATE, DESCRIBE, SCP, SSH, SSH, SCP, DELETE]
    create, _, archive, install, train, fetch, delete = calls
    assert create[2:] == ["my-tpu", "--node-id=my-tpu", "--accelerator-type=v6e-8", "--runtime-version=v2-alpha-tpuv6e", "--spot", *WHERE]
    assert archive[2:] == ["mr1jax.tar.gz", "my-tpu:", "--worker=all", *WHERE]
    assert "tar -xzf mr1jax.tar.gz" in install[4]
    assert train[2:] == ["my-tpu", "--worker=all", "--command=make -C mr1jax train-tpu EXP=grpo_answer 'ARGS=--steps 5'", *WHERE]
    assert fetch[2:] == ["--recurse", "my-tpu:mr1jax/runs/grpo_answer", "runs/", "--worker=0", *WHERE]
    assert delete[2:] == ["my-tpu", "--force", "--quiet", *WHERE]


def test_a_dry_run_prints_the_same_and_runs_nothing(launch):
    """Oracle: the calls of a real run, one a line; and a gcloud that nobody asked."""
    _, calls, _, _ = launch(answers=[ACTIVE])
    status, after, printed, _ = launch("--dry-run")
    assert status == 0
    assert after == calls
    lines = [line for line in printed.splitlines() if line.startswith("gcloud")]
    assert [" ".join(line.split()[3:5]) for line in lines] == [*kinds(calls)[:5], SCP, *kinds(calls)[5:]]  # one fetch while it trains


def test_a_preempted_training_is_taken_up_again(launch, tmp_path):
    """Oracle: the calls: torn down, requested again, given what had been fetched, and trained to the end."""
    (tmp_path / "runs" / "grpo_answer").mkdir(parents=True)
    lost = [ACTIVE, ["ssh train-tpu", "", 255], ["describe", "SUSPENDED", 0], ACTIVE]
    status, calls, _, said = launch(answers=lost)
    assert status == 0
    assert "taken away (attempt 1 of 20)" in said
    once = [CREATE, DESCRIBE, SCP, SSH, SCP, SSH, SCP]
    assert kinds(calls) == [*once, DESCRIBE, DELETE, *once, DELETE]
    assert calls[4][2:] == ["--recurse", "runs/grpo_answer", "my-tpu:mr1jax/runs/", "--worker=all", *WHERE]


def test_a_training_that_fails_by_itself_is_not_repeated(launch):
    """Oracle: its own status, and one request."""
    status, calls, _, _ = launch(answers=[ACTIVE, ["ssh train-tpu", "", 2], ACTIVE])
    assert status == 2
    assert kinds(calls).count(CREATE) == kinds(calls).count(DELETE) == 1


def test_a_refused_request_is_the_end(launch):
    """Oracle: gcloud's status; nothing is set up, and what there may be of the request is deleted."""
    status, calls, _, _ = launch(answers=[["create", "", 1]])
    assert status == 1
    assert kinds(calls) == [CREATE, DELETE]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (dict(experiment="grpo"), "there is no experiment 'grpo'; choose one of demo, grpo_answer"),
        (dict(type="v6e"), "--type is 'v6e'; give one such as v5litepod-16, v5p-8 or v6e-8"),
        (dict(type="v9-8"), "--type is 'v9-8'; give one such as v5litepod-16, v5p-8 or v6e-8"),
        (dict(path="/nowhere"), "there is no gcloud here; install the Google Cloud CLI, or see what would be run with DRY_RUN=1"),
    ],
)
def test_bad_input_is_one_sentence(launch, options, sentence):
    """Oracle: the sentence and the status; gcloud is not asked."""
    kind = options.pop("type", "v6e-8")
    status, calls, _, said = launch("--type", kind, **options)
    assert status == 2
    assert said.startswith(f"tpu/launch.py: {sentence}")
    assert len(said.splitlines()) == 1
    assert not calls


def test_make_passes_its_variables_on():
    """Oracle: the commands that a dry run prints."""
    variables = "EXP=grpo_answer TPU=t ZONE=z PROJECT=p TYPE=v5p-8 SPOT=1 DRY_RUN=1 ARGS=--steps=5".split()
    done = subprocess.run(["make", "train-tpu", *variables], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0
    assert "--accelerator-type=v5p-8 --runtime-version=v2-alpha-tpuv5 --spot --zone=z --project=p" in done.stdout
    assert "ARGS=--steps=5" in done.stdout


def test_several_workers_find_each_other(launch):
    """Oracle: the commands of all workers: what mounts a common folder, before anything is installed, and how they meet."""
    setup = ("--setup", "sudo mount nfs:/runs mr1jax/runs")
    _, calls, _, said = launch("--type", "v5litepod-16", *setup, "--", "--mesh.fsdp", "16", answers=[ACTIVE])
    assert "&& sudo mount nfs:/runs mr1jax/runs && python3 -m pip" in calls[3][4]
    assert calls[4][4] == "--command=make -C mr1jax train-tpu EXP=grpo_answer 'ARGS=--coordinator auto --mesh.fsdp 16'"
    assert "several workers" not in said
    assert "v5litepod-16 has several workers, which must see one mr1jax/runs" in launch("--type", "v5litepod-16", "--dry-run")[3]
