"""The baselines against their mechanisms in plain Python, and worked out by hand."""

import math

import jax
import numpy as np
import pytest
from tiny import CONFIG, LANGUAGE, TOKENIZER, at, params, unoptimised  # noqa: F401

from mr1jax import evaluate
from mr1jax.agents.tasks import ask_at_end, banks_of_facts
from mr1jax.baselines import amem_like, mem0_like, memoryos_like, raw, rows
from mr1jax.config import replace
from mr1jax.data.memdial.world import generate
from mr1jax.data.records import Fact, Question, Record
from mr1jax.prepare import Start, encode
from mr1jax.text.words import words

NUM_SLOTS = CONFIG.bank.num_slots
SPEAKERS = ("Mia", "Ben")


def record_of(name, *texts, questions=()):
    facts = tuple(Fact(text, int(text.startswith("Ben")), ("1 May", "2 May", "3 May")[i % 3]) for i, text in enumerate(texts))
    return Record(name, SPEAKERS, facts, questions)


RECORDS = (
    record_of(
        "long",
        "Mia likes tea",
        "Mia likes tea",
        "Ben plays chess",
        "Ben sees Zoe",
        "Zoe likes jazz",
        "Mia plays blue",
        "Ben likes blue",
        "Mia sees the tea",
        questions=(
            Question("What Mia likes?", "tea", 1, (1,), 2),
            Question("What plays?", "chess", 1, (2,), 3, valid_until=5),  # no longer true at the end
            Question("What Ben sees?", "Zoe", 2, (3,), 4),
        ),
    ),
    record_of("short", "Ben plays jazz", "Ben plays the jazz", questions=(Question("What Ben plays?", "jazz", 1, (0,), 1),)),
)
ASKED = [(0, 0), (0, 2), (1, 0)]  # as read off the above


@pytest.fixture(scope="module")
def start():
    agents = {"manager": params(4, 4.0), "answerer": params(2, 4.0)}
    return Start(CONFIG, agents, TOKENIZER, LANGUAGE)


@pytest.fixture(scope="module")
def conversations(start):
    return encode(RECORDS, start)


def texts_in(bank):
    """The texts of the slots that are occupied, in the order in which they were written."""
    slots = sorted(np.flatnonzero(bank.occupied), key=lambda slot: bank.written[slot])
    return [TOKENIZER.decode(bank.tokens[slot][: bank.length[slot]].tolist()) for slot in slots]


def texts_of(record, facts):
    return [record.facts[fact].text for fact in facts]


def test_banks_of_facts_hold_them_in_their_order(conversations):
    """Oracle: the lists themselves, of two banks of one conversation and one of the other; slot i is the i-th."""
    listed, of = [[4, 2], [], [1, 0]], [0, 0, 1]
    banks = banks_of_facts(listed, np.array(of), conversations, LANGUAGE, CONFIG.bank)
    for place, (facts, record) in enumerate(zip(listed, of, strict=True)):
        assert texts_in(at(banks, place)) == texts_of(RECORDS[record], facts)
        assert list(np.flatnonzero(banks.occupied[place])) == list(range(len(facts)))


# Raw turns ----------------------------------------------------------------------------------------------------------------------


def test_rag_loses_nothing(conversations):
    """Oracle: all that was said, though the long conversation has more than a bank of the configuration holds."""
    assert len(RECORDS[0].facts) > NUM_SLOTS
    memories = raw.rag_turns(conversations, RECORDS, LANGUAGE, CONFIG)
    for place, record in enumerate(RECORDS):
        assert texts_in(at(memories.banks, place)) == [fact.text for fact in record.facts]
    assert memories.operations == {"add": 10, "update": 0, "delete": 0, "noop": 0, "refused": 0}


def test_full_history_shows_the_newest_that_fit(start, conversations):
    """Oracle: lengths of token lists added up in Python, from the newest backwards until the prompt is full: what is asked is no matter."""
    row = rows._full_history_row(start.params["answerer"], start, conversations, RECORDS, 0)
    assert [(answer.conversation, answer.number) for answer in row.answers] == ASKED
    shown = set()
    for answer, (place, number) in zip(row.answers, ASKED, strict=True):
        record = RECORDS[place]
        question = TOKENIZER.encode(record.questions[number].question)
        room = CONFIG.answerer.prompt_length - len(question) - 4  # "Question:", a line break, "Memories:", a line break
        expected: list[str] = []
        for fact in reversed(record.facts):
            room -= len(TOKENIZER.encode(fact.text)) + len(TOKENIZER.encode(fact.date)) + 2  # a number and a line break
            if room < 0:
                break
            expected = [f"{fact.text} | {fact.date}", *expected]
        assert list(answer.memories) == expected
        shown.add(len(expected))
    assert 1 < max(shown) < len(RECORDS[0].facts)


