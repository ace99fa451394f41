"""Lessons as arrays: the same tokens that the program packs, with most names and values of a lesson in disguise."""

import copy
import functools
import random
import string

import numpy as np
from flax import struct

from mr1jax.agents.prompts import DATE_MARK, number_mark
from mr1jax.config import AgentConfig
from mr1jax.data.memdial.lessons import AnswerLesson, Line, ManagerLesson, Quote
from mr1jax.data.memdial.lexicon import COMMON, MONTHS
from mr1jax.data.memdial.wordings import EVENTS
from mr1jax.data.memdial.world import NO_ANSWER
from mr1jax.structs import PAD, Array
from mr1jax.text.tokenizer import Tokenizer

DISGUISED_NAMES, DISGUISED_WORDS = 0.6, 0.2  # shares of the names and values of a lesson, and of its other words
OPENINGS = {"ADD:": ("add",), "UPDATE": ("update",), "DELETE": ("delete", "replace"), "NOOP": ("noop",)}  # how a decision of a kind begins
_POOLS = (6, 12, 24, 200)  # pieces that the disguises of one lesson are made of: with few, a piece stands in many words
_VALUES = frozenset(word for words in COMMON.values() for word in words)
# Capitals that are no names, and the words of an answer that stands in no memory: nobody could know what is put in their place.
_VERBS = [word for event in EVENTS for word in (event.past.split()[0], event.base.split()[0])]  # asked for in one form, told in another
_KEPT = frozenset([*MONTHS, "What", "When", "Where", "Which", "Can", "Do", "On", "Sorry", *NO_ANSWER.split(), *_VERBS])


@struct.dataclass
class LessonBatch:
    """prompt: int32[P, L], prompt_length: int32[P]; response: int32[P, R], response_length: int32[P], PAD past its end token;
    odds: float32[P, 4], how often the teacher does what in place of a decision of the Manager, in the order of OPENINGS; 0 in an answer."""

    prompt: Array
    prompt_length: Array
    response: Array
    response_length: Array
    odds: Array


class Disguise:
    """Gives words of one lesson random tokens instead of their own, the same ones wherever they stand: most names and values, some others.

    A few hundred names, values and templates would else be learnt by heart, and what is copied would depend on which tokens it has: a
    person of the test split, whose name comes in pieces that never began a sentence, could not be quoted, nor what is said in
    a new wording. Copying has to work for any tokens. And the words of a lesson share their pieces, as unknown names do, which are spelt
    in single letters: what goes on with the last piece is then in several lines, and only the line that is being quoted tells which.
    """

    def __init__(self, tokenizer: Tokenizer, rng: random.Random):
        self._rng = rng
        self._tokens_of: dict[str, tuple[int, ...] | None] = {}
        begin, inside = _word_pieces(tokenizer)
        size = rng.choice(_POOLS)
        shortest_first = [len(tokenizer.token_bytes(token)) ** -2.0 for token in inside]
        self._begin, self._inside = rng.sample(begin, size), rng.choices(inside, shortest_first, k=size)

    def tokens(self, word: str) -> tuple[int, ...] | None:
        """The tokens that stand for a word in this lesson, or None where it keeps its own."""
        if word not in self._tokens_of:
            named = word in _VALUES or (word[:1].isupper() and word not in _KEPT)
            hidden = word not in _KEPT and self._rng.random() < (DISGUISED_NAMES if named else DISGUISED_WORDS)
            self._tokens_of[word] = self._unused() if hidden else None
        return self._tokens_of[word]

    def _unused(self) -> tuple[int, ...]:
        """One to five pieces that stand for no word yet."""
        while True:
            tokens = (self._rng.choice(self._begin), *self._rng.choices(self._inside, k=self._rng.randrange(5)))
            if tokens not in self._tokens_of.values():
                return tokens


