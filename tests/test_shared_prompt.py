"""A group that shares its prompt against the same group with a prompt for each member: loss and gradient of a whole training pass.

The second form is written here from the formulas: one sequence a member, prompt and response in a row, one full matrix of scores a head,
one layer after another.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import unoptimised  # noqa: F401

from mr1jax.config import LoraConfig, LossConfig, ModelConfig, replace
from mr1jax.model import attention, transformer
from mr1jax.model.lora import BASE, agent_params, init_adapter
from mr1jax.rl import sampling
from mr1jax.rl.algorithms import policy_loss
from mr1jax.rl.losses import LossBatch
from mr1jax.structs import PAD, Generation

P, G, L, R = 2, 3, 11, 6
CONFIG = ModelConfig(vocab_size=30, d_model=16, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=6, d_ff=20, remat=False)
LOSS = LossConfig(algorithm="ppo", kl_coef=0.3, entropy_coef=0.2)
LORA = LoraConfig(rank=2, alpha=3.0)
PROMPT_LENGTH, RESPONSE_LENGTH = np.array([11, 4], np.int32), np.array([[6, 1, 3], [5, 6, 2]], np.int32)
RNG = np.random.default_rng(0)
PROMPT_PL, TOKENS_PGR = (RNG.integers(1, 30, shape, np.int32) for shape in ((P, L), (P, G, R)))
MASK_PGR = np.arange(R) < RESPONSE_LENGTH[..., None]
BATCH = LossBatch(*RNG.normal(-2, 1, (2, P, G, R)).astype(np.float32), MASK_PGR, *RNG.normal(-2, 1, (3, P, G, R)).astype(np.float32))


@functools.cache
def start(lora):
    """(base, what trains): random everywhere, with nothing left at zero or one.

    Adapters are small: larger ones make a loss whose gradient float32 itself misses by more than the tolerance.
    """
    base = transformer.init_params(CONFIG, jax.random.key(0))
    trained = init_adapter(lora, base, jax.random.key(1)) if lora.rank else base
    noise = np.random.default_rng(1)
    scale = 0.1 if lora.rank else 0.3
    return base, jax.tree.map(lambda x: np.asarray(x + scale * noise.standard_normal(x.shape), np.float32), trained)


def whole(trained, lora):
    return agent_params({"answerer": trained} | ({BASE: start(lora)[0]} if lora.rank else {}), "answerer", lora)


def shared_loss(config, lora, trained):
    """The library's own."""
    zeros = np.zeros((P, G, R), np.float32)
    response = Generation(tokens=TOKENS_PGR, length=RESPONSE_LENGTH, log_prob=zeros, state=zeros.astype(np.int32), value=zeros)
    params = whole(trained, lora)
    cache = transformer.prefill(config, params, PROMPT_PL, PROMPT_LENGTH)
    scores = sampling.score(config, params, cache, response, grammar=None, temperature=0.8, num_tokens=R)
    return policy_loss(scores.log_prob, scores.entropy, scores.value, BATCH, LOSS)[0]


def repeated_loss(lora, trained):
    """Every member by itself."""
    params = whole(trained, lora)
    scores = [[one_sequence(params, p, g) for g in range(G)] for p in range(P)]
    log_prob, entropy, value = (jnp.stack([jnp.stack([member[n] for member in group]) for group in scores]) for n in range(3))
    return policy_loss(log_prob, entropy, value, BATCH, LOSS)[0]


def one_sequence(params, p, g):
    """(log-probability, entropy, value) of the R tokens of a response, each [R]."""
    length = PROMPT_LENGTH[p]
    tokens_T = np.concatenate([PROMPT_PL[p, :length], TOKENS_PGR[p, g]])
    hidden_TD = plain_hidden(params, tokens_T)[length - 1 : -1]
    logits_RV = (hidden_TD @ params["embedding"].T / 0.8).at[:, PAD].set(-1e30)
    log_prob_RV = logits_RV - jax.scipy.special.logsumexp(logits_RV, axis=-1, keepdims=True)
    log_prob_R = log_prob_RV[np.arange(R), TOKENS_PGR[p, g]]
    entropy_R = -jnp.sum(jnp.exp(log_prob_RV[:, 1:]) * log_prob_RV[:, 1:], axis=-1)
    return log_prob_R, entropy_R, hidden_TD @ params["value_head"]


