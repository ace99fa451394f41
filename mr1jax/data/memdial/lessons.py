"""Lessons: what an agent saw, and what the teacher's habits made it write, or the oracle. Text only; tokens come later.

The warm start learns from the teacher, Memory-SFT from the oracle. A lesson of the Answer Agent shows a few memories of one conversation
and asks several questions about them, so that one context teaches many times. A lesson of the Manager shows a fact and the memories most
like it.
"""

import functools
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from mr1jax.data.memdial.oracle import oracle_banks, oracle_choice
from mr1jax.data.memdial.teacher import HABITS, HeuristicManager, content_words, overlap, respond
from mr1jax.data.memdial.world import NO_ANSWER, WorldConfig, generate
from mr1jax.data.records import Question, Record

Line = tuple[str, str]  # text and date of a memory or a fact
# What is quoted must be read off one line although the others go on alike: people who say most things in one way, or in two, as
# those of a held-out split do, and more dates than the world has.
LESSON_WORLDS = tuple(WorldConfig(num_sessions=20, num_wordings=count) for count in (1, 2, None))
_NOTHING_SHOWN = 0.04  # of the Answer Agent's lessons


class Quote(NamedTuple):
    """The end of a memory as shown, with its number and date; a word that no memory fits has the number 0 and no date."""

    text: str
    number: int
    date: str


@dataclass(frozen=True)
class AnswerLesson:
    """memories: lines as shown; replies: (question, what is quoted of the memories, answer)."""

    memories: tuple[Line, ...]
    replies: tuple[tuple[str, tuple[Quote, ...], str], ...]


@dataclass(frozen=True)
class ManagerLesson:
    """memories: lines as shown, best first; fact; kind: add, update, delete, replace or noop; number: of the memory meant, 0 for none;
    odds: how often the teacher does what in this place, the kind drawn from them."""

    memories: tuple[Line, ...]
    fact: Line
    kind: str
    number: int
    odds: dict[str, float]


@functools.lru_cache(maxsize=4000)
def draw_world(seed: int) -> tuple[Record, tuple[str | None, ...]]:
    """The conversation of this number that lessons are drawn from, and what each of its facts tells."""
    return generate(seed, "train", LESSON_WORLDS[seed % len(LESSON_WORLDS)])


def _managed(record: Record, until: int, num_slots: int, rng: random.Random) -> HeuristicManager:
    manager = HeuristicManager(record, num_slots, rng)
    for fact in range(until):
        manager.apply(fact, manager.choose(fact))
    return manager


def _tidy(record: Record, until: int, num_slots: int) -> list[int]:
    """The bank that a better Manager would leave: no chatter, so that more of its memories are alike."""
    return [fact for fact in range(until) if record.facts[fact].kind != "chatter"][-num_slots:]


def _line(record: Record, fact: int) -> Line:
    return record.facts[fact].text, record.facts[fact].date


def _quote(question: str, record: Record, fact: int, number: int) -> Quote:
    """What is quoted of the line that tells a fact: from the word on that the question names last, those who speak left aside.

    To look something up is then to say what it is called, "dog", and to copy what followed.
    """
    text, date = _line(record, fact)
    asked = [word for spelt in question.split() for word in content_words(spelt)]
    place_of = {word: match.start() for match in reversed(list(re.finditer(r"\S+", text))) for word in content_words(match[0])}
    named = [word for word in asked if word in place_of and word not in map(str.lower, record.speakers)]
    return Quote(text[place_of[named[-1]] if named else 0 :], number, date)


def _looked_for(question: str) -> Quote:
    """What stands in place of a quote where no memory fits: the word itself, which nothing follows."""
    last = [spelt for spelt in question.split() if content_words(spelt)][-1]
    return Quote(re.sub(r"('s)?\?*$", "", last), 0, "")


