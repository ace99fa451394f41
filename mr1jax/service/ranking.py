"""BM25 on the host over any number of memories, to find the few that a compiled bank has room for. Equal to `memory.retrieval.bm25`."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mr1jax.text.words import hash_word, words

MAX_TERMS = 512  # hashed words kept of a memory
_K1, _B = 1.2, 0.75  # as in `memory.retrieval`


def terms_of(text: str) -> np.ndarray:
    """Returns the hashed words of a text, int32[up to MAX_TERMS]."""
    return np.array([hash_word(word) for word in words(text)[:MAX_TERMS]], "<i4")


@dataclass(frozen=True)
class TermIndex:
    """The words of N memories, oldest first. ids: N; terms: int32[all words], one memory after another; counts: int32[N] words of each.

    version: of the owner when this was read.
    """

    ids: Sequence[str]
    terms: np.ndarray
    counts: np.ndarray
    version: int = 0

    @classmethod
    def of(cls, ids: Sequence[str], blobs: Sequence[bytes], version: int = 0) -> "TermIndex":
        """Lays out the words of each memory, bytes of int32."""
        return cls(ids, np.frombuffer(b"".join(blobs), "<i4"), np.array([len(blob) // 4 for blob in blobs], np.int32), version)

    def best(self, query: str, limit: int, *, matching: bool = False) -> list[tuple[str, float]]:
        """Returns (id, score) of the best memories for a query, best first; of equals the last written is better.

        matching: only those that share a word with it.
        """
        score_N = bm25(self.terms, self.counts, terms_of(query))
        order = np.lexsort((-np.arange(len(score_N)), -score_N))[:limit]
        return [(self.ids[k], float(score_N[k])) for k in order if score_N[k] > 0 or not matching]


def bm25(terms: np.ndarray, counts_N: np.ndarray, query_terms: np.ndarray) -> np.ndarray:
    """Scores N memories, float32[N]; the equation is that of `memory.retrieval.bm25`.

    Work grows with all words and with the memories that have a word of the query, not with their product.
    """
    num = len(counts_N)
    score_N = np.zeros(num, np.float32)
    if not num:
        return score_N
    words_N = counts_N.astype(np.float32)
    relative_length_N = words_N * np.float32(num) / max(np.float32(words_N.sum()), np.float32(1))
    saturation_N = np.float32(_K1) * (np.float32(1 - _B) + np.float32(_B) * relative_length_N)
    owner = np.repeat(np.arange(num), counts_N)
    for term, times in zip(*np.unique(query_terms, return_counts=True), strict=True):
        having, count = np.unique(owner[terms == term], return_counts=True)
        idf = np.log1p(np.float32((num - len(having) + 0.5) / (len(having) + 0.5)))
        count = count.astype(np.float32)
        score_N[having] += np.float32(times) * idf * count * np.float32(_K1 + 1) / (count + saturation_N[having])
    return score_N
