"""memdial's oracle: by hand on one conversation, against a dict that hears every fact, and against what the questions rest on."""

import random

import pytest

from mr1jax.data.memdial import lessons
from mr1jax.data.memdial.oracle import about_the_same, oracle_banks, oracle_choice, thread
from mr1jax.data.memdial.teacher import Choice
from mr1jax.data.memdial.world import NO_ANSWER, generate
from mr1jax.data.records import Fact, Record

NUM_SLOTS = 16
TOLD = (  # kind, the fact it is about
    ("vague", ""),  # 0 Ada has a dog
    ("chatter", ""),
    ("refine", "0"),  # 2 it is called Rex
    ("event", ""),
    ("repeat", "2"),  # 4 it is called Rex
    ("change", "2"),  # 5 it is called Max; it goes back to 2, not to 4
    ("repeat", "5"),
    ("end", "5"),  # 7
)
BY_HAND = Record("by hand", ("Ada", "Ben"), tuple(Fact(f"fact {i}", 0, "1 May 2022", s, k) for i, (k, s) in enumerate(TOLD)), ())


@pytest.fixture(scope="module")
def worlds():
    return [generate(seed, "train")[0] for seed in range(60)]


@pytest.mark.parametrize(
    ("fact", "rows", "choice"),
    [
        (0, [], Choice("add")),
        (1, [0], Choice("noop")),
        (2, [0], Choice("update", 0)),
        (2, [1], Choice("add")),  # its thread was lost
        (3, [0, 2], Choice("add")),
        (4, [2, 3], Choice("noop")),
        (4, [0, 3], Choice("update", 0)),  # what is remembered is less than what is repeated
        (4, [3], Choice("add")),
        (5, [2, 3], Choice("update", 2)),
        (5, [4, 3], Choice("update", 4)),  # the repetition stands in the bank, though 5 names 2
        (5, [2, 4, 3], Choice("update", 4)),  # of two, the one written last
        (6, [5], Choice("noop")),
        (6, [4], Choice("update", 4)),
        (7, [3, 5], Choice("delete", 5)),
        (7, [2, 5], Choice("update", 5)),  # a DELETE would bring 2 to light
        (7, [3], Choice("noop")),
    ],
)
def test_what_is_right_at_a_bank(fact, rows, choice):
    """Oracle: by hand."""
    assert oracle_choice(BY_HAND, rows, fact) == choice


def test_threads_by_hand():
    """Oracle: by hand: the dog is one thread, chatter and the event are their own."""
    assert [thread(BY_HAND, fact) for fact in range(len(TOLD))] == [0, 1, 0, 3, 0, 0, 0, 0]
    assert about_the_same(BY_HAND, [3, 5, 2, 1], 7) == [5, 2]


def test_a_kind_of_another_data_set_is_one_sentence():
    """Oracle: the sentence."""
    other = Record("other", ("Ada", "Ben"), (Fact("Ada sings", 0, "1 May 2022"),), ())
    with pytest.raises(ValueError, match="^fact 0 of conversation other is of kind ''; the oracle knows memdial alone$"):
        oracle_choice(other, [], 0)


def test_the_bank_is_a_dict_of_what_holds(worlds):
    """Oracle: {thread: the newest fact of it that says something new}, kept by a dict, a thread that ended left out; they all fit."""
    for record in worlds:
        holds, name = {}, {}
        for fact, said in enumerate(record.facts):
            name[fact] = name[int(said.source)] if said.source else fact
            if said.kind == "end":
                del holds[name[fact]]
            elif said.kind not in ("chatter", "repeat"):
                holds[name[fact]] = fact
            assert set(oracle_banks(record, NUM_SLOTS)[fact + 1]) == set(holds.values())


