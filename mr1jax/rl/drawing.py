"""One token drawn from logits: the legal ones, by temperature, top-k and top-p."""

import jax
import jax.numpy as jnp

from mr1jax.config import SamplingConfig
from mr1jax.structs import Array

_ILLEGAL = -1e30  # finite: exp of it is exactly 0, and a row without a legal token holds numbers, not NaN, until it is masked


def draw(logits_V: Array, legal_V: Array, key: Array, *, sampling: SamplingConfig) -> tuple[Array, Array]:
    """Draws one legal token by temperature, top-k and top-p; the likeliest at temperature 0.

    Returns int32[] and its float32[] log-probability under the distribution it was drawn from, which at temperature 0 is read as 1.
    """
    logits_V = masked_logits(logits_V, legal_V, sampling.temperature or 1.0)
    if sampling.temperature == 0:
        token = _argmax(logits_V)
    else:
        logits_V = _keep_top_p(_keep_top_k(logits_V, sampling.top_k), sampling.top_p)
        token = _argmax(logits_V + jax.random.gumbel(key, logits_V.shape))  # as `jax.random.categorical` does
    return token, logits_V[token] - jax.nn.logsumexp(logits_V)


def masked_logits(logits: Array, legal: Array, temperature: float) -> Array:
    """Rules out what is not legal: float[..., V] and bool[..., V] to the logits of the distribution that is drawn from."""
    return jnp.where(legal, logits / temperature, _ILLEGAL)


def _argmax(x_V: Array) -> Array:
    """Finds the first of the largest, as `jnp.argmax` does, in two plain reductions: XLA turns those into vector code on a CPU too."""
    index_V = jnp.arange(x_V.shape[0], dtype=jnp.int32)
    return jnp.min(jnp.where(x_V == jnp.max(x_V), index_V, x_V.shape[0] - 1))


def _keep_top_k(logits_V: Array, top_k: int) -> Array:
    """Keeps the k likeliest tokens, and all that tie with the last of them. 0 keeps everything."""
    if top_k == 0 or top_k >= logits_V.shape[0]:
        return logits_V
    return jnp.where(logits_V >= jax.lax.top_k(logits_V, top_k)[0][-1], logits_V, _ILLEGAL)


def _keep_top_p(logits_V: Array, top_p: float) -> Array:
    """Keeps the fewest likeliest tokens whose probabilities reach p (arXiv 1904.09751, section 3.1), and ties with the last of them."""
    if top_p == 1.0:
        return logits_V
    ordered_V = jnp.sort(logits_V, descending=True)
    prob_V = jax.nn.softmax(ordered_V)
    before_V = jnp.cumsum(prob_V) - prob_V  # what the likelier tokens reach without this one
    least = jnp.min(jnp.where(before_V < top_p, ordered_V, jnp.inf))
    return jnp.where(logits_V >= least, logits_V, _ILLEGAL)
