"""TFDS builder of memdial: the generator's conversations of seed 0, written once, so that every run reads the same ones."""

from collections.abc import Iterator
from typing import Any

import tensorflow_datasets as tfds

from mr1jax.data.memdial.world import CATEGORIES, conversations
from mr1jax.data.records import FEATURES, to_example

NUM_CONVERSATIONS = {"train": 2000, "validation": 100, "test": 100}


class Builder(tfds.core.GeneratorBasedBuilder):
    """memdial: invented people, their facts as they change, and questions. The splits share no name, no value and no wording."""

    VERSION = tfds.core.Version("1.1.0")  # of the world: where it changes, what was built before must not be read

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="Conversations whose facts change, more of them than a memory holds, and what is true when it is asked.",
            features=FEATURES,
            license="Apache-2.0",
            metadata=tfds.core.MetadataDict(categories={str(number): name for number, name in CATEGORIES.items()}),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator[tuple[str, dict[str, Any]]]]:
        return {split: self._generate_examples(split, count) for split, count in NUM_CONVERSATIONS.items()}

    def _generate_examples(self, split: str, count: int) -> Iterator[tuple[str, dict[str, Any]]]:
        for record in conversations(split, seed=0, count=count):
            yield record.id, to_example(record)
