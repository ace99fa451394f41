"""What goes in and out of a store: memories, whose they are, and the operations that made them what they are."""

import dataclasses
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

from mr1jax.config import require
from mr1jax.service.texts import check_name

EventKind = Literal["ADD", "UPDATE", "DELETE", "RESTORE"]
Json = dict[str, Any]


class NotFound(ValueError):
    """There is no such memory in this scope: whether it is another's or nobody's, nobody is told."""


class Conflict(Exception):
    """Somebody else wrote in the meantime; read again, decide again."""


@dataclass(frozen=True)
class Scope:
    """Whose memories a call is about. Raises ValueError where no id is given, or an id is none.

    The first id given, of user, agent and run in this order, is a wall: nothing is seen across it. The others narrow what is seen within.
    """

    user_id: str = ""
    agent_id: str = ""
    run_id: str = ""

    def __post_init__(self):
        for each in dataclasses.fields(self):
            check_name(each.name, getattr(self, each.name))
        require(any((self.user_id, self.agent_id, self.run_id)), "no user_id, agent_id or run_id is given; say whose memories these are")

    @property
    def owner(self) -> str:
        """Names the wall: "user:ann"."""
        return next(f"{kind}:{value}" for kind, value in (("user", self.user_id), ("agent", self.agent_id), ("run", self.run_id)) if value)

    def sees(self, memory: "Memory | Event") -> bool:
        """Tells whether a memory lies in the scope."""
        return _owner_of(memory) == self.owner and all(
            not wanted or wanted == getattr(memory, name) for name, wanted in dataclasses.asdict(self).items()
        )


def _owner_of(memory: "Memory | Event") -> str:
    return Scope(memory.user_id, memory.agent_id, memory.run_id).owner


@dataclass(frozen=True)
class Memory:
    """One memory as it is now, or was.

    id: a uuid4; memory: its text; created_at, updated_at: when its first and its last text were said; expires_at: from when on it is not
    found any more, None for never; speaker: 0 a user, 1 an assistant; deleted: kept, but found by nothing;
    version: how many operations made it; written: the id of the last of them, by which memories are ordered.
    """

    id: str
    memory: str
    user_id: str = ""
    agent_id: str = ""
    run_id: str = ""
    metadata: Json = field(default_factory=dict)
    created_at: str = ""
    updated_at: str = ""
    expires_at: str | None = None
    speaker: int = 0
    deleted: bool = False
    version: int = 1
    written: int = 0

    def to_json(self) -> Json:
        """Returns a dict that JSON holds."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, value: Json) -> "Memory":
        """Reads what `to_json` wrote; raises ValueError where it is something else."""
        return _from_json(cls, value)


@dataclass(frozen=True)
class Event:
    """One operation on one memory, as the log keeps it. What it leaves is said in full, so the log alone gives every state back.

    id: its place in the log, 0 before it is written; old_memory, new_memory: the text before and after, None where there was or is none;
    created_at: when it was done; said_at, metadata, expires_at: of the memory after it; actor: "manager", "user" or "import".
    """

    memory_id: str
    event: EventKind
    old_memory: str | None
    new_memory: str | None
    user_id: str = ""
    agent_id: str = ""
    run_id: str = ""
    metadata: Json = field(default_factory=dict)
    expires_at: str | None = None
    speaker: int = 0
    said_at: str = ""
    created_at: str = ""
    actor: str = "user"
    id: int = 0

    def to_json(self) -> Json:
        """Returns a dict that JSON holds."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, value: Json) -> "Event":
        """Reads what `to_json` wrote; raises ValueError where it is something else."""
        return _from_json(cls, value)


@dataclass(frozen=True)
class Receipt:
    """What a request with an idempotency key came to. body: the hash of what was asked; result: what was answered."""

    key: str
    body: str
    result: Json


def after(memory: Memory | None, event: Event) -> Memory:
    """Returns a memory as an operation leaves it. The one definition of what an operation does: stores write by it, logs replay by it."""
    if event.event == "ADD":
        memory = Memory(event.memory_id, "", event.user_id, event.agent_id, event.run_id, speaker=event.speaker, version=0)
        memory = dataclasses.replace(memory, created_at=event.said_at)
    if memory is None:
        raise ValueError(f"event {event.id} is an {event.event} of memory {event.memory_id}, which was never added; the log is not whole")
    memory = dataclasses.replace(memory, version=memory.version + 1, written=event.id, deleted=event.event == "DELETE")
    if event.event == "DELETE":
        return memory
    text = event.new_memory or ""
    return dataclasses.replace(memory, memory=text, metadata=event.metadata, updated_at=event.said_at, expires_at=event.expires_at)


def replay(events: Iterable[Event]) -> dict[str, Memory]:
    """Returns what a log comes to, by id: every memory that ever was, deleted ones marked."""
    state: dict[str, Memory] = {}
    for event in events:
        state[event.memory_id] = after(state.get(event.memory_id), event)
    return state


def as_result(event: Event) -> Json:
    """Says what an operation did, as mem0's `add` does."""
    result = {"id": event.memory_id, "memory": event.new_memory or event.old_memory, "event": event.event}
    return result | ({"previous_memory": event.old_memory} if event.event == "UPDATE" else {})


def _from_json(kind: Any, value: Json) -> Any:
    known = {each.name for each in dataclasses.fields(kind)}
    fits = isinstance(value, dict) and set(value) <= known
    require(fits, f"{json.dumps(value, default=repr):.80} is no {kind.__name__.lower()}; give what an export wrote")
    try:
        return kind(**value)
    except TypeError as error:
        raise ValueError(f"{json.dumps(value):.80} is no {kind.__name__.lower()}: a field is missing; give what an export wrote") from error
