"""Lessons in made-up words hold what they promise, read as text; and batches by size lose nothing."""

import functools
import itertools
import random
import re

import numpy as np
import pytest

from mr1jax.agents.prompts import make_language
from mr1jax.config import AgentConfig
from mr1jax.data import nonsense
from mr1jax.data.memdial.lessons import AnswerLesson
from mr1jax.data.memdial.world import NO_ANSWER
from mr1jax.lesson_arrays import LessonEncoder
from mr1jax.prepare import ASSETS
from mr1jax.structs import PAD
from mr1jax.text.grammar import DONE, advance
from mr1jax.text.tokenizer import SentencePieceTokenizer
from mr1jax.warm_start import BATCH_TOKENS, SIZES, Stage, batches_by_size, lesson_rows

ROOM = AgentConfig(num_retrieved=3, prompt_length=160, response_length=72)
NUM_LESSONS, NUM_QUESTIONS = 60, 4


@pytest.fixture(scope="module")
def tokenizer():
    return SentencePieceTokenizer(ASSETS / "tokenizer.model")


@pytest.fixture(scope="module")
def drawn():
    """[(lesson of the Answer Agent, lesson of the Manager)]"""
    rng = random.Random(0)
    return [(nonsense.answer_lesson(rng, 1 + i % 3, NUM_QUESTIONS), nonsense.manager_lesson(rng, 3)) for i in range(NUM_LESSONS)]


def words(text):
    return re.findall(r"[A-Za-z]+", text)


def fit(question, line):
    """Words of a question that begin a word of the line: "shob" is found in "shobed", a person by the whole name."""
    asked = {word for word in words(question.removesuffix("?")) if len(word) > 1}
    told = words(line[0])
    forms = {word: (word, f"{word}s", f"{word}ed", f"{word}ing") if word.islower() else (word,) for word in asked}
    return sum(any(form in told for form in forms[word]) for word in asked)


def test_a_reply_reads_on_from_the_word_asked_for(drawn):
    """Oracle: text. A quote ends the line it names and begins with a word of the question; the answer is its date, or what stands before
    an "and"."""
    dates = 0
    for lesson, _ in drawn:
        for question, (quote,), answer in lesson.replies:
            stem, *_ = [word for word in words(question) if words(quote.text)[0].startswith(word)]
            if not quote.number:
                assert (quote.text, answer) == (stem, NO_ANSWER)
                assert not any(quote.text in words(text) for text, _ in lesson.memories)
                continue
            text, date = lesson.memories[quote.number - 1]
            assert text.endswith(f" {quote.text}")
            assert date == quote.date
            assert words(text)[0] in words(question)
            rest = quote.text.split(" ", 1)[1].rstrip(".")
            assert answer in (date, re.split(r" (?:and|with) ", rest)[0])
            dates += answer == date
    assert NUM_LESSONS / 2 < dates < NUM_LESSONS * NUM_QUESTIONS / 2


def test_the_line_that_is_quoted_fits_best(drawn):
    """Oracle: words counted by regular expressions: no other line has as many of the question's; the small words say nothing."""
    small = {*nonsense._SMALL, "is", "was", "has"}
    for lesson, _ in drawn:
        for question, (quote,), _ in lesson.replies:
            if quote.number:
                asked = " ".join(word for word in words(question)[1:] if word not in small)
                fits = [fit(asked, line) for line in lesson.memories]
                assert fits.count(max(fits)) == 1
                assert np.argmax(fits) == quote.number - 1


def test_the_manager_overwrites_only_what_says_nearly_the_same(drawn):
    """Oracle: text. The memory that is named differs from the fact in its last word alone, and most facts are added."""
    kinds = [lesson.kind for _, lesson in drawn]
    assert kinds.count("add") > 0.7 * len(kinds)
    assert len(set(kinds)) > 2
    for _, lesson in drawn:
        assert (lesson.number > 0) == (lesson.kind in ("update", "delete", "replace"))
        if lesson.number:
            (text, _), (fact, _) = lesson.memories[lesson.number - 1], lesson.fact
            assert text.rsplit(" ", 1)[0] == fact.rsplit(" ", 1)[0]
            assert text != fact


def test_what_is_written_is_legal(drawn, tokenizer):
    """Oracle: the grammars that sampling goes by: every reply that fits its room ends in their last state."""
    language = make_language(tokenizer, 3)
    encoder = LessonEncoder(tokenizer, ROOM, ROOM)
    answers = [batch for lesson, _ in drawn if (batch := encoder.answer(lesson))]
    decisions = [batch for _, lesson in drawn if (batch := encoder.decision(lesson))]
    assert min(len(answers), len(decisions)) > NUM_LESSONS // 2
    for grammar, batches in ((language.answerer, answers), (language.manager, decisions)):
        response_PR = np.concatenate([batch.response for batch in batches])
        start_P = np.full(len(response_PR), grammar.initial)
        assert set(functools.reduce(functools.partial(advance, grammar), response_PR.T, start_P).tolist()) == {DONE}


def test_batches_by_size_hold_every_lesson_whole(tokenizer):
    """Oracle: the stream of lessons, cut off where the batches end: each is in one batch, in the smallest size that holds it."""
    stream = lesson_rows(tokenizer, 16, Stage(steps=1, memories=2, decisions=2), 0)
    read: list[tuple] = []

    def watched():
        for lesson in stream:
            read.extend(map(spoken, *(lesson.prompt, lesson.prompt_length, lesson.response, lesson.response_length)))
            yield lesson

    batches = list(itertools.islice(batches_by_size(watched()), 12))
    rows = [row for batch in batches for row in map(spoken, batch.prompt, batch.prompt_length, batch.response, batch.response_length)]
    assert len({batch.prompt.shape for batch in batches}) > 2
    remaining = list(read)
    for row in rows:
        remaining.remove(row)
    for batch in batches:
        size = batch.prompt.shape[1], batch.response.shape[1]
        assert len(batch.odds) == BATCH_TOKENS // sum(size)
        for smaller in SIZES[: SIZES.index(size)]:
            assert np.all((batch.prompt_length > smaller[0]) | (batch.response_length > smaller[1]))
        assert np.all((batch.response != PAD).sum(axis=1) == batch.response_length)
    decisions = np.concatenate([batch.odds.sum(axis=1) for batch in batches])
    assert set(decisions.round(6).tolist()) == {0.0, 1.0}
    assert 0.15 < decisions.mean() < 0.5


def spoken(prompt_L, prompt_length, response_R, response_length):
    return tuple(prompt_L[:prompt_length].tolist()), tuple(response_R[:response_length].tolist())


def test_lessons_depend_on_their_random_state_alone():
    """Oracle: the same draw again."""
    first, again = ([nonsense.answer_lesson(rng, 3, 4), nonsense.manager_lesson(rng, 3)] for rng in (random.Random(3), random.Random(3)))
    assert first == again
    assert isinstance(first[0], AnswerLesson)