# A-Mem-like ---------------------------------------------------------------------------------------------------------------------


def test_links_by_hand():
    """Oracle: by hand. Keywords without Mia and Ben; of a bank of four, note 4 no longer meets note 0, and at the end 0 is gone.

    2 shares "tea" with 0 and 1; 3 shares nothing; 4 shares "tea" with 1 and 2, the rarer "jazz" with 3.
    """
    record = record_of("links", "Mia likes tea", "Ben sees tea", "Mia plays tea", "Zoe jazz", "Ben tea jazz")
    assert amem_like.keywords(record)[0] == {"like", "tea"}
    assert amem_like.link_notes(record, 5) == {0: [2, 1], 1: [2, 0], 2: [4, 1, 0], 3: [4], 4: [3, 2]}
    assert amem_like.link_notes(record, 4) == {1: [2], 2: [4, 1], 3: [4], 4: [3, 2]}


def test_links_follow_a_model_in_python():
    """Oracle: a dict of sets over generated worlds: every pair scored by a double loop, the best two taken by repeated maximum."""
    for seed in range(4):
        record, _ = generate(seed, "train")
        names = {word for name in record.speakers for word in words(name)}
        kept = [{word for word in words(fact.text) if word not in names} for fact in record.facts]
        linked = {note: set() for note in range(len(kept))}
        for note in range(len(kept)):
            bank = [other for other in range(note) if other > note - 16]
            score = {}
            for other in bank:
                for word in kept[note] & kept[other]:
                    score[other] = score.get(other, 0.0) + math.log(1 + len(bank) / sum(word in kept[each] for each in bank))
            for _ in range(min(2, len(score))):
                best = max(score, key=lambda other: (round(score[other], 9), other))
                linked[note].add(best)
                linked[best].add(note)
                del score[best]
        last = range(len(kept) - 16, len(kept))
        expected = {note: sorted((other for other in linked[note] if other in last), reverse=True) for note in last}
        assert amem_like.link_notes(record, 16) == expected


@pytest.mark.parametrize(
    ("found", "count", "shown"), [([3, 1], 4, [3, 5, 4, 1]), ([3, 1], 2, [3, 5]), ([1, 3, 4], 9, [1, 2, 3, 5, 4]), ([], 3, [])]
)
def test_linked_notes_are_shown_behind_the_one_found(found, count, shown):
    """Oracle: by hand."""
    assert amem_like.follow_links(found, {1: [2], 2: [1], 3: [5, 4], 4: [3], 5: [3]}, count) == shown


def test_amem_shows_boxes_of_what_the_words_find(start, conversations):
    """Oracle: the notes found by the Answer Agent's own retrieval from the same banks, then `follow_links` over `link_notes` in Python."""
    config = replace(CONFIG, answerer=replace(CONFIG.answerer, num_retrieved=2, prompt_length=60))
    told = (conversations, RECORDS, LANGUAGE, config)
    memories = amem_like.banks(*told)
    for place, record in enumerate(RECORDS):
        assert texts_in(at(memories.banks, place)) == [fact.text for fact in record.facts][-NUM_SLOTS:]
    shown, differs = amem_like.shown_banks(memories, *told), 0
    plain = evaluate.answer_questions(start.params["answerer"], memories.banks, conversations, LANGUAGE, config)
    for place, (conversation, _) in enumerate(ASKED):
        record, answer = RECORDS[conversation], plain[place]
        first = max(0, len(record.facts) - NUM_SLOTS)
        lines = {f"{fact.text} | {fact.date}": note for note, fact in enumerate(record.facts) if note >= first}
        found = {lines[line] for line in answer.memories}
        got = {first + int(slot) for slot in np.flatnonzero(shown.occupied[place])}
        linked = amem_like.link_notes(record, NUM_SLOTS)
        possible = [set(amem_like.follow_links(order, linked, 2)) for order in (sorted(found), sorted(found, reverse=True))]
        assert got in possible
        differs += got != found
    assert differs


