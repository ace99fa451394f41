"""Runs one experiment: training from a configuration into a folder, and what becomes of the weights there."""

import dataclasses
import json
from pathlib import Path

import jax

from mr1jax.config import Config, replace, require
from mr1jax.data.datasets import read_split
from mr1jax.model.backbones import read_config
from mr1jax.model.export import export_backbone
from mr1jax.model.hub import find_backbone
from mr1jax.model.transformer import init_params
from mr1jax.model.weights import load_params, save_params
from mr1jax.prepare import load_start, make_tasks
from mr1jax.report import draw_curves, write_whole
from mr1jax.sharding import make_mesh
from mr1jax.text.huggingface_tokenizer import HuggingFaceTokenizer
from mr1jax.train import train


def run_experiment(config: Config, folder: Path, data_dir: Path = Path("data")) -> None:
    """Trains `config` into `folder`: config.json, metrics.jsonl, checkpoints/, curves.png and the trained agent's weights.

    Started again with the same configuration it continues; a folder of another one is refused.
    """
    make_mesh(config.mesh)  # refuses what the devices cannot give before anything is read
    start = load_start(config)
    records = read_split(config.data, "train", data_dir)[: config.conversations]
    tasks = make_tasks(records, start)
    state, log, _ = train(start.config, start.params, tasks, start.language, folder, description=f"train the {config.agent}")
    save_params(folder / f"{config.agent}.safetensors", state.params[config.agent], {"agent": config.agent})
    write_whole(folder / "config.json", json.dumps(dataclasses.asdict(replace(config, backbone=start.config.backbone)), indent=2) + "\n")
    draw_curves(folder / "curves.png", {config.agent: [(int(record["step"]), record["reward"]) for record in log]})
    print(f"trained the {config.agent} for {len(log)} steps; reward {log[0]['reward']:.3f} -> {log[-1]['reward']:.3f}; see {folder}")


def export_experiment(folder: Path, target: Path, overwrite: bool = False) -> None:
    """Writes the agent trained in `folder` as a Hugging Face folder like its backbone's.

    Raises ValueError where there is no run, where it started from the tiny model, or where `export_backbone` refuses the target.
    """
    settings = folder / "config.json"
    require(settings.is_file(), f"{folder} is no folder of a run: it has no config.json; train an experiment first")
    try:
        raw = json.loads(settings.read_text())
        agent, backbone = raw["agent"], raw["backbone"]
    except (json.JSONDecodeError, KeyError) as error:
        raise ValueError(f"{settings} is no configuration of a run; train the experiment again") from error
    require(bool(backbone), f"{folder} was trained from the tiny model that ships, which has no Hugging Face form; train with --backbone")
    _, source = find_backbone(backbone)
    config = read_config(source)
    tokenizer = HuggingFaceTokenizer(source, config.vocab_size)
    shapes = jax.eval_shape(lambda: init_params(config, jax.random.key(0)))
    params = load_params(folder / f"{agent}.safetensors", shapes)
    written = export_backbone(params, config, source, target, swap=tokenizer.swap, overwrite=overwrite)
    print(f"exported the {agent} of {folder} to {target}: {', '.join(written)}")
