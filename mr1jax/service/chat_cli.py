"""mr1jax chat: talk to a memory in a terminal, or from a script that writes lines to it, and see every operation."""

import contextlib
import json as json_text
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mr1jax.config import require
from mr1jax.service.memory_cli import NOBODY, Owner, telling_what_is_not_there
from mr1jax.service.serve_cli import SHIPPED, Memory
from mr1jax.service.texts import printable
from mr1jax.status import Failed

if TYPE_CHECKING:
    from mr1jax.service.agent import MemoryAgent

Json = dict[str, Any]
COMMANDS = ("/undo", "/list", "/quit")
QUESTION_MARKS = ("?", "\u061f", "\uff1f")  # as Latin, Arabic and Chinese write them
_GREETING = "A line that ends in a question mark asks, every other is remembered; /undo takes the last one back, /list, /quit."


def chat(memory: Memory = SHIPPED, whose: Owner = NOBODY, json: bool = False) -> None:
    """Remembers the lines that you write, answers those that end in a question mark, and shows each operation on the memory.

    /undo takes back what the last line did, and again the one before it; /list shows what is remembered; /quit ends, as Ctrl-D does.
    For example: mr1jax chat --user-id ann
    From a script: printf "Mia has a dog called Bramo.\\nWhat is Mia's dog called?\\n" | mr1jax chat --user-id ann

    Where standard input is no terminal, a line that is refused ends it: exit status 2, or 1 where the model's server does not answer.

    Args:
      json: print one JSON object for each line.
    """
    ids = whose.ids()
    by_hand = sys.stdin.isatty()
    with contextlib.suppress(*[KeyboardInterrupt] * by_hand), memory.opener()() as agent:
        talk = Chat(agent, ids, (lambda piece: None) if json else _print_piece)
        if by_hand:
            print(_GREETING, file=sys.stderr)
        for line in _lines(by_hand, echo=not (by_hand or json)):
            if line == "/quit":
                return
            try:
                with telling_what_is_not_there():
                    came = talk.hear(line)
            except (ValueError, Failed) as error:
                if not by_hand:
                    raise
                print(f"mr1jax: {error}", file=sys.stderr)
                continue
            print(json_text.dumps(came) if json else "\n".join(_shown(came)), flush=True)


@dataclass(frozen=True)
class Undoable:
    """What one line did: before holds, for each memory that it touched, the last event there was before, None where there was none."""

    said: str
    before: dict[str, int | None]


class Chat:
    """One conversation with the memory of one owner. Lines that it cannot do anything with raise ValueError."""

    def __init__(self, agent: "MemoryAgent", ids: Json, heard: Callable[[str], None]):
        """heard: is given each further piece of an answer, as it is written."""
        self._agent, self._ids, self._heard = agent, ids, heard
        self._done: list[Undoable] = []

    def hear(self, line: str) -> Json:
        """Does what a line asks for, and returns what the agent returned, beside the line: "said", "asked", "listed" or "undone"."""
        if line.startswith("/"):
            require(line in COMMANDS, f"there is no command {line!r:.60}; choose one of {', '.join(COMMANDS)}")
            return self._undo() if line == "/undo" else {"listed": self._agent.get_all(**self._ids)["results"]}
        if line.endswith(QUESTION_MARKS):
            return {"asked": line} | self._answer(line)
        return self._remember(line)

    def _answer(self, question: str) -> Json:
        came: Json = {}
        for came in self._agent.stream_answer(question, **self._ids):
            if "piece" in came:
                self._heard(came["piece"])
        return came

    def _remember(self, line: str) -> Json:
        done = self._agent.add(line, **self._ids)
        touched = [result["id"] for result in done["results"] if result["id"]]
        before: dict[str, int | None] = {}
        for memory_id in dict.fromkeys(touched):
            events = self._agent.history(memory_id, **self._ids)[: -touched.count(memory_id)]
            before[memory_id] = events[-1]["id"] if events else None
        if before:
            self._done.append(Undoable(line, before))
        return {"said": line} | done

    def _undo(self) -> Json:
        require(bool(self._done), "nothing that was said in this chat is left to undo; mr1jax memory undo goes further back")
        last = self._done.pop()
        results = [self._take_back(*each) for each in reversed(last.before.items())]
        return {"undone": last.said, "results": [result for result in results if result]}

    def _take_back(self, memory_id: str, event: int | None) -> Json:
        now = self._agent.history(memory_id, **self._ids)[-1]
        if event is not None:
            memory = self._agent.restore(memory_id, **self._ids, to_event=event)
            return {"id": memory_id, "memory": memory["memory"], "event": "RESTORE", "previous_memory": now["new_memory"]}
        if now["event"] == "DELETE":  # by a later line, or by somebody else
            return {}
        return self._agent.delete(memory_id, **self._ids)["results"][0]


def _lines(by_hand: bool, echo: bool) -> Iterator[str]:
    """Yields what is said, without lines that are blank; a script's lines are shown, as those typed in a terminal are."""
    if by_hand:
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401  gives input() a history and its keys
        with contextlib.suppress(EOFError, KeyboardInterrupt):
            while True:
                if line := input("> ").strip():
                    yield line
    for line in map(str.strip, () if by_hand else sys.stdin):
        if line:
            if echo:
                print(f"> {line}")
            yield line


def _print_piece(piece: str) -> None:
    print(printable(piece), end="", flush=True)


def _shown(came: Json) -> list[str]:
    from mr1jax.service.shown import after_answer, memory_line, operation_lines

    if "asked" in came:
        return after_answer(came)
    if "listed" in came:
        return [memory_line(memory) for memory in came["listed"]] or ["nothing is remembered"]
    lines = [line for result in came["results"] for line in operation_lines(result)]
    return [f"undone: {came['undone']}", *lines] if "undone" in came else lines
