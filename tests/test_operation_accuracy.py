"""Operations held against memdial's oracle: a Manager whose operations are written down, its score worked out by hand."""

import jax
import numpy as np
import pytest
from reference_bank import NUM_SLOTS
from tiny import CONFIG, LANGUAGE, TOKENIZER, params, row, unoptimised  # noqa: F401

from mr1jax import evaluate, operation_accuracy
from mr1jax.agents.manager import text_terms
from mr1jax.agents.rollout import count_operations
from mr1jax.data.records import Fact, Record
from mr1jax.memory.bank import apply_operations
from mr1jax.prepare import Start, encode
from mr1jax.structs import NO_SLOT, Operation, OperationKind

NOOP, ADD, UPDATE, DELETE = OperationKind
NOTHING = (NOOP, NO_SLOT, "")
# Text, kind, the fact it is about; the two operations of the response; what the oracle does there; whether all of it is right.
PLAYED = (
    ("Mia likes tea", "new", "", (NOTHING, (ADD, NO_SLOT, "Mia likes tea")), "add", "add", True),  # slot 0
    ("Ben sees Zoe", "chatter", "", (NOTHING, (ADD, NO_SLOT, "Ben sees Zoe")), "noop", "add", False),  # slot 1
    ("Mia likes jazz", "change", "0", (NOTHING, (UPDATE, 0, "Mia likes jazz")), "update", "update", True),
    ("Mia likes chess", "change", "2", (NOTHING, (UPDATE, 1, "Mia likes chess")), "update", "update", False),  # over the chatter
    ("Ben plays tea", "new", "", (NOTHING, (ADD, NO_SLOT, "Ben plays blue")), "add", "add", False),  # slot 2, and not what was said
    ("Ben plays jazz", "correct", "4", ((DELETE, 2, ""), (ADD, NO_SLOT, "Ben plays jazz")), "update", "update", True),
    ("Mia the chess", "end", "3", ((DELETE, 1, ""), NOTHING), "update", "delete", False),  # 2 comes to light
    ("Mia the chess", "end", "3", ((DELETE, 0, ""), NOTHING), "delete", "delete", True),  # it is the last of its thread
    ("Ben plays jazz", "repeat", "5", (NOTHING, NOTHING), "noop", "noop", True),
    ("Zoe sees blue", "event", "", (NOTHING, (UPDATE, 4, "Zoe sees blue")), "add", "refused", False),
)
RECORDS = tuple(
    Record(f"played {n}", ("Mia", "Ben"), tuple(Fact(p[0], 0, "1 May", p[2], p[1]) for p in PLAYED[:n]), ()) for n in (len(PLAYED), 3)
)


@pytest.fixture(scope="module")
def start():
    return Start(CONFIG, {"manager": params(4, 4.0), "answerer": params(2)}, TOKENIZER, LANGUAGE)


@pytest.fixture(scope="module")
def conversations(start):
    return encode(RECORDS, start)


def play(_, bank_C, conversations, t, language, config):
    """What `_decide` returns, of a Manager that answers fact t as PLAYED says; a conversation without such a fact is left as it is."""

    def one(bank, length):
        kinds, slots, texts = zip(*PLAYED[t][3], strict=True)
        tokens, lengths = map(np.stack, zip(*(row(text, config.bank.slot_width) for text in texts), strict=True))
        lengths = np.where(np.array(texts) == "", 0, lengths).astype(np.int32)
        terms = np.stack([text_terms(language.table, *each, config.bank.num_terms) for each in zip(tokens, lengths, strict=True)])
        none = np.zeros(2, np.int32)
        operations = Operation(np.array(kinds, np.int32), np.array(slots, np.int32), tokens, lengths, terms, none, none)
        after, status = apply_operations(bank, operations, when_full="evict_oldest")
        counts = count_operations(operations.kind, status)
        return (after, counts) if length else (bank, jax.tree.map(np.zeros_like, counts))

    played = [one(jax.tree.map(lambda x, i=i: x[i], bank_C), conversations.fact_length[i, t]) for i in range(len(RECORDS))]
    return jax.tree.map(lambda *leaves: np.stack(leaves), *played)


def test_every_operation_is_held_against_the_bank_it_met(monkeypatch, start, conversations):
    """Oracle: the table above, written by hand; the second conversation is its first three facts again."""
    monkeypatch.setattr(operation_accuracy, "_decide", play)
    got = operation_accuracy.operation_accuracy(None, conversations, RECORDS, LANGUAGE, CONFIG)
    told = [*PLAYED, *PLAYED[:3]]
    confusion = {right: dict.fromkeys(evaluate.OPERATIONS, 0) for right in ("add", "update", "delete", "noop")}
    for _, _, _, _, right, chosen, _ in told:
        confusion[right][chosen] += 1
    assert got.confusion == confusion
    assert got.kind == pytest.approx(np.mean([p[4] == p[5] for p in told]))
    assert got.to_the_letter == pytest.approx(np.mean([p[6] for p in told]))
    assert got.by_fact == pytest.approx(
        {kind: np.mean([p[4] == p[5] for p in told if p[1] == kind]) for kind in dict.fromkeys(p[1] for p in told)}
    )


def test_the_replay_is_the_managers_own(start, conversations):
    """Oracle: `evaluate.build_banks`: as many decisions added, deleted, did nothing or were refused, a DELETE with an ADD being both."""
    got = operation_accuracy.operation_accuracy(start.params["manager"], conversations, RECORDS, LANGUAGE, CONFIG)
    chosen = {kind: sum(row[kind] for row in got.confusion.values()) for kind in evaluate.OPERATIONS}
    done = evaluate.build_banks(start.params["manager"], conversations, LANGUAGE, CONFIG).operations
    assert sum(chosen.values()) == sum(len(record.facts) for record in RECORDS)
    assert chosen["noop"] == done["noop"]
    assert chosen["add"] <= done["add"] <= chosen["add"] + chosen["update"] + chosen["refused"]
    assert done["add"] > 0


def test_what_a_full_bank_loses_was_not_chosen(monkeypatch, start):
    """Oracle: by hand: new facts are ADDed, more than there are slots, and all of it is right."""
    texts = [f"{who} {does} {what}" for who in ("Mia", "Ben") for does in ("likes", "sees") for what in ("tea", "jazz")]
    assert len(texts) > NUM_SLOTS
    monkeypatch.setitem(globals(), "PLAYED", tuple((t, "new", "", (NOTHING, (ADD, NO_SLOT, t)), "add", "add", True) for t in texts))
    monkeypatch.setitem(globals(), "RECORDS", (Record("full", ("Mia", "Ben"), tuple(Fact(t, 0, "1 May", "", "new") for t in texts), ()),))
    monkeypatch.setattr(operation_accuracy, "_decide", play)
    got = operation_accuracy.operation_accuracy(None, encode(RECORDS, start), RECORDS, LANGUAGE, CONFIG)
    assert (got.kind, got.to_the_letter) == (1.0, 1.0)
