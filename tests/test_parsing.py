"""Reading responses back, against Python's `re` and string methods on their text."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference_grammar import (
    ANSWER_BORDERS,
    MANAGER_BORDERS,
    MERGED,
    FakeTokenizer,
    legal_text,
    random_answer_text,
    random_manager_text,
    read_operation,
    tokenize_at_random,
)

from mr1jax.structs import NO_KIND, NO_SLOT, PAD
from mr1jax.text.parsing import ANSWER_PATTERN, MANAGER_PATTERN, answer_grammar, manager_grammar, parse_answer, parse_operation

LENGTH = 56
parse_operations = jax.jit(jax.vmap(parse_operation, in_axes=(None, 0, 0)))
parse_answers = jax.jit(jax.vmap(parse_answer, in_axes=(None, 0, 0)))


@pytest.fixture(scope="module", params=["bytes", "words"])
def tokenizer(request):
    return FakeTokenizer(MERGED if request.param == "words" else [])


def random_responses(rng, tokenizer, random_text, count):
    """Legal, damaged, unfinished and senseless token sequences: (tokens [count, LENGTH], length [count])."""
    tokens_BR = np.full((count, LENGTH), PAD, np.int32)
    length_B = np.zeros(count, np.int32)
    for tokens_R, index in zip(tokens_BR, range(count), strict=True):
        tokens = [*tokenize_at_random(rng, tokenizer, random_text(rng)), tokenizer.eos_id][:LENGTH]
        length_B[index] = len(tokens)
        tokens_R[: len(tokens)] = tokens
        damage, place = rng.random(), rng.integers(len(tokens))
        if damage < 0.1:
            tokens_R[place] = rng.integers(tokenizer.vocab_size)
        elif damage < 0.2:
            length_B[index] = rng.integers(0, LENGTH + 1)
        elif damage < 0.3:  # junk past the length is no part of the response
            tokens_R[len(tokens) :] = rng.integers(0, tokenizer.vocab_size, LENGTH - len(tokens))
        elif damage < 0.35:
            tokens_R[:] = rng.integers(0, tokenizer.vocab_size, LENGTH)
    return tokens_BR, length_B


def text_of(tokenizer, tokens_R, length):
    """The bytes of the first length tokens, less the one space a text may begin with; all else must be padding."""
    assert not np.any(tokens_R[length:])
    return b"".join(tokenizer.token_bytes(int(token)) for token in tokens_R[:length]).removeprefix(b" ").decode()


def test_operation_is_what_its_text_says(tokenizer):
    """Oracle: `re.fullmatch`, borders and string methods, on 1,500 responses, many of them damaged; what is not legal has no kind."""
    tokens_BR, length_B = random_responses(np.random.default_rng(0), tokenizer, random_manager_text, 1500)
    parsed = jax.tree.map(np.asarray, parse_operations(manager_grammar(tokenizer), tokens_BR, length_B))
    seen = set()
    for index, (tokens_R, length) in enumerate(zip(tokens_BR, length_B, strict=True)):
        text = legal_text(tokenizer, tokens_R, length, MANAGER_PATTERN, MANAGER_BORDERS)
        delete, kind, slot, line = (False, NO_KIND, None, "") if text is None else read_operation(text)
        assert parsed.delete[index] == delete
        assert parsed.kind[index] == kind
        assert parsed.slot[index] == (NO_SLOT if slot is None else slot)
        assert text_of(tokenizer, parsed.text.tokens[index], parsed.text.length[index]) == line
        seen.add((text is None, delete, kind))
    assert len(seen) == 6  # damaged, and the five forms


def test_answer_is_what_follows_the_marker(tokenizer):
    """Oracle: `re.fullmatch`, borders and string methods, on 1,500 responses, many of them damaged; what is not legal is empty."""
    tokens_BR, length_B = random_responses(np.random.default_rng(1), tokenizer, random_answer_text, 1500)
    answer = jax.tree.map(np.asarray, parse_answers(answer_grammar(tokenizer), tokens_BR, length_B))
    answered = 0
    for index, (tokens_R, length) in enumerate(zip(tokens_BR, length_B, strict=True)):
        text = legal_text(tokenizer, tokens_R, length, ANSWER_PATTERN, ANSWER_BORDERS)
        expected = "" if text is None else text.split("\n")[-1].removeprefix("**Answer:** ")
        assert text_of(tokenizer, answer.tokens[index], answer.length[index]) == expected
        answered += text is not None
    assert 300 < answered < 1200


def test_examples_of_every_form():
    """Oracle: written out by hand, in the tokens a sentencepiece model would use."""
    tokenizer = FakeTokenizer(MERGED)
    grammar = manager_grammar(tokenizer)
    examples = {
        (b"NOOP",): (False, 0, NO_SLOT, []),
        (b"ADD:", b" Mia", b" NOOP"): (False, 1, NO_SLOT, [b" Mia", b" NOOP"]),
        (b"UPDATE", b" 3", b":", b" Mia"): (False, 2, 3, [b" Mia"]),
        (b"UPDATE", b" ", b"1", b"2", b":", b" ", b"Mia"): (False, 2, 12, [b" ", b"Mia"]),
        (b"UPDATE", b" 07", b":", b" ", "é".encode()): (False, 2, 7, [b" ", "é".encode()]),
        (b"DELETE", b" ", b"12"): (True, 0, 12, []),
        (b"DELETE", b" 3", b"\n", b"ADD:", " 中".encode(), b" 3"): (True, 1, 3, [" 中".encode(), b" 3"]),
        (b"DELETE", b" 3", b"\nADD:", b" Mia"): (True, 1, 3, [b" Mia"]),
        (b"DELETE", b" 3", b"\n"): (False, NO_KIND, NO_SLOT, []),  # cut off
        (b"UPDATE", b" ", b"3:", b" Mia"): (False, NO_KIND, NO_SLOT, []),  # a token across a border
        (b"UPDATE", b" 3", b": ", b"Mia"): (False, NO_KIND, NO_SLOT, []),  # a text begins with its space
        (b"ADD:",): (False, NO_KIND, NO_SLOT, []),
        (b"ADD:", b" "): (False, NO_KIND, NO_SLOT, []),
        (b"ADD:", b"  ", b"Mia"): (False, NO_KIND, NO_SLOT, []),
    }
    for pieces, (delete, kind, slot, text) in examples.items():
        tokens = [*(tokenizer.pieces.index(piece) for piece in pieces), tokenizer.eos_id]
        tokens_1R = jnp.asarray([tokens + [PAD] * (LENGTH - len(tokens))])
        parsed = jax.tree.map(lambda leaf: leaf[0], parse_operations(grammar, tokens_1R, jnp.asarray([len(tokens)])))
        assert (parsed.delete, parsed.kind, parsed.slot) == (delete, kind, slot)
        assert [tokenizer.pieces[token] for token in parsed.text.tokens[: parsed.text.length]] == text


@pytest.mark.parametrize(("text", "answer"), [("**Answer:** a b", "a b"), ("a\n**Answer:** b", ""), ("**Answer:** a\n", ""), ("a", "")])
def test_answers_without_quotes(text, answer):
    """Oracle: written out by hand, a byte a token; what quotes is not legal where nothing is to be quoted."""
    tokenizer = FakeTokenizer([])
    tokens = [*(byte + 1 for byte in text.encode()), tokenizer.eos_id]
    tokens_1R = jnp.asarray([tokens + [PAD] * (LENGTH - len(tokens))])
    grammar = answer_grammar(tokenizer, distill=False)
    parsed = jax.tree.map(lambda leaf: np.asarray(leaf[0]), parse_answers(grammar, tokens_1R, jnp.asarray([len(tokens)])))
    assert text_of(tokenizer, parsed.tokens, int(parsed.length)) == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("**Answer:** Mia", "Mia"),
        ("a\n Mia has 12\n**Answer:** a, b", "a, b"),
        ("a\nb\nc\nd\n**Answer:** e", "e"),
        ("a\nb\nc\nd\ne\n**Answer:** f", ""),  # a fifth quote
        ("**Answer:** a\n**Answer:** b", ""),  # a quote that begins as the marker does
        (" **Answer:** a\n**Answer:** b", ""),
        ("**Answer:** a **Answer:** b", "a **Answer:** b"),
        ("a **Answer:** b\n**Answer:** c", "c"),
        ("**Answer:**  a", ""),  # blank, then text
        ("**Answer:** a\n", ""),
        ("a", ""),
    ],
)
def test_examples_of_answers(text, answer):
    """Oracle: written out by hand, a byte a token."""
    tokenizer = FakeTokenizer([])
    tokens = [*(byte + 1 for byte in text.encode()), tokenizer.eos_id]
    tokens_1R = jnp.asarray([tokens + [PAD] * (LENGTH - len(tokens))])
    parsed = jax.tree.map(lambda leaf: np.asarray(leaf[0]), parse_answers(answer_grammar(tokenizer), tokens_1R, jnp.asarray([len(tokens)])))
    assert text_of(tokenizer, parsed.tokens, int(parsed.length)) == answer
