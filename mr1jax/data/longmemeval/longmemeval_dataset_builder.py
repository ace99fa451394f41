"""TFDS builder of LongMemEval, oracle and S. In a folder of its own, because TFDS takes every file beside a builder for its metadata."""

import dataclasses
import json
from typing import Any

import tensorflow_datasets as tfds

from mr1jax.config import require
from mr1jax.data.longmemeval import reader
from mr1jax.data.published import PublishedBuilder, PublishedFile
from mr1jax.data.records import Record

VARIABLE = "LONGMEMEVAL_JSON"
REPOSITORY = "xiaowu0162/longmemeval-cleaned"  # of September 2025; the release before it differs, and the paper does not say which it read
REVISION = "98d7416c24c778c2fee6e6f3006e7a073259d48f"


@dataclasses.dataclass(kw_only=True)
class LongMemEvalConfig(tfds.core.BuilderConfig):
    """Which of the published files."""

    file_name: str


class Builder(PublishedBuilder):
    """LongMemEval, whole, as a test split: Memory-R1 is asked its questions without having been trained on any."""

    VERSION = tfds.core.Version("1.0.0")
    DESCRIPTION = "Questions about chats with an assistant, of six types, and about what was never said (arXiv 2410.10813)."
    HOMEPAGE = "https://github.com/xiaowu0162/LongMemEval"
    LICENSE = "MIT"
    BUILDER_CONFIGS = [
        LongMemEvalConfig(name="oracle", description="histories: the evidence alone", file_name="longmemeval_oracle.json"),
        LongMemEvalConfig(name="s", description="histories: about 40 sessions", file_name="longmemeval_s_cleaned.json"),
    ]

    def file(self) -> PublishedFile:
        return PublishedFile(VARIABLE, REPOSITORY, REVISION, self.builder_config.file_name)

    def entries(self, content: bytes) -> list[dict[str, Any]]:
        file, entries = self.file(), None
        try:
            entries = json.loads(content)
        except ValueError as error:
            raise ValueError(f"{file.origin} is no JSON ({error}); set {VARIABLE} to the path of a copy of {file.name}") from error
        require(isinstance(entries, list) and bool(entries), f"{file.origin} is no list of questions; use a copy of {file.name}")
        return entries

    def record(self, entry: dict[str, Any], number: int) -> Record:
        return reader.to_record(entry)

    def census(self, entries: list[dict[str, Any]]) -> dict[str, int]:
        wanted = self.builder_config.name
        found = "oracle" if reader.is_oracle(entries) else "s"
        require(
            found == wanted,
            f"the histories of {self.file().origin} are those of {found}, and {wanted} is asked for; give --variant {found}, or that file",
        )
        return reader.census(entries)
