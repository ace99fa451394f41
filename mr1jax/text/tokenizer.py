"""Text to token ids and back, on the host: the protocol every tokenizer keeps, and the sentencepiece one that `tiny` ships with.

What a token means is its bytes, and nothing else: `decode` joins them, and `byte_table` hands the same bytes to the compiled program.
"""

import io
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Protocol

import jax.numpy as jnp
import numpy as np
import sentencepiece as spm
from flax import struct

from mr1jax.structs import PAD, Array

TextOf = Callable[[np.ndarray, int], str]  # of a row of tokens and its length

EOS = 1  # of tokenizers trained here; ask `Tokenizer.eos_id` of any other
_UNKNOWN = 2
_SPACE = "▁"  # U+2581, which sentencepiece writes for a space
_NUM_RESERVED = 3 + 256  # pad, eos, unknown and one token a byte


class Tokenizer(Protocol):
    """Turns text into ids and back. No text encodes to `pad_id` or `eos_id`: only the library writes those."""

    vocab_size: int
    pad_id: int
    eos_id: int

    def encode(self, text: str) -> list[int]: ...

    def encode_exactly(self, text: str) -> list[int]: ...

    def decode(self, ids: Sequence[int]) -> str: ...

    def token_bytes(self, token: int) -> bytes: ...


class SentencePieceTokenizer:
    """Reads a model written by `train_sentencepiece`.

    Exactly reversible: `decode(encode(text)) == text` for every string that has a UTF-8 form. The one liberty is the dummy prefix:
    `encode` puts a space before the text, so that a word has the same tokens at the start as in the middle, and `decode` drops
    one leading space. So texts encoded apart and concatenated are separated by a space, and `token_bytes` shows that space.
    """

    def __init__(self, path: str | Path):
        if not Path(path).is_file():
            raise ValueError(f"no tokenizer at {path}; train one with mr1jax.text.tokenizer.train_sentencepiece")
        self._model = spm.SentencePieceProcessor(model_file=str(path))
        self.vocab_size: int = self._model.vocab_size()
        self.pad_id: int = self._model.pad_id()
        self.eos_id: int = self._model.eos_id()
        if self.pad_id != PAD or self.eos_id < 0:
            raise ValueError(
                f"{path} has pad_id {self.pad_id} and eos_id {self.eos_id}; "
                f"train it with train_sentencepiece, which makes them {PAD} and {EOS}"
            )
        self._bytes = [self._piece_bytes(token) for token in range(self.vocab_size)]
        # Sentencepiece reads U+2581 as a space, so that character is spelled in bytes here.
        self._literal_space = [self._model.piece_to_id(f"<0x{byte:02X}>") for byte in _SPACE.encode()]

    def encode(self, text: str) -> list[int]:
        """Returns the ids of a text, without an end token."""
        head, *tail = f" {text}".split(_SPACE)
        ids = self._model.encode(head)
        for part in tail:
            ids += self._literal_space + self._model.encode(part)
        return ids

    def encode_exactly(self, text: str) -> list[int]:
        """Returns the ids of a marker without the space that `encode` puts in front, where that space is a token of its own."""
        ids = self.encode(text)
        return ids[1:] if self.token_bytes(ids[0]) == b" " else ids

    def decode(self, ids: Sequence[int]) -> str:
        """Returns the text of ids: their bytes, less one leading space. Bytes that are not UTF-8 become U+FFFD."""
        return b"".join(self._bytes[token] for token in ids).decode(errors="replace").removeprefix(" ")

    def token_bytes(self, token: int) -> bytes:
        """Returns the exact bytes a token stands for: none for pad, eos and unknown."""
        return self._bytes[token]

    def _piece_bytes(self, token: int) -> bytes:
        piece = self._model.id_to_piece(token)
        if self._model.is_control(token) or self._model.is_unknown(token):
            return b""
        if self._model.is_byte(token):  # written <0x41>
            return bytes([int(piece[3:5], 16)])
        return piece.replace(_SPACE, " ").encode()


def train_sentencepiece(
    lines: Iterable[str], path: str | Path, vocab_size: int, user_symbols: Sequence[str] = ()
) -> SentencePieceTokenizer:
    """Trains a byte-pair model, writes it to `path` and returns its tokenizer. The same lines in the same order give the same file.

    Nothing is normalised, and what the vocabulary lacks is spelled in bytes. Each of `user_symbols` ("\\n", "ADD:") is always
    one token of its own. Where the lines hold too few pieces the vocabulary comes out smaller: read `vocab_size` of the result.
    """
    symbols = [symbol.replace(" ", _SPACE) for symbol in user_symbols]
    model = io.BytesIO()
    try:
        spm.SentencePieceTrainer.train(
            sentence_iterator=(f" {line}" for line in lines),
            model_writer=model,
            model_type="bpe",  # unigram spells a word in letters if it has one form only, as most words of a generated world do
            vocab_size=vocab_size,
            hard_vocab_limit=False,
            user_defined_symbols=symbols,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            add_dummy_prefix=False,  # `encode` writes it, once a text: the text may reach sentencepiece in parts
            byte_fallback=True,
            pad_id=PAD,
            eos_id=EOS,
            unk_id=_UNKNOWN,
            bos_id=-1,
            num_threads=1,
            shuffle_input_sentence=False,
            max_sentence_length=1 << 20,  # bytes; longer lines would be dropped in silence
            minloglevel=2,
        )
    except RuntimeError as error:
        needed = f"{_NUM_RESERVED + len(symbols)} plus the characters in use"
        raise ValueError(f"no tokenizer of {vocab_size} tokens from these lines; give text, and at least {needed}") from error
    Path(path).write_bytes(model.getvalue())
    return SentencePieceTokenizer(path)


@struct.dataclass
class ByteTable:
    """The bytes of every token, ragged. Token v stands for `data[offset[v] : offset[v + 1]]`.

    offset: int32[V + 1], data: uint8[N] with N the bytes of the whole vocabulary.
    """

    offset: Array
    data: Array


def byte_table(tokenizer: Tokenizer) -> ByteTable:
    """Lays the bytes of all V tokens end to end. Pad and eos stand for no bytes."""
    pieces = [tokenizer.token_bytes(token) for token in range(tokenizer.vocab_size)]
    offset = np.cumsum([0, *map(len, pieces)], dtype=np.int32)
    data = np.frombuffer(b"".join(pieces), np.uint8)
    return ByteTable(offset=jnp.asarray(offset), data=jnp.asarray(data))


def text_reader(table: ByteTable) -> TextOf:
    """Returns what turns a row of tokens and its length into text on the host, without the space that a tokenizer may put first."""
    offset, data = np.asarray(table.offset), np.asarray(table.data).tobytes()

    def text_of(tokens: np.ndarray, length: int) -> str:
        return b"".join(data[offset[token] : offset[token + 1]] for token in tokens[:length]).decode(errors="replace").removeprefix(" ")

    return text_of