def test_the_bank_answers_what_is_asked(worlds):
    """Oracle: the evidence that the world names for its questions, at every time at which they hold; of what ended nothing is kept."""
    asked = 0
    for record in worlds:
        for said, rows in enumerate(oracle_banks(record, NUM_SLOTS)):
            for question in record.questions:
                if question.evidence and question.asked_after <= said < question.valid_until:
                    assert (set(question.evidence) <= set(rows)) == (question.answer != NO_ANSWER)
                    asked += 1
    assert asked > 10_000


def test_manager_lessons_do_what_the_oracle_does():
    """Oracle: the fact found again in its conversation by text and date, `oracle_choice` at the bank there; its odds are certain."""
    rng, counted = random.Random(0), dict.fromkeys(("add", "update", "delete", "noop"), 0)
    records = [lessons.draw_world(seed)[0] for seed in range(6)]
    for _ in range(400):
        lesson = lessons.oracle_manager_lesson(rng, len(records), 3, NUM_SLOTS)
        places = [
            (record, fact)
            for record in records
            for fact, said in enumerate(record.facts)
            if (said.text, said.date) == lesson.fact and [*lesson.memories] == shown_by_hand(record, fact)
        ]
        rights = []
        for record, fact in places:
            choice = oracle_choice(record, oracle_banks(record, NUM_SLOTS)[fact], fact)
            target = None if choice.target is None else (record.facts[choice.target].text, record.facts[choice.target].date)
            unseen = {"update": "add", "delete": "noop"}
            rights.append(
                (choice.kind, lesson.memories.index(target) + 1) if target in lesson.memories else (unseen.get(choice.kind, choice.kind), 0)
            )
        assert (lesson.kind, lesson.number) in rights
        assert lesson.odds == {lesson.kind: 1.0}
        counted[lesson.kind] += 1
    assert min(counted.values()) > 3


def shown_by_hand(record, fact):
    """The three memories of the oracle's bank that share most words that carry meaning, the newest first among equals."""
    words = lessons.content_words(record.facts[fact].text)
    rows = oracle_banks(record, NUM_SLOTS)[fact]
    best = sorted(rows, key=lambda row: (-len(words & lessons.content_words(record.facts[row].text)), -row))[:3]
    return [(record.facts[row].text, record.facts[row].date) for row in best]


def test_answer_lessons_quote_the_evidence_and_give_the_gold_answer():
    """Oracle: the conversations' own questions: a reply is the gold one and quotes the evidence, or nothing was mentioned."""
    rng, counted = random.Random(0), {True: 0, False: 0}
    told = {q.question: (record, q) for seed in range(6) for record in [lessons.draw_world(seed)[0]] for q in record.questions}
    for _ in range(100):
        lesson = lessons.oracle_answer_lesson(rng, 6, 3, 4, NUM_SLOTS)
        for question, quotes, answer in lesson.replies:
            numbers = [quote.number for quote in quotes]
            counted[numbers != [0]] += 1
            if numbers == [0]:
                assert answer == NO_ANSWER
                assert not any(is_answered(record, question, lesson.memories) for record, _ in told.values())
                continue
            for quote in quotes:
                text, date = lesson.memories[quote.number - 1]
                assert text.endswith(quote.text)
                assert quote.date == date
            same = [q for record, q in told.values() if q.question == question]
            if len(same) == len({q.answer for q in same}) == 1 and same[0].answer == answer:
                record = told[question][0]
                quoted = [lesson.memories[number - 1][0] for number in numbers]
                assert quoted == [record.facts[fact].text for fact in same[0].evidence]
                counted["held"] = counted.get("held", 0) + 1
    assert min(counted.values()) > 30


def is_answered(record, text, lines):
    """Whether all these lines are of this conversation, and are evidence enough for some question of these words that has an answer."""
    said = [(fact.text, fact.date) for fact in record.facts]
    asked = [q for q in record.questions if q.question == text and q.evidence and q.answer != NO_ANSWER]
    return set(lines) <= set(said) and any({said[fact] for fact in q.evidence} <= set(lines) for q in asked)
