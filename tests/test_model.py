"""The decoder against a second implementation: numpy, float64, one flat sequence, one head and one position pair at a time."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mr1jax.config import ModelConfig
from mr1jax.model import transformer
from mr1jax.model.attention import Keys, attend

P, G, L, R = 2, 3, 7, 5
CONFIG = ModelConfig(vocab_size=40, d_model=24, num_layers=3, num_heads=4, num_kv_heads=2, head_dim=6, d_ff=20)
UNTIED = dataclasses.replace(CONFIG, tie_embeddings=False, qkv_bias=False)
LENGTH_P = np.array([7, 4], np.int32)


def random_params(config):
    """Draws parameters in which nothing is left at zero or one: biases, norms and value head count too."""
    params = jitted(transformer.init_params, config)(jax.random.key(0))
    noise = np.random.default_rng(1)
    return jax.tree.map(lambda x: x + 0.1 * noise.standard_normal(x.shape).astype(np.float32), params)


def random_tokens():
    rng = np.random.default_rng(2)
    return rng.integers(1, CONFIG.vocab_size, (P, L), np.int32), rng.integers(1, CONFIG.vocab_size, (P, G, R), np.int32)


@pytest.fixture(scope="module")
def params():
    return random_params(CONFIG)


def jitted(function, config=CONFIG):
    return jax.jit(lambda *args: function(config, *args))


def naive_rms_norm(x, scale, eps):
    return np.stack([row / np.sqrt(np.mean(row**2) + eps) * scale for row in x])


def naive_rotate(x_C, position, theta):
    """Rotates by complex multiplication: pair c is the complex number x[c] + i x[c + C/2]."""
    half = len(x_C) // 2
    z = (x_C[:half] + 1j * x_C[half:]) * np.exp(1j * position * theta ** (-np.arange(half) / half))
    return np.concatenate([z.real, z.imag])


def naive_attention(config, w, x_XD):
    X, (H, C) = len(x_XD), (config.num_heads, config.head_dim)
    project = {
        name: np.einsum("xd,dhc->xhc", x_XD, w[name]) + (w[f"{name}_bias"] if config.qkv_bias else 0) for name in ("query", "key", "value")
    }
    mixed = np.zeros((X, H, C))
    for h in range(H):
        j = h // (H // config.num_kv_heads)
        for x in range(X):
            query = naive_rotate(project["query"][x, h], x, config.rope_theta)
            score = np.array([query @ naive_rotate(project["key"][y, j], y, config.rope_theta) for y in range(x + 1)]) / np.sqrt(C)
            weight = np.exp(score - score.max())
            mixed[x, h] = weight / weight.sum() @ project["value"][: x + 1, j]
    return np.einsum("xhc,hcd->xd", mixed, w["output"])


def naive_hidden(config, params, tokens_X):
    """Computes the hidden states float64[X, D] of one sequence by full attention."""
    params = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
    hidden = params["embedding"][tokens_X]
    for n in range(config.num_layers):
        w = {name: stacked[n] for name, stacked in params["layers"].items()}
        hidden = hidden + naive_attention(config, w, naive_rms_norm(hidden, w["attention_norm"], config.norm_eps))
        x = naive_rms_norm(hidden, w["mlp_norm"], config.norm_eps)
        gate = x @ w["gate"]
        hidden = hidden + (gate / (1 + np.exp(-gate)) * (x @ w["up"])) @ w["down"]
    return naive_rms_norm(hidden, params["final_norm"], config.norm_eps)


@pytest.mark.parametrize("config", [CONFIG, UNTIED], ids=["tied_bias", "untied_no_bias"])
def test_a_group_that_shares_its_prompt_equals_its_members_one_by_one(config):
    """Oracle: the naive decoder on prompt + response as one sequence, the prompt repeated for each member."""
    params, (prompt_PL, response_PGR) = random_params(config), random_tokens()
    hidden_PGRD = jitted(transformer.response_hidden, config)(params, prompt_PL, LENGTH_P, response_PGR)
    logits_PGRV = transformer.logits(config, params, hidden_PGRD)
    values_PGR = transformer.values(config, params, hidden_PGRD)
    unembedding = params["embedding"].T if config.tie_embeddings else params["unembedding"]
    for p in range(P):
        for g in range(G):
            length = LENGTH_P[p]
            naive = naive_hidden(config, params, np.concatenate([prompt_PL[p, :length], response_PGR[p, g]]))
            naive = naive[length - 1 : -1]
            np.testing.assert_allclose(hidden_PGRD[p, g], naive, rtol=1e-4, atol=1e-4)
            np.testing.assert_allclose(logits_PGRV[p, g], naive @ np.asarray(unembedding), rtol=1e-4, atol=1e-4)
            np.testing.assert_allclose(values_PGR[p, g], naive @ np.asarray(params["value_head"]), rtol=1e-4, atol=1e-4)


def test_decoding_with_the_cache_equals_reading_at_once(params):
    """Oracle: `extend`, which reads all R tokens in one pass."""
    prompt_PL, response_PGR = random_tokens()
    cache = jitted(transformer.prefill)(params, prompt_PL, LENGTH_P)
    expected_PGRD = jitted(transformer.extend)(params, cache, response_PGR)
    decode = jitted(transformer.decode)
    response_cache = transformer.init_response_cache(CONFIG, P, G, R)
    for r in range(R):
        hidden_PGD, response_cache = decode(params, cache, response_cache, response_PGR[..., r], r)
        np.testing.assert_allclose(hidden_PGD, expected_PGRD[:, :, r], rtol=1e-5, atol=1e-5)
    assert cache.last.shape == (P, CONFIG.d_model)


def test_a_response_of_one_token_is_predicted_by_the_prompt_alone(params):
    """Oracle: the state that `prefill` returns."""
    prompt_PL, response_PGR = random_tokens()
    last_PD = jitted(transformer.prefill)(params, prompt_PL, LENGTH_P).last
    hidden_PGRD = jitted(transformer.response_hidden)(params, prompt_PL, LENGTH_P, response_PGR[..., :1])
    np.testing.assert_allclose(hidden_PGRD, np.broadcast_to(last_PD[:, None, None], (P, G, 1, CONFIG.d_model)), rtol=1e-5, atol=1e-5)


def test_padding_changes_nothing(params):
    """Oracle: the same prompts with other tokens behind their end, and cut to their length."""
    prompt_PL, response_PGR = random_tokens()
    hidden = jitted(transformer.response_hidden)
    expected = hidden(params, prompt_PL, LENGTH_P, response_PGR)
    other_PL = np.where(np.arange(L) < LENGTH_P[:, None], prompt_PL, (prompt_PL + 7) % CONFIG.vocab_size).astype(np.int32)
    np.testing.assert_array_equal(hidden(params, other_PL, LENGTH_P, response_PGR), expected)
    short = hidden(params, prompt_PL[1:, : LENGTH_P[1]], LENGTH_P[1:], response_PGR[1:])
    np.testing.assert_allclose(short, expected[1:], rtol=1e-5, atol=1e-5)


def test_no_state_sees_what_comes_after_it(params):
    """Oracle: gradients. State r depends on the real prompt tokens and on its own response's tokens before r, on all of these, and on
    nothing else. Every token here occurs once, so the gradient of a token's embedding is that of a position."""
    response_GR = np.arange(1 + L, 1 + L + G * R, dtype=np.int32).reshape(G, R)
    prompt_L, length = np.arange(1, 1 + L, dtype=np.int32), 4

    def summary_R(embedding):
        with_embedding = {**params, "embedding": embedding}
        hidden = transformer.response_hidden(CONFIG, with_embedding, prompt_L[None], np.array([length]), response_GR[None])
        return jnp.sum(jnp.sin(hidden[0, 1]), axis=-1)

    gradient_RVD = jax.jit(jax.jacrev(summary_R))(params["embedding"])
    depends_RV = np.any(np.asarray(gradient_RVD) != 0, axis=-1)
    for r in range(R):
        expected = set(prompt_L[:length]) | set(response_GR[1, :r])
        assert set(np.flatnonzero(depends_RV[r])) == expected


