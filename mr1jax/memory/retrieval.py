"""Readers of a memory bank: score the slots, keep the best, gather what they hold. The writers are in `bank`.

Every function takes one bank and is pure. Whatever comes out of an unoccupied slot is masked here, so that no stale memory can reach
a prompt. X counts the hashed words of a query.
"""

import chex
import jax
import jax.numpy as jnp
from jax import lax

from mr1jax.config import RetrievalKind
from mr1jax.structs import NEVER, NO_SLOT, NO_TERM, PAD, Array, MemoryBank, Retrieval

NUM_SPEAKERS = 2  # a conversation is between speaker 0 and speaker 1
_BM25_K1 = 1.2  # how soon a repeated word stops counting
_BM25_B = 0.75  # how much a long memory pays for its length
_RRF_K = 60.0  # how little the very first places count more than the next


def bm25(terms_SM: Array, occupied_S: Array, query_terms_X: Array) -> Array:
    """Scores every occupied slot by the words it shares with a query; float32[S], 0 where nothing is shared or nothing is there.

        score(s) = sum over x of idf(x) * f(x, s) (k1 + 1) / (f(x, s) + k1 (1 - b + b |s| / mean |s|))
        idf(x)   = ln(1 + (N - n(x) + 1/2) / (n(x) + 1/2))

    f(x, s) is how often slot s has query word x, |s| its number of words, n(x) the slots that have x, N the occupied slots.
    A word asked twice counts twice; NO_TERM is no word on either side.
    Source: Robertson and Zaragoza, The Probabilistic Relevance Framework: BM25 and Beyond (2009), section 3.4. Theirs has no 1 + in the
    logarithm, so that a word of more than half of the memories would count against a memory that has it.
    """
    chex.assert_equal_shape_prefix([terms_SM, occupied_S], 1)
    # Column by column: XLA on a CPU runs one sum of M comparisons several times as fast as a reduction over [S, M, X].
    count_SX = sum((column_S[:, None] == query_terms_X[None, :]).astype(jnp.float32) for column_S in terms_SM.T)
    count_SX = jnp.where(occupied_S[:, None] & (query_terms_X != NO_TERM)[None, :], count_SX, 0.0)
    words_S = jnp.sum((terms_SM != NO_TERM) & occupied_S[:, None], axis=1, dtype=jnp.float32)

    num_occupied = jnp.sum(occupied_S, dtype=jnp.float32)
    having_X = jnp.sum(count_SX > 0, axis=0, dtype=jnp.float32)
    idf_X = jnp.log1p((num_occupied - having_X + 0.5) / (having_X + 0.5))
    relative_length_S = words_S * num_occupied / jnp.maximum(jnp.sum(words_S), 1.0)
    saturation_S = _BM25_K1 * (1.0 - _BM25_B + _BM25_B * relative_length_S)
    return jnp.sum(idf_X[None, :] * count_SX * (_BM25_K1 + 1.0) / (count_SX + saturation_S[:, None]), axis=1)


def cosine(embedding_SE: Array, query_E: Array) -> Array:
    """Computes the cosine of every slot's embedding with the query's, float[S]; 0 where either is the zero vector."""
    chex.assert_equal_shape_suffix([embedding_SE, query_E], 1)
    # A score decides an order, so the product is not left to an accelerator's default of bfloat16.
    dot_S = jnp.matmul(embedding_SE, query_E, precision=lax.Precision.HIGHEST)
    norm_S = jnp.linalg.norm(embedding_SE, axis=1) * jnp.linalg.norm(query_E)
    return jnp.where(norm_S > 0, dot_S / jnp.where(norm_S > 0, norm_S, 1.0), 0.0)


def fuse(score_NS: Array, listed_NS: Array) -> Array:
    """Fuses N ways to score the same slots by their ranks alone, so that no scale of scores has to be known: float32[S].

        score(s) = sum over ways n that list s of 1 / (60 + rank_n(s))

    The best slot of a way has rank 1, equal scores the same rank; listed: bool[N, S], what a way has an opinion on.
    Source: Cormack, Clarke and Buettcher, Reciprocal Rank Fusion Outperforms Condorcet and Individual Rank Learning Methods (SIGIR 2009).
    """
    chex.assert_equal_shape([score_NS, listed_NS])
    cost_NS = jnp.where(listed_NS, -score_NS, jnp.inf)
    rank_NS = 1.0 + jax.vmap(lambda cost_S: jnp.searchsorted(jnp.sort(cost_S), cost_S))(cost_NS).astype(jnp.float32)
    return jnp.sum(jnp.where(listed_NS, 1.0 / (_RRF_K + rank_NS), 0.0), axis=0)


