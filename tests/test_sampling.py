"""Sampling against softmax tables worked out in numpy, and the score of a response against what the sampler said of it."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mr1jax.config import GREEDY, ModelConfig, SamplingConfig
from mr1jax.model import transformer
from mr1jax.rl import drawing, sampling
from mr1jax.structs import PAD
from mr1jax.text.grammar import DEAD, DONE, UNREACHABLE, Grammar

EOS = 1
CONFIG = ModelConfig(
    vocab_size=12, d_model=16, num_layers=2, num_heads=2, num_kv_heads=1, head_dim=8, d_ff=24, tie_embeddings=False, remat=False
)
P, G, L, R = 2, 16, 5, 10
PROMPT_PL = np.random.default_rng(0).integers(2, 12, (P, L), np.int32)
LENGTH_P = np.array([5, 3], np.int32)
WARM = SamplingConfig(temperature=1.0)
COOL = SamplingConfig(temperature=0.7)
LOGITS_V = np.random.default_rng(1).normal(0, 2, 12).astype(np.float32)

generate_jit = jax.jit(sampling.generate, static_argnums=0, static_argnames=("group_size", "num_tokens", "eos_id", "sampling"))
begin_jit = jax.jit(sampling.begin, static_argnums=0, static_argnames=("group_size", "num_tokens", "eos_id", "sampling"))
extend_jit = jax.jit(sampling.extend, static_argnums=0, static_argnames=("eos_id", "sampling"))
read_jit = jax.jit(transformer.prefill, static_argnums=0)
score_jit = jax.jit(sampling.score, static_argnums=0, static_argnames=("temperature", "num_tokens"))


@pytest.fixture(scope="module")
def params():
    """Draws a model whose value head says something."""
    params = jax.jit(transformer.init_params, static_argnums=0)(CONFIG, jax.random.key(0))
    return {**params, "value_head": np.random.default_rng(2).standard_normal(CONFIG.d_model).astype(np.float32)}


@pytest.fixture(scope="module")
def grammar():
    """Writes by hand the automaton of a+b+, where tokens 2 to 6 are an a and 7 to 11 a b."""
    start, in_a, in_b = 2, 3, 4
    transition = np.full((5, 4), DEAD)
    transition[DONE, 0] = DONE
    transition[[start, in_a], 2] = in_a
    transition[[in_a, in_b], 3] = in_b
    transition[in_b, 1] = DONE
    return Grammar(
        token_class=jnp.array([0, 1] + [2] * 5 + [3] * 5, jnp.int32),
        transition=jnp.asarray(transition, jnp.int32),
        distance=jnp.array([UNREACHABLE, 0, 3, 2, 1], jnp.int32),
        initial=jnp.int32(start),
        labels={},
        token_number=jnp.zeros(12, jnp.int32),
        token_digits=jnp.zeros(12, jnp.int32),
    )


def read(params, prompts=slice(None)):
    return read_jit(CONFIG, params, PROMPT_PL[prompts], LENGTH_P[prompts])


def generate(params, seed, grammar=None, config=WARM, prompts=slice(None)):
    settings = {"group_size": G, "num_tokens": R, "eos_id": EOS, "sampling": config}
    key = jax.random.key(seed)
    return jax.device_get(generate_jit(CONFIG, params, read(params, prompts), key, grammar=grammar, **settings))


def score(params, generation, grammar, temperature):
    settings = {"temperature": temperature, "num_tokens": R}
    return jax.device_get(score_jit(CONFIG, params, read(params), generation, grammar=grammar, **settings))


@pytest.fixture(scope="module")
def ruled(params, grammar):
    """Samples under the grammar."""
    return generate(params, 3, grammar)


@pytest.fixture(scope="module")
def free(params):
    """Samples without a grammar, at temperature 0.7."""
    return generate(params, 4, config=COOL)


@pytest.fixture(scope="module")
def ruled_scores(params, ruled, grammar):
    return score(params, ruled, grammar, 1.0)


def expected_probabilities(config, legal):
    """Returns float64[V]: softmax of the legal logits, then one pass over the tokens from the likeliest down, renormalised."""
    weight_V = np.zeros(len(LOGITS_V))
    weight_V[legal] = np.exp(LOGITS_V[legal].astype(np.float64) / (config.temperature or 1.0))
    order = sorted(legal, key=lambda token: -weight_V[token])[: config.top_k or None]
    kept, reached = [], 0.0
    for token in order:
        if reached < config.top_p:
            kept.append(token)
            reached += weight_V[token] / weight_V[order].sum()
    prob_V = np.zeros(len(LOGITS_V))
    prob_V[kept] = weight_V[kept] / weight_V[kept].sum()
    return prob_V


@pytest.mark.parametrize("legal", [list(range(12)), [2, 5, 6, 9]], ids=["free", "masked"])
@pytest.mark.parametrize(
    "config",
    [
        SamplingConfig(),
        SamplingConfig(temperature=2.5),
        SamplingConfig(top_k=3),
        SamplingConfig(top_p=0.05),
        SamplingConfig(top_p=0.8),
        SamplingConfig(top_p=0.999999),
        SamplingConfig(temperature=2.0, top_k=4, top_p=0.7),
    ],
    ids=str,
)
def test_tokens_are_drawn_as_often_as_the_formula_says(config, legal):
    """Oracle: the distribution worked out in float64 by a loop: support, frequencies within five standard deviations, log-probabilities."""
    prob_V, legal_V, keys = expected_probabilities(config, legal), np.isin(np.arange(12), legal), jax.random.split(jax.random.key(5), 4000)
    tokens, log_prob = jax.jit(jax.vmap(lambda key: drawing.draw(LOGITS_V, legal_V, key, sampling=config)))(keys)
    frequency_V = np.bincount(tokens, minlength=12) / 4000
    assert not np.any(frequency_V[prob_V == 0])
    assert np.all(np.abs(frequency_V - prob_V) <= 5 * np.sqrt(prob_V * (1 - prob_V) / 4000))
    np.testing.assert_allclose(log_prob, np.log(prob_V[tokens]), atol=1e-5)


def test_a_token_is_the_one_that_jax_draws():
    """Oracle: `jax.random.categorical`, key by key; and numpy's argmax where the likeliest are three."""
    legal_V, keys = np.arange(12) != PAD, jax.random.split(jax.random.key(9), 500)
    tokens, _ = jax.jit(jax.vmap(lambda key: drawing.draw(LOGITS_V, legal_V, key, sampling=WARM)))(keys)
    logits_V = np.where(legal_V, LOGITS_V, -np.inf)
    np.testing.assert_array_equal(tokens, jax.vmap(lambda key: jax.random.categorical(key, logits_V))(keys))
    ties_V = np.array([0, 1, 3, 3, 2, 3], np.float32)
    assert drawing.draw(ties_V, np.ones(6, bool), keys[0], sampling=GREEDY)[0] == np.argmax(ties_V)


