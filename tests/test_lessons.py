"""Lessons are what the compiled program will show and accept: the same prompts token for token, replies that its grammars read back."""

import dataclasses
import functools
import random
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mr1jax.agents import answerer, manager
from mr1jax.agents.prompts import MARKERS, Dates, make_language
from mr1jax.config import Config
from mr1jax.data.memdial import lessons
from mr1jax.data.memdial.wordings import EVENTS
from mr1jax.data.memdial.world import NO_ANSWER
from mr1jax.lesson_arrays import Disguise, LessonEncoder
from mr1jax.memory.bank import fill_bank
from mr1jax.structs import NO_SLOT, PAD, OperationKind
from mr1jax.text.grammar import DONE, advance
from mr1jax.text.tokenizer import train_sentencepiece
from mr1jax.warm_start import VOCAB_SIZE

CONFIG = Config()
NUM_WORLDS, NUM_LESSONS, NUM_QUESTIONS = 60, 30, 8
NUM_SLOTS, WIDTH, NUM_TERMS = CONFIG.bank.num_slots, CONFIG.bank.slot_width, CONFIG.bank.num_terms
ANSWER_BYTES, QUESTION_WIDTH = 48, 24
MEANT = {  # what the two operations of a response are
    "add": (OperationKind.NOOP, OperationKind.ADD),
    "update": (OperationKind.NOOP, OperationKind.UPDATE),
    "delete": (OperationKind.DELETE, OperationKind.NOOP),
    "replace": (OperationKind.DELETE, OperationKind.ADD),
    "noop": (OperationKind.NOOP, OperationKind.NOOP),
}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """As the warm start's, from fewer conversations."""
    return train_sentencepiece(lessons.corpus(200), tmp_path_factory.mktemp("tokenizer") / "tokenizer.model", VOCAB_SIZE, MARKERS)


@pytest.fixture(scope="module")
def language(tokenizer):
    return make_language(tokenizer, CONFIG.manager.num_retrieved)


@pytest.fixture(scope="module")
def encoder(tokenizer):
    return LessonEncoder(tokenizer, CONFIG.answerer, CONFIG.manager)


@pytest.fixture(scope="module")
def answer_lessons(encoder):
    """[(lesson, batch)] that show from one memory to as many as the agent retrieves, those that are too long left out."""
    rng = random.Random(0)
    drawn = [
        lessons.answer_lesson(rng, NUM_WORLDS, 1 + i % CONFIG.answerer.num_retrieved, NUM_QUESTIONS, NUM_SLOTS) for i in range(NUM_LESSONS)
    ]
    pairs = [(lesson, encoder.answer(lesson)) for lesson in drawn]
    kept = [(lesson, batch) for lesson, batch in pairs if batch is not None]
    assert len(kept) > NUM_LESSONS // 2
    return kept


@pytest.fixture(scope="module")
def manager_lessons(encoder):
    """[(lesson, batch)], as above, as many of every kind: six times as many ADDs as UPDATEs would tell nothing more."""
    rng = random.Random(0)
    by_kind = {kind: [] for kind in MEANT}
    while min(map(len, by_kind.values())) < NUM_LESSONS // len(MEANT):
        lesson = lessons.manager_lesson(rng, NUM_WORLDS, CONFIG.manager.num_retrieved, NUM_SLOTS)
        batch = encoder.decision(lesson)
        if batch is not None and len(by_kind[lesson.kind]) < NUM_LESSONS // len(MEANT):
            by_kind[lesson.kind].append((lesson, batch))
    return [pair for pairs in by_kind.values() for pair in pairs]


# Arrays of the compiled program -------------------------------------------------------------------------------------------------


def row(tokens, width):
    """Tokens of a text in a row of fixed width, PAD after them, and their number."""
    assert len(tokens) <= width
    return np.array([*tokens, *[PAD] * (width - len(tokens))], np.int32), np.int32(len(tokens))


def dates_of(lines, tokenizer):
    """The dates of lines as `Dates`, and {date: index}; as many rows as any lesson needs, so that all have one shape."""
    index = {date: time for time, date in enumerate(dict.fromkeys(date for _, date in lines))}
    rows = [row(tokenizer.encode(date), 8) for date in index] + [row([], 8)] * (8 - len(index))
    return Dates(*map(np.stack, zip(*rows, strict=True))), index


@functools.partial(jax.jit, static_argnames="config")
def bank_of(table, tokens_TW, length_T, time_T, config):
    terms_TM = jax.vmap(manager.text_terms, in_axes=(None, 0, 0, None))(table, tokens_TW, length_T, config.num_terms)
    return fill_bank(config, tokens_TW, length_T, terms_TM, jnp.zeros_like(time_T), time_T)


