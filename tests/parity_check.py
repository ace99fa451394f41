"""How this library's logits are compared with another's: ragged prompts padded into one batch, then their responses, in three ways."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from mr1jax.model import transformer

LOGITS = 1e-4  # largest difference to another library, in float32
CACHE = 1e-5  # largest difference of the cached decoding to the full pass


def compare(config, params, tokens_PX, prompt_length_P, expected_PXV):
    """Checks every logit of the responses. tokens: each row is a prompt of its own length and a response that goes on to the end.

    Returns the largest difference to `expected`, and of `decode`, token by token, to one pass over the response. What follows a prompt
    in its row, up to the longest, is padding here: junk that must not count.
    """
    rng = np.random.default_rng(0)
    P, X = tokens_PX.shape
    L, R = int(max(prompt_length_P)), X - int(max(prompt_length_P))
    inside_PL = np.arange(L)[None] < np.asarray(prompt_length_P)[:, None]
    prompt_PL = np.where(inside_PL, tokens_PX[:, :L], rng.integers(0, config.vocab_size, (P, L)))
    rows, starts = np.arange(P)[:, None], np.asarray(prompt_length_P)[:, None] + np.arange(R)[None]
    response_PGR = jnp.asarray(tokens_PX[rows, starts])[:, None]
    prefill, continue_hidden, decode = (
        jax.jit(functools.partial(each, config)) for each in (transformer.prefill, transformer.continue_hidden, transformer.decode)
    )
    cache = prefill(params, jnp.asarray(prompt_PL), jnp.asarray(prompt_length_P))
    hidden_PGRD = continue_hidden(params, cache, response_PGR)
    full_PRV = np.asarray(transformer.logits(config, params, hidden_PGRD))[:, 0]

    decoded, responses = [transformer.logits(config, params, cache.last)], transformer.init_response_cache(config, P, 1, R)
    for r in range(R - 1):
        state_PGD, responses = decode(params, cache, responses, response_PGR[..., r], jnp.int32(r))
        decoded.append(transformer.logits(config, params, state_PGD)[:, 0])
    expected_PRV = expected_PXV[rows, starts - 1]
    return float(np.abs(full_PRV - expected_PRV).max()), float(np.abs(np.stack(decoded, axis=1) - full_PRV).max())