def test_greedy_takes_the_likeliest_token_of_the_uncached_model(params):
    """Oracle: argmax over what the training pass says of the tokens so far, PAD left out. All members of a group say the same."""
    generation = generate(params, 6, config=GREEDY)
    hidden_PGRD = transformer.response_hidden(CONFIG, params, PROMPT_PL, LENGTH_P, generation.tokens)
    log_prob_PGRV = jax.nn.log_softmax(transformer.logits(CONFIG, params, hidden_PGRD).at[..., PAD].set(-jnp.inf))
    mask_PGR = np.arange(R) < generation.length[..., None]
    assert mask_PGR.sum() > 2 * P * G
    np.testing.assert_array_equal(generation.tokens[mask_PGR], jnp.argmax(log_prob_PGRV, axis=-1)[mask_PGR])
    np.testing.assert_allclose(generation.log_prob[mask_PGR], jnp.max(log_prob_PGRV, axis=-1)[mask_PGR], atol=1e-5)
    assert np.all(generation.tokens == generation.tokens[:, :1])


def test_every_response_follows_the_grammar_to_its_end(ruled):
    """Oracle: a regex over the tokens as letters. Ten tokens are few, so the grammar has to bring some responses home in time."""
    for tokens_R, length in zip(ruled.tokens.reshape(-1, R), ruled.length.reshape(-1), strict=True):
        word = "".join("_$aaaaabbbbb"[token] for token in tokens_R)
        assert re.fullmatch(r"a+b+\$_*", word)
        assert length == word.index("$") + 1
    assert len(np.unique(ruled.length)) > 3
    assert ruled.length.max() == R