@functools.lru_cache(maxsize=1)
def _word_pieces(tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """Tokens that can begin a word (their bytes start with a space) and tokens that can continue one."""
    pieces = {token: tokenizer.token_bytes(token) for token in range(tokenizer.vocab_size)}
    begin = [token for token, piece in pieces.items() if piece[:1] == b" " and piece[1:].isalpha()]
    inside = [token for token, piece in pieces.items() if piece.isalpha() and piece.islower()]
    return begin, inside


class LessonEncoder:
    """Turns lessons into arrays: the same tokens that `observe` packs inside the program, which a test holds it to."""

    def __init__(self, tokenizer: Tokenizer, answerer: AgentConfig, manager: AgentConfig, disguise: Disguise | None = None):
        self._tokenizer, self._answerer, self._manager, self._disguise = tokenizer, answerer, manager, disguise
        self._own = functools.lru_cache(maxsize=200_000)(lambda text: tuple(tokenizer.encode(text)))
        self._marker = functools.lru_cache(maxsize=None)(lambda text: tuple(tokenizer.encode_exactly(text)))

    def disguised(self, rng: random.Random) -> "LessonEncoder":
        """The same encoder for one lesson in which names and values are disguised."""
        encoder = copy.copy(self)
        encoder._disguise = Disguise(self._tokenizer, rng)
        return encoder

    def _encode(self, text: str) -> tuple[int, ...]:
        if self._disguise is None:
            return self._own(text)
        return tuple(token for word in text.split(" ") for token in self._encode_word(word))

    def _encode_word(self, word: str) -> tuple[int, ...]:
        letters = len(word) - len(word.lstrip(string.ascii_letters))
        tokens = self._disguise.tokens(word[:letters]) if letters else None  # numbers mean what they say
        return self._own(word) if tokens is None else (*tokens, *self._marker(word[letters:])) if word[letters:] else tokens

    def line(self, text: str, mark: str, date: str) -> list[int]:
        """Tokens of one line: a memory with its number, a fact with the date mark."""
        return [*self._encode(text), *self._encode(mark), *self._encode(date), *self._marker("\n")]

    def _quoted(self, quote: Quote) -> list[int]:
        if not quote.number:
            return [*self._encode(quote.text), *self._marker("\n")]
        return self.line(quote.text, number_mark(quote.number), quote.date)

    def answer(self, lesson: AnswerLesson) -> LessonBatch | None:
        """The questions of a lesson, P of them, with their replies, or None where one of them is too long."""
        pairs: list[tuple[list[int], list[int]]] = []
        for question, quoted, answer in lesson.replies:
            asked = [*self._marker("Question:"), *self._encode(question), *self._marker("\n")]
            reply = [*(t for quote in quoted for t in self._quoted(quote)), *self._marker("**Answer:**"), *self._encode(answer)]
            pairs.append((asked + self._memories(lesson.memories), reply))
        return self._arrays(pairs, self._answerer, {})

    def decision(self, lesson: ManagerLesson) -> LessonBatch | None:
        """One decision of the Manager, P = 1, or None where it is too long."""
        prompt = [*self._marker("Fact:"), *self.line(lesson.fact[0], DATE_MARK, lesson.fact[1]), *self._memories(lesson.memories)]
        number, text = self._encode(str(lesson.number)), self._encode(lesson.fact[0])
        reply = {
            "noop": [*self._marker("NOOP")],
            "add": [*self._marker("ADD:"), *text],
            "update": [*self._marker("UPDATE"), *number, *self._marker(":"), *text],
            "delete": [*self._marker("DELETE"), *number],
            "replace": [*self._marker("DELETE"), *number, *self._marker("\n"), *self._marker("ADD:"), *text],
        }[lesson.kind]
        return self._arrays([(prompt, reply)], self._manager, lesson.odds)

    def _memories(self, lines: tuple[Line, ...]) -> list[int]:
        shown = [t for number, (text, date) in enumerate(lines, 1) for t in self.line(text, number_mark(number), date)]
        return [*self._marker("Memories:"), *self._marker("\n"), *shown]

    def _arrays(self, pairs: list[tuple[list[int], list[int]]], room: AgentConfig, odds: dict[str, float]) -> LessonBatch | None:
        if any(len(prompt) > room.prompt_length or len(reply) >= room.response_length for prompt, reply in pairs):
            return None
        prompt_PL = np.full((len(pairs), room.prompt_length), PAD, np.int32)
        response_PR = np.full((len(pairs), room.response_length), PAD, np.int32)
        for row, (prompt, reply) in enumerate(pairs):
            prompt_PL[row, : len(prompt)] = prompt
            response_PR[row, : len(reply) + 1] = [*reply, self._tokenizer.eos_id]
        prompt_length_P = np.asarray([len(prompt) for prompt, _ in pairs], np.int32)
        response_length_P = np.asarray([len(reply) + 1 for _, reply in pairs], np.int32)
        share = [sum(odds.get(kind, 0.0) for kind in kinds) for kinds in OPENINGS.values()]
        odds_P4 = np.tile(np.asarray(share, np.float32), (len(pairs), 1))
        return LessonBatch(prompt_PL, prompt_length_P, response_PR, response_length_P, odds_P4)
