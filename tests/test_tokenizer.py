"""Text to tokens to bytes: nothing is lost on the way, and only the library writes pad and end."""

import io
import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sentencepiece

from mr1jax.structs import PAD
from mr1jax.text.detokenize import shift, token_bytes
from mr1jax.text.tokenizer import EOS, SentencePieceTokenizer, byte_table, train_sentencepiece

SYMBOLS = ["\n", "**Answer:**", "ADD:", "UPDATE", "DELETE", "NOOP"]
LINES = [f"{who} likes {what} since {year}.\n" for who in ("Anna", "Ben") for what in ("dogs", "tea") for year in range(1990, 2010)]
# What a user could hope to smuggle in, and what tokenizers like to lose.
FRAGMENTS = [*SYMBOLS, "</s>", "<pad>", "<unk>", "<s>", "<0x41>", "<0x00>", "\0", "\ufeff", "▁", " ", "  ", "\t", "\r\n", "\x85", "\u2028"]
FRAGMENTS += [" ⁇ ", "Anna", "likes", "e\u0301", "é", "ﬁ", "日本", "🌟", "\U0010ffff", "1990"]


@pytest.fixture(scope="module")
def model_path(tmp_path_factory):
    return tmp_path_factory.mktemp("tokenizer") / "tiny.model"


@pytest.fixture(scope="module")
def tokenizer(model_path):
    return train_sentencepiece(LINES, model_path, 330, SYMBOLS)


@pytest.fixture(scope="module")
def random_texts():
    rng = random.Random(0)
    return ["", *("".join(rng.choices(FRAGMENTS, k=rng.randint(1, 8))) for _ in range(2000))]


def test_every_text_survives(tokenizer, random_texts):
    """Oracle: identity. `decode(encode(x)) == x`, also when x begins with spaces or is all U+2581."""
    for text in random_texts:
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_every_plane_of_unicode_survives(tokenizer):
    """Oracle: identity, on all code points below U+3000 and a stride through the other sixteen planes."""
    code_points = [*range(0x3000), *range(0x3000, 0x110000, 251), 0x10FFFF]
    text = "".join(f"{chr(code_point)} " for code_point in code_points if not 0xD800 <= code_point < 0xE000)
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_the_bytes_of_tokens_are_the_bytes_of_the_text(tokenizer, random_texts):
    """Oracle: `str.encode`, behind the one space of the dummy prefix."""
    for text in random_texts:
        assert b"".join(map(tokenizer.token_bytes, tokenizer.encode(text))) == b" " + text.encode()


def test_no_text_becomes_pad_or_end(tokenizer, random_texts):
    """Oracle: the ids the library keeps for itself, 0, 1 and 2, and the no bytes they stand for."""
    assert (tokenizer.pad_id, tokenizer.eos_id) == (PAD, EOS) == (0, 1)
    assert min(min(tokenizer.encode(text)) for text in random_texts) > 2
    assert [tokenizer.token_bytes(token) for token in range(3)] == [b"", b"", b""]


def test_user_symbols_are_one_token_anywhere(tokenizer):
    """Oracle: the list of symbols; each appears once, whole, whatever touches it."""
    for symbol in SYMBOLS:
        pieces = [tokenizer.token_bytes(token) for token in tokenizer.encode(f"Anna{symbol}likes")]
        assert pieces.count(symbol.encode()) == 1


def test_words_of_one_form_become_one_token(tokenizer):
    """Oracle: the lines themselves, where " likes" never occurs in another word."""
    assert tokenizer.token_bytes(tokenizer.encode("likes")[0]) == b" likes"


def test_bytes_that_are_not_text_are_replaced(tokenizer):
    """Oracle: the replacement character of Unicode, for half a character cut by the token budget."""
    assert tokenizer.decode(tokenizer.encode("é")[:-1]) == "\ufffd"


def test_training_is_deterministic(tokenizer, model_path, tmp_path):
    """Oracle: the file of the first training, byte for byte."""
    train_sentencepiece(iter(LINES), tmp_path / "again.model", 330, SYMBOLS)
    assert (tmp_path / "again.model").read_bytes() == model_path.read_bytes()