def test_the_states_are_those_of_the_walk(grammar, ruled):
    """Oracle: the transition table, walked in Python."""
    transition, token_class = np.asarray(grammar.transition), np.asarray(grammar.token_class)
    for tokens_R, state_R, length in zip(*(x.reshape(P * G, -1) for x in (ruled.tokens, ruled.state, ruled.length)), strict=True):
        state = int(grammar.initial)
        for r in range(length[0]):
            assert state_R[r] == state
            state = transition[state, token_class[tokens_R[r]]]
        assert state == DONE


def test_rows_and_keys_differ_and_nothing_else_does(params, ruled, grammar):
    """Oracle: the same call is bit-identical; another key, and another member of a group, says something else; and a prompt sampled
    without its neighbour says the same as beside it."""
    np.testing.assert_array_equal(generate(params, 3, grammar).tokens, ruled.tokens)
    assert np.mean(np.any(generate(params, 4, grammar).tokens != ruled.tokens, axis=-1)) > 0.9
    assert len(np.unique(ruled.tokens.reshape(P * G, R), axis=0)) > 0.9 * P * G
    np.testing.assert_array_equal(generate(params, 3, grammar, prompts=slice(1)).tokens, ruled.tokens[:1])


def test_what_follows_the_end_token_is_empty(free):
    """Oracle: the first end token found by numpy. Past it there is PAD, log-probability 0 and value 0; without one, length is R."""
    is_end_PGR = free.tokens == EOS
    expected_PG = np.where(np.any(is_end_PGR, axis=-1), np.argmax(is_end_PGR, axis=-1) + 1, R)
    assert 0 < np.any(is_end_PGR, axis=-1).mean() < 1
    np.testing.assert_array_equal(free.length, expected_PG)
    past_PGR = np.arange(R) >= expected_PG[..., None]
    np.testing.assert_array_equal(free.tokens == PAD, past_PGR)
    assert not np.any(free.log_prob[past_PGR])
    assert not np.any(free.value[past_PGR])
    assert np.all(free.log_prob[~past_PGR] < 0)


def test_sampling_stops_once_every_response_has_ended(params, monkeypatch):
    """Oracle: the tokens read, counted on the host: one fewer than the longest response has. All tokens are equally likely, so that ends
    long before the 400 tokens allowed."""
    decode, reads = transformer.decode, []

    def counted_decode(*args):
        jax.debug.callback(lambda: reads.append(1))
        return decode(*args)

    monkeypatch.setattr(transformer, "decode", counted_decode)
    settings = {"group_size": 2, "num_tokens": 400, "eos_id": EOS, "sampling": WARM, "grammar": None}
    run = jax.jit(lambda params, asked: sampling.generate(CONFIG, params, read(params), jax.random.key(7), asked=asked, **settings))
    uniform = {**params, "unembedding": jnp.zeros_like(params["unembedding"])}

    def longest_of(asked):
        reads.clear()
        generation = run(uniform, asked)
        jax.effects_barrier()
        assert len(reads) == generation.length.max() - 1 < 399
        return generation.length.max(axis=1)

    longest = longest_of(np.ones(P, bool))
    others = np.arange(P) != np.argmax(longest)
    np.testing.assert_array_equal(longest_of(others), np.where(others, longest, 0))


