"""Requests in plain text to the compiled agents and back: packs them into fixed banks, and batches those that come at once.

Every array has one of a few shapes, whatever is asked: a bank of S slots, texts of fixed widths, and a batch of one of BATCHES.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import jax
import numpy as np

from mr1jax.agents.answerer import AskedQuestion
from mr1jax.agents.manager import NewFact
from mr1jax.agents.prompts import Dates
from mr1jax.config import AGENTS, Config, replace, require
from mr1jax.evaluate import Replies, what_matters
from mr1jax.model.lora import agent_params
from mr1jax.prepare import Start
from mr1jax.rl.sampling import Rollout
from mr1jax.service import programs
from mr1jax.service.batcher import Batcher
from mr1jax.service.calendar import known_years, put_back, shown_dates
from mr1jax.service.programs import Decisions
from mr1jax.service.streaming import Hear, Pieces
from mr1jax.service.texts import Speller
from mr1jax.structs import NO_SLOT, PAD, OperationKind, OperationStatus
from mr1jax.text.packing import check_budget
from mr1jax.text.parsing import split_response
from mr1jax.text.tokenizer import text_reader

BATCHES = (1, 8, 32)  # requests that one run serves
_DATE_WIDTH = 16  # tokens; "30 September 2024" in letters of any tokenizer
_STRIDE = 4  # tokens that are written between two looks at an answer that somebody follows
_QUOTED_NUMBER = re.compile(r"\[(\d{1,2})\](?!.*\[\d{1,2}\])")  # the last of a line: what a memory says stands before its number


@dataclass(frozen=True)
class Line:
    """A memory or a fact as an agent sees it. date: as in "8 May 2023"; speaker: 0 or 1."""

    text: str
    date: str
    speaker: int = 0


@dataclass(frozen=True)
class Request:
    """Memories, the last written last, at most as many as the bank has slots; and a fact to decide on, or a question (its date unread).

    hear: is told what is written of the response to a question, while it is written.
    """

    lines: tuple[Line, ...]
    asked: Line
    hear: Hear | None = None


@dataclass(frozen=True)
class Step:
    """One operation. place: of the memory it is about among the lines; text: what it says from now on."""

    kind: OperationKind
    place: int = NO_SLOT
    text: str = ""


@dataclass(frozen=True)
class Decision:
    """What the Manager wants done, in order; nothing is a NOOP. refused: why an operation was none that can be done, "" where all can."""

    steps: tuple[Step, ...]
    response: str
    refused: str = ""


@dataclass(frozen=True)
class Reply:
    """What the Answer Agent wrote, the answer in it ("" where it has none), which lines it was shown, in order, and which it quotes."""

    answer: str
    response: str
    shown: tuple[int, ...]
    quoted: tuple[int, ...]


class Model(Protocol):
    """What treats packed requests: the compiled agents, or `remote.RemoteModel`.

    heard: who is told the response so far, by the row of the batch.
    """

    def decide(self, rows: NewFact, fact: NewFact, dates: Dates) -> Decisions: ...

    def reply(self, rows: NewFact, question: AskedQuestion, dates: Dates, heard: Mapping[int, Hear]) -> Replies: ...


class CompiledModel:
    """Both agents on this machine's devices."""

    def __init__(self, start: Start):
        self._params = {agent: agent_params(start.params, agent, start.config.lora) for agent in AGENTS}
        self._language, self._config = start.language, what_matters(start.config)
        self._text_of = text_reader(start.language.table)

    def decide(self, rows: NewFact, fact: NewFact, dates: Dates) -> Decisions:
        return programs.decide(self._params["manager"], rows, fact, dates, self._language, self._config)

    def reply(self, rows: NewFact, question: AskedQuestion, dates: Dates, heard: Mapping[int, Hear]) -> Replies:
        params, num_tokens = self._params["answerer"], self._config.answerer.response_length
        begun = programs.begin_reply(params, rows, question, dates, self._language, self._config)
        for until in (*(range(_STRIDE, num_tokens, _STRIDE) if heard else ()), num_tokens):
            begun = replace(begun, rollout=programs.extend_reply(params, begun, np.int32(until), self._language, self._config))
            if heard and self._tell(begun.rollout, heard):
                break
        written = begun.rollout.generation
        return programs.read_reply(begun.view, written.tokens[:, 0], written.length[:, 0], self._language)

    def _tell(self, rollout: Rollout, heard: Mapping[int, Hear]) -> bool:
        """Tells who follows what is written so far; returns whether all of it is."""
        tokens_P1R, length_P1, done_P1 = jax.device_get((rollout.generation.tokens, rollout.generation.length, rollout.done))
        for k, hear in heard.items():
            hear(self._text_of(tokens_P1R[k, 0], length_P1[k, 0]))
        return bool(np.all(done_P1))