def fill(lines, times, tokenizer, language):
    """A bank to which the lines were added in order. Slot k holds line k."""
    rows = [row(tokenizer.encode(text), WIDTH) for text, _ in lines] + [row([], WIDTH)] * (NUM_SLOTS - len(lines))
    tokens_TW, length_T = map(np.stack, zip(*rows, strict=True))
    time_T = np.array([times[date] for _, date in lines] + [0] * (NUM_SLOTS - len(lines)), np.int32)
    return bank_of(language.table, tokens_TW, length_T, time_T, CONFIG.bank)


over_questions = functools.partial(jax.vmap, in_axes=(None, 0, None, None))
observe_questions = jax.jit(over_questions(functools.partial(answerer.observe, config=CONFIG.answerer)))
observe_fact = jax.jit(functools.partial(manager.observe, config=CONFIG.manager))
act = jax.jit(functools.partial(manager.act, num_terms=NUM_TERMS))
text_terms = jax.jit(functools.partial(manager.text_terms, num_terms=NUM_TERMS))
read_answers = jax.jit(jax.vmap(functools.partial(answerer.answer_bytes, capacity=ANSWER_BYTES), in_axes=(0, 0, None)))


@jax.jit
def final_state(grammar, tokens_GR):
    initial_G = jnp.full(len(tokens_GR), grammar.initial)
    return jax.lax.scan(lambda state_G, token_G: (advance(grammar, state_G, token_G), None), initial_G, tokens_GR.T)[0]


def see_fact(lesson, tokenizer, language):
    """The fact, and what the Manager sees when it arrives at a bank of the lesson's memories."""
    dates, times = dates_of([*lesson.memories, lesson.fact], tokenizer)
    text, date = lesson.fact
    fact = manager.NewFact(*row(tokenizer.encode(text), WIDTH), np.int32(0), np.int32(times[date]))
    return fact, observe_fact(fill(lesson.memories, times, tokenizer, language), fact, dates, language)


# The same tokens ----------------------------------------------------------------------------------------------------------------


def test_answer_lessons_are_the_prompts_of_the_program(answer_lessons, tokenizer, language):
    """Oracle: `answerer.observe` of a bank with the lesson's memories, for every question, token for token."""
    sizes = set()
    for lesson, batch in answer_lessons:
        dates, times = dates_of(lesson.memories, tokenizer)
        bank = fill(lesson.memories, times, tokenizer, language)
        rows = [row(tokenizer.encode(question), QUESTION_WIDTH) for question, _, _ in lesson.replies]
        questions = answerer.AskedQuestion(
            *map(np.stack, zip(*rows, strict=True)),
            answer=np.zeros((len(rows), 1), np.uint8),
            answer_length=np.zeros(len(rows), np.int32),
        )
        views = observe_questions(bank, questions, dates, language)
        assert views.shown.mask.sum(axis=1).tolist() == [len(lesson.memories)] * NUM_QUESTIONS
        assert views.length.tolist() == batch.prompt_length.tolist()
        for prompt_L, lesson_L, length in zip(views.prompt, batch.prompt, batch.prompt_length, strict=True):
            assert prompt_L[:length].tolist() == lesson_L[:length].tolist()
        sizes.add(len(lesson.memories))
    assert sizes >= set(range(1, CONFIG.answerer.num_retrieved + 1))


def test_manager_lessons_are_the_prompts_of_the_program(manager_lessons, encoder, tokenizer, language):
    """Oracle: `manager.observe`. Its BM25 may rank the memories otherwise than the lesson does; in its order they are the same tokens."""
    same_order = 0
    for lesson, _ in manager_lessons:
        _, view = see_fact(lesson, tokenizer, language)
        order = [slot for slot in view.shown.slot.tolist() if slot != NO_SLOT]
        assert sorted(order) == list(range(len(lesson.memories)))
        reordered = encoder.decision(dataclasses.replace(lesson, memories=tuple(lesson.memories[slot] for slot in order)))
        assert view.prompt[: int(view.length)].tolist() == reordered.prompt[0, : reordered.prompt_length[0]].tolist()
        same_order += order == sorted(order)
    assert same_order > 0


# Replies ------------------------------------------------------------------------------------------------------------------------