def test_prompts_that_are_not_asked_get_no_response(params, grammar, ruled):
    """Oracle: what each prompt is answered where both are asked; nothing stands where nothing is asked, and nobody waits for it."""
    drawn_by = {"group_size": G, "num_tokens": R, "grammar": grammar, "eos_id": EOS, "sampling": WARM}
    for asked in ([True, False], [False, True], [False, False]):
        answered = generate_jit(CONFIG, params, read(params), jax.random.key(3), asked=jnp.array(asked), **drawn_by)
        for p in range(P):
            expected = jax.tree.map(lambda x, p=p, is_asked=asked[p]: x[p] * is_asked, ruled)
            jax.tree.map(lambda x, y, p=p: np.testing.assert_array_equal(x[p], y), answered, expected)


@pytest.mark.parametrize("stride", [1, 3])
def test_a_response_drawn_in_several_goes_is_the_same(params, grammar, ruled, stride):
    """Oracle: `generate`, which draws it in one go; after every go the responses are as long as may be, and what is written stays."""
    drawn_by = {"grammar": grammar, "eos_id": EOS, "sampling": WARM}
    cache, key = read(params), jax.random.key(3)
    rollout = begin_jit(CONFIG, params, cache, key, group_size=G, num_tokens=R, **drawn_by)
    for until in range(1, R + stride, stride):
        rollout = extend_jit(CONFIG, params, cache, key, rollout, jnp.int32(min(until, R)), **drawn_by)
        written = rollout.generation
        np.testing.assert_array_equal(written.length, np.minimum(ruled.length, until))
        np.testing.assert_array_equal(written.tokens, np.where(np.arange(R) < until, ruled.tokens, PAD))
    jax.tree.map(np.testing.assert_array_equal, rollout.generation, ruled)


def test_on_the_policy_that_wrote_them_the_ratio_is_one(params, ruled, ruled_scores, free):
    """Oracle: the sampler's own log-probabilities and values, under a grammar at temperature 1 and without one at 0.7."""
    for generation, scores in ((ruled, ruled_scores), (free, score(params, free, None, COOL.temperature))):
        np.testing.assert_allclose(np.exp(scores.log_prob - generation.log_prob), 1.0, atol=1e-5)
        np.testing.assert_allclose(scores.value, generation.value, atol=1e-5)


def test_a_misalignment_of_one_token_shows_in_the_ratio(params, ruled, grammar):
    """Oracle: the check above fails by far where the tokens are shifted by one, so it can tell."""
    shifted = ruled.replace(tokens=np.roll(ruled.tokens, 1, axis=-1))
    assert np.mean(np.abs(score(params, shifted, grammar, 1.0).log_prob - ruled.log_prob)) > 1


def test_entropy_is_that_of_the_legal_distribution(params, ruled, ruled_scores):
    """Oracle: -sum p log p in float64 over the five tokens that may come first; and 0, as all scores are, past the end token."""
    first_PD = read(params).last
    weight_PV = np.exp(np.asarray(first_PD @ params["unembedding"], np.float64))[:, 2:7]
    prob_PV = weight_PV / weight_PV.sum(axis=-1, keepdims=True)
    expected_P = -np.sum(prob_PV * np.log(prob_PV), axis=-1)
    np.testing.assert_allclose(ruled_scores.entropy[..., 0], np.broadcast_to(expected_P[:, None], (P, G)), atol=1e-5)
    past_PGR = np.arange(R) >= ruled.length[..., None]
    assert np.any(past_PGR)
    for scores_PGR in (ruled_scores.log_prob, ruled_scores.entropy, ruled_scores.value):
        assert not np.any(scores_PGR[past_PGR])


def test_gradients_of_scores_are_numbers(params, grammar, ruled):
    """Oracle: finiteness, though past the end no token is legal at all; and a gradient in every parameter but no NaN in any."""

    def loss(params):
        scores = sampling.score(CONFIG, params, read(params), ruled, grammar=grammar, temperature=1.0, num_tokens=R)
        return sum(jnp.sum(x) for x in jax.tree.leaves(scores))

    for gradient in jax.tree.leaves(jax.jit(jax.grad(loss))(params)):
        assert np.all(np.isfinite(gradient))
        assert np.any(gradient != 0)
