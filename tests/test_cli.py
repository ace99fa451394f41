"""The command line on bad input: one sentence on standard error, exit status 2, nothing written."""

import hashlib
import re
import sys

import pytest

from mr1jax import cli
from mr1jax.status import Stopped


@pytest.fixture
def run(monkeypatch, tmp_path, capsys):
    """Runs `mr1jax` with these arguments in an empty folder: (status, standard error)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MR1JAX_STORE", "sqlite:///memory.db")  # not the user's own

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["mr1jax", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        return stopped.value.code, capsys.readouterr().err

    return run


BAD = {
    "no experiment": (["train"], "name an experiment, as in: mr1jax train grpo_answer"),
    "unknown experiment": (["train", "grpo"], "there is no experiment 'grpo'; choose one of demo, grpo_answer, .*"),
    "the demo is none": (["train", "demo"], "demo trains both agents in a row; run: make demo"),
    "unknown to evaluate": (["eval", "nothing"], "there is no experiment 'nothing'; choose one of .*"),
    "nothing trained": (["eval", "ppo_answer"], "there is no trained answerer at .*; run: make train EXP=ppo_answer"),
    "group of one": (["train", "grpo_answer", "--group-size", "1"], r"Config.group_size is 1; grpo compares .*"),
    "rate": (["train", "ppo_answer", "--optimizer.learning-rate", "-1"], r"(?:.* )?OptimizerConfig.learning_rate is -1.0; it must be .*"),
    "batch": (
        ["train", "grpo_answer", "--mesh.data", "7"],
        r"(?:.* )?Config.prompts_per_step is 24, which the 7 devices .* divide; use 21",
    ),
    "no number": (["train", "grpo_answer", "--steps", "x"], r"Error parsing --steps: invalid literal .* 'x'; .*"),
    "no field": (["train", "grpo_answer", "--learning-rat", "1"], r"Unrecognized options: --learning-rat, 1; Perhaps .*learning-rate .*"),
    "rank": (["train", "grpo_answer", "--lora.rank", "-1"], r"(?:.* )?LoraConfig.rank is -1; it must be from 0 to 100000.*"),
    "no projection": (["train", "grpo_answer", "--lora.targets", "q_proj"], r"invalid choice 'q_proj' .*--lora.targets.*"),
    "name alone": (["info", "qwen3-8b"], r"Qwen/Qwen3-8B cannot be fetched from the Hugging Face hub .*, or give the path of a folder"),
    "no folder": (["info", "gone"], r"there is no folder 'gone'; give a folder, an id .*"),
    "no agent": (["train", "grpo_answer", "--agent", "reader"], r"invalid choice 'reader' for argument '--agent'. Expected .*"),
    "nothing to fit": (["fit"], "name an experiment, as in: mr1jax fit grpo_answer"),
    "no topology": (["fit", "grpo_answer"], r"Missing from mr1jax fit grpo_answer: --topology .*"),
    "steps to trace": (["train", "grpo_answer", "--profile", "10-13"], "--profile is '10-13'; give steps as first:end, such as 10:13 .*"),
    "no step to trace": (["train", "grpo_answer", "--profile", "3:3"], "--profile is '3:3', which holds no step; they count from 1"),
    "no run": (["checkpoints", "list", "runs/gone"], r"runs/gone/checkpoints holds no checkpoint; name the folder of a run, .*"),
    "nothing to report": (["report"], "name the folder of a run or more, as in: mr1jax report runs/grpo_answer"),
    "no run to report": (["report", "runs/gone"], r"runs/gone is no folder of a run: it has no config.json; train an experiment first"),
    "report in a folder": (["report", "runs/gone", "--out", "."], r"--out . is a folder; name a file that ends in .html"),
    "no such action": (["checkpoints", "delete", "runs/gone"], r".*'delete'.*"),
    "no command": (["trian"], r".*trian.*"),
    "no data set": (["eval", "grpo_answer", "--data", "squad"], r".*'squad'.*"),
    "devices": (["train", "grpo_answer", "--mesh.data", "12"], r"MeshConfig asks for 12 devices .*, but there are 8; lower .*"),
    "no address": (["train", "grpo_answer", "--coordinator", "here"], r"(?:.* )?ProcessConfig.coordinator is 'here'; give host:port .*"),
    "no such process": (
        ["train", "grpo_answer", "--coordinator", "here:1", "--num-processes", "2", "--process-id", "2"],
        r"(?:.* )?ProcessConfig.process_id is 2; it must be from 0 to 1.*",
    ),
    "nobody to ask": (
        ["train", "grpo_answer", "--num-processes", "2"],
        r"(?:.* )?ProcessConfig.num_processes is 2, and coordinator ''; give .*",
    ),
    "no parts": (
        ["train", "grpo_answer", "--loss.num-microbatches", "5"],
        r".* loss.num_microbatches 5 times 1 devices does not .*; use 20.*",
    ),
    "no backbone": (
        ["train", "grpo_answer", "--backbone", "no/such/folder"],
        "there is no folder 'no/such/folder'; give a folder, an id .*",
    ),
    "no weights": (["train", "grpo_answer", "--manager-from", "gone"], r"there are no weights at gone/manager.safetensors; train .*"),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_input_is_one_sentence(run, tmp_path, what):
    """Oracle: the sentence, with the value and what to do; the folder, in which no run was begun."""
    arguments, sentence = BAD[what]
    status, said = run(*arguments)
    assert status == 2
    assert re.fullmatch(f"mr1jax: {sentence}\n", said), said
    assert [path.name for path in tmp_path.iterdir()] in ([], ["data"])


def test_help_is_no_error(run):
    """Oracle: the status, and that nothing is said on standard error."""
    assert run("--help") == (0, "")
    assert run("train", "ppo_answer", "--help") == (0, "")


def test_locomo_that_is_missing_or_altered(run, monkeypatch, tmp_path):
    """Oracle: the sentence with the path or the two checksums; nothing is built."""
    path = tmp_path / "locomo10.json"
    monkeypatch.setenv("LOCOMO_JSON", str(path))
    status, said = run("data", "locomo")
    assert status == 2
    assert len(said.splitlines()) == 1
    assert str(path) in said
    path.write_text("[]")
    status, said = run("data", "locomo")
    assert status == 2
    assert len(said.splitlines()) == 1
    assert hashlib.sha256(b"[]").hexdigest()[:8] in said
    assert not list(tmp_path.rglob("*.tfrecord*"))


def test_a_box_and_ruled_lines_are_the_same_sentence():
    """Oracle: by hand. Both ways in which tyro writes one refusal: drawn, where the terminal has the characters, and with hyphens."""
    drawn = "╭─ Bad options ───╮\n│ No such: --x    │\n│   of the four   │\n│ ─────────────── │\n│ Run mr1jax      │\n╰─────────────────╯\n"
    ruled = " Bad options     \n ----------------\n  No such: --x   \n    of the four  \n  ---------------\n  Run mr1jax     \n"
    assert cli._as_sentence(drawn) == cli._as_sentence(ruled) == "No such: --x of the four; Run mr1jax"


def test_no_cluster_to_join_is_one_sentence(run, monkeypatch):
    """Oracle: the sentence and the exit status, where JAX says that it finds no cluster, as it does on a machine that is in none."""

    def find_none(**_):
        raise ValueError("coordinator_address should be defined.")

    monkeypatch.setattr("jax.distributed.initialize", find_none)
    monkeypatch.setattr("jax.config.update", lambda *_: None)  # of the process that all tests share
    status, said = run("train", "grpo_answer", "--coordinator", "auto")
    assert status == 2
    assert said.startswith("mr1jax: --coordinator auto finds no TPU pod, Slurm or Open MPI here (coordinator_address")
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("error", "status"), [(ValueError, 2), (FileNotFoundError, 2), (FloatingPointError, 1), (Stopped, 75)], ids=lambda value: str(value)
)
def test_how_a_command_ends_is_its_status(run, monkeypatch, error, status):
    """Oracle: the table of `status`, which scripts go by; one sentence each."""

    def end():
        raise error("so it ended")

    monkeypatch.setattr(cli, "parse", lambda arguments: end)
    assert run("train", "grpo_answer") == (status, "mr1jax: so it ended\n")
