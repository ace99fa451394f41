"""Runs one experiment: training from a configuration into a folder, and what becomes of the weights there."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mr1jax.agents.tasks import take
from mr1jax.checkpoint import best_step, restore
from mr1jax.config import Config, ProcessConfig, replace, require
from mr1jax.data.datasets import read_splits
from mr1jax.data.honesty import DATA_FILE, describe_data, summarise
from mr1jax.data.records import Record
from mr1jax.model.backbones import read_config
from mr1jax.model.export import export_adapter, export_backbone
from mr1jax.model.hub import find_backbone
from mr1jax.model.huggingface import load_backbone
from mr1jax.model.lora import BASE, merge_adapter
from mr1jax.model.weights import save_params
from mr1jax.prepare import Start, describe_agent, load_agent, load_start, make_tasks
from mr1jax.processes import connect, first_alone, is_first
from mr1jax.profiling import Trace
from mr1jax.report import draw_curves, write_whole
from mr1jax.sharding import make_mesh, to_host
from mr1jax.step import Tasks
from mr1jax.text.huggingface_tokenizer import HuggingFaceTokenizer
from mr1jax.train import CHECKPOINTS, train

RUN_CONFIG = "config.json"


def run_experiment(config: Config, processes: ProcessConfig, folder: Path, data_dir: Path = Path("data"), profile: str = "") -> None:
    """Trains `config` into `folder`: config.json, data.json, metrics.jsonl, checkpoints/, curves.png and the trained agent's weights.

    profile: steps such as "10:13" to trace into `folder/profile`.

    Started again with the same configuration it continues; a folder of another one is refused. Every process of a run must call this, and
    see the same folders; the first of them writes.
    """
    trace = Trace(profile, folder / "profile")
    connect(processes)
    make_mesh(config.mesh)  # refuses what the devices cannot give before anything is read
    start = load_start(config)
    with first_alone("the data set is there"):
        by_split = read_splits(config.data, data_dir, config.conversations)
    data = describe_data(config.data, by_split)  # refuses a leak
    tasks, validation = make_tasks(by_split["train"], start), _validation(by_split, start)
    if is_first():
        print(summarise(data))
    about = describe_agent(start.config, config.agent, start.params.get(BASE))
    description = f"train the {config.agent}"
    state, log, _ = train(
        start.config, start.params, tasks, start.language, folder, validation=validation, description=description, trace=trace
    )
    if (best := best_step(folder / CHECKPOINTS)) is not None:
        state, _, _ = restore(folder / CHECKPOINTS, state, step=best)
    trained = to_host(state.params[config.agent])
    if not is_first():
        return
    save_params(folder / f"{config.agent}.safetensors", trained, about)
    write_whole(folder / DATA_FILE, json.dumps(data, indent=2) + "\n")
    write_whole(folder / RUN_CONFIG, json.dumps(dataclasses.asdict(replace(config, backbone=start.config.backbone)), indent=2) + "\n")
    draw_curves(folder / "curves.png", {config.agent: [(int(record["step"]), record["reward"]) for record in log]})
    chosen = "" if best is None else f"; its weights are of step {best}, the best on validation tasks"
    reward = f"reward {log[0]['reward']:.3f} -> {log[-1]['reward']:.3f}"
    print(f"trained the {config.agent} for {len(log)} steps; {reward}{chosen}; see {folder}")


def _validation(by_split: Mapping[str, Sequence[Record]], start: Start) -> Tasks | None:
    """Makes the tasks that tell which step is the best: so many of the validation split's, drawn by the seed of the run."""
    wanted = start.config.validation_tasks
    if not wanted:
        return None
    tasks = make_tasks(by_split["validation"][: start.config.conversations], start)
    there = len(jax.tree.leaves(tasks)[0])
    require(wanted <= there, f"Config.validation_tasks is {wanted}, and the validation split has {there}; use at most that many")
    return take(tasks, np.random.default_rng(start.config.seed).permutation(there)[:wanted])


def read_run(folder: Path) -> Config:
    """Reads the configuration that a run was trained with; raises ValueError where there is no run."""
    path = folder / RUN_CONFIG
    require(path.is_file(), f"{folder} is no folder of a run: it has no {RUN_CONFIG}; train an experiment first")
    default = Config()
    try:
        fields = json.loads(path.read_text()).items()
        return replace(default, **{name: _section(getattr(default, name), value) for name, value in fields})
    except (AttributeError, TypeError, ValueError) as error:  # no JSON, or not these fields
        raise ValueError(f"{path} is no configuration of a run; train the experiment again") from error


def _section(default: Any, value: Any) -> Any:
    """Reads one field of a configuration as JSON gives it back, where a part with fields of its own is a dict and a tuple is a list."""
    if not isinstance(value, dict):
        return value
    return replace(default, **{name: tuple(each) if isinstance(each, list) else each for name, each in value.items()})


def export_experiment(folder: Path, target: Path, overwrite: bool = False, adapter: bool = False) -> None:
    """Writes the agent trained in `folder` as a Hugging Face folder like its backbone's, an adapter merged into its base.

    adapter: write the adapter alone, as PEFT has it. Raises ValueError where there is no run, where it started from the tiny model, where
    an adapter is wanted of a run that has none, or where the target is refused.
    """
    config = read_run(folder)
    agent, backbone, lora = config.agent, config.backbone, config.lora
    require(bool(backbone), f"{folder} was trained from the tiny model that ships, which has no Hugging Face form; train with --backbone")
    require(bool(lora.rank) or not adapter, f"{folder} was trained with lora.rank 0 and has no adapter; export it without --adapter")
    _, source = find_backbone(backbone)
    config = replace(config, model=read_config(source))
    swap = HuggingFaceTokenizer(source, config.model.vocab_size).swap
    base = load_backbone(source, config.model, dtype=lora.base_dtype, swap=swap) if lora.rank else None
    params = load_agent(config, agent, folder, base)
    if adapter:
        written = export_adapter(params, lora, config.model, backbone, target, overwrite=overwrite)
    else:
        params = merge_adapter(base, params, lora) if lora.rank else params
        written = export_backbone(params, config.model, source, target, swap=swap, overwrite=overwrite)
    print(f"exported the {agent} of {folder} to {target}: {', '.join(written)}")
