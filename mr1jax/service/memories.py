"""What can be done with memories without a model: find, read, edit by hand, undo, and walk the log."""

import dataclasses
import random
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from typing import Any

from mr1jax.config import require
from mr1jax.service.filters import check_filters, fits
from mr1jax.service.records import Conflict, Event, Json, Memory, NotFound, Scope, as_result, replay
from mr1jax.service.store import EVERYTHING, Store
from mr1jax.service.texts import MAX_MEMORY, check_name, check_text, now

_PATIENCE = 30.0  # seconds that a writer tries, against other processes that write to the same owner
_LONGEST_PAUSE = 0.05  # seconds between two attempts


class Memories:
    """Memories of many users in a store. Any number of threads may call it.

    Every call needs at least one of user_id, agent_id and run_id (see `Scope`); ValueError says in one sentence what is wrong with a
    request, and `NotFound` that there is no such memory in the scope.
    """

    def __init__(self, store: Store):
        self.store = store
        self._turns: weakref.WeakValueDictionary[str, Any] = weakref.WeakValueDictionary()
        self._turns_lock = threading.Lock()

    def search(
        self,
        query: str,
        *,
        user_id: str = "",
        agent_id: str = "",
        run_id: str = "",
        limit: int = 10,
        filters: Mapping[str, Any] | None = None,
    ) -> Json:
        """Finds memories that share words with a query, best first: {"results": [{"id", "memory", "score", ...}]}.

        filters: see `filters`.
        """
        scope, text, limit = Scope(user_id, agent_id, run_id), check_text("the query", query), check_limit(limit)
        check_filters(filters)
        index = self.store.index(scope, now())
        best = index.best(text, EVERYTHING if filters else limit, matching=True)
        found = self.store.fetch(scope, [memory_id for memory_id, _ in best])
        scored = [(found[memory_id], score) for memory_id, score in best if memory_id in found]
        kept = [memory.to_json() | {"score": score} for memory, score in scored if not filters or fits(memory, filters)]
        return {"results": kept[:limit]}

    def get(self, memory_id: str, *, user_id: str = "", agent_id: str = "", run_id: str = "") -> Json:
        """Returns one memory."""
        memory = self.find(Scope(user_id, agent_id, run_id), memory_id)
        if memory.deleted or (memory.expires_at or "~") <= now():
            raise _not_found(memory_id)
        return memory.to_json()

    def get_all(self, *, user_id: str = "", agent_id: str = "", run_id: str = "", limit: int = 100, include_deleted: bool = False) -> Json:
        """Returns memories, the last written first: {"results": [...]}; with include_deleted also what is deleted or expired."""
        memories = self.store.get_all(Scope(user_id, agent_id, run_id), now(), check_limit(limit), include_deleted)
        return {"results": [memory.to_json() for memory in memories]}

    def update(self, memory_id: str, data: str, *, user_id: str = "", agent_id: str = "", run_id: str = "") -> Json:
        """Replaces the text of a memory by hand: {"message", "results"}."""
        scope, text = Scope(user_id, agent_id, run_id), check_text("the memory", data, MAX_MEMORY)

        def change() -> list[Event]:
            memory = self.find(scope, memory_id)
            if memory.deleted:
                raise _not_found(memory_id)
            return [_by_hand("UPDATE", memory, text, said_at=now())]

        return self._write(scope, change, "updated")

    def delete(self, memory_id: str, *, user_id: str = "", agent_id: str = "", run_id: str = "") -> Json:
        """Deletes a memory; its text stays in the history, and `restore` brings it back."""
        scope = Scope(user_id, agent_id, run_id)

        def change() -> list[Event]:
            memory = self.find(scope, memory_id)
            if memory.deleted:
                raise _not_found(memory_id)
            return [_by_hand("DELETE", memory, None)]

        return self._write(scope, change, "deleted")

    def delete_all(self, *, user_id: str = "", agent_id: str = "", run_id: str = "") -> Json:
        """Deletes all memories of the scope, each as `delete` does."""
        scope = Scope(user_id, agent_id, run_id)

        def change() -> list[Event]:
            memories = self.store.get_all(scope, now(), EVERYTHING, True)
            return [_by_hand("DELETE", memory, None) for memory in memories if not memory.deleted]

        return self._write(scope, change, "deleted")

    def history(self, memory_id: str, *, user_id: str = "", agent_id: str = "", run_id: str = "") -> list[Json]:
        """Returns every operation on a memory, the first first."""
        scope = Scope(user_id, agent_id, run_id)
        self.find(scope, memory_id)
        return [event.to_json() for event in self.store.events(scope, 0, EVERYTHING, memory_id)]

    def restore(self, memory_id: str, *, user_id: str = "", agent_id: str = "", run_id: str = "", to_event: int | None = None) -> Json:
        """Undoes the last operation on a memory, or all after `to_event` of its history, and returns it.

        That is an operation too: to undo it, restore again. What undoes an ADD deletes.
        """
        scope = Scope(user_id, agent_id, run_id)

        def change() -> list[Event]:
            memory = self.find(scope, memory_id)
            events = self.store.events(scope, 0, EVERYTHING, memory_id)
            known = to_event is None or to_event in [event.id for event in events]
            require(known, f"event {to_event!r:.40} is none of memory {memory_id}; choose one of its history")
            kept = events[:-1] if to_event is None else [event for event in events if event.id <= to_event]
            target = replay(kept).get(memory_id)
            if target is None or target.deleted:
                return [] if memory.deleted else [_by_hand("DELETE", memory, None)]
            event = _by_hand("RESTORE", memory, target.memory, said_at=target.updated_at)
            return [dataclasses.replace(event, metadata=target.metadata, expires_at=target.expires_at)]

        self._write(scope, change, "restored")
        return self.find(scope, memory_id).to_json()

    def events(self, *, user_id: str = "", agent_id: str = "", run_id: str = "", after: int = 0, limit: int = 1000) -> list[Event]:
        """Returns the operation log of a scope from the event after `after` on, in order."""
        return self.store.events(Scope(user_id, agent_id, run_id), after, check_limit(limit))

    def state_at(self, event_id: int, *, user_id: str = "", agent_id: str = "", run_id: str = "") -> list[Memory]:
        """Returns the memories as they were after an event, by replaying the log; the last written last."""
        events = [event for event in self.store.events(Scope(user_id, agent_id, run_id), 0, EVERYTHING) if event.id <= event_id]
        time_then = events[-1].created_at if events else ""
        there = [each for each in replay(events).values() if not each.deleted and (each.expires_at or "~") > time_then]
        return sorted(there, key=lambda memory: memory.written)

    def find(self, scope: Scope, memory_id: str) -> Memory:
        check_name("memory_id", memory_id)
        found = self.store.fetch(scope, [memory_id]).get(memory_id)
        if found is None:
            raise _not_found(memory_id)
        return found

    def _write(self, scope: Scope, change: Callable[[], list[Event]], done: str) -> Json:
        def once() -> list[Event]:
            version = self.store.version(scope)  # before anything is read, so that what is written fits what was read
            events = change()
            return self.store.commit(scope, events, version=version, receipt=None) if events else []

        events = self.in_turn(scope, once)
        return {"message": f"{len(events)} {'memory' if len(events) == 1 else 'memories'} {done}", "results": list(map(as_result, events))}

    def in_turn(self, scope: Scope, once: Callable[[], Any]) -> Any:
        """Lets the writers of one owner go one after another, here by a lock, and among processes by trying again."""
        with self._turns_lock:
            turn = self._turns.setdefault(scope.owner, threading.Lock())
        with turn:
            started = time.monotonic()
            while time.monotonic() - started < _PATIENCE:
                try:
                    return once()
                except Conflict:
                    time.sleep(random.uniform(0, _LONGEST_PAUSE))
        raise ValueError(f"other processes keep writing to {scope.owner}; try again later")


def _by_hand(kind: Any, memory: Memory, text: str | None, said_at: str = "") -> Event:
    return Event(
        memory_id=memory.id,
        event=kind,
        old_memory=memory.memory,
        new_memory=text,
        user_id=memory.user_id,
        agent_id=memory.agent_id,
        run_id=memory.run_id,
        metadata=memory.metadata,
        expires_at=memory.expires_at,
        speaker=memory.speaker,
        said_at=said_at or memory.updated_at,
        created_at=now(),
    )


def _not_found(memory_id: str) -> NotFound:
    return NotFound(f"there is no memory {memory_id!r:.60}")


def check_limit(limit: Any) -> int:
    require(type(limit) is int and 1 <= limit <= 100_000, f"limit is {limit!r:.40}; give a whole number from 1 to 100000")
    return limit
