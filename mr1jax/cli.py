"""The command line: arguments only. What a user got wrong comes back as one sentence on standard error and exit status 2."""

import contextlib
import functools
import importlib.util
import io
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from mr1jax.config import Config, LoraConfig, ProcessConfig, RetrievalKind, replace, require
from mr1jax.service.chat_cli import chat
from mr1jax.service.memory_cli import ACTIONS
from mr1jax.service.serve_cli import mcp, serve
from mr1jax.status import FAILURE, STOPPED, USER_ERROR, Failed, Stopped

Overridden = Annotated[Config, tyro.conf.arg(name="")]  # fields of a configuration as options of their own: --steps, --mesh.fsdp
Processes = Annotated[ProcessConfig, tyro.conf.arg(name="")]
ALONE = ProcessConfig()
DataSet = Literal["memdial", "locomo", "msc", "longmemeval"]
Variant = Literal["oracle", "s"]
EXPERIMENTS = Path(__file__).resolve().parents[1] / "experiments"


def load_experiment(name: str):
    """Imports the file of experiments/ with this name; raises ValueError naming those there are."""
    names = sorted(path.stem for path in EXPERIMENTS.glob("*.py"))
    require(name in names, f"there is no experiment {name!r}; choose one of {', '.join(names)}")
    spec = importlib.util.spec_from_file_location(f"experiments.{name}", EXPERIMENTS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def load_config(name: str) -> Config:
    """Reads the configuration of one experiment; the demo has two and its own command."""
    module = load_experiment(name)
    require(hasattr(module, "get_config"), f"{name} trains both agents in a row; run: make demo")
    return module.get_config()


def demo(folder: Path = Path("runs/demo"), eval_seed: int = 0) -> None:
    """Trains both agents from the shipped start and compares them on conversations of people nobody has seen.

    Args:
      folder: where the report goes.
      eval_seed: which draw of the unseen world to evaluate on.
    """
    from mr1jax.demo import run_demo

    experiment = load_experiment("demo")
    run_demo(experiment.answerer(), experiment.manager(), folder, eval_seed)


def data(name: Annotated[DataSet, tyro.conf.Positional], data_dir: Path = Path("data"), variant: Variant = "oracle") -> None:
    """Builds a data set. LoCoMo is read from LOCOMO_JSON=path, MSC from MSC_JSONL, LongMemEval from LONGMEMEVAL_JSON, or downloaded.

    Args:
      variant: of LongMemEval: oracle, where histories are the evidence alone, or s, where it lies among some 40 sessions.
    """
    from mr1jax.data.datasets import build_dataset

    builder = build_dataset(f"{name}/{variant}" if name == "longmemeval" else name, data_dir)
    for split, info in builder.info.splits.items():
        print(f"{name} {split}: {info.num_examples} conversations")


def evaluate(
    experiment: Annotated[str, tyro.conf.Positional],
    data: DataSet = "memdial",
    data_dir: Path = Path("data"),
    runs: Path = Path("runs"),
    facts: Literal["observations", "turns"] = "observations",
    captions: bool = True,
    variant: Variant = "oracle",
    judge_url: str = "",
    judge_model: str = "",
    retrieval: RetrievalKind = "lexical",
    encoder: str = "",
    eval_seed: int = 0,
) -> None:
    """Evaluates what an experiment trained, beside the warm start, and with its partner where that has been trained too.

    Args:
      experiment: a file of experiments/ that has been trained into its folder of runs.
      facts: what goes through the Manager on LoCoMo: its observation sentences, or the turns themselves.
      captions: whether a turn includes the caption of its image.
      variant: of LongMemEval: histories of the evidence alone, or among some 40 sessions.
      judge_url: a server of OpenAI's chat completions, such as http://localhost:8000/v1, that judges answers; OPENAI_API_KEY is its key.
      judge_model: the judge's name there; without a url a backbone that judges here: a folder, a name or an id, as for --backbone.
      retrieval: how the Answer Agent's memories are found: by words, by meaning, or by both.
      encoder: folder of a sentence encoder, which dense and hybrid retrieval need.
      eval_seed: of the intervals.
    """
    from mr1jax.benchmark import run_benchmark
    from mr1jax.experiment import RUN_CONFIG, read_run
    from mr1jax.judge_models import open_judge

    config, partner = load_config(experiment), load_experiment(experiment).PARTNER
    if (runs / experiment / RUN_CONFIG).is_file():
        config = read_run(runs / experiment)
    turns = "turns" if captions else "turns_no_captions"
    source = {"longmemeval": f"longmemeval/{variant}", "locomo": "locomo" if facts == "observations" else f"locomo/{turns}"}.get(data, data)
    config = replace(config, encoder=encoder, answerer=replace(config.answerer, retrieval=retrieval))
    run_benchmark(config, runs / experiment, runs / partner, source, data_dir, eval_seed, open_judge(judge_url, judge_model))


def warm_start(assets: Path = Path("assets")) -> None:
    """Trains tokenizer and warm start from nothing and writes them to `assets`; takes about three quarters of an hour on two cores."""
    from mr1jax.warm_start import PHASES, warm_start

    warm_start(Config(), PHASES, assets)


def export(
    run: Annotated[Path, tyro.conf.Positional],
    target: Annotated[Path, tyro.conf.Positional],
    overwrite: bool = False,
    adapter: bool = False,
) -> None:
    """Writes an agent that was trained with --backbone as a Hugging Face folder: weights, config, tokenizer, chat template.

    What was trained with LoRA is merged into its backbone.

    Args:
      run: folder of the run, such as runs/grpo_answer.
      target: a new folder.
      overwrite: write into a folder that is not empty; what has another name stays.
      adapter: write the adapter alone, as PEFT reads it.
    """
    from mr1jax.experiment import export_experiment

    export_experiment(run, target, overwrite, adapter)


def audit(
    run: Annotated[Path, tyro.conf.Positional],
    top: int = 20,
    batches: int = 8,
    data_dir: Path = Path("data"),
) -> None:
    """Draws trajectories of a trained agent on its training tasks and writes a page about the highest rewarded: RUN/audit.md.

    Args:
      run: folder of the run, such as runs/grpo_answer.
      top: how many trajectories the page shows.
      batches: how many batches of training are drawn.
    """
    from mr1jax.audit_page import write_audit

    write_audit(run, top, batches, data_dir)


def report(runs: Annotated[tuple[Path, ...], tyro.conf.Positional], out: Path = Path("runs/report.html")) -> None:
    """Sets runs side by side as one HTML file: what differs, curves, scores, and the questions that were gained and lost.

    Runs that differ in nothing but the seed are drawn as one line with an interval. Scores are those that mr1jax eval has written.

    Args:
      runs: folders of runs, such as runs/grpo_answer; the last is compared with the first.
      out: the file, ending in .html.
    """
    from mr1jax.run_page import write_page

    write_page(runs, out)


def info(
    backbone: Annotated[str, tyro.conf.Positional],
    lora: LoraConfig = LoraConfig(rank=8),  # noqa: B008
) -> None:
    """Prints the size of a backbone: parameters, bytes, keys and values of a token, and parameters of an adapter.

    Args:
      backbone: a Hugging Face folder, a name such as qwen2.5-7b, or an id; config.json is read or fetched, nothing else.
      lora: the adapter to count.
    """
    from mr1jax.model.backbones import read_config
    from mr1jax.model.hub import SETTINGS, find_backbone
    from mr1jax.model.sizes import measure

    _, folder = find_backbone(backbone, SETTINGS)
    for name, value in measure(read_config(folder), lora).items():
        print(f"{name:40} {value}")


def checkpoints(
    action: Annotated[Literal["list", "verify"], tyro.conf.Positional],
    run: Annotated[Path, tyro.conf.Positional],
) -> None:
    """Lists the checkpoints of a run, or reads every file of them and compares it with its sha256; exit status 1 where one is damaged.

    Args:
      action: list says whether a save was finished, verify whether its files are those that were saved.
      run: folder of the run, such as runs/grpo_answer.
    """
    from mr1jax.checkpoint import report_checkpoints
    from mr1jax.train import CHECKPOINTS

    sys.exit(not report_checkpoints(run / CHECKPOINTS, read_files=action == "verify"))


def train(arguments: Sequence[str]) -> Callable[[], None]:
    """Trains an experiment: its file gives the configuration, the other arguments change fields of it.

    One process of several is started with --coordinator host:port --num-processes N --process-id I, or --coordinator auto in a cluster.
    """
    from mr1jax.experiment import run_experiment

    name, default, overrides = _named_experiment("train", arguments)

    def run(config: Overridden = default, processes: Processes = ALONE, profile: str = "") -> Callable[[], None]:
        """Trains an experiment.

        Args:
          profile: steps to trace, as first:end without the end, such as 10:13; the trace goes to runs/<experiment>/profile.
        """
        return functools.partial(run_experiment, config, processes, Path("runs") / name, profile=profile)

    return _read_options(run, f"mr1jax train {name}", overrides)


def fit(arguments: Sequence[str]) -> Callable[[], None]:
    """Compiles the step of an experiment for a TPU that is not there; exit status 1 where it does not fit."""
    from mr1jax.fit import report_fit

    name, default, overrides = _named_experiment("fit", arguments)

    def run(topology: str, config: Overridden = default, json: Path | None = None) -> Callable[[], None]:
        """Says whether the step of an experiment fits a TPU, by compiling it for one: no TPU and no weights are needed.

        Args:
          topology: of the TPU, such as v5e:4x4, v5p:2x2x1 or v6e:2x4.
          json: a file to write all of it to.
        """
        return lambda: sys.exit(not report_fit(config, topology, json))

    return _read_options(run, f"mr1jax fit {name}", overrides)


def memory(arguments: Sequence[str]) -> Callable[[], None]:
    """Reads or changes what is remembered: add, search, list, history, undo, export or import."""
    actions = {name: _later(action) for name, action in ACTIONS.items()}
    return tyro.extras.subcommand_cli_from_dict(actions, prog="mr1jax memory", args=arguments)


def doctor(data_dir: Path = Path("data"), json: bool = False) -> None:
    """Says whether all that mr1jax needs is here: versions, devices, the shipped files, data sets, disk; exit status 1 where it is not.

    For example: mr1jax doctor --json

    Args:
      json: print it as JSON.
    """
    from mr1jax.doctor import report_health

    sys.exit(not report_health(data_dir, json))


def _named_experiment(command: str, arguments: Sequence[str]) -> tuple[str, Config, list[str]]:
    require(bool(arguments) and not arguments[0].startswith("-"), f"name an experiment, as in: mr1jax {command} grpo_answer")
    name, *overrides = arguments
    return name, load_config(name), overrides


def _read_options(run: Callable[..., Callable[[], None]], prog: str, arguments: list[str]) -> Callable[[], None]:
    return tyro.cli(tyro.conf.configure(tyro.conf.FlagConversionOff)(run), prog=prog, args=arguments)


def _later(command: Callable[..., None]) -> Callable[..., Callable[[], None]]:
    """The same command for tyro to read arguments for, but it only gives back what is to be run."""

    @functools.wraps(command)
    def chosen(*args, **kwargs):
        return functools.partial(command, *args, **kwargs)

    return chosen


_COMMANDS: dict[str, Callable[..., None]] = {
    "audit": audit,
    "chat": chat,
    "checkpoints": checkpoints,
    "demo": demo,
    "data": data,
    "doctor": doctor,
    "eval": evaluate,
    "export": export,
    "info": info,
    "mcp": mcp,
    "report": report,
    "serve": serve,
    "warm-start": warm_start,
}
MORE = "Besides these: mr1jax train EXPERIMENT, mr1jax fit EXPERIMENT, and mr1jax memory ACTION, each with a --help of its own."
COMMANDS: dict[str, Any] = {name: _later(command) for name, command in _COMMANDS.items()}


def parse(arguments: Sequence[str]) -> Callable[[], None]:
    """Reads the arguments and returns what they ask for; raises ValueError with one sentence where they are wrong."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            for command in (train, fit, memory):
                if arguments[:1] == [command.__name__]:
                    return command(arguments[1:])
            return tyro.extras.subcommand_cli_from_dict(COMMANDS, prog="mr1jax", description=MORE, args=arguments)
    except SystemExit as stop:
        require(not stop.code, _as_sentence(said.getvalue()))  # 0 is --help
        raise


def _as_sentence(box: str) -> str:
    """Takes what tyro writes in a box, wrapped and ruled, as one line; its title goes.

    Where the terminal has them the box is drawn with \u2502 and the title stands in its upper edge, else all is ruled with hyphens.
    """
    box = re.sub("[\u2502\u256d-\u2570]", " ", box)
    box = re.sub(r"^\s*\u2500 (.+?) \u2500+\s*\n", r"\1\n-----\n", box)
    sections = [" ".join(section.split()) for section in re.split(r"\n\s*[-\u2500]{5,}\s*\n", box)]
    return "; ".join(section.removesuffix(".") for section in sections[1:] if section)


def main() -> None:
    """Runs the command that the arguments name, and exits with one of the statuses of `status`."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    statuses = {ValueError: USER_ERROR, FileNotFoundError: USER_ERROR, FloatingPointError: FAILURE, Failed: FAILURE, Stopped: STOPPED}
    try:
        parse(sys.argv[1:])()
    except tuple(statuses) as error:
        print(f"mr1jax: {error}", file=sys.stderr)
        sys.exit(next(status for kind, status in statuses.items() if isinstance(error, kind)))
