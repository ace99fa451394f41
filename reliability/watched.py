"""The compiled agents, watched: what every prompt and response must look like, said in Python lists and `re`."""

import re
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from mr1jax.agents.answerer import AskedQuestion
from mr1jax.agents.manager import NewFact
from mr1jax.agents.prompts import DATE_MARK, MARKERS, Dates, number_mark
from mr1jax.evaluate import Replies, what_matters
from mr1jax.prepare import Start
from mr1jax.service import programs
from mr1jax.service.engine import CompiledModel
from mr1jax.service.programs import Decisions
from mr1jax.service.streaming import Hear
from mr1jax.structs import NO_SLOT, OperationKind, OperationStatus
from mr1jax.text.parsing import ANSWER_PATTERN, MANAGER_PATTERN
from mr1jax.text.tokenizer import Tokenizer

_SPECIAL = (b"<|im_start|>", b"<|im_end|>", b"<|endoftext|>", b"<tool_call>")


def forbidden_tokens(tokenizer: Tokenizer) -> set[int]:
    """Returns the tokens that no text of a user may have: markers, whatever holds a line break, ends, padding, and special ones."""
    pieces = {token: tokenizer.token_bytes(token) for token in range(tokenizer.vocab_size)}
    markers = {marker.encode() for marker in MARKERS}
    forbidden = {token for token, piece in pieces.items() if piece.strip(b" ") in markers or b"\n" in piece or piece in (b"", *_SPECIAL)}
    return forbidden | {tokenizer.eos_id, tokenizer.pad_id}


class Watched:
    """`engine.Model` by the compiled agents, for agents without a chat template. prompts: how many were looked at."""

    def __init__(self, start: Start):
        self._model, self._language, self._config = CompiledModel(start), start.language, what_matters(start.config)
        self._tokenizer, self._forbidden = start.tokenizer, forbidden_tokens(start.tokenizer)
        self._wrong: list[str] = []
        self.prompts = 0

    def take(self) -> list[str]:
        """Returns what was wrong since the last time."""
        wrong, self._wrong = self._wrong, []
        return wrong

    def decide(self, rows: NewFact, fact: NewFact, dates: Dates) -> Decisions:
        decided = self._model.decide(rows, fact, dates)
        view = programs.show_fact(rows, fact, dates, self._language, self._config)
        self._look("Fact:", view, rows, fact, dates, [*self._tokenizer.encode(DATE_MARK), *_used(dates, 0, -1)])
        done = jax.device_get(decided)
        finished = self._check_form(MANAGER_PATTERN, done.response[0], done.response_length[0])
        applied = (done.status[0] == OperationStatus.APPLIED) & (done.kind[0] != OperationKind.NOOP)
        named = [int(slot) for slot in done.slot[0][applied & (done.kind[0] != OperationKind.ADD)]]
        self._note(finished or not applied.any(), "something was done by a response that is not whole")
        self._note(set(named) <= set(np.asarray(view.shown.slot[0]).tolist()) - {NO_SLOT}, f"slots {named} were not all shown")
        return decided

    def reply(self, rows: NewFact, question: AskedQuestion, dates: Dates, heard: Mapping[int, Hear]) -> Replies:
        reply = self._model.reply(rows, question, dates, heard)
        view = programs.show_question(rows, question, dates, self._language, self._config)
        self._look("Question:", view, rows, question, dates, [])
        done = jax.device_get(reply)
        finished = self._check_form(ANSWER_PATTERN, done.response[0], done.response_length[0])
        self._note(finished or done.answer_length[0] == 0, "an answer was read from a response that is not whole")
        return reply

    def _look(self, opening: str, view: Any, rows: NewFact, asked: Any, dates: Dates, after_asked: list[int]) -> None:
        """Compares a prompt with the one that is joined here, and looks for markers in what users wrote."""
        self.prompts += 1
        seen = np.asarray(view.prompt[0])[: int(view.length[0])].tolist()
        spell, line_break = self._tokenizer.encode_exactly, self._tokenizer.encode_exactly("\n")
        slots = [int(slot) for slot in np.asarray(view.shown.slot[0]) if slot != NO_SLOT]
        texts = [_used(asked, 0), *(_used(rows, 0, slot) for slot in slots)]
        self._note(not any(self._forbidden & set(text) for text in texts), "a text of a user has a token of the library's own")
        wanted = [*spell(opening), *texts[0], *after_asked, *line_break, *spell("Memories:"), *line_break]
        for number, (slot, text) in enumerate(zip(slots, texts[1:], strict=True), start=1):
            wanted += [*text, *self._tokenizer.encode(number_mark(number)), *_used(dates, 0, slot), *line_break]
        self._note(seen == wanted, f"the prompt is {self._bytes(seen)!r}, not {self._bytes(wanted)!r}")
        lines = self._bytes(seen).decode(errors="replace").split("\n")  # a text that is cut to its slot may end in half a character
        ends = [rf" ?\S.*\[{number}\] \d+ \w+ \d+" for number in range(1, len(slots) + 1)]
        numbered = len(lines) == len(ends) + 3 and all(map(re.fullmatch, ends, lines[2:]))
        self._note(numbered and lines[1] == "Memories:" and lines[-1] == "", f"the lines are {lines}")

    def _check_form(self, pattern: str, response: np.ndarray, length: int) -> bool:
        """Tells whether a response came to its end; one that did must be of its form."""
        tokens = response[:length].tolist()
        finished = tokens[-1:] == [self._tokenizer.eos_id]
        written = self._bytes(tokens)
        self._note(not finished or re.fullmatch(pattern.encode(), written) is not None, f"the response {written!r} has another form")
        return finished

    def _bytes(self, tokens: list[int]) -> bytes:
        return b"".join(map(self._tokenizer.token_bytes, tokens))

    def _note(self, holds: Any, otherwise: str) -> None:
        if not holds:
            self._wrong.append(otherwise)


def _used(texts: Any, *place: int) -> list[int]:
    """Returns the tokens that count of one text of an array of them."""
    return np.asarray(texts.tokens)[place][: int(np.asarray(texts.length)[place])].tolist()
