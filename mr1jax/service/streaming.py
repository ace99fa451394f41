"""An answer on its way to whoever reads it, piece by piece, while the batch that it is part of is still being written."""

import queue
import re
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Generic, Protocol, TypeVar

from mr1jax.text.parsing import split_response

Hear = Callable[[str], None]  # is told what is written of a response so far

# What the next token may still change: half of a character; the digits of a year, which is put back as a whole; a space that is the last.
_UNSURE = re.compile(r"[\d\ufffd\s]*$")


class Answered(Protocol):
    @property
    def answer(self) -> str: ...


A = TypeVar("A", bound=Answered)


class Pieces(Generic[A]):
    """One answer: the thread that writes it calls `hear`, the one that reads it follows."""

    def __init__(self, meant: Callable[[str], str]):
        """meant: turns a text of the model into what it means, date by date."""
        self._meant, self._told = meant, ""
        self._pieces: queue.SimpleQueue[str | None] = queue.SimpleQueue()

    def hear(self, response: str) -> None:
        """Takes a response as far as it is written, and passes on what is new of the answer in it."""
        _, answer = split_response(response)
        self._tell(_UNSURE.sub("", self._meant(answer or "")))

    def follow(self, reply: "Future[A]") -> Iterator[str | A]:
        """Yields what is heard, the rest of the answer once it is there, and last what `reply` holds; raises what it ended with."""
        reply.add_done_callback(lambda _: self._pieces.put(None))
        yield from iter(self._pieces.get, None)
        whole = reply.result()
        if whole.answer.startswith(self._told) and whole.answer != self._told:
            yield whole.answer[len(self._told) :]
        yield whole

    def _tell(self, answer: str) -> None:
        if answer.startswith(self._told) and answer != self._told:
            self._pieces.put(answer[len(self._told) :])
            self._told = answer
