"""Tasks out of conversations, against the records they were made from: plain Python on text."""

import functools
import random

import numpy as np
import pytest
import tiny
from reference_bank import WIDTH
from tiny import CONFIG, DATES, LANGUAGE, TOKENIZER, unoptimised  # noqa: F401

from mr1jax.agents.manager import NewFact
from mr1jax.agents.tasks import answer_tasks, ask_at_end, fill_banks, manager_tasks, take
from mr1jax.config import replace
from mr1jax.data.episodes import EpisodeShape, encode_record, stack
from mr1jax.data.memdial import world
from mr1jax.data.records import ALWAYS, Fact, Question, Record
from mr1jax.data.states import ManagerState, first_facts, linked_questions, manager_states

NUM_QUESTIONS = CONFIG.questions_per_state


def record(name, num_facts, questions):
    """Facts that all say something else, two a day, in turns of the two speakers."""
    texts = [f"{who} {does} {what}" for what in tiny.OBJECTS for does in tiny.VERBS for who in tiny.SUBJECTS][:num_facts]
    facts = tuple(Fact(text, speaker=i % 2, date=DATES[min(i // 2, 2)]) for i, text in enumerate(texts))
    return Record(name, ("Mia", "Ben"), facts, tuple(questions))


def asks(who, gold, evidence, asked_after, valid_until=ALWAYS):
    return Question(f"What {who}?", gold, 1, evidence, asked_after, valid_until)


RECORDS = (
    record("long", 9, [asks("Mia", "tea", (0,), 1), asks("Ben", "jazz", (1, 8), 9), asks("Zoe", "blue", (2,), 3, 5)]),
    record("short", 3, [asks("Zoe", "12", (2,), 3), asks("Ben", "tea", (0,), 1, 2), asks("Mia", "chess", (1,), 2, 4)]),
)


@pytest.fixture(scope="module")
def conversations():
    shape = EpisodeShape.fit(RECORDS, TOKENIZER, slot_width=WIDTH)
    return stack([encode_record(each, TOKENIZER, shape) for each in RECORDS])


def text(tokens, length):
    return TOKENIZER.decode(np.asarray(tokens)[: int(length)])


def memories_in(bank):
    """What one bank holds as (text, speaker, time), in the order it was written."""
    slots = sorted(np.flatnonzero(bank.occupied), key=lambda slot: bank.written[slot])
    return [(text(bank.tokens[slot], bank.length[slot]), int(bank.speaker[slot]), int(bank.updated[slot])) for slot in slots]


def as_memory(record, index):
    fact = record.facts[index]
    return fact.text, fact.speaker, DATES.index(fact.date)


def asked_of(questions, *index):
    """Text and gold answer of a question."""
    gold = bytes(questions.answer[index][: questions.answer_length[index]]).decode()
    return text(questions.tokens[index], questions.length[index]), gold


def pairs(record, indices):
    return [(record.questions[i].question, record.questions[i].answer) for i in indices]


def dates_in(dates):
    return [text(*row) for row in zip(dates.tokens, dates.length, strict=True) if row[1]]


def test_asked_at_the_end_is_what_holds_then(conversations):
    """Oracle: by hand. Of the long one the third was only true before fact 5; of the short one the second before fact 2."""
    assert ask_at_end(conversations) == [(0, 0), (0, 1), (1, 0), (1, 2)]


def facts_of(conversations):
    return NewFact(conversations.fact_tokens, conversations.fact_length, conversations.fact_speaker, conversations.fact_time)


def test_banks_are_filled_in_order(conversations):
    """Oracle: lists. A full bank drops what was written longest ago; a conversation of fewer facts leaves slots empty."""
    banks = fill_banks(facts_of(conversations), LANGUAGE.table, CONFIG.bank)
    long, short = RECORDS
    assert memories_in(take(banks, 0)) == [as_memory(long, i) for i in range(3, 9)]
    assert memories_in(take(banks, 1)) == [as_memory(short, i) for i in range(3)]


def test_more_banks_than_one_chunk_holds(conversations):
    """Oracle: the same two conversations, 150 times over."""
    facts = facts_of(conversations)
    banks = fill_banks(take(facts, np.arange(300) % 2), LANGUAGE.table, CONFIG.bank)
    tiny.assert_equal(banks, take(fill_banks(facts, LANGUAGE.table, CONFIG.bank), np.arange(300) % 2))


def test_an_answer_task_has_its_own_bank_and_question(conversations):
    """Oracle: the records, in an order other than theirs."""
    banks = fill_banks(facts_of(conversations), LANGUAGE.table, CONFIG.bank)
    asked = [(1, 2), (0, 1), (1, 0)]
    tasks = answer_tasks(banks, conversations, asked)
    for index, (number, which) in enumerate(asked):
        tiny.assert_equal(take(tasks.bank, index), take(banks, number))
        assert asked_of(tasks.question, index) == pairs(RECORDS[number], [which])[0]
        assert dates_in(take(tasks.dates, index)) == list(dict.fromkeys(fact.date for fact in RECORDS[number].facts))


def test_a_manager_task_is_its_state_in_text(conversations):
    """Oracle: the records. Rows of a bank need be neither all nor in order; questions past the state's are masked."""
    states = [ManagerState(0, (4, 2, 0, 7, 5, 6), 8, (1, 0)), ManagerState(1, (), 0, (1,)), ManagerState(0, (1,), 2, (2, 0))]
    tasks = manager_tasks(states, conversations, LANGUAGE, CONFIG)
    for index, state in enumerate(states):
        record = RECORDS[state.record]
        assert memories_in(take(tasks.bank, index)) == [as_memory(record, row) for row in state.rows]
        fact = take(tasks.fact, index)
        assert (text(fact.tokens, fact.length), int(fact.speaker), int(fact.time)) == as_memory(record, state.fact)
        count = len(state.questions)
        assert tasks.asked[index].tolist() == [True] * count + [False] * (NUM_QUESTIONS - count)
        assert [asked_of(tasks.questions, index, q) for q in range(count)] == pairs(record, state.questions)
        assert dates_in(take(tasks.dates, index)) == list(dict.fromkeys(fact.date for fact in record.facts))


def test_facts_before_and_after_a_state_are_its_tasks(conversations):
    """Oracle: the records. Two turns before, three after; nothing is said before a conversation begins and after it ends."""
    states = [ManagerState(0, (0, 1), 4, (0,)), ManagerState(1, (), 1, (2,)), ManagerState(0, (), 8, (0,))]
    tasks = manager_tasks(states, conversations, LANGUAGE, replace(CONFIG, lead=2, horizon=3))
    facts = [tasks.fact, *(take(tasks.later, (slice(None), turn)) for turn in range(5))]
    said = [[text(fact.tokens[i], fact.length[i]) if fact.length[i] else None for fact in facts] for i in range(3)]
    long, short = ([fact.text for fact in record.facts] for record in RECORDS)
    assert said == [long[2:8], [None, short[0], short[1], short[2], None, None], [*long[6:9], None, None, None]]
    turn = take(tasks.later, (0, 1))  # the fact that is compared
    assert (text(turn.tokens, turn.length), int(turn.speaker), int(turn.time)) == as_memory(RECORDS[0], 4)
    with pytest.raises(ValueError, match="Config.lead is 9, and no conversation has more than 9 facts; use at most 8"):
        manager_tasks(states, conversations, LANGUAGE, replace(CONFIG, lead=9))


def test_without_a_horizon_a_task_is_the_fact_alone(conversations):
    """Oracle: a horizon past every end, whose later facts are dropped: all else is the same."""
    states = [ManagerState(0, (4, 2, 0), 8, (1, 0)), ManagerState(1, (), 0, (1,))]
    alone, far = (manager_tasks(states, conversations, LANGUAGE, replace(CONFIG, horizon=horizon)) for horizon in (0, 999))
    assert alone.later is None
    assert far.later.length.shape == (2, 8)
    tiny.assert_equal(far.replace(later=None), alone)


def test_a_filled_bank_knows_its_words(conversations):
    """Oracle: the bank made in plain Python from the same sentences, every column of it."""
    state = ManagerState(0, (0, 3, 1), 4, (0,))
    tasks = manager_tasks([state], conversations, LANGUAGE, CONFIG)
    said = [as_memory(RECORDS[0], row) for row in state.rows]
    expected = tiny.bank({slot: tiny.Said(text, time, speaker, time) for slot, (text, speaker, time) in enumerate(said)})
    got = take(tasks.bank, 0)
    assert got.clock == 6  # an ADD a slot, of which those of length 0 are refused
    tiny.assert_equal(got.replace(clock=expected.clock), expected)


# ------------------------------------------------------------------------------------------------- which states to train on


def test_questions_linked_to_a_turn():
    """Oracle: by hand. First what rests on the new fact, then on the memory written longest ago, then on those most like the fact."""
    questions = [
        asks("Mia", "a", (0,), 1),  # held, and oldest
        asks("Mia", "b", (1,), 2),  # held
        asks("Mia", "c", (2, 3), 4),  # on the new fact and one that is gone
        asks("Mia", "d", (2,), 3),  # its memory is gone
        asks("Mia", "e", (3,), 4, 5),  # on the new fact, while it lasts
        asks("Mia", "f", (0,), 1, 4),  # no longer true
        asks("Mia", "g", (), 1),  # on nothing
        asks("Mia", "h", (5,), 6),  # later
    ]
    chosen = record("r", 8, questions)
    for seed in range(5):
        assert linked_questions(chosen, [0, 1], 3, 4, random.Random(seed)) == (4, 0, 1)
        assert linked_questions(chosen, [1, 0], 3, 4, random.Random(seed)) == (4, 1, 0)  # though the other is Mia's, as the fact
        assert linked_questions(chosen, [0, 1], 3, 2, random.Random(seed)) == (4, 0)
        assert linked_questions(chosen, [0, 1], 3, 1, random.Random(seed)) == (4,)
        assert set(linked_questions(chosen, [0, 2, 1], 3, 9, random.Random(seed))) == {0, 1, 2, 3, 4}
        assert linked_questions(chosen, [0, 1], 4, 4, random.Random(seed)) == (0, 1)  # nobody asks about the fact: the oldest first
        assert linked_questions(chosen, [1, 0], 4, 4, random.Random(seed)) == (1, 0)


def test_questions_about_memories_like_the_fact_are_asked():
    """Oracle: by hand. The oldest first; then by the words they share with the fact: Ben and boat, Ben, and none, the newest first."""
    facts = [Fact(text, 0, "") for text in ("Mia has a cat", "Ben sings", "Zoe likes tea", "Ben has a blue boat", "Ben has a new boat")]
    chosen = Record("r", ("Mia", "Ben"), tuple(facts), tuple(asks("Mia", "a", (i,), i + 1) for i in range(4)))
    for seed in range(5):
        assert linked_questions(chosen, [0, 1, 2, 3], 4, 2, random.Random(seed)) == (0, 3)
        assert linked_questions(chosen, [0, 1, 2, 3], 4, 4, random.Random(seed)) == (0, 3, 1, 2)


def test_states_of_other_data_hold_the_last_facts():
    """Oracle: by hand. As many of each kind; where one kind is not there, at full banks those whose fact is asked about, and where there is
    room all that are asked something; where all fit their banks, those whose fact is asked about.
    """
    states = functools.partial(manager_states, RECORDS, num_questions=NUM_QUESTIONS, seed=0)
    assert states(num_slots=3)[0] == ManagerState(0, (0, 1, 2), 3, (0, 2))
    assert states(num_slots=2) == [
        *(ManagerState(0, (0, 1), 2, (2, 0)), ManagerState(1, (0, 1), 2, (0, 2))),
        *(ManagerState(0, (), 0, (0,)), ManagerState(0, (0,), 1, (0,))),
        *(ManagerState(1, (), 0, (1,)), ManagerState(1, (0,), 1, (2,))),
    ]
    assert [(state.record, state.fact) for state in states(num_slots=9)] == [(0, 0), (0, 2), (0, 8), (1, 0), (1, 1), (1, 2)]
    assert all(state.rows == tuple(range(state.fact)) for state in states(num_slots=9))


def test_questions_after_a_horizon():
    """Oracle: by hand. One on each new fact, on the oldest memory, on the other; only what holds at the end and was not lost before."""
    questions = [
        asks("Mia", "a", (0,), 1),  # held, and oldest
        asks("Mia", "b", (1,), 2),  # held
        asks("Mia", "c", (2,), 3),  # the first new fact
        asks("Mia", "d", (3,), 4),  # the second
        asks("Mia", "e", (3, 2), 4),  # both
        asks("Mia", "f", (2,), 3, 4),  # true before the second, and no longer
        asks("Mia", "g", (4,), 5),  # later
    ]
    chosen = record("r", 6, [q if q.evidence != (3, 2) else asks("Mia", "e", (2, 3), 4) for q in questions])
    for seed in range(5):
        rng = random.Random(seed)
        found = linked_questions(chosen, [0, 1], 2, 9, rng, horizon=1)
        assert set(found) == {0, 1, 2, 3, 4}
        assert found[0] in (2, 4)
        assert any(3 in chosen.questions[i].evidence for i in found[:2])
        assert found.index(0) <= 2
        assert set(linked_questions(chosen, [1], 3, 9, rng, horizon=1)) == {1, 3, 6}
        assert set(linked_questions(chosen, [], 0, 9, rng, horizon=99)) == {0, 1, 2, 3, 4, 6}  # the whole conversation, from nothing


def test_states_with_a_horizon_or_a_lead():
    """Oracle: by hand. A horizon leaves the turns that have room for it, and the first; a lead moves the bank back and nothing else."""
    states = functools.partial(manager_states, RECORDS, num_questions=NUM_QUESTIONS, seed=0, num_slots=9)
    assert [(state.record, state.fact) for state in states(horizon=6)] == [(0, 0), (0, 2), (1, 0)]
    whole = states(horizon=99)
    assert [(state.record, state.rows, state.fact) for state in whole] == [(0, (), 0), (1, (), 0)]
    assert [set(state.questions) for state in whole] == [{0, 1}, {0, 2}]
    plain, led = states(), states(lead=2)
    assert [(state.fact, state.questions) for state in led] == [(state.fact, state.questions) for state in plain]
    assert [state.rows for state in led] == [tuple(range(max(0, state.fact - 2))) for state in plain]


def test_a_conversation_is_cut_after_its_first_facts():
    """Oracle: by hand. Of the long one the question that rests on its last fact goes; one that is true for a while stays as it is."""
    long, _ = RECORDS
    assert first_facts(long, 0) is long
    cut = first_facts(long, 4)
    assert cut.facts == long.facts[:4]
    assert cut.questions == (long.questions[0], long.questions[2])
    assert first_facts(long, 2).questions == long.questions[:1]
    assert first_facts(long, 99) == long
    early = record(
        "r", 5, [asks("Mia", "a", (0, 4), 1), asks("Mia", "b", (), 4), asks("Mia", "c", (), 3)]
    )  # known early, or resting on nothing
    assert first_facts(early, 3).questions == early.questions[2:]


def test_states_of_memdial_are_banks_that_could_be():
    """Oracle: what holds of every state: its rows were said before and fit the bank, its questions are true and can be decided."""
    records, num_slots = list(world.conversations("train", 0, 6)), 8
    states = manager_states(records, num_slots, 4, seed=0)
    assert states == manager_states(records, num_slots, 4, seed=0) != manager_states(records, num_slots, 4, seed=1)
    kinds = []  # (whether the bank is full, whether the fact is asked about)
    for state in states:
        questions = [records[state.record].questions[i] for i in state.questions]
        assert len(set(state.rows)) == len(state.rows) <= num_slots
        assert all(row < state.fact for row in state.rows)
        assert 0 < len(set(state.questions)) == len(state.questions) <= 4
        assert all(q.asked_after <= state.fact + 1 < q.valid_until for q in questions)
        assert all(set(q.evidence) <= {*state.rows, state.fact} for q in questions)
        kinds.append((len(state.rows) == num_slots, any(state.fact in q.evidence for q in questions)))
        assert not kinds[-1][0] or any({state.rows[0], state.fact}.intersection(q.evidence) for q in questions)
    asked, overwriting = kinds.count((True, True)), kinds.count((True, False))
    assert asked == overwriting == len(kinds) - asked - overwriting > 10
    assert {state.record for state in states} == set(range(6))
    chatter = {i: [records[i].facts[row].kind == "chatter" for s in states if s.record == i for row in s.rows] for i in range(6)}
    shares = sorted(sum(rows) / len(rows) for rows in chatter.values())
    assert shares[0] < 0.25 < 0.4 < shares[-1]  # some banks are tidy, some are not
    assert any(list(state.rows) != list(range(min(state.rows), max(state.rows) + 1)) for state in states if state.rows)
