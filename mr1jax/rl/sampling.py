"""Responses drawn with a cache, and the same responses scored again for the loss.

`generate` and `score` build the next-token distribution with the same `masked_logits`, so on the policy that wrote a response the two
log-probabilities agree to rounding, and the importance ratio of the loss starts at 1.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from flax import struct

from mr1jax.config import ModelConfig, SamplingConfig, replace
from mr1jax.model import transformer
from mr1jax.rl.drawing import draw, masked_logits
from mr1jax.structs import PAD, Array, Generation, PyTree
from mr1jax.text import grammar as grammars
from mr1jax.text.grammar import Grammar

_CHUNK_TOKENS = 512  # whose logits are held at once: enough for a matrix product at full speed, and little beside the layers' activations


@struct.dataclass
class Scores:
    """What the loss reads of each response token, 0 past the end token.

    log_prob: float32[P, G, R]; entropy: float32[P, G, R] in nats; value: float32[P, G, R].
    """

    log_prob: Array
    entropy: Array
    value: Array


@struct.dataclass
class Rollout:
    """What the sampling loop carries. `r` is the next token's index; token r - 1 is drawn and not yet read.

    done: bool[P, G], whether a response has ended; generation: what is drawn so far.
    """

    r: Array
    done: Array
    grammar_state: Array
    cache: transformer.ResponseCache
    generation: Generation


def generate(
    config: ModelConfig,
    params: PyTree,
    cache: transformer.Cache,
    key: Array,
    *,
    group_size: int,
    num_tokens: int,
    grammar: Grammar | None,
    eos_id: int,
    sampling: SamplingConfig,
    asked: Array | None = None,
) -> Generation:
    """Draws `group_size` responses of at most `num_tokens` tokens to each prompt; stops as soon as every response has ended.

    Row (p, g) draws token r with a key of its own, so what it says depends on no other row and on no layout. PAD is never drawn.

    Args:
      cache: P prompts, as `transformer.prefill` read them; each is there once for its whole group.
      grammar: what may follow what; None allows everything but PAD until `eos_id`.
      sampling: temperature 0 takes the likeliest token and reports its log-probability at temperature 1.
      asked: bool[P], which prompts there really are: to the others nothing is said, so nobody waits for it; None where all are.

    Returns:
      `Generation`, whose `log_prob` is of the distribution really drawn from: after grammar, temperature, top-k and top-p.
    """
    with jax.named_scope("decode"):
        begun = begin(
            config,
            params,
            cache,
            key,
            group_size=group_size,
            num_tokens=num_tokens,
            grammar=grammar,
            eos_id=eos_id,
            sampling=sampling,
            asked=asked,
        )
        ended = extend(config, params, cache, key, begun, num_tokens, grammar=grammar, eos_id=eos_id, sampling=sampling)
    return ended.generation


def begin(
    config: ModelConfig,
    params: PyTree,
    cache: transformer.Cache,
    key: Array,
    *,
    group_size: int,
    num_tokens: int,
    grammar: Grammar | None,
    eos_id: int,
    sampling: SamplingConfig,
    asked: Array | None = None,
) -> Rollout:
    """Draws the first token of each response; what is given is as in `generate`."""
    P, G = cache.length.size, group_size
    nothing = _start(config, P, G, num_tokens, grammar)
    if asked is not None:
        nothing = replace(nothing, done=jnp.broadcast_to(~asked[:, None], (P, G)))
    hidden_PGD = jnp.broadcast_to(cache.last[:, None], (P, G, config.d_model))
    return _write(config, params, _row_keys(key, P, G), nothing, hidden_PGD, grammar, eos_id, sampling)


def extend(
    config: ModelConfig,
    params: PyTree,
    cache: transformer.Cache,
    key: Array,
    rollout: Rollout,
    until: Array | int,
    *,
    grammar: Grammar | None,
    eos_id: int,
    sampling: SamplingConfig,
) -> Rollout:
    """Draws on, up to `until` tokens of a response, or until all have ended.

    In how many goes a response is drawn changes nothing in it. until: int32[], at most the `num_tokens` of `begin`; the rest is what was
    given there.
    """
    key_PG = _row_keys(key, *rollout.done.shape)

    def read_then_write(rollout: Rollout) -> Rollout:
        token_PG = jax.lax.dynamic_index_in_dim(rollout.generation.tokens, rollout.r - 1, axis=2, keepdims=False)
        hidden_PGD, response_cache = transformer.decode(config, params, cache, rollout.cache, token_PG, rollout.r - 1)
        return _write(config, params, key_PG, replace(rollout, cache=response_cache), hidden_PGD, grammar, eos_id, sampling)

    return jax.lax.while_loop(lambda rollout: (rollout.r < until) & ~jnp.all(rollout.done), read_then_write, rollout)


def _write(
    config: ModelConfig,
    params: PyTree,
    key_PG: Array,
    rollout: Rollout,
    hidden_PGD: Array,
    grammar: Grammar | None,
    eos_id: int,
    sampling: SamplingConfig,
) -> Rollout:
    """Draws token r of each response from the state that predicts it."""
    logits_PGV = transformer.logits(config, params, hidden_PGD)
    remaining = rollout.generation.tokens.shape[2] - rollout.r
    legal_PGV = _legal(grammar, rollout.grammar_state, remaining, config.vocab_size)
    step_key_PG = jax.vmap(jax.vmap(jax.random.fold_in, (0, None)), (0, None))(key_PG, rollout.r)
    token_PG, log_prob_PG = jax.vmap(jax.vmap(partial(draw, sampling=sampling)))(logits_PGV, legal_PGV, step_key_PG)
    return _record(rollout, token_PG, log_prob_PG, transformer.values(config, params, hidden_PGD), grammar, eos_id)


def score(
    config: ModelConfig,
    params: PyTree,
    cache: transformer.Cache,
    response: Generation,
    *,
    grammar: Grammar | None,
    temperature: float,
    num_tokens: int,
) -> Scores:
    """Scores responses token by token under `params`: the training pass, and the reference model's.

    Args:
      cache: the prompts, read under the same `params`.
      response: its tokens, length and state are read; its log_prob and value are not.
      temperature, num_tokens: as given to `generate`; the grammar counts the tokens that remain.

    Returns:
      `Scores` of every token up to and including the end token.
    """
    hidden_PGRD = transformer.continue_hidden(config, params, cache, response.tokens)
    R = response.tokens.shape[2]
    remaining_PGR = jnp.broadcast_to(num_tokens - jnp.arange(R)[None, None], response.tokens.shape)
    of_tokens = partial(_score_tokens, config, params, grammar, temperature)
    log_prob_PGR, entropy_PGR = _in_chunks(of_tokens, (hidden_PGRD, response.tokens, response.state, remaining_PGR))
    mask_PGR = jnp.arange(R)[None, None] < response.length[..., None]
    return Scores(
        log_prob=jnp.where(mask_PGR, log_prob_PGR, 0.0),
        entropy=jnp.where(mask_PGR, entropy_PGR, 0.0),
        value=jnp.where(mask_PGR, transformer.values(config, params, hidden_PGRD), 0.0),
    )


def _score_tokens(
    config: ModelConfig, params: PyTree, grammar: Grammar | None, temperature: float, tokens: tuple[Array, Array, Array, Array]
) -> tuple[Array, Array]:
    """Returns the log-probability of each token and the entropy of what it was drawn from, of (hidden, token, state, remaining)."""
    hidden_PGRD, token_PGR, state_PGR, remaining_PGR = tokens
    legal_PGRV = _legal(grammar, state_PGR, remaining_PGR, config.vocab_size)
    log_prob_PGRV = jax.nn.log_softmax(masked_logits(transformer.logits(config, params, hidden_PGRD), legal_PGRV, temperature))
    # Not a gather: its derivative would be a scatter into zeros the size of the logits.
    is_token_PGRV = token_PGR[..., None] == jnp.arange(config.vocab_size)[None, None, None]
    log_prob_PGR = jnp.sum(jnp.where(is_token_PGRV, log_prob_PGRV, 0.0), axis=-1)
    return log_prob_PGR, -jnp.sum(jnp.exp(log_prob_PGRV) * jnp.where(legal_PGRV, log_prob_PGRV, 0.0), axis=-1)


def _in_chunks(function: Callable[[PyTree], PyTree], arrays: PyTree) -> PyTree:
    """Maps `function` over arrays [P, G, R, ...], `_CHUNK_TOKENS` tokens of them at a time.

    The backward pass computes a chunk again, so that neither pass ever holds a number for every token and every word.
    """
    P, G, R = jax.tree.leaves(arrays)[0].shape[:3]
    num_chunks = -(-R // max(1, _CHUNK_TOKENS // (P * G)))
    size = -(-R // num_chunks)

    def cut(x: Array) -> Array:
        x = jnp.pad(x, [(0, num_chunks * size - R) if axis == 2 else (0, 0) for axis in range(x.ndim)])
        return jnp.moveaxis(x.reshape(P, G, num_chunks, size, *x.shape[3:]), 2, 0)

    results = jax.lax.map(jax.checkpoint(function), jax.tree.map(cut, arrays))
    return jax.tree.map(lambda x: jnp.moveaxis(x, 0, 2).reshape(P, G, -1)[..., :R], results)


def _legal(grammar: Grammar | None, state: Array, remaining: Array, vocab_size: int) -> Array:
    """Returns bool[..., V]: the tokens that may be written in each state, of which PAD is never one."""
    shape = (*state.shape, vocab_size)
    no_pad = jax.lax.broadcasted_iota(jnp.int32, shape, len(shape) - 1) != PAD
    return no_pad if grammar is None else no_pad & grammars.allowed(grammar, state, remaining)


def _row_keys(key: Array, P: int, G: int) -> Array:
    return jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(P * G)).reshape(P, G)


def _start(config: ModelConfig, P: int, G: int, R: int, grammar: Grammar | None) -> Rollout:
    tokens_PGR, zeros_PGR = jnp.full((P, G, R), PAD, jnp.int32), jnp.zeros((P, G, R), jnp.float32)
    initial = 0 if grammar is None else grammar.initial
    return Rollout(
        r=jnp.int32(0),
        done=jnp.zeros((P, G), bool),
        grammar_state=jnp.full((P, G), initial, jnp.int32),
        cache=transformer.init_response_cache(config, P, G, R),
        generation=Generation(
            tokens=tokens_PGR,
            length=jnp.zeros((P, G), jnp.int32),
            log_prob=zeros_PGR,
            state=jnp.zeros((P, G, R), jnp.int32),
            value=zeros_PGR,
        ),
    )


def _record(rollout: Rollout, token_PG: Array, log_prob_PG: Array, value_PG: Array, grammar: Grammar | None, eos_id: int) -> Rollout:
    """Writes column r of the generation, for the rows that have not ended, and moves on."""
    running_PG, generation = ~rollout.done, rollout.generation

    def put(column_PGR: Array, entry_PG: Array) -> Array:
        entry_PG = jnp.where(running_PG, entry_PG, jnp.zeros_like(entry_PG))
        return jax.lax.dynamic_update_index_in_dim(column_PGR, entry_PG, rollout.r, axis=2)

    state_PG = rollout.grammar_state if grammar is None else grammars.advance(grammar, rollout.grammar_state, token_PG)
    return replace(
        rollout,
        r=rollout.r + 1,
        done=rollout.done | (token_PG == eos_id),
        grammar_state=jnp.where(running_PG, state_PG, rollout.grammar_state),
        generation=Generation(
            tokens=put(generation.tokens, token_PG),
            length=generation.length + running_PG,
            log_prob=put(generation.log_prob, log_prob_PG),
            state=put(generation.state, rollout.grammar_state),
            value=put(generation.value, value_PG),
        ),
    )