def relevance(bank: MemoryBank, query_terms_X: Array, query_E: Array | None, kind: RetrievalKind) -> Array:
    """Scores every slot for a query, float32[S]: by words ("lexical"), by embeddings ("dense"), or by the ranks of both ("hybrid").

    A slot without a word of the query is no find of the lexical way, and only the dense one ranks it. Raises ValueError where there are
    no embeddings to read.
    """
    if kind == "lexical":
        return bm25(bank.terms, bank.occupied, query_terms_X)
    if bank.embedding is None or query_E is None:
        raise ValueError(f"{kind} retrieval reads embeddings, and the bank or the query has none; use lexical retrieval")
    dense_S = cosine(bank.embedding, query_E)
    if kind == "dense":
        return dense_S
    lexical_S = bm25(bank.terms, bank.occupied, query_terms_X)
    return fuse(jnp.stack([lexical_S, dense_S]), jnp.stack([lexical_S > 0, bank.occupied]))


def retrieve(score_S: Array, mask_S: Array, num: int, written_S: Array | None = None) -> Retrieval:
    """Keeps the `num` best slots among those `mask_S` allows, best first; `num` may exceed what there is, even S.

    Scores must be finite. Of equal scores the most recently written wins; without `written_S`, the lowest slot.
    """
    chex.assert_equal_shape([score_S, mask_S])
    order_K = _best_first(score_S, mask_S, jnp.zeros_like(score_S) if written_S is None else written_S)[:num]
    slot_K = jnp.pad(order_K, (0, num - order_K.size), constant_values=NO_SLOT)
    mask_K = (slot_K != NO_SLOT) & mask_S[slot_K]
    return Retrieval(slot=jnp.where(mask_K, slot_K, NO_SLOT), score=jnp.where(mask_K, score_S[slot_K], 0.0), mask=mask_K)


def retrieve_per_speaker(score_S: Array, bank: MemoryBank, num: int) -> Retrieval:
    """Keeps the `num` best memories of each of the two speakers, as the paper's 30 + 30; K = 2 * num in all, best of either first."""

    def of_speaker(speaker: Array) -> Retrieval:
        return retrieve(score_S, bank.occupied & (bank.speaker == speaker), num, bank.written)

    found = jax.tree.map(jnp.ravel, jax.vmap(of_speaker)(jnp.arange(NUM_SPEAKERS)))
    order_K = _best_first(found.score, found.mask, bank.written[found.slot])
    return jax.tree.map(lambda field_K: field_K[order_K], found)


def gather(bank: MemoryBank, retrieval: Retrieval) -> tuple[Array, Array]:
    """Reads the text of retrieved memories: int32[K, W] tokens and int32[K] lengths, PAD and 0 where the mask is False."""
    tokens_KW = jnp.where(retrieval.mask[:, None], bank.tokens[retrieval.slot], PAD)
    return tokens_KW, jnp.where(retrieval.mask, bank.length[retrieval.slot], 0)


def gather_times(bank: MemoryBank, retrieval: Retrieval) -> tuple[Array, Array]:
    """Reads the date indices of retrieved memories: int32[K] created and int32[K] updated, NEVER where the mask is False."""
    created_K, updated_K = (jnp.where(retrieval.mask, time_S[retrieval.slot], NEVER) for time_S in (bank.created, bank.updated))
    return created_K, updated_K


def in_order_written(bank: MemoryBank, retrieval: Retrieval) -> tuple[Retrieval, Array]:
    """Orders a best-first retrieval as its memories were written, oldest first, masked last.

    Also returns the rank of each, int32[K], 0 the best: a prompt over its budget drops the memory of the highest rank first.
    """
    when_K = jnp.where(retrieval.mask, bank.written[retrieval.slot], jnp.iinfo(jnp.int32).max)
    rank_K = jnp.argsort(when_K)  # a place in the best-first order is a rank, so the permutation is the ranks
    return jax.tree.map(lambda field_K: field_K[rank_K], retrieval), rank_K


def _best_first(score_S: Array, mask_S: Array, written_S: Array) -> Array:
    """Sorts slots by score, then the newest first, then the lowest; those the mask forbids come last."""
    return jnp.lexsort((-written_S, jnp.where(mask_S, -score_S, jnp.inf)))
