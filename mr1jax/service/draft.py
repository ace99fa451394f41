"""The operations of one request before they are written: each fact sees what those before it left, and all are committed at once."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mr1jax.service.engine import Decision, Line
from mr1jax.service.ranking import TermIndex, terms_of
from mr1jax.service.records import Event, Json, Memory, Scope, after, as_result
from mr1jax.service.store import Store
from mr1jax.service.texts import date_text
from mr1jax.structs import OperationKind

MANAGER = "manager"


@dataclass(frozen=True)
class Said:
    """A fact as it was said. time: when; metadata, expires_at: of the memory that it becomes."""

    text: str
    time: str
    speaker: int = 0
    metadata: Json = field(default_factory=dict)
    expires_at: str | None = None


def as_line(memory: Memory) -> Line:
    """Shows a memory as an agent sees it, with the day of its last text."""
    return Line(memory.memory, date_text(memory.updated_at), memory.speaker)


class Draft:
    """Starts from what the store holds of a scope. events: what is to be committed; results: what is to be answered, as mem0 does."""

    def __init__(self, store: Store, scope: Scope, now: str):
        self._store, self._scope, self._now = store, scope, now
        self._index = store.index(scope, now)
        self._changed: dict[str, Memory] = {}
        self.version = self._index.version
        self.events: list[Event] = []
        self.results: list[Json] = []

    def candidates(self, text: str, limit: int) -> list[Memory]:
        """Returns the memories most like a text as they are in this draft, the last written last."""
        index = self._index_now()
        ids = {memory_id for memory_id, _ in index.best(text, limit)}
        found = self._store.fetch(self._scope, [each for each in ids if each not in self._changed]) | self._changed
        return [found[memory_id] for memory_id in index.ids if memory_id in ids]

    def apply(self, decision: Decision, said: Said, shown: Sequence[Memory]) -> None:
        """Does what the Manager decided. shown: the candidates of the request."""
        for step in decision.steps:
            if step.kind == OperationKind.ADD:
                self._record(self._event("ADD", said, str(uuid.uuid4()), None, step.text), None)
            else:
                memory = self._changed.get(shown[step.place].id, shown[step.place])
                kind, text = ("UPDATE", step.text) if step.kind == OperationKind.UPDATE else ("DELETE", None)
                self._record(self._event(kind, said, memory.id, memory, text), memory)
        if not decision.steps:
            reason = {"reason": f"{decision.refused}: {decision.response}"} if decision.refused else {}
            self.results.append({"id": "", "memory": said.text, "event": "NONE"} | reason)

    def _index_now(self) -> TermIndex:
        if not self._changed:
            return self._index
        base = self._index
        kept_N = np.array([memory_id not in self._changed for memory_id in base.ids], bool)
        present = [memory for memory in self._changed.values() if not memory.deleted]  # in the order of their last write
        added = [terms_of(memory.memory) for memory in present]
        return TermIndex(
            ids=[memory_id for memory_id, kept in zip(base.ids, kept_N, strict=True) if kept] + [memory.id for memory in present],
            terms=np.concatenate([base.terms[np.repeat(kept_N, base.counts)], *added]),
            counts=np.concatenate([base.counts[kept_N], np.array([len(terms) for terms in added], np.int32)]),
        )

    def _event(self, kind: Any, said: Said, memory_id: str, before: Memory | None, text: str | None) -> Event:
        # A memory stays where it was put, in the narrower scope it may have.
        of = self._scope if before is None else before
        old = before or Memory(memory_id, "")
        return Event(
            memory_id=memory_id,
            event=kind,
            old_memory=None if before is None else before.memory,
            new_memory=text,
            user_id=of.user_id,
            agent_id=of.agent_id,
            run_id=of.run_id,
            metadata=old.metadata if kind == "DELETE" else old.metadata | said.metadata,
            expires_at=old.expires_at if kind == "DELETE" else said.expires_at or old.expires_at,
            speaker=said.speaker if before is None else before.speaker,
            said_at=said.time,
            created_at=self._now,
            actor=MANAGER,
        )

    def _record(self, event: Event, before: Memory | None) -> None:
        self.events.append(event)
        self._changed.pop(event.memory_id, None)  # so that the dict stays in the order of the last write
        self._changed[event.memory_id] = after(before, event)
        self.results.append(as_result(event))
