"""Data sets that are one published file: where the file comes from, and the TFDS builder that they share.

A file is read from where an environment variable says, else fetched from the Hugging Face hub at one commit. Which bytes were read is
recorded with the data set as their sha256: a result says what it is about, and a prepared copy is never taken for another file's.
"""

import abc
import hashlib
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HTTPError, RepositoryNotFoundError

from mr1jax.config import require
from mr1jax.data.records import FEATURES, Record, to_example


@dataclass(frozen=True)
class PublishedFile:
    """One file of a data set of the Hugging Face hub at one commit; `variable` names a copy of it that lies here."""

    variable: str
    repository: str
    revision: str
    name: str

    @property
    def origin(self) -> str:
        """Says where `read` looks, without a path of this machine."""
        return self.variable if os.environ.get(self.variable) else f"{self.repository}@{self.revision}/{self.name}"

    def read(self) -> bytes:
        """Returns its bytes; raises ValueError, one sentence, where it can be neither read nor fetched."""
        path = os.environ.get(self.variable) or self._fetch()
        try:
            return Path(path).read_bytes()
        except OSError as error:
            raise ValueError(
                f"{path} cannot be read ({error.strerror}); set {self.variable} to the path of a copy of {self.name}"
            ) from error

    def _fetch(self) -> str:
        """Returns the path of the hub's own cached copy."""
        remedy = f"try again with a network, or set {self.variable} to the path of a copy"
        try:
            return hf_hub_download(self.repository, self.name, repo_type="dataset", revision=self.revision)
        except (HTTPError, RepositoryNotFoundError, OSError) as error:
            reason = type(error.__cause__ or error).__name__
            raise ValueError(
                f"{self.name} of {self.repository} cannot be fetched from the Hugging Face hub ({reason}); {remedy}"
            ) from error


class PublishedBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """Builds one split, test, from one file. What a data set adds: its file, how bytes become entries, and entries records."""

    DESCRIPTION: str
    HOMEPAGE: str
    LICENSE: str

    @abc.abstractmethod
    def file(self) -> PublishedFile:
        """The file that this configuration is built from."""

    @abc.abstractmethod
    def entries(self, content: bytes) -> list[dict[str, Any]]:
        """Parses the file; raises ValueError where it is not of the published form."""

    @abc.abstractmethod
    def record(self, entry: dict[str, Any], number: int) -> Record | None:
        """Turns an entry into a record, None where it asks nothing. number: of the entry in the file, from 1."""

    @abc.abstractmethod
    def census(self, entries: list[dict[str, Any]]) -> dict[str, int]:
        """Counts what the file holds and every irregularity."""

    def download_and_prepare(self, **kwargs: Any) -> None:
        """Prepares the data set once. A file that the variable names is compared every time: it is what the user asked for."""
        super().download_and_prepare(**kwargs)
        file = self.file()
        if not os.environ.get(file.variable):
            return
        found, recorded = hashlib.sha256(file.read()).hexdigest(), self.info.metadata["sha256"]
        require(
            found == recorded,
            f"{self.data_path} was prepared from a file with sha256 {recorded}, and {file.variable} names one with {found}; "
            "remove that folder or give another --data-dir",
        )

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.DESCRIPTION,
            features=FEATURES,
            homepage=self.HOMEPAGE,
            license=self.LICENSE,
            metadata=tfds.core.MetadataDict(),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator[tuple[str, dict[str, Any]]]]:
        file = self.file()
        content = file.read()
        records, census = self._read(content)
        self.info.metadata.update({"sha256": hashlib.sha256(content).hexdigest(), "origin": file.origin, **census})
        return {"test": self._generate_examples(records)}

    def _read(self, content: bytes) -> tuple[list[Record], dict[str, int]]:
        file, number = self.file(), 0
        try:
            entries = self.entries(content)
            records = []
            for number, entry in enumerate(entries, 1):
                records.append(self.record(entry, number))
            census = self.census(entries)
        except (KeyError, TypeError, AttributeError) as error:
            reason = f"{type(error).__name__}: {error}"
            raise ValueError(
                f"entry {number} of {file.origin} is not of the form of {file.name} ({reason}); set {file.variable} to the path of a copy"
            ) from error
        kept = [record for record in records if record is not None]
        repeated = [name for name, count in Counter(record.id for record in kept).items() if count > 1]
        require(not repeated, f"{file.origin} has several entries with the id {', '.join(repeated)}; use an unaltered copy")
        return kept, census

    def _generate_examples(self, records: list[Record]) -> Iterator[tuple[str, dict[str, Any]]]:
        for record in records:
            yield record.id, to_example(record)
