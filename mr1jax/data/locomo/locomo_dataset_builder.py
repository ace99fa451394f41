"""TFDS builder of LoCoMo. In a folder of its own, because TFDS takes every file beside a builder for its metadata."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from mr1jax.data.locomo import reader, source
from mr1jax.data.records import FEATURES, to_example


@dataclasses.dataclass(kw_only=True)
class LocomoConfig(tfds.core.BuilderConfig):
    """What the facts of a conversation are, and whether turns carry the captions of their pictures."""

    facts: reader.FactSource
    captions: bool = True


class Builder(tfds.core.GeneratorBasedBuilder):
    """LoCoMo in the split of Memory-R1: 152 questions to train, 81 to validate, 1,307 to test, adversarial ones left out."""

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = [
        LocomoConfig(name="observations", description="facts: LoCoMo's own observation sentences", facts="observations"),
        LocomoConfig(name="turns", description="facts: the turns, captions of pictures appended", facts="turns"),
        LocomoConfig(name="turns_no_captions", description="facts: the words of the turns alone", facts="turns", captions=False),
    ]

    def download_and_prepare(self, **kwargs: Any) -> None:
        """Prepares the data set once. A file named in LOCOMO_JSON is verified every time: it is what the user asked for."""
        source.verify_named()
        super().download_and_prepare(**kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="Long conversations over months, and questions about them (arXiv 2402.17753).",
            features=FEATURES,
            homepage="https://github.com/snap-research/locomo",
            license="CC BY-NC 4.0",
            metadata=tfds.core.MetadataDict(),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator[tuple[str, dict[str, Any]]]]:
        samples = source.load(Path(dl_manager.download_dir))
        self.info.metadata.update(reader.census(samples))
        return {split: self._generate_examples(samples, split) for split in ("train", "validation", "test")}

    def _generate_examples(self, samples: list[dict[str, Any]], split: str) -> Iterator[tuple[str, dict[str, Any]]]:
        for sample in samples:
            if reader.split_of(sample["sample_id"]) == split:
                record = reader.to_record(sample, self.builder_config.facts, self.builder_config.captions)
                yield record.id, to_example(record)
