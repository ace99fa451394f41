"""Scores, rankings and what is read through them, against plain Python over lists of words."""

import collections
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference_bank import EMBEDDING_SIZE, NUM_SLOTS, NUM_TERMS, WIDTH, with_junk

from mr1jax.memory.retrieval import bm25, cosine, fuse, gather, gather_times, in_order_written, relevance, retrieve, retrieve_per_speaker
from mr1jax.structs import NEVER, NO_SLOT, NO_TERM, PAD, MemoryBank, Retrieval

NUM = 4  # more than some of the random banks hold, and of one speaker more than most do


def random_bank(rng, num_slots=NUM_SLOTS):
    """A bank of random memories, each written at its own time, of which about half are there: none now and then, all now and then."""
    numbers = {name: rng.integers(0, 40, num_slots) for name in ("length", "created", "updated")}
    return MemoryBank(
        tokens=jnp.asarray(rng.integers(1, 99, (num_slots, WIDTH)), jnp.int32),
        occupied=jnp.asarray(rng.random(num_slots) < rng.choice([0.0, 0.5, 0.5, 1.0])),
        terms=jnp.asarray(rng.integers(0, 8, (num_slots, NUM_TERMS)), jnp.int32),
        speaker=jnp.asarray(rng.integers(0, 2, num_slots), jnp.int32),
        written=jnp.asarray(rng.permutation(num_slots), jnp.int32),
        clock=jnp.int32(num_slots),
        embedding=jnp.asarray(rng.normal(size=(num_slots, EMBEDDING_SIZE)), jnp.float32),
        **{name: jnp.asarray(column, jnp.int32) for name, column in numbers.items()},
    )


def random_query(rng, num_words=5):
    """Hashed words of a query: some asked twice, some in no memory, some NO_TERM."""
    return jnp.asarray(rng.integers(0, 10, num_words), jnp.int32)


def tied_scores(rng, num_slots=NUM_SLOTS):
    return jnp.asarray(rng.integers(0, 3, num_slots), jnp.float32)


jit_bm25 = jax.jit(bm25)
jit_retrieve = jax.jit(retrieve, static_argnums=2)


@jax.jit
def read(bank, query_X, query_E):
    """All that a reader can learn of a bank."""
    lexical_S = bm25(bank.terms, bank.occupied, query_X)
    found = [
        retrieve(lexical_S, bank.occupied, NUM, bank.written),
        retrieve(cosine(bank.embedding, query_E), bank.occupied, NUM),
        retrieve_per_speaker(lexical_S, bank, NUM),
        retrieve(relevance(bank, query_X, query_E, "hybrid"), bank.occupied, NUM, bank.written),
    ]
    shown = [in_order_written(bank, retrieval) for retrieval in found]
    return lexical_S, found, shown, [(gather(bank, retrieval), gather_times(bank, retrieval)) for retrieval in found]


def plain_bm25(memories, query):
    """Scores lists of words by Robertson's formula, dictionaries only; `memories` maps a slot to its words."""
    counts = {slot: collections.Counter(words) for slot, words in memories.items()}
    mean_length = sum(map(len, memories.values())) / len(memories) if memories else 0
    scores = dict.fromkeys(memories, 0.0)
    for word in query:
        having = [slot for slot in memories if word in counts[slot]]
        idf = math.log(1 + (len(memories) - len(having) + 0.5) / (len(having) + 0.5))
        for slot in having:
            often, length = counts[slot][word], len(memories[slot])
            scores[slot] += idf * often * 2.2 / (often + 1.2 * (0.25 + 0.75 * length / mean_length))
    return scores


def plain_best(scores, allowed, num, newest=None):
    """The `num` best of the allowed slots as a list; of equal scores the newest first, or the lowest slot."""
    return sorted(allowed, key=lambda slot: (-scores[slot], -newest[slot] if newest else slot))[:num]


