"""Which states the Manager trains on: a bank that somebody kept up to a turn, the fact of that turn, and the questions it can decide.

The paper has another model build the bank that precedes a turn (Memory-R1, arXiv 2508.19828, algorithm 1). In memdial the teacher's
heuristic builds it, more or less tidily, so that the Manager meets the banks it will leave itself as it learns, not only those of its
start; elsewhere the bank holds the facts that came last. Indices of facts and questions only: tokens come later.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from mr1jax.data.memdial.teacher import HABITS, Choice, HeuristicManager, overlap
from mr1jax.data.records import Record


@dataclass(frozen=True)
class ManagerState:
    """rows: facts in the bank, in the order they were written; fact: the one that arrives, or that is compared after a lead; questions: to
    be asked after it, or after the turns that are played on."""

    record: int
    rows: tuple[int, ...]
    fact: int
    questions: tuple[int, ...]


def _rows_before(record: Record, num_slots: int, rng: random.Random) -> list[tuple[int, ...]]:
    """The bank before each turn of a conversation."""
    if not all(fact.kind in HABITS for fact in record.facts):
        return [tuple(range(max(0, turn - num_slots), turn)) for turn in range(len(record.facts))]
    manager, before = HeuristicManager(record, num_slots, rng), []
    tidiness = rng.random()  # the share of the chatter that the heuristic would keep and this bank does without
    for turn, fact in enumerate(record.facts):
        before.append(tuple(manager.rows))
        choice = manager.choose(turn)
        manager.apply(turn, Choice("noop") if fact.kind == "chatter" and rng.random() < tidiness else choice)
    return before


def first_facts(record: Record, count: int) -> Record:
    """Cuts a conversation after `count` facts; what is asked only later is left out. 0 leaves it whole."""
    if not count:
        return record
    questions = [q for q in record.questions if q.asked_after <= count and all(fact < count for fact in q.evidence)]
    return replace(record, facts=record.facts[:count], questions=tuple(questions))


def linked_questions(record: Record, rows: Sequence[int], turn: int, count: int, rng: random.Random, horizon: int = 0) -> tuple[int, ...]:
    """Chooses at most `count` questions that the operation at `turn` can decide, and those at the `horizon` turns after it.

    One that rests on each new fact: lost where it is not written. One on the memory written longest ago: lost where a full bank ADDs, which
    an UPDATE of what the fact replaces spares. Then one on each memory like the fact, the most alike and newest first, as the Manager is
    shown them: lost where it drops or overwrites that one. (Where some of these go unasked, to drop them is what is learnt.) Only questions
    that hold right after the last of these turns and that the bank can then answer.
    """
    said, text = min(turn + horizon + 1, len(record.facts)), record.facts[turn].text
    known = {*rows, *range(turn, said)}
    valid = [i for i, q in enumerate(record.questions) if q.evidence and q.asked_after <= said < q.valid_until]
    valid = [i for i in rng.sample(valid, len(valid)) if known.issuperset(record.questions[i].evidence)]  # ties are broken at random
    on_fact = [[i for i in valid if fact in record.questions[i].evidence] for fact in range(turn, said)]
    about_fact = [i for about in on_fact for i in about]
    on_memory = [[i for i in valid if row in record.questions[i].evidence and i not in about_fact] for row in rows]
    oldest = next(filter(None, on_memory), [])
    alike = sorted(range(len(rows)), key=lambda k: (-overlap(text, record.facts[rows[k]].text), -k))
    one_each = [on_memory[k][0] for k in alike if on_memory[k]]
    others = [i for k in alike for i in on_memory[k]]
    newest = [about[0] for about in on_fact if about]
    return tuple(dict.fromkeys([*newest, *oldest[:1], *one_each, *about_fact, *others]))[:count]


def manager_states(
    records: Sequence[Record], num_slots: int, num_questions: int, seed: int, horizon: int = 0, lead: int = 0
) -> list[ManagerState]:
    """Lists states of three kinds: a full bank and a fact that is asked about; a full bank and one that is not, where an ADD would
    overwrite what is asked about; a bank with room. As many of each, drawn at random.

    Where most states ask for an ADD, to ADD whatever comes is learnt before what tells facts apart; where half of them ask for none, to
    ADD nothing is. And where every bank is full, to DELETE a memory that nobody asks about only makes room, and a Manager learns to
    DELETE whatever it is shown; where there is room, that has its price. Conversations that fit their banks have states of the last kind
    alone: all count whose fact is asked about.

    After each of them `horizon` turns are played on: only turns that have so many after them are taken, or the first, where the bank is
    empty; so with a horizon as long as the conversation that is all there is. The bank is the one `lead` turns before, and all else is as
    if that were none.
    """
    asked: list[ManagerState] = []
    overwriting: list[ManagerState] = []
    roomy: list[ManagerState] = []
    for number, record in enumerate(records):
        rng = random.Random(f"states/{seed}/{record.id}")
        before = _rows_before(record, num_slots, rng)
        for turn, rows in enumerate(before[: max(1, len(before) - horizon)]):
            questions = linked_questions(record, rows, turn, num_questions, rng, horizon)
            state = ManagerState(number, before[max(0, turn - lead)], turn, questions)
            about_fact = _rests_on(range(turn, turn + 1), record, questions)
            if len(rows) < num_slots:
                about_any = _rests_on(range(turn, turn + horizon + 1), record, questions)
                roomy += [state] if about_any or (questions and len(record.facts) > num_slots) else []
            elif about_fact:
                asked.append(state)
            elif _rests_on(rows[:1], record, questions):
                overwriting.append(state)
    rng, count = random.Random(f"states/{seed}"), min(len(asked), len(overwriting))
    if not count:
        return [*asked, *overwriting, *roomy]
    return [state for states in (asked, overwriting, roomy) for state in rng.sample(states, min(count, len(states)))]


def _rests_on(facts: Sequence[int], record: Record, questions: Sequence[int]) -> bool:
    return any(fact in record.questions[i].evidence for i in questions for fact in facts)
