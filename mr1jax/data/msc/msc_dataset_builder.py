"""TFDS builder of MSC-Self-Instruct. In a folder of its own, because TFDS takes every file beside a builder for its metadata."""

import json
from typing import Any

import tensorflow_datasets as tfds

from mr1jax.config import require
from mr1jax.data.msc import reader
from mr1jax.data.published import PublishedBuilder, PublishedFile
from mr1jax.data.records import Record

VARIABLE = "MSC_JSONL"
REPOSITORY = "MemGPT/MSC-Self-Instruct"
REVISION = "5138f416f8fa76b75b2e080da87e8a8e346e1500"


class Builder(PublishedBuilder):
    """MSC-Self-Instruct, whole, as a test split: Memory-R1 is asked its questions without having been trained on any."""

    VERSION = tfds.core.Version("1.0.0")
    DESCRIPTION = "Chats of five sessions between two people, each with a question that looks back on them (arXiv 2310.08560)."
    HOMEPAGE = f"https://huggingface.co/datasets/{REPOSITORY}"
    LICENSE = "Apache-2.0"

    def file(self) -> PublishedFile:
        return PublishedFile(VARIABLE, REPOSITORY, REVISION, "msc_self_instruct.jsonl")

    def entries(self, content: bytes) -> list[dict[str, Any]]:
        file, entries = self.file(), []
        for number, line in enumerate(content.splitlines(), 1):
            try:
                entries += [json.loads(line)] if line.strip() else []
            except ValueError as error:
                remedy = f"set {VARIABLE} to the path of a copy of {file.name}"
                raise ValueError(f"line {number} of {file.origin} is no JSON ({error}); {remedy}") from error
        require(bool(entries), f"{file.origin} has no line; use a copy of {file.name}")
        return entries

    def record(self, entry: dict[str, Any], number: int) -> Record | None:
        return reader.to_record(entry, number)

    def census(self, entries: list[dict[str, Any]]) -> dict[str, int]:
        return reader.census(entries)