class Engine:
    """Decides on facts and answers questions, for many threads at once."""

    def __init__(self, start: Start, model: Model | None = None):
        """model: what treats the requests; the agents of `start` where it is None. Raises ValueError for budgets that hold no request."""
        config, language = start.config, start.language
        require(
            config.answerer.retrieval == "lexical",
            f"answerer.retrieval is {config.answerer.retrieval!r}, and a store keeps no embeddings; serve an agent that reads 'lexical'",
        )
        self.num_slots, self.slot_width = config.bank.num_slots, config.bank.slot_width
        self._question_width = _room_for_question(config, start)
        self._model = model or CompiledModel(start)
        self._years = () if model else known_years(start)
        self.speller = Speller(start.tokenizer)
        self._text_of = text_reader(language.table)
        self._batchers = {
            "decide": Batcher(self._decide, BATCHES[-1], "mr1jax-manager"),
            "reply": Batcher(self._reply, BATCHES[-1], "mr1jax-answerer"),
        }

    def decide(self, request: Request) -> Decision:
        """Lets the Manager decide on one fact; batched with what other threads ask."""
        return self._batchers["decide"].ask(request)

    def reply(self, request: Request) -> Reply:
        """Lets the Answer Agent answer one question. Raises ValueError where the question is longer than its prompt has room for."""
        self._check_room(request.asked.text)
        return self._batchers["reply"].ask(request)

    def stream(self, request: Request) -> Iterator[str | Reply]:
        """As `reply`, at once: yields each further piece of the answer as it is written, and last the `Reply`, which is what counts."""
        self._check_room(request.asked.text)
        dates = self._shown_dates(request)
        pieces = Pieces[Reply](lambda text: put_back(text, dates))
        return pieces.follow(self._batchers["reply"].submit(replace(request, hear=pieces.hear)))

    def _check_room(self, question: str) -> None:
        num_tokens = self.speller.count(question)
        require(
            num_tokens <= self._question_width,
            f"the question has {num_tokens} tokens, and the Answer Agent's prompt has room for {self._question_width}; ask in fewer words",
        )

    def batch_sizes(self) -> dict[str, dict[int, int]]:
        """Counts batches by how many requests were in them: of decisions ("decide") and of answers ("reply")."""
        return {name: dict(batcher.sizes) for name, batcher in self._batchers.items()}

    def close(self) -> None:
        """Serves what waits, then refuses all further requests."""
        for batcher in self._batchers.values():
            batcher.close()

    def _decide(self, batch: Sequence[Request]) -> list[Decision]:
        rows, asked, dates = self._pack(batch, self.slot_width)
        fact = NewFact(**asked, time=np.full(len(asked["length"]), self.num_slots, np.int32))
        decisions = jax.device_get(self._model.decide(rows, fact, dates))
        return [self._read_decision(jax.tree.map(lambda x, k=k: x[k], decisions)) for k in range(len(batch))]

    def _reply(self, batch: Sequence[Request]) -> list[Reply]:
        rows, asked, dates = self._pack(batch, self._question_width)
        total = len(asked["length"])
        no_gold = {"answer": np.zeros((total, 1), np.uint8), "answer_length": np.zeros(total, np.int32)}
        question = AskedQuestion(tokens=asked["tokens"], length=asked["length"], **no_gold)
        heard = {k: request.hear for k, request in enumerate(batch) if request.hear}
        replies = jax.device_get(self._model.reply(rows, question, dates, heard))
        return [self._read_reply(jax.tree.map(lambda x, k=k: x[k], replies), request) for k, request in enumerate(batch)]

    def _pack(self, batch: Sequence[Request], width: int) -> tuple[NewFact, dict[str, np.ndarray], Dates]:
        """Lays requests out in the smallest batch that holds them; date k is that of slot k, date S that of what is asked."""
        P, S = next(size for size in BATCHES if size >= len(batch)), self.num_slots
        rows = NewFact(*_table((P, S), self.slot_width), np.zeros((P, S), np.int32), np.broadcast_to(np.arange(S, dtype=np.int32), (P, S)))
        dates = Dates(*_table((P, S + 1), _DATE_WIDTH))
        tokens, length = _table((P,), width)
        speaker = np.zeros(P, np.int32)
        for k, request in enumerate(batch):
            shown = self._shown_dates(request)
            for slot, line in enumerate(request.lines):
                self._write(rows.tokens, rows.length, (k, slot), line.text)
                self._write(dates.tokens, dates.length, (k, slot), shown[line.date])
                rows.speaker[k, slot] = line.speaker
            self._write(tokens, length, (k,), request.asked.text)
            self._write(dates.tokens, dates.length, (k, S), shown[request.asked.date])
            speaker[k] = request.asked.speaker
        return rows, {"tokens": tokens, "length": length, "speaker": speaker}, dates

    def _shown_dates(self, request: Request) -> dict[str, str]:
        return shown_dates([line.date for line in (*request.lines, request.asked)], self._years)

    def _write(self, tokens: np.ndarray, length: np.ndarray, place: tuple[int, ...], text: str) -> None:
        encoded = self.speller.encode(text)[: tokens.shape[-1]]
        tokens[place][: len(encoded)] = encoded
        length[place] = len(encoded)

    def _read_decision(self, decided: Decisions) -> Decision:
        text = self._text_of(decided.tokens, decided.length).strip()
        steps, refused = [], []
        for kind, slot, status in zip(decided.kind, decided.slot, decided.status, strict=True):
            if status != OperationStatus.APPLIED:
                refused.append(OperationStatus(int(status)).name)
            elif kind == OperationKind.ADD:
                steps.append(Step(OperationKind.ADD, text=text))
            elif kind != OperationKind.NOOP:
                steps.append(Step(OperationKind(int(kind)), int(slot), text if kind == OperationKind.UPDATE else ""))
        return Decision(tuple(steps), self._text_of(decided.response, decided.response_length), ", ".join(refused))

    def _read_reply(self, reply: Replies, request: Request) -> Reply:
        dates = self._shown_dates(request)
        response = put_back(self._text_of(reply.response, reply.response_length), dates)
        shown = [int(slot) for slot in reply.slot if slot != NO_SLOT]
        quotes, _ = split_response(response)
        named = {int(number) for number in _QUOTED_NUMBER.findall(quotes)}
        quoted = [slot for number, slot in enumerate(shown, start=1) if number in named]
        answer = put_back(self._text_of(reply.answer, reply.answer_length).strip(), dates)
        return Reply(answer, response, tuple(shown), tuple(quoted))


def _table(shape: tuple[int, ...], width: int) -> tuple[np.ndarray, np.ndarray]:
    return np.full((*shape, width), PAD, np.int32), np.zeros(shape, np.int32)


def _room_for_question(config: Config, start: Start) -> int:
    """Computes the tokens a question may have beside one whole memory; raises ValueError where a budget is too small for any."""
    phrases: Any = start.language.phrases
    line = config.bank.slot_width + _DATE_WIDTH + int(phrases.date_mark.length) + int(phrases.line_break.length)
    told = {agent: int(getattr(phrases, agent).length + phrases.memories.length + phrases.closing.length) for agent in AGENTS}
    check_budget("manager.prompt_length", config.manager.prompt_length, told["manager"], line)
    memory = config.bank.slot_width + phrases.numbers.tokens.shape[1] + _DATE_WIDTH + int(phrases.line_break.length)
    room = config.answerer.prompt_length - told["answerer"] - int(phrases.line_break.length) - memory
    check_budget("answerer.prompt_length", config.answerer.prompt_length, told["answerer"] + memory, 2)
    return room
