"""Mem0-like (arXiv 2504.19413): each new fact is compared with the memories like it, and an untrained language model decides.

Kept of the original: the update phase, fact by fact: what is like no memory is ADDed; what adds no information to a memory is left out;
between the two the *base* model, here the untrained Manager, is shown the most similar memories and chooses among the four operations. So
it differs from the warm start's row in the two ends of that scale alone, which the paper's algorithm decides by likeness. Both ends are
read off words, without a threshold: a fact is like no memory if it shares no word with any but the names of those who speak, and adds
nothing if one memory has all of its words. Left out: the extraction of facts, which are given here, the graph (Mem0-g), embeddings. The
original shows the model ten memories; here it sees as many as the other Managers. It knows no capacity; here the slots are those of all.
"""

import functools
from collections import Counter
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from mr1jax.agents.manager import MAX_OPERATIONS, text_terms
from mr1jax.agents.play import decide, fact_at
from mr1jax.agents.prompts import Language
from mr1jax.config import Config, replace
from mr1jax.data.records import Record
from mr1jax.evaluate import OPERATIONS, Memories
from mr1jax.memory.bank import apply_operation, init_bank
from mr1jax.structs import NO_SLOT, Array, Conversation, MemoryBank, Operation, OperationKind, PyTree
from mr1jax.text.tokenizer import text_reader
from mr1jax.text.words import words

ASK, ADD, NOOP = 0, 1, 2  # what is done with a fact: the model is asked, or it is decided without


def gate(fact: str, memories: Sequence[str], speakers: Sequence[str]) -> int:
    """Decides a fact that is like no memory, ADD, or that adds nothing to one, NOOP; else ASK."""
    own, names = set(words(fact)), set(words(" ".join(speakers)))
    known = [set(words(memory)) for memory in memories]
    if any(own <= each for each in known):
        return NOOP
    return ASK if any((own & each) - names for each in known) else ADD


def banks(params: PyTree, conversations: Conversation, records: Sequence[Record], language: Language, config: Config) -> Memories:
    """Plays the conversations through gate and Manager, fact by fact from empty banks; params: of the untrained Manager."""
    text_of, counts = text_reader(language.table), Counter(dict.fromkeys(OPERATIONS, 0))
    bank_C = jax.tree.map(lambda x: np.broadcast_to(x, (len(records), *x.shape)), init_bank(config.bank))
    for t in range(conversations.fact_length.shape[1]):
        gate_C = np.full(len(records), NOOP, np.int32)
        for place, record in enumerate(records):
            if t < len(record.facts):
                memories = [text_of(bank_C.tokens[place, s], bank_C.length[place, s]) for s in np.flatnonzero(bank_C.occupied[place])]
                gate_C[place] = gate(record.facts[t].text, memories, record.speakers)
        bank_C, counts_C = jax.device_get(_turn(params, bank_C, gate_C, conversations, t, language, config))
        counts.update({name: int(counts_C[name].sum()) for name in OPERATIONS})
    return Memories(bank_C, dict(counts))


@functools.partial(jax.jit, static_argnames="config")
def _turn(
    params: PyTree, bank_C: MemoryBank, gate_C: Array, conversations: Conversation, t: Array, language: Language, config: Config
) -> tuple[MemoryBank, dict[str, Array]]:
    """Does with fact t of each conversation what its gate says; returns the banks and what each did, float32[C] a kind."""
    asked_C, counts_C = decide(params, bank_C, conversations, t, jax.random.key(0), language, config)
    fact = fact_at(conversations, t)
    terms_CM = jax.vmap(lambda tokens, length: text_terms(language.table, tokens, length, config.bank.num_terms))(fact.tokens, fact.length)
    add = Operation(
        kind=jnp.full_like(fact.length, OperationKind.ADD),
        slot=jnp.full_like(fact.length, NO_SLOT),
        tokens=fact.tokens,
        length=fact.length,
        terms=terms_CM,
        speaker=fact.speaker,
        time=fact.time,
    )
    added_C, _ = jax.vmap(functools.partial(apply_operation, when_full=config.bank.when_full))(bank_C, add)
    left_C = replace(bank_C, clock=bank_C.clock + MAX_OPERATIONS)

    def pick(asked, added, left):
        gate = gate_C.reshape(-1, *[1] * (asked.ndim - 1))
        return jnp.select([gate == ASK, gate == ADD], [asked, added], left)

    said_C = fact.length > 0
    counts_C = {name: jnp.where(gate_C == ASK, count_C, 0.0) for name, count_C in counts_C.items()}
    counts_C["add"] += (gate_C == ADD) & said_C
    counts_C["noop"] += (gate_C == NOOP) & said_C
    return jax.tree.map(pick, asked_C, added_C, left_C), counts_C