def slots_of(retrieval):
    """The slots of a retrieval as a list, after checking that all of them are at the front and that nothing stands behind them."""
    mask = retrieval.mask.tolist()
    num = sum(mask)
    assert mask == [True] * num + [False] * (len(mask) - num)
    assert retrieval.slot.tolist()[num:] == [NO_SLOT] * (len(mask) - num)
    assert retrieval.score.tolist()[num:] == [0.0] * (len(mask) - num)
    return retrieval.slot.tolist()[:num]


def occupied_slots(bank, speaker=None):
    return [slot for slot in range(NUM_SLOTS) if bank.occupied[slot] and speaker in (None, int(bank.speaker[slot]))]


def assert_trees_equal(left, right):
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(np.asarray(a), np.asarray(b)), left, right)


@pytest.mark.parametrize(("num_slots", "num_terms", "num_words"), [(6, 3, 5), (50, 12, 9)])
def test_bm25_is_the_formula(num_slots, num_terms, num_words):
    """Oracle: `plain_bm25`, on 100 random banks; words repeat in memories and in queries, and banks may be empty."""
    rng = np.random.default_rng(0)
    for _ in range(100):
        terms = rng.integers(0, 15, (num_slots, num_terms))
        occupied = rng.random(num_slots) < rng.choice([0.0, 0.4, 1.0])
        query = rng.integers(0, 18, num_words)
        memories = {slot: [word for word in terms[slot].tolist() if word != NO_TERM] for slot in np.flatnonzero(occupied)}
        expected = plain_bm25(memories, [word for word in query.tolist() if word != NO_TERM])
        score = jit_bm25(jnp.asarray(terms, jnp.int32), jnp.asarray(occupied), jnp.asarray(query, jnp.int32))
        np.testing.assert_allclose(score, [expected.get(slot, 0.0) for slot in range(num_slots)], rtol=1e-5, atol=1e-6)


def test_bm25_by_hand():
    """Oracle: arithmetic. Two memories of two words each, so every length is the mean and the fraction is 2.2 f / (f + 1.2).

    Word 7 is in one memory of two, twice: ln(1 + 1.5 / 1.5) * 4.4 / 3.2 = ln 2 * 1.375.
    Word 8 is in the other, once: ln 2 * 2.2 / 2.2 = ln 2.
    """
    score = jit_bm25(jnp.array([[7, 7], [8, 9]]), jnp.array([True, True]), jnp.array([7, 8]))
    np.testing.assert_allclose(score, [math.log(2) * 1.375, math.log(2)], rtol=1e-5)


def test_cosine():
    """Oracle: geometry. Along, across, against at any length, and the zero vector."""
    embedding = jnp.array([[3.0, 0.0], [0.0, 2.0], [-1.0, 0.0], [0.5, 0.5], [0.0, 0.0]])
    np.testing.assert_allclose(cosine(embedding, jnp.array([2.0, 0.0])), [1, 0, -1, math.sqrt(0.5), 0], atol=1e-6)
    np.testing.assert_array_equal(cosine(embedding, jnp.zeros(2)), jnp.zeros(5))


def plain_fusion(ways):
    """Adds 1 / (60 + rank) over dictionaries {slot: score}; a rank is one more than how many are better."""
    slots = set().union(*ways)
    ranks = [{slot: 1 + sum(other > way[slot] for other in way.values()) for slot in way} for way in ways]
    return {slot: sum(1 / (60 + rank[slot]) for rank in ranks if slot in rank) for slot in slots}


def test_fusion_is_the_formula():
    """Oracle: `plain_fusion`, on 50 random pairs of scores of which many are equal, and slots that one way or both do not list."""
    rng = np.random.default_rng(9)
    for _ in range(50):
        score_NS, listed_NS = rng.integers(-3, 4, (2, 9)).astype(np.float32), rng.random((2, 9)) < rng.choice([0.2, 0.8])
        ways = [dict(zip(np.flatnonzero(row), score[row].tolist(), strict=True)) for row, score in zip(listed_NS, score_NS, strict=True)]
        expected = plain_fusion(ways)
        got = fuse(jnp.asarray(score_NS), jnp.asarray(listed_NS))
        np.testing.assert_allclose(got, [expected.get(slot, 0.0) for slot in range(9)], rtol=1e-6)


