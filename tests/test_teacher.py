"""The teacher's two halves: a manager that keeps its book by habit, and an answerer that believes what it quotes."""

import collections
import math
import random
import re

import pytest

from mr1jax.data.memdial.teacher import HABITS, HeuristicManager, content_words, overlap, respond
from mr1jax.data.memdial.world import MULTI_HOP, NO_ANSWER, SINGLE_HOP, TEMPORAL, WorldConfig, generate
from mr1jax.data.records import Fact, Question, Record

NUM_SLOTS = 16
NUM_FACTS = WorldConfig().num_facts


@pytest.fixture(scope="module")
def worlds():
    """[(record, values)] of training conversations."""
    return [generate(seed, "train") for seed in range(300)]


@pytest.fixture(scope="module")
def histories(worlds):
    """[(record, [(fact, rows before, choice, rows after)])] of one run of the heuristic through each conversation."""
    runs = []
    for seed, (record, _) in enumerate(worlds):
        manager, turns = HeuristicManager(record, NUM_SLOTS, random.Random(seed)), []
        for fact in range(NUM_FACTS):
            before, choice = list(manager.rows), manager.choose(fact)
            assert manager.rows == before  # choosing alone writes nothing
            manager.apply(fact, choice)
            turns.append((fact, before, choice, list(manager.rows)))
        runs.append((record, turns))
    return runs


def chain_of(record, fact):
    """The facts that a fact goes back to, newest first."""
    chain = []
    while record.facts[fact].source:
        fact = int(record.facts[fact].source)
        chain.append(fact)
    return chain


# The Manager --------------------------------------------------------------------------------------------------------------------


def test_bank_is_what_a_dict_with_a_clock_keeps(histories):
    """Oracle: {fact: time written}; what is written when it is full takes the place of the one written longest ago."""
    for _, turns in histories:
        written = {}
        for time, (fact, before, choice, after) in enumerate(turns):
            assert sorted(written, key=written.get) == before
            if choice.kind in ("delete", "replace", "update"):
                del written[choice.target]
            if choice.kind in ("add", "replace", "update"):
                if len(written) == NUM_SLOTS:
                    del written[min(written, key=written.get)]
                written[fact] = time
            assert sorted(written, key=written.get) == after
            assert len(after) <= NUM_SLOTS
        assert len(after) > NUM_SLOTS // 2


def test_target_is_the_newest_of_the_chain_or_the_most_alike(histories):
    """Oracle: the chain of sources walked here, else no remembered fact shares more words than the target, and two at least."""
    by_chain = by_words = 0
    for record, turns in histories:
        for fact, before, choice, _ in turns:
            if choice.kind in ("add", "noop"):
                assert choice.target is None
                continue
            remembered = [earlier for earlier in chain_of(record, fact) if earlier in before]
            if remembered:
                assert choice.target == max(remembered)
                by_chain += 1
            else:
                shared = {row: overlap(record.facts[fact].text, record.facts[row].text) for row in before}
                assert shared[choice.target] == max(shared.values()) >= 2
                by_words += 1
    assert by_chain > 100
    assert by_words > 10


def test_habits_are_kept_as_often_as_they_say(histories):
    """Oracle: the binomial distribution: every share lies within 4.5 standard deviations of HABITS (6 in a million by chance, each).

    A habit that needs a target and finds none becomes an "add", so only facts with a remembered chain count, and those that never need one.
    """
    counts = collections.defaultdict(collections.Counter)
    for record, turns in histories:
        for fact, before, choice, _ in turns:
            kind = record.facts[fact].kind
            if set(chain_of(record, fact)) & set(before) or not {"replace", "update", "delete"} & set(HABITS[kind]):
                counts[kind][choice.kind] += 1
    assert set(counts) == set(HABITS) - {"new", "event"}  # which replace only what is alike
    for kind, counted in counts.items():
        total = sum(counted.values())
        assert total >= 40
        assert set(counted) <= set(HABITS[kind])
        for habit, share in HABITS[kind].items():
            assert abs(counted[habit] - share * total) <= 4.5 * math.sqrt(total * share * (1 - share)), (kind, habit, counted)


def test_habits_are_distributions():
    """Oracle: one."""
    assert all(sum(habits.values()) == pytest.approx(1.0) for habits in HABITS.values())


# The words that it compares -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Marco's dog is called Kirmol", {"marco", "dog", "kirmol"}),
        ("What is the name of Marco's dog?", {"marco", "dog"}),
        ("When did Samir buy a mirror?", {"samir", "buy", "mirror"}),
        ("Samir bought a mirror", {"samir", "buy", "mirror"}),
        ("Do you know when Samir went to the zoo?", {"samir", "go", "zoo"}),
        ("", set()),
    ],
)
def test_content_words_are_what_a_question_shares_with_its_fact(text, words):
    """Oracle: by hand."""
    assert content_words(text) == words


