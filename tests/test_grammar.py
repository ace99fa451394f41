"""Token automata against Python's `re`: nothing illegal comes out, nothing legal is refused, and every response ends."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference_grammar import (
    MERGED,
    FakeTokenizer,
    legal_text,
    random_answer_text,
    random_manager_text,
    tokenize_at_random,
)

from mr1jax.structs import PAD
from mr1jax.text.grammar import DEAD, DONE, UNREACHABLE, advance, allowed, check_response_budget, compile_grammar
from mr1jax.text.parsing import ANSWER_PATTERN, MANAGER_PATTERN

BYTES, WORDS = FakeTokenizer([]), FakeTokenizer(MERGED)
MANAGER_LABELS = {"slot": r"(UPDATE|DELETE) [0-9]{1,2}", "text": r"((DELETE [0-9]{1,2}\n)?ADD|UPDATE [0-9]{1,2}): [^ \n].*"}
ANSWER_LABELS = {"answer": r"(.+\n)*\*\*Answer:\*\* [^ \n].*"}
CASES = {
    "manager, bytes": (MANAGER_PATTERN, BYTES, MANAGER_LABELS, random_manager_text),
    "manager, words": (MANAGER_PATTERN, WORDS, MANAGER_LABELS, random_manager_text),
    "answer, bytes": (ANSWER_PATTERN, BYTES, ANSWER_LABELS, random_answer_text),
    "answer, words": (ANSWER_PATTERN, WORDS, ANSWER_LABELS, random_answer_text),
}
LENGTH = 64  # tokens of the longest response here


@pytest.fixture(scope="module", params=CASES)
def case(request):
    pattern, tokenizer, labels, random_text = CASES[request.param]
    return compile_grammar(pattern, tokenizer, labels), pattern, tokenizer, labels, random_text


advance_jit, allowed_jit = jax.jit(advance), jax.jit(allowed)


@jax.jit
def final_state(grammar, tokens_BR):
    """The states that B token sequences lead to."""
    start_B = jnp.broadcast_to(grammar.initial, tokens_BR.shape[:1])
    return jax.lax.scan(lambda state_B, token_B: (advance(grammar, state_B, token_B), None), start_B, tokens_BR.T)[0]


def draw(grammar, rng, budget_B, length):
    """Writes B random responses within their budgets: a class at random, then a token of it, so that rare tokens get their turn."""
    state_B, tokens_BR = np.full(len(budget_B), grammar.initial), np.full((len(budget_B), length), PAD)
    for position in range(length):
        score_BV = rng.random((len(budget_B), grammar.transition.shape[1]))[:, grammar.token_class]
        score_BV += 1e-3 * rng.random(score_BV.shape)
        token_B = np.where(allowed_jit(grammar, state_B, budget_B - position), score_BV, -1).argmax(axis=1)
        tokens_BR[:, position] = np.where(position < budget_B, token_B, PAD)
        state_B = np.asarray(advance_jit(grammar, state_B, tokens_BR[:, position]))
    return tokens_BR, state_B


def batch(sequences):
    return jnp.asarray([(list(tokens) + [PAD] * LENGTH)[:LENGTH] for tokens in sequences], jnp.int32)


def test_whatever_is_drawn_is_legal_and_ends_in_its_budget(case):
    """Oracle: `re.fullmatch`, and the borders by `re` on prefixes, on 300 drawn responses; budgets from the shortest possible up."""
    grammar, pattern, tokenizer, labels, _ = case
    shortest = int(grammar.distance[grammar.initial])
    rng = np.random.default_rng(0)
    budget_B = np.concatenate([np.full(50, shortest), rng.integers(shortest, 40, 250)])
    tokens_BR, state_B = draw(grammar, rng, budget_B, 40)
    texts = [
        legal_text(tokenizer, tokens_R, budget, pattern, labels.values()) for tokens_R, budget in zip(tokens_BR, budget_B, strict=True)
    ]
    assert None not in texts
    assert np.all(state_B == DONE)
    assert len(set(texts)) > 100


def test_just_the_legal_is_accepted(case):
    """Oracle: `re.fullmatch` and the borders by `re`, on 500 random texts in random tokens, a third of them damaged."""
    grammar, pattern, tokenizer, labels, random_text = case
    rng = np.random.default_rng(1)
    sequences = []
    for _ in range(500):
        tokens = [*tokenize_at_random(rng, tokenizer, random_text(rng))[: LENGTH - 1], tokenizer.eos_id]
        place, damage = rng.integers(len(tokens)), rng.random()
        if damage < 0.1:
            tokens[place] = rng.integers(tokenizer.vocab_size)
        elif damage < 0.2:
            del tokens[place]
        elif damage < 0.3:
            tokens.insert(place, rng.choice([PAD, tokenizer.eos_id, *range(1, 20)]))
        sequences.append(tokens)
    tokens_BR = batch(sequences)
    expected = [legal_text(tokenizer, tokens_R, LENGTH, pattern, labels.values()) is not None for tokens_R in np.asarray(tokens_BR)]
    assert (np.asarray(final_state(grammar, tokens_BR)) == DONE).tolist() == expected
    assert 0.2 < np.mean(expected) < 0.9


def test_no_legal_response_that_fits_is_refused(case):
    """Oracle: legal responses themselves: each of their tokens is allowed with room for just the rest, and none with no room."""
    grammar, pattern, tokenizer, labels, random_text = case
    rng = np.random.default_rng(2)
    checked = 0
    while checked < 30:
        tokens = [*tokenize_at_random(rng, tokenizer, random_text(rng)), tokenizer.eos_id]
        if legal_text(tokenizer, tokens, len(tokens), pattern, labels.values()) is None:
            continue
        state = grammar.initial
        for position, token in enumerate(tokens):
            assert allowed_jit(grammar, state, len(tokens) - position)[token]
            assert not allowed_jit(grammar, state, 0).any()
            state = advance_jit(grammar, state, token)
        checked += 1


def test_labels_are_regexes_of_the_text_so_far():
    """Oracle: `re.fullmatch` of each label on prefixes of random texts, a byte a token."""
    rng = np.random.default_rng(3)
    for pattern, labels, random_text in (
        (MANAGER_PATTERN, MANAGER_LABELS, random_manager_text),
        (ANSWER_PATTERN, ANSWER_LABELS, random_answer_text),
    ):
        grammar = compile_grammar(pattern, BYTES, labels)
        texts = [random_text(rng) for _ in range(400)]
        prefixes = [text[: rng.integers(0, len(text) + 1)] for text in texts]
        states = [walk(grammar, [byte + 1 for byte in prefix.encode()]) for prefix in prefixes]
        for name, label in labels.items():
            expected = [state != DEAD and re.fullmatch(label, prefix) is not None for state, prefix in zip(states, prefixes, strict=True)]
            assert np.asarray(grammar.labels[name])[states].tolist() == expected
            assert any(expected)


def walk(grammar, tokens):
    """The state after some tokens, a step at a time in numpy."""
    transition, token_class, state = np.asarray(grammar.transition), np.asarray(grammar.token_class), int(grammar.initial)
    for token in tokens:
        state = transition[state, token_class[token]]
    return int(state)


@pytest.mark.parametrize(("tokenizer", "from_start", "after_delete"), [(BYTES, 5, 7), (WORDS, 2, 3)])
def test_distance_is_the_shortest_walk(tokenizer, from_start, after_delete):
    """Oracle: hand counts ("NOOP" end; "DELETE 1\\n", then "ADD: x" end; "ADD:" " Mia" end), and the tokens that a state offers."""
    grammar = compile_grammar(MANAGER_PATTERN, tokenizer, MANAGER_LABELS)
    delete = [tokenizer.pieces.index(bytes([byte])) for byte in b"DELETE 1\n"]
    assert grammar.distance[grammar.initial] == from_start
    assert grammar.distance[walk(grammar, delete)] == after_delete
    assert grammar.distance[DONE] == 0
    assert grammar.distance[DEAD] == UNREACHABLE
    state_Y = np.flatnonzero((grammar.distance > 0) & (grammar.distance < UNREACHABLE))
    distance_Y = grammar.distance[state_Y]
    assert allowed_jit(grammar, state_Y, distance_Y).any(axis=-1).all()
    assert not allowed_jit(grammar, state_Y, distance_Y - 1).any()


def test_only_padding_follows_the_end():
    """Oracle: the statement itself; and a dead text stays dead whatever follows."""
    grammar = compile_grammar(MANAGER_PATTERN, WORDS, {})
    assert np.flatnonzero(allowed_jit(grammar, np.int32(DONE), 5)).tolist() == [PAD]
    every_token = np.arange(WORDS.vocab_size)
    assert np.all(advance_jit(grammar, np.full_like(every_token, DEAD), every_token) == DEAD)


@pytest.mark.parametrize(
    ("pattern", "texts"),
    [
        ("a|ab", ["a", "ab"]),  # leftmost-first matching would lose the second
        ("(a|ab)(c|bcd)", ["ac", "abc", "abcd", "abbcd"]),
        ("x+?y?", ["x", "xx", "xy", "xxy"]),
    ],
)
def test_alternatives_do_not_hide_each_other(pattern, texts):
    """Oracle: `re.fullmatch` on all texts of up to five of the letters abcdxy."""
    grammar = compile_grammar(pattern, BYTES, {})
    candidates = [""]
    for candidate in candidates:
        if len(candidate) < 5:
            candidates += [candidate + letter for letter in "abcdxy"]
    accepted = [text for text in candidates if walk(grammar, [byte + 1 for byte in text.encode()] + [BYTES.eos_id]) == DONE]
    assert accepted == [text for text in candidates if re.fullmatch(pattern, text)]
    assert set(texts) <= set(accepted)


def test_bad_patterns_say_so():
    """Oracle: the sentence a user should read."""
    with pytest.raises(ValueError, match="no automaton for '\\(a'; give a regex"):
        compile_grammar("(a", BYTES, {})
    with pytest.raises(ValueError, match="no automaton for 'a\\*'; give a regex that does not match the empty text"):
        compile_grammar("a*", BYTES, {})
    deaf = FakeTokenizer([])
    deaf.pieces = [piece.replace(b"N", b"") for piece in deaf.pieces]
    with pytest.raises(ValueError, match="no tokens that spell a text of the pattern 'NOOP'"):
        compile_grammar("NOOP", deaf, {})


def test_response_budget_names_the_setting():
    """Oracle: the sentence a user should read; the exact fit passes."""
    grammar = compile_grammar(MANAGER_PATTERN, WORDS, {})
    check_response_budget("manager.response_length", 2, grammar)
    message = "response budget of 1 tokens is smaller than the shortest legal response (2 tokens with the end token); "
    with pytest.raises(ValueError, match=re.escape(message + "set manager.response_length to at least 2")):
        check_response_budget("manager.response_length", 1, grammar)


def test_a_large_vocabulary_adds_no_states():
    """Oracle: the byte vocabulary: 150,000 words more add no state, and in text they all behave as one."""
    words = [f" w{number:x}".encode() for number in range(150_000)]
    small, large = (compile_grammar(MANAGER_PATTERN, FakeTokenizer(merged), MANAGER_LABELS) for merged in ([], words))
    assert large.transition.shape[0] == small.transition.shape[0]
    assert large.transition.shape[1] == small.transition.shape[1] + 1
    assert np.unique(large.token_class[1 : 1 + len(words)]).size == 1