def test_fusion_by_hand():
    """Oracle: arithmetic. The second slot is first by words and second by meaning, the third not found by words, and first by meaning."""
    score = fuse(jnp.array([[1.0, 5.0, 0.0], [0.1, 0.5, 0.9]]), jnp.array([[True, True, False], [True] * 3]))
    np.testing.assert_allclose(score, [1 / 62 + 1 / 63, 1 / 61 + 1 / 62, 1 / 61], rtol=1e-6)


def test_relevance_is_what_it_is_called():
    """Oracle: `plain_bm25`, numpy's cosine and `plain_fusion` of both, where a memory without a word of the query is not found by words."""
    rng = np.random.default_rng(10)
    for _ in range(20):
        bank, query_X, query_E = random_bank(rng), random_query(rng), jnp.asarray(rng.normal(size=EMBEDDING_SIZE), jnp.float32)
        there = occupied_slots(bank)
        memories = {slot: [word for word in bank.terms[slot].tolist() if word != NO_TERM] for slot in there}
        words = plain_bm25(memories, [word for word in query_X.tolist() if word != NO_TERM])
        vectors = np.asarray(bank.embedding)
        meaning = {s: vectors[s] @ query_E / np.linalg.norm(vectors[s]) / np.linalg.norm(query_E) for s in there}
        expected = {"lexical": words, "dense": meaning, "hybrid": plain_fusion([{s: x for s, x in words.items() if x > 0}, meaning])}
        for kind, scores in expected.items():
            got = relevance(bank, query_X, query_E, kind)
            np.testing.assert_allclose([got[slot] for slot in there], [scores[slot] for slot in there], rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="^dense retrieval reads embeddings, and the bank or the query has none; use lexical retrieval$"):
        relevance(bank, query_X, None, "dense")
    with pytest.raises(ValueError, match="^hybrid retrieval reads"):
        relevance(bank.replace(embedding=None), query_X, query_E, "hybrid")


@pytest.mark.parametrize("num", [1, NUM, NUM_SLOTS + 2])
def test_retrieve_is_a_sort(num):
    """Oracle: Python's `sorted` over allowed slots, with many equal scores, fewer slots than asked for, and more asked for than slots."""
    rng = np.random.default_rng(1)
    for _ in range(30):
        bank, score = random_bank(rng), tied_scores(rng)
        scores, written = score.tolist(), bank.written.tolist()
        allowed = occupied_slots(bank)
        newest_first = jit_retrieve(score, bank.occupied, num, bank.written)
        assert slots_of(newest_first) == plain_best(scores, allowed, num, written)
        assert newest_first.score.tolist()[: len(allowed)] == [scores[slot] for slot in slots_of(newest_first)]
        assert slots_of(jit_retrieve(score, bank.occupied, num)) == plain_best(scores, allowed, num)


def test_negative_scores_are_scores():
    """Oracle: hand. A memory against the query still comes before no memory at all."""
    found = retrieve(jnp.array([-0.5, 0.9, -0.1]), jnp.array([True, False, True]), 3)
    assert slots_of(found) == [2, 0]


def test_each_speaker_has_a_share():
    """Oracle: `sorted` for each speaker apart, then over the winners of both."""
    rng = np.random.default_rng(2)
    per_speaker = jax.jit(retrieve_per_speaker, static_argnums=2)
    for _ in range(50):
        bank, score = random_bank(rng), tied_scores(rng)
        scores, written = score.tolist(), bank.written.tolist()
        winners = [slot for speaker in (0, 1) for slot in plain_best(scores, occupied_slots(bank, speaker), 2, written)]
        assert slots_of(per_speaker(score, bank, 2)) == plain_best(scores, winners, 4, written)


