"""Which states the Manager trains on: a bank that somebody kept up to a turn, the fact of that turn, and the questions it can decide.

The paper has another model build the bank that precedes a turn (Memory-R1, arXiv 2508.19828, algorithm 1). In memdial the teacher's
heuristic builds it, more or less tidily, so that the Manager meets the banks it will leave itself as it learns, not only those of its
start; elsewhere the bank holds the facts that came last. Indices of facts and questions only: tokens come later.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from mr1jax.data.memdial.teacher import HABITS, Choice, HeuristicManager, overlap
from mr1jax.data.records import Record


@dataclass(frozen=True)
class ManagerState:
    """rows: facts in the bank, in the order they were written; fact: the one that arrives; questions: to be asked after it."""

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


def linked_questions(record: Record, rows: Sequence[int], turn: int, count: int, rng: random.Random) -> tuple[int, ...]:
    """Chooses at most `count` questions that the operation at `turn` can decide.

    One that rests on the new fact: lost where it is not written. One on the memory written longest ago: lost where a full bank ADDs, which
    an UPDATE of what the fact replaces spares. Then one on each memory like the fact, the most alike and newest first, as the Manager is
    shown them: lost where it drops or overwrites that one. (Where some of these go unasked, to drop them is what is learnt.) Only questions
    that hold right after the turn and that the bank can then answer.
    """
    said, text = turn + 1, record.facts[turn].text
    known = {*rows, turn}
    valid = [i for i, q in enumerate(record.questions) if q.evidence and q.asked_after <= said < q.valid_until]
    valid = [i for i in rng.sample(valid, len(valid)) if known.issuperset(record.questions[i].evidence)]  # ties are broken at random
    about_fact = [i for i in valid if turn in record.questions[i].evidence]
    on_memory = [[i for i in valid if row in record.questions[i].evidence and i not in about_fact] for row in rows]
    oldest = next(filter(None, on_memory), [])
    alike = sorted(range(len(rows)), key=lambda k: (-overlap(text, record.facts[rows[k]].text), -k))
    one_each = [on_memory[k][0] for k in alike if on_memory[k]]
    others = [i for k in alike for i in on_memory[k]]
    return tuple(dict.fromkeys([*about_fact[:1], *oldest[:1], *one_each, *about_fact, *others]))[:count]


def manager_states(records: Sequence[Record], num_slots: int, num_questions: int, seed: int) -> list[ManagerState]:
    """Lists states of three kinds: a full bank and a fact that is asked about; a full bank and one that is not, where an ADD would
    overwrite what is asked about; a bank with room. As many of each, drawn at random.

    Where most states ask for an ADD, to ADD whatever comes is learnt before what tells facts apart; where half of them ask for none, to
    ADD nothing is. And where every bank is full, to DELETE a memory that nobody asks about only makes room, and a Manager learns to
    DELETE whatever it is shown; where there is room, that has its price. Conversations that fit their banks have states of the last kind
    alone: all count whose fact is asked about.
    """
    asked: list[ManagerState] = []
    overwriting: list[ManagerState] = []
    roomy: list[ManagerState] = []
    for number, record in enumerate(records):
        rng = random.Random(f"states/{seed}/{record.id}")
        for turn, rows in enumerate(_rows_before(record, num_slots, rng)):
            questions = linked_questions(record, rows, turn, num_questions, rng)
            state = ManagerState(number, rows, turn, questions)
            about_fact = _rests_on(turn, record, questions)
            if len(rows) < num_slots:
                roomy += [state] if about_fact or (questions and len(record.facts) > num_slots) else []
            elif about_fact:
                asked.append(state)
            elif _rests_on(rows[0], record, questions):
                overwriting.append(state)
    rng, count = random.Random(f"states/{seed}"), min(len(asked), len(overwriting))
    if not count:
        return [*asked, *overwriting, *roomy]
    return [state for states in (asked, overwriting, roomy) for state in rng.sample(states, min(count, len(states)))]


def _rests_on(fact: int, record: Record, questions: Sequence[int]) -> bool:
    return any(fact in record.questions[i].evidence for i in questions)
