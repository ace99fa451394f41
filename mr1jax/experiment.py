"""Runs one experiment: training from a configuration into a folder, and the weights that evaluation reads from it."""

import dataclasses
import json
from pathlib import Path

from mr1jax.config import Config
from mr1jax.data.datasets import read_split
from mr1jax.model.weights import save_params
from mr1jax.prepare import load_start, make_tasks
from mr1jax.report import draw_curves, write_whole
from mr1jax.sharding import make_mesh
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
    write_whole(folder / "config.json", json.dumps(dataclasses.asdict(config), indent=2) + "\n")
    draw_curves(folder / "curves.png", {config.agent: [(int(record["step"]), record["reward"]) for record in log]})
    print(f"trained the {config.agent} for {len(log)} steps; reward {log[0]['reward']:.3f} -> {log[-1]['reward']:.3f}; see {folder}")