# The Answer Agent ---------------------------------------------------------------------------------------------------------------


def record_of(*texts):
    return Record("by hand", ("Ada", "Ben"), tuple(Fact(text, 0, f"{day + 1} May 2022") for day, text in enumerate(texts)), ())


BY_HAND = record_of(
    "Ada's dog is called Rex", "Ada's sister is called Eva", "Eva's cat is called Tom", "Ada bought a lamp", "Ben is happy today"
)
TELLS = ("Rex", "Eva", "Tom", "a lamp", None)


@pytest.mark.parametrize(
    ("question", "category", "rows", "quoted", "answer"),
    [
        ("What is Ada's dog called?", SINGLE_HOP, [0, 1, 2, 3, 4], [0], "Rex"),
        ("What is Ada's cat called?", SINGLE_HOP, [0, 2], None, None),  # a name or a noun fits: either, or none
        ("When did Ada buy a lamp?", TEMPORAL, [0, 1, 3], [3], "4 May 2022"),
        ("What did Ada buy?", SINGLE_HOP, [3, 4], [3], "a lamp"),
        ("What is the cat of Ada's sister?", MULTI_HOP, [0, 1, 2], [1, 2], "Tom"),
        ("What is the cat of Ada's sister?", MULTI_HOP, [0, 1], [1], "Eva"),  # the cat is not shown: it answers from what it quoted
        ("Who is happy with Ben?", SINGLE_HOP, [4], [4], NO_ANSWER),  # the memory tells nothing
        ("What is Ada's dog called?", SINGLE_HOP, [], [], NO_ANSWER),
        ("What is Zoe's boat called?", SINGLE_HOP, [0, 1, 2, 3, 4], [], NO_ANSWER),
    ],
)
def test_answers_from_a_bank_by_hand(question, category, rows, quoted, answer):
    """Oracle: by hand, and the same for every draw where there is one best memory."""
    for seed in range(5):
        said = respond(Question(question, "", category, (), 0), BY_HAND, TELLS, rows, random.Random(seed))
        if quoted is not None:
            assert said == (quoted, answer)
        else:
            assert said in [([0], "Rex"), ([2], "Tom"), ([], NO_ANSWER)]


def test_ties_are_settled_by_chance_and_poor_fits_are_no_answer():
    """Oracle: a binomial bound of 4.5 standard deviations around one half; by hand: a name alone makes no memory fit."""
    stale = record_of("Ada's dog is called Rex", "Ada's dog is called Max")
    counted = collections.Counter()
    for seed in range(1000):
        rng = random.Random(seed)
        counted[respond(Question("What is Ada's dog called?", "", SINGLE_HOP, (), 0), stale, ("Rex", "Max"), [0, 1], rng)[1]] += 1
        poor = respond(Question("What is Ada's boat called?", "", SINGLE_HOP, (), 0), stale, ("Rex", "Max"), [0], rng)
        assert poor == ([], NO_ANSWER)
    assert counted["Rex"] + counted["Max"] == 1000
    assert abs(counted["Rex"] - 500) <= 4.5 * math.sqrt(250)


def test_an_answer_is_what_the_last_quoted_memory_tells(worlds):
    """Oracle: the value or date of that memory, and that its sentence really says the value; without a quote there is no answer."""
    rng = random.Random(0)
    counted = collections.Counter()
    for record, values in worlds:
        for question in record.questions:
            rows = sorted(rng.sample(range(NUM_FACTS), 16))
            quoted, answer = respond(question, record, values, rows, rng)
            assert set(quoted) <= set(rows)
            assert len(quoted) == len(set(quoted)) <= (2 if question.category == MULTI_HOP else 1)
            if not quoted:
                assert answer == NO_ANSWER
            elif question.category == TEMPORAL:
                assert answer == record.facts[quoted[-1]].date
            else:
                assert answer == (values[quoted[-1]] or NO_ANSWER)
                assert answer == NO_ANSWER or re.sub("^an? ", "", answer) in record.facts[quoted[-1]].text
            counted[len(quoted), answer == NO_ANSWER] += 1
    assert min(counted[1, False], counted[2, False], counted[0, True]) > 20


def test_all_that_is_needed_shown_gives_the_gold_answer(worlds):
    """Oracle: the gold answer. Shown nothing but the evidence of a question, the skill itself is sound."""
    right = total = 0
    for record, values in worlds:
        for question in record.questions:
            if question.evidence:
                _, answer = respond(question, record, values, question.evidence, random.Random(0))
                right, total = right + (answer == question.answer), total + 1
    assert right / total > 0.98