def test_answers_are_legal_and_read_back(answer_lessons, language):
    """Oracle: the lesson's own answer, against the bytes that the reward reads."""
    for lesson, batch in answer_lessons:
        assert final_state(language.answerer, batch.response).tolist() == [DONE] * NUM_QUESTIONS
        written_PA, num_bytes_P = read_answers(batch.response, (batch.response != PAD).sum(axis=1), language)
        for written_A, num_bytes, (_, _, answer) in zip(written_PA, num_bytes_P, lesson.replies, strict=True):
            assert bytes(written_A[: int(num_bytes)].tolist()).decode().removeprefix(" ") == answer


def is_end_of_its_line(quote, memories):
    text, date = memories[quote.number - 1]
    return f" {text}".endswith(f" {quote.text}") and date == quote.date


def written(quote):
    return f" {quote.text} [{quote.number}] {quote.date}\n" if quote.date else f" {quote.text}\n"


def test_a_reply_quotes_ends_of_lines_and_answers(answer_lessons, tokenizer):
    """Oracle: text. A prompt is question and numbered lines; a reply is ends of lines or a word, the marker, the answer, the end token."""
    quotes = 0
    for lesson, batch in answer_lessons:
        lines = [f" {text} [{number}] {date}\n" for number, (text, date) in enumerate(lesson.memories, 1)]
        for p, (question, quoted, answer) in enumerate(lesson.replies):
            prompt = tokenizer.decode(batch.prompt[p, : batch.prompt_length[p]].tolist())
            *said, end = batch.response[p][batch.response[p] != PAD].tolist()
            assert prompt == f"Question: {question}\nMemories:\n" + "".join(lines)
            expected = "".join(map(written, quoted)) + f"**Answer:** {answer}"
            assert tokenizer.decode(said) == expected.removeprefix(" ")
            assert end == tokenizer.eos_id
            assert all(is_end_of_its_line(quote, lesson.memories) for quote in quoted if quote.number)
            quotes += sum(bool(quote.date) for quote in quoted)
    assert quotes > NUM_LESSONS


def test_a_quote_begins_with_a_word_of_the_question(answer_lessons):
    """Oracle: plain words. The first word stands in the question, in another form at most; alone it stands where the answer is none."""
    alone = 0
    for lesson, _ in answer_lessons:
        for question, quoted, answer in lesson.replies:
            asked = re.findall(r"[A-Za-z]+", question)
            for text, number, date in quoted:
                first = re.findall(r"[A-Za-z]+", text)[0]
                assert first in asked or any(first in (event.past.split()[0], event.base.split()[0]) for event in EVENTS)
                assert bool(date) == (number > 0)
                if not date:
                    assert answer == NO_ANSWER
                    assert text in asked
                    alone += 1
    assert alone > NUM_LESSONS


def test_decisions_are_legal_and_read_back(manager_lessons, tokenizer, language):
    """Oracle: the lesson's kind, the number it names and the tokens of its fact, against the operations that `act` hands to the bank."""
    for lesson, batch in manager_lessons:
        fact, view = see_fact(lesson, tokenizer, language)
        assert final_state(language.manager, batch.response).tolist() == [DONE]
        operations = act(view, fact, batch.response[0], (batch.response[0] != PAD).sum(), language)
        assert tuple(operations.kind.tolist()) == MEANT[lesson.kind]
        if lesson.kind in ("update", "delete", "replace"):
            named = int(view.shown.slot[lesson.number - 1])
            assert operations.slot.tolist() == [named, named]
            assert named != NO_SLOT
        if lesson.kind in ("add", "update", "replace"):
            text_W, length = row(tokenizer.encode(lesson.fact[0]), WIDTH)
            np.testing.assert_array_equal(operations.tokens[1], text_W)
            assert int(operations.length[1]) == length
            np.testing.assert_array_equal(operations.terms[1], text_terms(language.table, text_W, length))


def test_a_disguised_lesson_says_one_thing_in_other_tokens(answer_lessons, encoder, tokenizer, language):
    """Oracle: the disguised prompt itself: what is quoted stands in it, numbers and dates are as they were, and the reply is legal."""
    changed = 0
    for seed, (lesson, plain) in enumerate(answer_lessons):
        batch = encoder.disguised(random.Random(seed)).answer(lesson)
        if batch is None:
            continue
        assert final_state(language.answerer, batch.response).tolist() == [DONE] * NUM_QUESTIONS
        for p, (_, quoted, _) in enumerate(lesson.replies):
            prompt = tokenizer.decode(batch.prompt[p, : batch.prompt_length[p]].tolist())
            lines = tokenizer.decode(batch.response[p][batch.response[p] != PAD].tolist()[:-1]).split("\n")[:-1]
            for line, (_, number, date) in zip(lines, quoted, strict=True):
                assert line.removeprefix(" ") in prompt
                assert not date or line.endswith(f" [{number}] {date}")
            changed += prompt != tokenizer.decode(plain.prompt[p, : plain.prompt_length[p]].tolist())
    assert changed > NUM_LESSONS