def test_a_row_of_shown_banks_is_the_plain_row_where_all_is_shown(start, conversations):
    """Oracle: `evaluate` on the same banks: every field, intervals over conversations among them."""
    memories = amem_like.banks(conversations, RECORDS, LANGUAGE, CONFIG)
    of = np.array([conversation for conversation, _ in ask_at_end(conversations)])
    shown = jax.tree.map(lambda x: x[of], memories.banks)
    row = rows.row_of_shown(start.params["answerer"], memories, shown, conversations, start, 3)
    assert row == evaluate.evaluate(start.params["answerer"], memories, conversations, LANGUAGE, CONFIG, seed=3)


# MemoryOS-like ------------------------------------------------------------------------------------------------------------------


def test_tiers_by_hand(monkeypatch):
    """Oracle: by hand, eight slots: two short, four mid-term, two long. HOT is 3: two pages and a visit are hotter.

    a a b c: 0 enters the mid-term as segment {a} when 2 comes, 1 joins it when 3 comes. 4 (a) visits it: heat 1 + 2 + 1 > 3, promoted.
    Then 2 (b), 3 (c), 4 (a), 5 (d), 6 (e) are filed, one each: five pages in a tier of four, and the coldest goes. All were begun and none
    visited since, save c, by 7: so b, the first, goes, and not c.
    """
    monkeypatch.setattr(memoryos_like, "HOT", 3.0)
    keywords = [frozenset(word) for word in "aabcadecfg"]
    tiers = memoryos_like.Tiers(8)
    for fact in range(4):
        tiers.hear(fact, keywords)
    assert (tiers.short, [segment.pages for segment in tiers.middle], tiers.long) == ([2, 3], [[0, 1]], [])
    tiers.hear(4, keywords)
    assert (tiers.short, [segment.pages for segment in tiers.middle], tiers.long) == ([3, 4], [[2]], [0, 1])
    for fact in range(5, 9):
        tiers.hear(fact, keywords)
    assert (tiers.short, [segment.pages for segment in tiers.middle], tiers.long) == ([7, 8], [[3], [4], [5], [6]], [0, 1])
    assert tiers.facts == [0, 1, 3, 4, 5, 6, 7, 8]


def model_of_tiers(keywords, num_slots):
    """The same mechanism as lists and dicts: a segment is a dict, the tiers are recomputed from scratch lists at every fact."""
    quarter = num_slots // 4
    queue, segments, store = [], [], []
    for now, said in enumerate(keywords):

        def nearest(these):
            best, likest = None, memoryos_like.SIMILAR
            for segment in segments:
                both = set().union(*(keywords[page] for page in segment["pages"]))
                like = len(these & both) / len(these | both) if these | both else 0.0
                if like > likest or (like >= likest and best is None):
                    best, likest = segment, like
            return best

        if nearest(said):
            segment = nearest(said)
            segment["visits"] += 1
            segment["last"] = now
        queue.append(now)
        if len(queue) == quarter + 1:
            page = queue.pop(0)
            if segment := nearest(keywords[page]):
                segment["pages"].append(page)
            else:
                segments.append({"pages": [page], "visits": 0, "last": now})
        heats = [s["visits"] + len(s["pages"]) + math.exp(-(now - s["last"]) / memoryos_like.FADES) for s in segments]
        for segment, heat in zip(list(segments), heats, strict=True):
            if heat > memoryos_like.HOT:
                store += segment["pages"]
                segments.remove(segment)
        store = store[-quarter:]
        while sum(len(s["pages"]) for s in segments) > num_slots - 2 * quarter:
            heats = [s["visits"] + len(s["pages"]) + math.exp(-(now - s["last"]) / memoryos_like.FADES) for s in segments]
            segments.pop(int(np.argmin(heats)))
    return sorted(queue + store + [page for segment in segments for page in segment["pages"]])


@pytest.mark.parametrize("hot", [2.0, 3.0, 5.0])
def test_tiers_follow_a_model_in_python(monkeypatch, hot):
    """Oracle: the model above on generated conversations, at thresholds that let segments grow less and more; the newest is never lost."""
    monkeypatch.setattr(memoryos_like, "HOT", hot)
    for seed in range(40):
        record, _ = generate(seed, "train")
        kept = memoryos_like.kept(record, 16)
        assert kept == model_of_tiers(amem_like.keywords(record), 16)
        assert kept[-4:] == list(range(len(record.facts)))[-4:]
        assert len(kept) <= 16


