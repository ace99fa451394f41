"""The data sets by name, prepared once as array_record and read without TensorFlow."""

import importlib
from pathlib import Path

import tensorflow_datasets as tfds

from mr1jax.data.records import Record, from_example

BUILDERS = {
    "memdial": "mr1jax.data.memdial.memdial_dataset_builder",
    "locomo": "mr1jax.data.locomo.locomo_dataset_builder",
    "msc": "mr1jax.data.msc.msc_dataset_builder",
    "longmemeval": "mr1jax.data.longmemeval.longmemeval_dataset_builder",
}


def build_dataset(name: str, data_dir: str | Path) -> tfds.core.DatasetBuilder:
    """Prepares a data set in `data_dir`, unless it is there, and returns its builder.

    name: a key of BUILDERS, with a configuration if it is not the first: "locomo/turns", "longmemeval/s". Raises ValueError for an
    unknown one.
    """
    world, _, config = name.partition("/")
    if world not in BUILDERS:
        raise ValueError(f"there is no data set {world!r}; choose one of {', '.join(BUILDERS)}")
    builder_class = importlib.import_module(BUILDERS[world]).Builder
    configs = list(builder_class.builder_configs)
    if config and config not in configs:
        raise ValueError(f"{world} has no configuration {config!r}; choose one of {', '.join(configs) or 'none'}")
    builder = builder_class(data_dir=data_dir, config=config or None, file_format="array_record")
    builder.download_and_prepare()
    return builder


SPLITS = ("train", "validation", "test")


def read_split(name: str, split: str, data_dir: str | Path) -> list[Record]:
    """Reads the records of one split ("train", "validation", "test"), preparing the data set first where it is not there."""
    builder = build_dataset(name, data_dir)
    if split not in builder.info.splits:
        raise ValueError(f"{name} has no split {split!r}; choose one of {', '.join(builder.info.splits)}")
    return [from_example(example) for example in builder.as_data_source(split=split)]


def read_splits(name: str, data_dir: str | Path, num_train: int) -> dict[str, list[Record]]:
    """Reads all splits, of the training split the first `num_train` conversations: what a run trains on, and what it will be tested on."""
    by_split = {split: read_split(name, split, data_dir) for split in SPLITS}
    return by_split | {"train": by_split["train"][:num_train]}
