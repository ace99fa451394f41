"""mr1jax memory: what is remembered, read and changed by hand. Only add reads a model; the others open the store alone."""

import contextlib
import json as json_text
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from mr1jax.config import require
from mr1jax.service.serve_cli import SHIPPED, Memory, find_store
from mr1jax.status import Failed

if TYPE_CHECKING:
    from mr1jax.service.memories import Memories

Said = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="TEXT")]
MemoryId = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="ID")]
File = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FILE")]

Json = dict[str, Any]


@dataclass(frozen=True)
class Whose:
    """Whose memories are meant: at least one of the three.

    user_id: the user's name. agent_id: of an agent that has a memory of its own. run_id: of one conversation.
    """

    user_id: str = ""
    agent_id: str = ""
    run_id: str = ""

    def ids(self) -> Json:
        """Returns the ids as the agent takes them; raises ValueError where there is none, before anything large is imported."""
        require(any(vars(self).values()), "no user is named; say whose memory this is, by --user-id")
        return dict(vars(self))


Owner = Annotated[Whose, tyro.conf.arg(name="")]
NOBODY = Whose()


def add(
    text: Said,
    memory: Memory = SHIPPED,
    whose: Owner = NOBODY,
    timestamp: str = "",
    dry_run: bool = False,
    json: bool = False,
) -> None:
    """Lets the Memory Manager add, update or delete memories by what was said: mr1jax memory add "Mia has a dog." --user-id ann

    Args:
      text: what was said; - reads standard input.
      timestamp: when it was said, in ISO 8601; now where it is left out.
      dry_run: say what would be done, and do nothing.
      json: print what MemoryAgent.add returns.
    """
    ids = whose.ids()
    from mr1jax.service.shown import operation_lines

    with telling_what_is_not_there(), memory.opener()() as agent:
        said = sys.stdin.read() if text == "-" else text
        done = agent.add(said, **ids, timestamp=timestamp or None, dry_run=dry_run)
    _print(done, json, (line for result in done["results"] for line in operation_lines(result)))


def search(query: Said, store: str = "", whose: Owner = NOBODY, limit: int = 10, json: bool = False) -> None:
    """Finds memories that share words with a query, the best first: mr1jax memory search dog --user-id ann

    Args:
      store: as of mr1jax memory add.
      limit: how many at most.
      json: print what MemoryAgent.search returns.
    """
    from mr1jax.service.shown import memory_line

    with _opened(store, whose) as (memories, ids):
        found = memories.search(query, **ids, limit=limit)
    _print(found, json, map(memory_line, found["results"]))


def list_memories(store: str = "", whose: Owner = NOBODY, limit: int = 100, deleted: bool = False, json: bool = False) -> None:
    """Lists memories, the last written first: mr1jax memory list --user-id ann

    Args:
      store: as of mr1jax memory add.
      limit: how many at most.
      deleted: list what is deleted or expired too.
      json: print what MemoryAgent.get_all returns.
    """
    from mr1jax.service.shown import memory_line

    with _opened(store, whose) as (memories, ids):
        there = memories.get_all(**ids, limit=limit, include_deleted=deleted)
    _print(there, json, map(memory_line, there["results"]))


def history(memory_id: MemoryId, store: str = "", whose: Owner = NOBODY, json: bool = False) -> None:
    """Lists every operation on a memory, the first first; exit status 1 where there is no such memory.

    For example: mr1jax memory history 0e9a8cbc-3a4b-4f4e-a33f-6c4a13dd8f53 --user-id ann

    Args:
      memory_id: as add, search and list print it.
      store: as of mr1jax memory add.
      json: print what MemoryAgent.history returns.
    """
    from mr1jax.service.shown import event_line

    with _opened(store, whose) as (memories, ids):
        events = memories.history(memory_id, **ids)
    _print(events, json, map(event_line, events))


def undo(memory_id: MemoryId, store: str = "", whose: Owner = NOBODY, to_event: int | None = None, json: bool = False) -> None:
    """Takes a memory back to what it was before its last operation; exit status 1 where there is no such memory.

    What undoes an ADD deletes; done twice, it undoes the undoing. For example:
    mr1jax memory undo 0e9a8cbc-3a4b-4f4e-a33f-6c4a13dd8f53 --user-id ann

    Args:
      memory_id: as add, search and list print it.
      store: as of mr1jax memory add.
      to_event: the event of its history to go back to.
      json: print what MemoryAgent.restore returns.
    """
    from mr1jax.service.shown import memory_line

    with _opened(store, whose) as (memories, ids):
        restored = memories.restore(memory_id, **ids, to_event=to_event)
    _print(restored, json, [memory_line(restored)])


def export(file: File, store: str = "", whose: Owner = NOBODY, json: bool = False) -> None:
    """Writes memories to a file, one JSON object a line: mr1jax memory export ann.jsonl --user-id ann

    Args:
      store: as of mr1jax memory add.
      json: print the count as JSON.
    """
    from mr1jax.service.jsonl import export_jsonl
    from mr1jax.service.records import Scope

    with _opened(store, whose) as (memories, ids):
        count = export_jsonl(memories, file, Scope(**ids))
    print(json_text.dumps({"exported": count}) if json else f"exported {count} memories to {file}")


def import_file(file: File, store: str = "", whose: Owner = NOBODY, json: bool = False) -> None:
    """Adds the memories of an export, each as it is; those that are there already stay: mr1jax memory import ann.jsonl --user-id ann

    Args:
      store: as of mr1jax memory add.
      json: print the count as JSON.
    """
    from mr1jax.service.jsonl import import_jsonl
    from mr1jax.service.records import Scope

    with _opened(store, whose) as (memories, ids):
        count = import_jsonl(memories, file, Scope(**ids))
    print(json_text.dumps({"imported": count}) if json else f"imported {count} memories from {file}")


ACTIONS: dict[str, Callable[..., None]] = {
    "add": add,
    "search": search,
    "list": list_memories,
    "history": history,
    "undo": undo,
    "export": export,
    "import": import_file,
}


@contextlib.contextmanager
def telling_what_is_not_there() -> Iterator[None]:
    """Turns what is neither there nor the user's fault, a memory or a model's server, into exit status 1 with its sentence."""
    from mr1jax.service.chat_server import Unavailable
    from mr1jax.service.records import NotFound

    try:
        yield
    except (NotFound, Unavailable) as error:
        raise Failed(str(error)) from error


@contextlib.contextmanager
def _opened(store: str, whose: Whose) -> "Iterator[tuple[Memories, Json]]":
    ids = whose.ids()
    from mr1jax.service.memories import Memories
    from mr1jax.service.sql_store import SqlStore

    with telling_what_is_not_there(), contextlib.closing(SqlStore(find_store(store))) as opened:
        yield Memories(opened), ids


def _print(whole: Any, json: bool, lines: Iterable[str]) -> None:
    """Prints what the agent returned as JSON, or these lines about it."""
    for line in [json_text.dumps(whole)] if json else lines:
        print(line)