def answer_lesson(rng: random.Random, num_worlds: int, num_shown: int, num_questions: int, num_slots: int) -> AnswerLesson:
    """Draws a lesson with `num_shown` memories of a bank that the heuristic kept, or of one without chatter.

    Half of the lessons show what is most like one of the questions, as retrieval will, and half show what many questions are about; a few
    show nothing, as an empty bank does.
    """
    record, values = draw_world(rng.randrange(num_worlds))
    until = rng.randrange(len(record.facts) // 4, len(record.facts) + 1)
    rows = _managed(record, until, num_slots, rng).rows if rng.random() < 0.5 else _tidy(record, until, num_slots)
    askable = [q for q in record.questions if q.asked_after <= until]
    answerable = [q for q in askable if q.evidence and set(q.evidence) <= set(rows)]
    if not answerable:
        return answer_lesson(rng, num_worlds, num_shown, num_questions, num_slots)
    shown, questions = _context(rng, record, rows, askable, answerable, num_shown, num_questions)
    replies = []
    for question in questions:
        quoted, answer = respond(question, record, values, shown, rng)
        replies.append((question.question, _quotes(question, record, quoted, shown), answer))
    return AnswerLesson(tuple(_line(record, row) for row in shown), tuple(replies))


def _context(
    rng: random.Random,
    record: Record,
    rows: Sequence[int],
    askable: list[Question],
    answerable: list[Question],
    num_shown: int,
    num_questions: int,
) -> tuple[list[int], list[Question]]:
    """Draws which memories of a bank a lesson shows, in the order written, and what it asks about them."""
    anchor = rng.choice(answerable)
    ranked = sorted(rows, key=lambda row: (-overlap(anchor.question, record.facts[row].text), rng.random()))
    asked_about = list(dict.fromkeys(row for q in rng.sample(answerable, len(answerable)) for row in q.evidence))
    others = ranked if rng.random() < 0.5 else [*asked_about, *rng.sample(rows, len(rows))]
    best = list(dict.fromkeys([*anchor.evidence, *others]))[: max(num_shown, len(anchor.evidence))]
    chosen = set() if rng.random() < _NOTHING_SHOWN else set(best)
    shown = [row for row in rows if row in chosen]
    return shown, _questions_about(anchor, askable, chosen, num_questions, rng)


def _quotes(question: Question, record: Record, quoted: Sequence[int], shown: list[int]) -> tuple[Quote, ...]:
    quotes = tuple(_quote(question.question, record, row, shown.index(row) + 1) for row in quoted)
    return quotes or (_looked_for(question.question),)


def oracle_answer_lesson(rng: random.Random, num_worlds: int, num_shown: int, num_questions: int, num_slots: int) -> AnswerLesson:
    """Draws a lesson as `answer_lesson` does, of a bank that the oracle kept and of questions that hold.

    What is quoted is the evidence, and the answer is the gold one; where not all of the evidence is shown, nothing is quoted and nothing
    was mentioned.
    """
    record, _ = draw_world(rng.randrange(num_worlds))
    until = rng.randrange(len(record.facts) // 4, len(record.facts) + 1)
    rows = oracle_banks(record, num_slots)[until]
    askable = [q for q in record.questions if q.asked_after <= until < q.valid_until]
    answerable = [q for q in askable if q.evidence and set(q.evidence) <= set(rows)]
    if not answerable:
        return oracle_answer_lesson(rng, num_worlds, num_shown, num_questions, num_slots)
    shown, questions = _context(rng, record, rows, askable, answerable, num_shown, num_questions)
    replies = []
    for question in questions:
        quoted = question.evidence if set(question.evidence) <= set(shown) else ()
        replies.append((question.question, _quotes(question, record, quoted, shown), question.answer if quoted else NO_ANSWER))
    return AnswerLesson(tuple(_line(record, row) for row in shown), tuple(replies))


def _questions_about(anchor: Question, askable: list[Question], shown: set[int], count: int, rng: random.Random) -> list[Question]:
    """The anchor and other questions that the shown memories answer, repeated where they are few; a quarter that they do not answer."""
    inside = [q for q in askable if q is not anchor and q.evidence and set(q.evidence) <= shown]
    outside = [q for q in askable if q is not anchor and q not in inside]
    unanswered = rng.sample(outside, min(count // 4, len(outside)))
    answered = [anchor, *rng.sample(inside, len(inside))]
    return [*(answered[i % len(answered)] for i in range(count - len(unanswered))), *unanswered]


def manager_lesson(rng: random.Random, num_worlds: int, num_shown: int, num_slots: int) -> ManagerLesson:
    """Draws a lesson in which a fact arrives at a bank that the heuristic kept."""
    record, _ = draw_world(rng.randrange(num_worlds))
    fact = rng.randrange(len(record.facts))
    manager = _managed(record, fact, num_slots, rng)
    target, shown = manager.related(fact), _most_alike(record, manager.rows, fact, num_shown)
    number = shown.index(target) + 1 if target in shown else 0
    odds: dict[str, float] = {}
    for kind, share in HABITS[record.facts[fact].kind].items():
        possible = kind if number or kind in ("add", "noop") else "add"
        odds[possible] = odds.get(possible, 0.0) + share
    return decide(tuple(_line(record, row) for row in shown), _line(record, fact), number, odds, rng)


def _most_alike(record: Record, rows: Sequence[int], fact: int, count: int) -> list[int]:
    """The memories that a Manager is shown of a fact, best first."""
    newest_first = sorted(rows, reverse=True)
    return sorted(newest_first, key=lambda row: -overlap(record.facts[fact].text, record.facts[row].text))[:count]


def oracle_manager_lesson(rng: random.Random, num_worlds: int, num_shown: int, num_slots: int) -> ManagerLesson:
    """Draws a lesson in which a fact arrives at a bank that the oracle kept, and the oracle decides.

    Where the memory that it means is not among those shown, it cannot be named: an UPDATE is then an ADD, a DELETE a NOOP.
    """
    record, _ = draw_world(rng.randrange(num_worlds))
    fact = rng.randrange(len(record.facts))
    rows = oracle_banks(record, num_slots)[fact]
    choice, shown = oracle_choice(record, rows, fact), _most_alike(record, rows, fact, num_shown)
    number = shown.index(choice.target) + 1 if choice.target in shown else 0
    kind = choice.kind if number or choice.target is None else {"update": "add", "delete": "noop"}[choice.kind]
    return decide(tuple(_line(record, row) for row in shown), _line(record, fact), number, {kind: 1.0}, rng)


def decide(memories: tuple[Line, ...], fact: Line, number: int, odds: dict[str, float], rng: random.Random) -> ManagerLesson:
    """Draws what the teacher does this time; `number` is of the memory that it would then mean."""
    (kind,) = rng.choices(list(odds), list(odds.values()))
    return ManagerLesson(memories, fact, kind, 0 if kind in ("add", "noop") else number, odds)


def corpus(num_worlds: int) -> list[str]:
    """All that is said and asked in `num_worlds` training conversations, as lines to train a tokenizer on."""
    lines = []
    for seed in range(num_worlds):
        record, _ = generate(seed, "train", WorldConfig())
        lines += [f"{fact.text} {(f'[{1 + i % 9}]', '|')[i % 2]} {fact.date}" for i, fact in enumerate(record.facts, seed)]
        lines += [text for q in record.questions for text in (q.question, q.answer)]
    return lines