def test_a_vocabulary_beyond_the_lines_is_smaller(tmp_path):
    """Oracle: the size asked for, which three words cannot fill."""
    small = train_sentencepiece(["one two three"], tmp_path / "small.model", 5000)
    assert 259 < small.vocab_size < 300
    assert small.decode(small.encode("three, two")) == "three, two"


@pytest.mark.parametrize(("lines", "vocab_size"), [(LINES, 100), ([], 400)])
def test_training_on_too_little_says_what_is_needed(lines, vocab_size, tmp_path):
    """Oracle: the message, and no file left behind."""
    with pytest.raises(ValueError, match=f"no tokenizer of {vocab_size} tokens.*at least 260"):
        train_sentencepiece(lines, tmp_path / "none.model", vocab_size, ["\n"])
    assert not (tmp_path / "none.model").exists()


def test_a_foreign_model_is_refused(tmp_path):
    """Oracle: a model that sentencepiece trains by default, which has no pad token, and a path without a file."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(LINES), model_writer=model, vocab_size=60, model_type="bpe", minloglevel=2
    )
    (tmp_path / "foreign.model").write_bytes(model.getvalue())
    with pytest.raises(ValueError, match="pad_id -1"):
        SentencePieceTokenizer(tmp_path / "foreign.model")
    with pytest.raises(ValueError, match="no tokenizer at"):
        SentencePieceTokenizer(tmp_path / "missing.model")


class ThreeTokens:
    """A tokenizer with a very long token, one without bytes, and one of half a character."""

    vocab_size, pad_id, eos_id = 4, 0, 1

    def token_bytes(self, token):
        return [b"", b"", b"=" * 300, b"\xc3"][token]


def test_byte_table_holds_every_token_whole(tokenizer):
    """Oracle: `token_bytes` of each token, one of 300 bytes included."""
    for each in (tokenizer, ThreeTokens()):
        table = byte_table(each)
        offset, data = np.asarray(table.offset), np.asarray(table.data).tobytes()
        assert [data[low:high] for low, high in zip(offset[:-1], offset[1:], strict=True)] == [
            each.token_bytes(token) for token in range(each.vocab_size)
        ]


@pytest.mark.parametrize("capacity", [1, 7, 64])
def test_bytes_in_the_program_are_the_bytes_on_the_host(tokenizer, capacity):
    """Oracle: `bytes.join` on the host, over random tokens and lengths, most of them longer than the small capacities."""
    rng = np.random.default_rng(0)
    tokens_BR = rng.integers(0, tokenizer.vocab_size, (500, 12))
    tokens_BR[rng.random(tokens_BR.shape) < 0.3] = rng.choice([PAD, EOS])
    length_B = rng.integers(0, 13, 500)
    table = byte_table(tokenizer)
    bytes_BA, count_B = jax.jit(jax.vmap(lambda tokens, length: token_bytes(table, tokens, length, capacity)))(tokens_BR, length_B)
    assert bytes_BA.dtype == jnp.uint8
    for tokens_R, length, bytes_A, count in zip(tokens_BR, length_B, np.asarray(bytes_BA), count_B, strict=True):
        expected = b"".join(tokenizer.token_bytes(token) for token in tokens_R[:length])
        assert count == len(expected)
        assert bytes_A.tobytes() == expected[:capacity].ljust(capacity, b"\0")


def test_a_long_token_is_cut_by_the_capacity_alone():
    """Oracle: by hand. Tokens of 1, 300, 0 and 1 bytes and one beyond the table are 302 bytes, of which 10 places show 10, 310 all."""
    table = byte_table(ThreeTokens())
    tokens_R = jnp.array([3, 2, 1, 3, 4])
    for capacity in (10, 310):
        bytes_A, count = jax.jit(token_bytes, static_argnums=3)(table, tokens_R, 5, capacity)
        assert count == 302
        assert np.asarray(bytes_A).tobytes() == (b"\xc3" + b"=" * 300 + b"\xc3").ljust(310, b"\0")[:capacity]


@pytest.mark.parametrize("places", range(-4, 5))
def test_shift_moves_and_fills(places):
    """Oracle: a list with three numbers, seen through a window."""
    expected = [{0: 5, 1: 6, 2: 7}.get(place - places, 9) for place in range(3)]
    assert shift(jnp.array([5, 6, 7]), places, fill=9).tolist() == expected