def plain_hidden(params, tokens_T):
    T, half = len(tokens_T), CONFIG.head_dim // 2
    angle_TC = np.arange(T)[:, None] * CONFIG.rope_theta ** (-np.arange(half) / half)[None]
    turn_TC = jnp.asarray(np.exp(1j * angle_TC).astype(np.complex64))[:, None]
    causal_TT = np.tri(T, dtype=bool)[None]

    def norm(x_TD, scale_D):
        return x_TD / jnp.sqrt(jnp.mean(x_TD**2, axis=-1, keepdims=True) + CONFIG.norm_eps) * scale_D[None]

    def rotate(x_THC):
        z_THC = (x_THC[..., :half] + 1j * x_THC[..., half:]) * turn_TC
        return jnp.concatenate([z_THC.real, z_THC.imag], axis=-1)

    hidden_TD = params["embedding"][tokens_T]
    for n in range(CONFIG.num_layers):
        w = jax.tree.map(lambda x: x[n], params["layers"])  # noqa: B023
        x_TD = norm(hidden_TD, w["attention_norm"])
        query, key, value = (
            jnp.einsum("td,dhc->thc", x_TD, matrix(w, name)) + w[f"{name}_bias"][None] for name in ("query", "key", "value")
        )
        query, key, value = rotate(query), jnp.repeat(rotate(key), 2, axis=1), jnp.repeat(value, 2, axis=1)
        score = jnp.einsum("thc,shc->hts", query, key) / np.sqrt(CONFIG.head_dim)
        weight = jax.nn.softmax(jnp.where(causal_TT, score, -jnp.inf), axis=-1)
        hidden_TD += jnp.einsum("hts,shc,hcd->td", weight, value, matrix(w, "output"))
        x_TD = norm(hidden_TD, w["mlp_norm"])
        hidden_TD += (jax.nn.silu(x_TD @ matrix(w, "gate")) * (x_TD @ matrix(w, "up"))) @ matrix(w, "down")
    return norm(hidden_TD, params["final_norm"])


def matrix(w, name):
    """A layer's matrix with its adapter multiplied out."""
    if f"{name}_lora_a" not in w:
        return w[name]
    product = {"output": "hcz,zd->hcd", "gate": "dz,zf->df", "up": "dz,zf->df", "down": "fz,zd->fd"}.get(name, "dz,zhc->dhc")
    return w[name] + jnp.einsum(product, w[f"{name}_lora_a"], w[f"{name}_lora_b"])


@functools.cache
def expected(lora):
    return jax.device_get(jax.jit(jax.value_and_grad(functools.partial(repeated_loss, lora)))(start(lora)[1]))


@pytest.mark.parametrize("blocks", [False, True], ids=["whole", "blocks"])
@pytest.mark.parametrize("remat", [False, True], ids=["kept", "remat"])
@pytest.mark.parametrize("lora", [LoraConfig(), LORA], ids=["full", "lora"])
def test_loss_and_gradient_are_those_of_repeated_prompts(lora, remat, blocks, monkeypatch):
    """Oracle: the repeated form: ragged prompts and responses, every term of the loss, attention and tokens in one piece and in many."""
    if blocks:
        monkeypatch.setattr(attention, "_MAX_ROWS", 4)
        monkeypatch.setattr(attention, "_MAX_WIDTH", 4)
        monkeypatch.setattr(sampling, "_CHUNK_TOKENS", 4 * P * G)
    of_config = functools.partial(shared_loss, replace(CONFIG, remat=remat), lora)
    loss, gradient = jax.device_get(jax.jit(jax.value_and_grad(of_config))(start(lora)[1]))
    expected_loss, expected_gradient = expected(lora)
    np.testing.assert_allclose(loss, expected_loss, rtol=1e-5)
    for path, want in jax.tree_util.tree_leaves_with_path(expected_gradient):
        got = functools.reduce(lambda tree, key: tree[key.key], path, gradient)
        assert np.any(want != 0), path
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5 * np.abs(want).max(), err_msg=jax.tree_util.keystr(path))


def test_logits_are_never_held_at_once(monkeypatch):
    """Oracle: the scores and the gradient in one piece, equal to 1e-5; and the compiler's account of temporaries, against the bytes of
    one number for every token and word."""
    config = replace(CONFIG, vocab_size=3000, num_layers=1)
    params = transformer.init_params(config, jax.random.key(0))
    response = Generation(*np.zeros((5, 2, 4, 64), np.int32))
    response = response.replace(tokens=RNG.integers(1, 3000, (2, 4, 64), np.int32), length=np.full((2, 4), 64, np.int32))

    def measure(chunk_tokens):
        monkeypatch.setattr(sampling, "_CHUNK_TOKENS", chunk_tokens)

        def loss(params):
            cache = transformer.prefill(config, params, PROMPT_PL, PROMPT_LENGTH)
            scores = sampling.score(config, params, cache, response, grammar=None, temperature=1.0, num_tokens=64)
            return jnp.sum(jnp.sin(scores.log_prob)) + jnp.sum(jnp.sin(scores.entropy))

        program = jax.jit(jax.value_and_grad(loss)).lower(params).compile()
        return jax.device_get(program(params)), program.memory_analysis().temp_size_in_bytes

    (whole, gradient), in_one_piece = measure(2 * 4 * 64)
    (chunked, of_chunks), in_chunks = measure(32)
    np.testing.assert_allclose(chunked, whole, rtol=1e-5)
    jax.tree.map(lambda got, want: np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5 * np.abs(want).max()), of_chunks, gradient)
    assert in_chunks < 4 * 2 * 4 * 64 * 3000 < in_one_piece


def test_attention_is_not_computed_again_in_the_backward_pass():
    """Oracle: the exponentials in the gradient's program: recomputed layers add those of three MLPs' sigmoids, of prompts, of their last
    tokens and of responses, and none of a softmax."""

    def exponentials(remat):
        loss = functools.partial(shared_loss, replace(CONFIG, remat=remat), LoraConfig())
        return jax.jit(jax.grad(loss)).lower(start(LoraConfig())[1]).as_text().count("stablehlo.exponential ")

    assert exponentials(True) == exponentials(False) + 3