def test_memoryos_banks_hold_what_the_tiers_do(conversations):
    """Oracle: `kept`, and counts by hand: what is not held any more was dropped."""
    memories = memoryos_like.banks(conversations, RECORDS, LANGUAGE, CONFIG)
    held = [memoryos_like.kept(record, NUM_SLOTS) for record in RECORDS]
    for place, record in enumerate(RECORDS):
        assert texts_in(at(memories.banks, place)) == texts_of(record, held[place])
    assert memories.operations["add"] == 10
    assert memories.operations["delete"] == 10 - sum(map(len, held)) > 0


# Mem0-like ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fact", "memories", "decided"),
    [
        ("Mia likes tea", [], mem0_like.ADD),
        ("Mia likes tea", ["Ben plays chess"], mem0_like.ADD),
        ("Mia likes tea", ["Mia plays chess"], mem0_like.ADD),  # a speaker's name makes no likeness
        ("Mia likes tea", ["Ben plays chess", "Ben likes chess"], mem0_like.ASK),
        ("Mia likes tea", ["Mia likes tea and chess"], mem0_like.NOOP),
        ("Mia likes the tea", ["Mia likes tea"], mem0_like.NOOP),  # a function word tells nothing
        ("Mia likes tea and chess", ["Mia likes tea", "Ben plays chess"], mem0_like.ASK),  # no one memory has all of it
    ],
)
def test_gate_by_hand(fact, memories, decided):
    """Oracle: by hand."""
    assert mem0_like.gate(fact, memories, SPEAKERS) == decided


@pytest.mark.parametrize("decided", ["ASK", "ADD", "NOOP"])
def test_one_gate_alone(monkeypatch, start, conversations, decided):
    """Oracle: with all facts asked about, the Manager's own replay; with all added, the append-only banks; with none, empty ones."""
    monkeypatch.setattr(mem0_like, "gate", lambda *_: getattr(mem0_like, decided))
    manager = start.params["manager"]
    got = mem0_like.banks(manager, conversations, RECORDS, LANGUAGE, CONFIG)
    if decided == "ASK":
        expected = evaluate.build_banks(manager, conversations, LANGUAGE, CONFIG)
        assert min(expected.operations[kind] for kind in ("add", "update", "delete", "refused")) > 0
    elif decided == "ADD":
        expected = evaluate.append_only_banks(conversations, LANGUAGE, CONFIG)
    else:
        expected = evaluate.empty_banks(conversations, CONFIG)
        expected = expected._replace(operations=expected.operations | {"noop": 10})
    assert got.operations == expected.operations
    for place in range(len(RECORDS)):
        assert texts_in(at(got.banks, place)) == texts_in(at(expected.banks, place))


def test_gates_differ_by_conversation(start, conversations, monkeypatch):
    """Oracle: a list of what each would hold: nothing is asked, a fact of Ben is left out, a fact of Mia or Zoe is added."""
    monkeypatch.setattr(mem0_like, "gate", lambda fact, *_: mem0_like.NOOP if fact.startswith("Ben") else mem0_like.ADD)
    got = mem0_like.banks(start.params["manager"], conversations, RECORDS, LANGUAGE, CONFIG)
    for place, record in enumerate(RECORDS):
        assert texts_in(at(got.banks, place)) == [fact.text for fact in record.facts if not fact.text.startswith("Ben")]
    assert got.operations == {"add": 5, "update": 0, "delete": 0, "noop": 5, "refused": 0}


# The table ----------------------------------------------------------------------------------------------------------------------


def test_rows_ask_the_same_and_read_with_whom_they_say(monkeypatch, start, conversations, tmp_path):
    """Oracle: by hand. All rows in the order of the notes, all of the same questions; with a reader who was trained, only the row of
    Memory-SFT reads as before."""
    monkeypatch.setattr(rows, "train_memory_sft", lambda start, folder: {"manager": params(5, 4.0), "answerer": params(6, 4.0)})
    plain = rows.baseline_rows(start, conversations, RECORDS, 0, tmp_path)
    assert list(plain) == list(rows.NOTES)
    assert {tuple((a.conversation, a.number) for a in row.answers) for row in plain.values()} == {tuple(ASKED)}
    other = rows.baseline_rows(start, conversations, RECORDS, 0, tmp_path, reader=params(9, 4.0))
    same = {name for name in plain if [a.response for a in plain[name].answers] == [a.response for a in other[name].answers]}
    assert same == {"memory_sft"}
    for name in plain:
        assert plain[name].banks == other[name].banks
