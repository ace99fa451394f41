"""`metrics.jsonl`: one line a step, flushed at once, cut back to where a checkpoint stands when a run goes on from there."""

import itertools
import json
import logging
import math
import os
from pathlib import Path
from typing import Any

from mr1jax.config import require

logger = logging.getLogger(__name__)

Record = dict[str, float]
METRICS = "metrics.jsonl"
_REMEDY = "put the file right, or remove it"


class RunLog:
    """The log of a run: what it holds up to a place is read, the rest is cut off, and new records follow.

    folder: None keeps records in memory alone; position: of the checkpoint that the run goes on from, bytes; step: its step. writes: False
    in all but one of several processes. A log that has lost lines is warned of, and goes on. Raises `ValueError` where a line is no record.
    """

    def __init__(self, folder: Path | None, position: int = 0, step: int = 0, *, writes: bool = True):
        self.records: list[Record] = []
        self.position = 0  # bytes; a checkpoint names that of the process which writes: seconds differ, and so do the lines
        self._file = None
        if folder is None:
            return
        path = folder / METRICS
        content = path.read_bytes()[:position] if path.is_file() else b""
        self.records = _read(content, path)
        self.position = len(content)
        if [record["step"] for record in self.records] != list(range(1, step + 1)):
            logger.warning("%s has %d records of the %d steps so far; the run goes on without the others", path, len(self.records), step)
        if writes:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = path.open("ab")
            os.truncate(path, self.position)

    def append(self, record: Record) -> None:
        """Adds a record; JSON has no NaN and no infinity, so that they are written as null."""
        self.records.append(record)
        line = (json.dumps({name: value if math.isfinite(value) else None for name, value in record.items()}) + "\n").encode()
        self.position += len(line)
        if self._file is not None:
            self._file.write(line)
            self._file.flush()  # to the system: a killed run leaves whole lines

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


def read_log(folder: Path) -> list[Record]:
    """Reads all records of a run, NaN where one holds null; raises `ValueError` where there are none, or none that could be of one run."""
    path = folder / METRICS
    require(path.is_file(), f"{folder} has no {METRICS}; name the folder of a run that has begun to train")
    records = _read(path.read_bytes(), path)
    require(bool(records), f"{path} holds no step yet; wait for the first")
    steps = [record["step"] for record in records]
    odd = next((number for number, (before, after) in enumerate(itertools.pairwise([0, *steps]), 1) if before >= after), None)
    require(odd is None, f"{path}, line {odd}, is not of a later step than the line before; {_REMEDY}")
    return records


def _read(content: bytes, path: Path) -> list[Record]:
    records = []
    for number, line in enumerate(content.splitlines(), 1):
        try:
            record: dict[str, Any] = json.loads(line)
            records.append(
                {name: math.nan if value is None else float(value) for name, value in record.items()} | {"step": int(record["step"])}
            )
        except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
            raise ValueError(f"{path}, line {number}, is no record of a step; {_REMEDY}") from error
    return records
