"""Memories as a file of one JSON object a line, to take them elsewhere and to bring them in."""

import dataclasses
import json
import uuid
from pathlib import Path

from mr1jax.config import require
from mr1jax.report import write_whole
from mr1jax.service.memories import Memories
from mr1jax.service.records import Event, Memory, Scope
from mr1jax.service.store import EVERYTHING
from mr1jax.service.texts import MAX_MEMORY, check_metadata, check_name, check_text, now, read_time

_MAX_BYTES = 1 << 30
_IDS = uuid.UUID("6f2a1c1e-5d0b-4f6e-9f5e-3c0f4b1d7a10")  # of memories that were imported


def export_jsonl(memories: Memories, path: str | Path, scope: Scope) -> int:
    """Writes what a scope remembers, the oldest first, and returns how many memories that is. The file is whole, or as it was before."""
    there = memories.store.get_all(scope, now(), EVERYTHING, False)
    write_whole(Path(path), "".join(json.dumps(memory.to_json()) + "\n" for memory in reversed(there)))
    return len(there)


def import_jsonl(memories: Memories, path: str | Path, scope: Scope) -> int:
    """Adds the memories of an export to a scope, whosever they were, and returns how many were new.

    A memory that came from here, or was imported before, is left as it is: to import a file twice is to import it once. All are added, or
    none. Raises ValueError with the line that is wrong.
    """
    source = Path(path)
    require(
        source.is_file() and source.stat().st_size <= _MAX_BYTES, f"there is no file {source} of at most {_MAX_BYTES} bytes; export one"
    )
    read = [_read_line(source, number, line) for number, line in enumerate(source.read_bytes().splitlines(), start=1) if line.strip()]
    by_id = {_id_here(scope, memory): memory for memory in read}

    def once() -> int:
        version = memories.store.version(scope)
        known = memories.store.fetch(scope, [*by_id, *(memory.id for memory in read)])
        new = {new_id: memory for new_id, memory in by_id.items() if new_id not in known and memory.id not in known}
        events = [_as_event(scope, new_id, memory) for new_id, memory in new.items()]
        if events:
            memories.store.commit(scope, events, version=version, receipt=None)
        return len(events)

    return memories.in_turn(scope, once)


def _id_here(scope: Scope, memory: Memory) -> str:
    """An id of its own, always the same: the one in the file may be another user's, of whom nothing is to be learnt."""
    return str(uuid.uuid5(_IDS, f"{scope.owner}\n{memory.id}"))


def _read_line(source: Path, number: int, line: bytes) -> Memory:
    try:
        memory = Memory.from_json(json.loads(line))
        expires_at = None if memory.expires_at is None else read_time("expires_at", memory.expires_at)
        require(check_name("its id", memory.id) != "", "it has no id; give one")
        require(type(memory.speaker) is int and memory.speaker in (0, 1), "its speaker is neither 0 nor 1; give one of them")
        return dataclasses.replace(
            memory,
            memory=check_text("its memory", memory.memory, MAX_MEMORY),
            metadata=check_metadata(memory.metadata),
            updated_at=read_time("updated_at", memory.updated_at or None),
            expires_at=expires_at,
        )
    except (ValueError, RecursionError) as error:  # text that is no JSON is a ValueError too
        raise ValueError(f"line {number} of {source} is no memory ({error}); give what an export wrote") from error


def _as_event(scope: Scope, memory_id: str, memory: Memory) -> Event:
    return Event(
        memory_id=memory_id,
        event="ADD",
        old_memory=None,
        new_memory=memory.memory,
        **dataclasses.asdict(scope),
        metadata=memory.metadata,
        expires_at=memory.expires_at,
        speaker=memory.speaker,
        said_at=memory.updated_at,
        created_at=now(),
        actor="import",
    )
