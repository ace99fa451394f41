"""What the agent asks of a store. `sql_store` is the one that ships; anything that keeps these promises is another."""

from collections.abc import Sequence
from typing import Protocol

from mr1jax.service.ranking import TermIndex
from mr1jax.service.records import Event, Memory, Receipt, Scope

EVERYTHING = 2**31 - 1  # a limit that is none


class Store(Protocol):
    """Memories of many owners and the log of all operations on them.

    Every call is about one scope and sees nothing outside it. `commit` is all or nothing, and what it has acknowledged stays.
    """

    def index(self, scope: Scope, now: str) -> TermIndex:
        """Returns the words of what is there at `now` (not deleted, not expired), oldest first, with the version that this was."""
        ...

    def version(self, scope: Scope) -> int:
        """Returns the owner's version, which every operation moves."""
        ...

    def fetch(self, scope: Scope, ids: Sequence[str]) -> dict[str, Memory]:
        """Returns those of these memories that exist, deleted ones too."""
        ...

    def get_all(self, scope: Scope, now: str, limit: int, include_deleted: bool) -> list[Memory]:
        """Returns memories, the last written first; with `include_deleted` also those that are deleted or expired."""
        ...

    def commit(self, scope: Scope, events: Sequence[Event], *, version: int | None, receipt: Receipt | None) -> list[Event]:
        """Applies operations in order in one transaction and returns them with their ids.

        Raises `Conflict` where the owner's version is another than `version`, and `NotFound` where one is of no memory in the scope.
        """
        ...

    def receipt(self, scope: Scope, key: str) -> Receipt | None:
        """Returns what was recorded under an idempotency key."""
        ...

    def events(self, scope: Scope, after: int, limit: int, memory_id: str = "") -> list[Event]:
        """Returns the log from the event after `after` on, oldest first; of one memory where its id is given."""
        ...

    def close(self) -> None:
        """Lets go of all connections."""
        ...