def test_a_query_that_may_see_nothing_yields_numbers():
    """Oracle: 0 and a gradient of 0 for a query that sees nothing of either part, and the one value that the second query sees."""
    rng = np.random.default_rng(3)
    query = rng.standard_normal((1, 1, 2, 2, 4)).astype(np.float32)
    key, value = rng.standard_normal((2, 1, 2, 1, 2, 4)).astype(np.float32)
    prefix_key, prefix_value = rng.standard_normal((2, 1, 2, 3, 4)).astype(np.float32)
    seen, nothing = np.array([[0, 1]], np.int32), np.zeros((1, 1), np.int32)

    def mixed(query):
        return attend(query, Keys(key, value, seen), Keys(prefix_key, prefix_value, nothing))

    assert not np.any(mixed(query)[:, :, 0])
    assert not np.any(jax.grad(lambda query: jnp.sum(mixed(query)))(query)[:, :, 0])
    np.testing.assert_allclose(mixed(query)[0, 0, 1], value[0, :, 0, 0], rtol=1e-6)


def test_remat_keeps_the_gradient(params):
    """Oracle: the gradient without remat."""
    prompt_PL, response_PGR = random_tokens()

    def gradient(config):
        def loss(params):
            return jnp.sum(jnp.sin(transformer.response_hidden(config, params, prompt_PL, LENGTH_P, response_PGR)))

        return jax.jit(jax.grad(loss))(params)

    expected = gradient(CONFIG)
    for got, want in zip(jax.tree.leaves(gradient(dataclasses.replace(CONFIG, remat=True))), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def test_bfloat16_activations_stay_near_float32_ones(params):
    """Oracle: the float32 run, to what 8 bits of mantissa leave after three layers. Logits and values come out in float32."""
    prompt_PL, response_PGR = random_tokens()
    low = dataclasses.replace(CONFIG, dtype="bfloat16")
    hidden = jitted(transformer.response_hidden, low)(params, prompt_PL, LENGTH_P, response_PGR)
    expected = jitted(transformer.response_hidden)(params, prompt_PL, LENGTH_P, response_PGR)
    assert hidden.dtype == jnp.bfloat16
    assert transformer.logits(low, params, hidden).dtype == transformer.values(low, params, hidden).dtype == jnp.float32
    assert np.sqrt(np.mean((np.asarray(hidden, np.float32) - expected) ** 2)) < 0.05


@pytest.mark.parametrize("config", [CONFIG, UNTIED], ids=["tied_bias", "untied_no_bias"])
def test_every_parameter_names_its_axes(config):
    """Oracle: the sizes that the names stand for in the configuration."""
    size = {
        "vocab": config.vocab_size,
        "embed": config.d_model,
        "heads": config.num_heads,
        "kv_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "mlp": config.d_ff,
        "layers": config.num_layers,
    }
    abstract = jax.eval_shape(lambda key: transformer.init_params(config, key), jax.random.key(0))
    shapes = jax.tree.map(
        lambda axes: tuple(size[name] for name in axes), transformer.logical_axes(abstract), is_leaf=lambda x: isinstance(x, tuple)
    )
    assert shapes == jax.tree.map(lambda x: x.shape, abstract)


def test_parameters_are_counted():
    """Oracle: the sum written out by hand."""
    layer = 2 * 24 + 2 * (24 * 4 * 6) + 2 * (24 * 2 * 6) + (4 + 2 + 2) * 6 + 3 * 24 * 20
    abstract = jax.eval_shape(lambda key: transformer.init_params(CONFIG, key), jax.random.key(0))
    assert transformer.count_parameters(abstract) == 40 * 24 + 3 * layer + 24 + 24


def test_a_fresh_model_knows_nothing_yet_and_no_more():
    """Oracle: the entropy of guessing. The mean loss of a fresh model is within a nat of log V, and its values are 0."""
    config = ModelConfig(vocab_size=512, num_layers=2)
    params = jitted(transformer.init_params, config)(jax.random.key(4))
    tokens = np.random.default_rng(5).integers(1, 512, (4, 1, 30), np.int32)
    hidden = jitted(transformer.response_hidden, config)(params, tokens[:, 0], np.full(4, 30, np.int32), tokens)
    log_prob = jnp.take_along_axis(jax.nn.log_softmax(transformer.logits(config, params, hidden)), tokens[..., None], axis=-1)
    assert abs(-float(jnp.mean(log_prob)) - np.log(512)) < 1.0
    assert not np.any(transformer.values(config, params, hidden))