def test_gather_reads_what_is_there():
    """Oracle: list indexing; PAD, 0 and NEVER where the mask is False, though the sentinel slot has text, a length and a date."""
    rng = np.random.default_rng(3)
    bank = random_bank(rng)
    retrieval = Retrieval(jnp.array([4, 1, NO_SLOT]), jnp.array([2.0, 1.0, 0.0]), jnp.array([True, True, False]))
    tokens, length = gather(bank, retrieval)
    created, updated = gather_times(bank, retrieval)
    assert tokens.tolist() == [bank.tokens[4].tolist(), bank.tokens[1].tolist(), [PAD] * WIDTH]
    assert length.tolist() == [*bank.length[jnp.array([4, 1])].tolist(), 0]
    assert created.tolist() == [*bank.created[jnp.array([4, 1])].tolist(), NEVER]
    assert updated.tolist() == [*bank.updated[jnp.array([4, 1])].tolist(), NEVER]


def test_order_written_keeps_the_rank():
    """Oracle: `sorted` by the clock of the write; the rank of a memory is its place in the best-first list, here by `list.index`."""
    rng = np.random.default_rng(4)
    ordered = jax.jit(in_order_written)
    for _ in range(30):
        bank = random_bank(rng)
        retrieval = jit_retrieve(tied_scores(rng), bank.occupied, NUM, bank.written)
        best_first = slots_of(retrieval)
        shown, rank = ordered(bank, retrieval)
        assert slots_of(shown) == sorted(best_first, key=lambda slot: int(bank.written[slot]))
        assert rank.tolist()[: len(best_first)] == [best_first.index(slot) for slot in slots_of(shown)]
        assert sorted(rank.tolist()) == list(range(NUM))
        np.testing.assert_array_equal(shown.score, retrieval.score[rank])


def test_junk_in_empty_slots_changes_nothing():
    """Oracle: the same readings of the same bank without junk, bit for bit, on 50 random banks."""
    rng = np.random.default_rng(5)
    for _ in range(50):
        bank, query = random_bank(rng), (random_query(rng), jnp.asarray(rng.normal(size=EMBEDDING_SIZE), jnp.float32))
        assert_trees_equal(read(with_junk(bank, rng), *query), read(bank, *query))


def test_vmap_is_a_loop():
    """Oracle: one bank at a time; the same order, and scores equal to rounding."""
    rng = np.random.default_rng(6)
    examples = [(random_bank(rng), random_query(rng), jnp.ones(EMBEDDING_SIZE)) for _ in range(8)]
    together = jax.jit(jax.vmap(read))(*jax.tree.map(lambda *leaves: jnp.stack(leaves), *examples))
    for index, example in enumerate(examples):
        row = jax.tree.map(lambda leaf, index=index: leaf[index], together)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), row, read(*example))


def test_jit_changes_nothing():
    """Oracle: the same ranking without jit; the same order, and scores equal to rounding."""
    rng = np.random.default_rng(7)
    bank, query = random_bank(rng), random_query(rng)
    score = bm25(bank.terms, bank.occupied, query)
    np.testing.assert_allclose(score, jit_bm25(bank.terms, bank.occupied, query), rtol=1e-5, atol=1e-6)
    assert_trees_equal(retrieve(score, bank.occupied, NUM, bank.written), jit_retrieve(score, bank.occupied, NUM, bank.written))


def test_types_are_exact():
    """Oracle: JAX's strict promotion, and the types that `Retrieval` states."""
    rng = np.random.default_rng(8)
    with jax.numpy_dtype_promotion("strict"):
        lexical, found, shown, readings = jax.eval_shape(read, random_bank(rng), random_query(rng), jnp.ones(EMBEDDING_SIZE))
    assert lexical.dtype == jnp.float32
    for retrieval in [*found, *(retrieval for retrieval, _ in shown)]:
        assert (retrieval.slot.dtype, retrieval.score.dtype, retrieval.mask.dtype) == (jnp.int32, jnp.float32, jnp.bool_)
    assert {leaf.dtype for leaf in jax.tree.leaves(readings)} == {jnp.dtype(jnp.int32)}