def test_the_disguises_of_a_lesson_differ_and_share_their_pieces(tokenizer):
    """Oracle: sets of tokens. Forty words, no two alike, of a few dozen pieces; mostly some piece goes on differently in another word."""
    shared = 0
    words = [f"Word{chr(97 + i // 7)}{chr(97 + i % 7)}" for i in range(40)]
    for seed in range(20):
        disguise = Disguise(tokenizer, random.Random(seed))
        hidden = [tokens for tokens in map(disguise.tokens, words) if tokens is not None]
        assert hidden == [tokens for tokens in map(disguise.tokens, words) if tokens is not None]
        assert len(set(hidden)) == len(hidden) > 10
        assert len({piece for tokens in hidden for piece in tokens}) <= 96
        follows = {}
        for tokens in hidden:
            for piece, after in zip(tokens, (*tokens[1:], None), strict=True):
                follows.setdefault(piece, set()).add(after)
        shared += max(map(len, follows.values())) > 1
    assert shared > 15


# What a lesson holds ------------------------------------------------------------------------------------------------------------


def lines_of(record):
    return [(fact.text, fact.date) for fact in record.facts]


@pytest.fixture(scope="module")
def worlds():
    return [lessons.draw_world(seed)[0] for seed in range(NUM_WORLDS)]


def test_answer_lessons_show_what_their_first_question_needs(answer_lessons, worlds):
    """Oracle: the conversation, found by its lines: the evidence of the first question is shown, all in the order it was said."""
    for lesson, _ in answer_lessons:
        if not lesson.memories:  # an empty bank: there is nothing to quote
            assert {answer for _, _, answer in lesson.replies} == {NO_ANSWER}
            continue
        record = next(record for record in worlds if set(lesson.memories) <= set(lines_of(record)))
        said = iter(lines_of(record))
        assert all(memory in said for memory in lesson.memories)  # `in` moves on: each comes after the one before
        asked = [question for question in record.questions if question.question == lesson.replies[0][0] and question.evidence]
        assert any({lines_of(record)[fact] for fact in question.evidence} <= set(lesson.memories) for question in asked)
        assert {question for question, _, _ in lesson.replies} <= {question.question for question in record.questions}


def test_manager_lessons_name_a_memory_where_they_need_one(manager_lessons, worlds):
    """Oracle: the conversation. Memories were said before the fact; a number is given exactly where the kind takes one."""
    for lesson, _ in manager_lessons:
        record = next(record for record in worlds if {*lesson.memories, lesson.fact} <= set(lines_of(record)))
        said = lines_of(record)
        latest = max(index for index, line in enumerate(said) if line == lesson.fact)
        assert set(lesson.memories) <= set(said[:latest])
        assert (lesson.number > 0) == (lesson.kind in ("update", "delete", "replace"))
        assert lesson.number <= len(lesson.memories) <= CONFIG.manager.num_retrieved
        assert lesson.odds[lesson.kind] > 0
        assert sum(lesson.odds.values()) == pytest.approx(1.0)


def test_a_lesson_depends_on_its_random_state_alone():
    """Oracle: the same draw again, after other draws have filled the caches."""
    first, *_ = [
        (lessons.answer_lesson(rng, NUM_WORLDS, 4, 3, NUM_SLOTS), lessons.manager_lesson(rng, NUM_WORLDS, 3, NUM_SLOTS))
        for rng in map(random.Random, range(20))
    ]
    rng = random.Random(0)
    assert first == (lessons.answer_lesson(rng, NUM_WORLDS, 4, 3, NUM_SLOTS), lessons.manager_lesson(rng, NUM_WORLDS, 3, NUM_SLOTS))


def test_half_of_the_answer_lessons_come_from_banks_without_chatter():
    """Oracle: the conversation's own kinds: chatter is shown to the Answer Agent, and far less often than it is said."""
    rng, kinds = random.Random(1), []
    kind_of = {line: fact.kind for seed in range(NUM_WORLDS) for fact, line in _facts(lessons.draw_world(seed)[0])}
    for _ in range(200):
        kinds += [kind_of[memory] for memory in lessons.answer_lesson(rng, NUM_WORLDS, 3, 2, NUM_SLOTS).memories]
    assert 0.02 < kinds.count("chatter") / len(kinds) < 0.25


def _facts(record):
    return zip(record.facts, lines_of(record), strict=True)
