"""Texts as vectors on the host, for dense retrieval: of questions, and of whatever the slots of finished banks hold.

Nothing here runs inside the training step. An embedding is of a text as it stands in a slot, so banks are embedded when they are finished:
a Manager's new memory has none while the Manager still writes.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np

from mr1jax.config import replace
from mr1jax.model.encoder import EncoderConfig, encode, read_encoder
from mr1jax.structs import Conversation, MemoryBank, PyTree
from mr1jax.text.tokenizer import ByteTable, text_reader
from mr1jax.text.wordpiece import WordPiece

_CHUNK = 64  # texts at once
_STEP = 16  # lengths are rounded up to this many tokens, so that there are few shapes to compile

_encode = jax.jit(encode, static_argnums=0)


@dataclass(frozen=True)
class SentenceEncoder:
    """An encoder with its tokenizer."""

    config: EncoderConfig
    params: PyTree
    tokenizer: WordPiece

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Returns float32[n, E], a vector of length 1 for each text."""
        ids = self.tokenizer.encode_batch(texts)
        order = sorted(range(len(ids)), key=lambda index: len(ids[index]))  # alike lengths together: less padding
        vectors = np.zeros((len(ids), self.config.d_model), np.float32)
        for start in range(0, len(order), _CHUNK):
            chosen = order[start : start + _CHUNK]
            vectors[chosen] = self._embed_chunk([ids[index] for index in chosen])
        return vectors

    def _embed_chunk(self, rows: Sequence[Sequence[int]]) -> np.ndarray:
        width = min(-(-len(rows[-1]) // _STEP) * _STEP, self.config.num_positions)
        count = _CHUNK if len(rows) > 1 else 1  # one text alone is somebody's question, and waited for
        tokens_TL, length_T = np.zeros((count, width), np.int32), np.zeros(count, np.int32)
        for index, row in enumerate(rows):
            tokens_TL[index, : len(row)], length_T[index] = row, len(row)
        return np.asarray(_encode(self.config, self.params, tokens_TL, length_T))[: len(rows)]


@functools.lru_cache(maxsize=1)
def load_encoder(folder: str | Path) -> SentenceEncoder:
    """Reads an encoder from a folder as Hugging Face has it; raises ValueError where that is none."""
    config, params = read_encoder(folder)
    return SentenceEncoder(config, jax.device_put(params), WordPiece(folder, config.max_length))


def embed_banks(banks: MemoryBank, table: ByteTable, encoder: SentenceEncoder) -> MemoryBank:
    """Gives C banks (numpy, leading axis C) the embeddings of what their slots hold, float32[C, S, E]; an empty slot's is 0."""
    text_of = text_reader(table)
    places = np.argwhere(banks.occupied)
    texts = [text_of(banks.tokens[c, s], banks.length[c, s]) for c, s in places]
    embedding_CSE = np.zeros((*banks.occupied.shape, encoder.config.d_model), np.float32)
    embedding_CSE[tuple(places.T)] = encoder.embed(texts)
    return replace(banks, embedding=embedding_CSE)


def embed_questions(conversations: Conversation, table: ByteTable, encoder: SentenceEncoder) -> np.ndarray:
    """Embeds the questions of C conversations: float32[C, Q, E], 0 where there is none."""
    text_of = text_reader(table)
    places = np.argwhere(np.asarray(conversations.question_length) > 0)
    texts = [text_of(conversations.question_tokens[c, q], conversations.question_length[c, q]) for c, q in places]
    embedding_CQE = np.zeros((*conversations.question_length.shape, encoder.config.d_model), np.float32)
    embedding_CQE[tuple(places.T)] = encoder.embed(texts)
    return embedding_CQE
