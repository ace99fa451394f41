"""The Answer Agent: what it sees of a bank when a question comes, and what its response is worth.

It sees the question and the memories that fit it, numbered, in the order they were written. It first quotes the memories
it relies on, then writes `**Answer:** text` (Memory-R1, arXiv 2508.19828, section 3.2). Functions are for one bank; `vmap` them.
"""

import jax.numpy as jnp
from flax import struct

from mr1jax.agents.manager import text_terms
from mr1jax.agents.prompts import Dates, Language, pack_prompt
from mr1jax.config import AgentConfig, RewardKind
from mr1jax.memory.retrieval import in_order_written, relevance, retrieve, retrieve_per_speaker
from mr1jax.structs import Array, MemoryBank, Retrieval
from mr1jax.text.detokenize import token_bytes
from mr1jax.text.packing import Segment
from mr1jax.text.parsing import parse_answer
from mr1jax.text.scoring import exact_match, normalize, token_f1, token_recall


@struct.dataclass
class AskedQuestion:
    """A question and its gold answer.

    tokens: int32[U], length: int32[]; answer: uint8[A] in UTF-8, answer_length: int32[]; embedding: float32[E] where retrieval reads it.
    """

    tokens: Array
    length: Array
    answer: Array
    answer_length: Array
    embedding: Array | None = None


@struct.dataclass
class AnswerView:
    """What the Answer Agent sees. prompt: int32[L], length: int32[]; shown: `Retrieval` [K] in the order of the prompt."""

    prompt: Array
    length: Array
    shown: Retrieval


def observe(bank: MemoryBank, question: AskedQuestion, dates: Dates, language: Language, config: AgentConfig) -> AnswerView:
    """Retrieves the memories that fit the question, by `config.retrieval`, and packs the prompt.

    Oldest first: the last of several that say different things is the one that holds, and the agent need not compare dates to see it.
    """
    query_terms_M = text_terms(language.table, question.tokens, question.length, bank.terms.shape[1])
    score_S = relevance(bank, query_terms_M, question.embedding, config.retrieval)
    if config.per_speaker:
        found = retrieve_per_speaker(score_S, bank, config.num_retrieved)
    else:
        found = retrieve(score_S, bank.occupied, config.num_retrieved, bank.written)
    found, rank_K = in_order_written(bank, found)
    phrases = language.phrases
    asked = [phrases.answerer, Segment(question.tokens, question.length), phrases.line_break]
    return AnswerView(*pack_prompt(asked, bank, found, rank_K, dates, phrases, config))


def answer_bytes(response_R: Array, length: Array, language: Language, capacity: int) -> tuple[Array, Array]:
    """Reads the answer out of a response: (uint8[capacity], int32[] bytes, more than capacity where it was cut)."""
    answer = parse_answer(language.answerer, response_R, length)
    return token_bytes(language.table, answer.tokens, answer.length, capacity)


def reward(response_R: Array, length: Array, question: AskedQuestion, language: Language, kind: RewardKind = "em") -> Array:
    """Pays for an answer, of the response alone: float32[] from 0 to 1.

    em: 1 where it equals the gold answer after normalisation, else 0, as in Memory-R1 (arXiv 2508.19828, equation 4). f1: the F1 of its
    words. judge_like: 1 where it has all words of the gold answer, whatever else it says, as a generous judge takes it; the paper's
    second reward is such a judge (its section 4.5), and found to teach verbosity.

    Room for twice the gold's bytes and more: an answer that overflows it earns nothing. Nor does an answer without a word, whatever the
    gold: else a gold of which normalisation leaves nothing would pay for silence.
    """
    capacity = 2 * question.answer.shape[0]
    written, num_bytes = answer_bytes(response_R, length, language, capacity)
    answer = written, jnp.minimum(num_bytes, capacity)
    score = {"em": exact_match, "f1": token_f1, "judge_like": token_recall}[kind](answer, (question.answer, question.answer_length))
    earned = jnp.floor(score) if kind == "judge_like" else score
    return jnp.where((num_bytes <= capacity) & (normalize(answer)[1] > 0), earned, 0.0)
