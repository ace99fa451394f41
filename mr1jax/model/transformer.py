"""A decoder in the Qwen2 / Llama shape, as functions of (config, params).

Responses never influence their prompt, so every forward pass is one of two: `prefill` reads the prompts and keeps their keys and
values, `extend` reads the responses given them. Rollout, training, the reference model and the supervised warm start all use these two;
`decode` is `extend` of one token with the response's own past cached. A group of G responses shares one prompt, and the prompt's
arithmetic is done once.

Outside this room nobody sees Flax: parameters are a plain tree, float32, with the layers stacked on a leading axis.
"""

import math

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct

from mr1jax.config import ModelConfig, replace
from mr1jax.model.attention import Keys, attend
from mr1jax.model.kernels import KEPT
from mr1jax.model.lora import adapter_axes, contracted_axes, factor_names
from mr1jax.model.rotary import frequencies, rotate
from mr1jax.sharding import constrain_batch
from mr1jax.structs import Array, PyTree

# What the axes of each parameter mean; `sharding` decides which mesh axis each lies along.
_LOGICAL_AXES = {
    "embedding": ("vocab", "embed"),
    "unembedding": ("embed", "vocab"),
    "value_head": ("embed",),
    "final_norm": ("embed",),
    "attention_norm": ("embed",),
    "query": ("embed", "heads", "head_dim"),
    "key": ("embed", "kv_heads", "head_dim"),
    "value": ("embed", "kv_heads", "head_dim"),
    "query_bias": ("heads", "head_dim"),
    "key_bias": ("kv_heads", "head_dim"),
    "value_bias": ("kv_heads", "head_dim"),
    "query_norm": ("head_dim",),
    "key_norm": ("head_dim",),
    "output": ("heads", "head_dim", "embed"),
    "mlp_norm": ("embed",),
    "gate": ("embed", "mlp"),
    "up": ("embed", "mlp"),
    "down": ("mlp", "embed"),
}


@struct.dataclass
class Cache:
    """P prompts as a model read them: all that their responses need of them.

    key, value: float[N, P, J, L, C], junk past length; length: int32[P]; last: float[P, D], the state that predicts what follows.
    """

    key: Array
    value: Array
    length: Array
    last: Array


@struct.dataclass
class ResponseCache:
    """Keys and values of the responses so far. key, value: float[N, P, J, G, R, C]."""

    key: Array
    value: Array


@struct.dataclass
class _Frame:
    """What all layers of one pass share: rotary angles, the lengths of the prompts, and where in the response cache the new token goes.

    last_P: the only token whose state leaves the last layer, of each prompt; None: all states do.
    """

    angle_PGXC: Array
    length_P: Array | None = None
    index: Array | None = None
    last_P: Array | None = None


class _Layer(nn.Module):
    """One pre-norm block: grouped-query attention, then SwiGLU. Returns the new tokens' keys and values beside the residual stream."""

    config: ModelConfig

    @nn.compact
    def __call__(self, hidden_PGXD: Array, cached: tuple, is_last: Array, frame: _Frame):
        x_PGXD = self._norm("attention_norm", hidden_PGXD)
        key_PGXJC = self._rotated("key", self.config.num_kv_heads, x_PGXD, frame.angle_PGXC)
        value_PGXJC = self._heads("value", self.config.num_kv_heads, x_PGXD)
        new = (key_PGXJC.transpose(0, 3, 1, 2, 4), value_PGXJC.transpose(0, 3, 1, 2, 4))
        stream = (hidden_PGXD, x_PGXD, frame.angle_PGXC)
        if frame.last_P is None:
            hidden_PGXD = self._mix(stream, _visible(new, cached, frame))
        else:
            hidden_PGXD = nn.cond(is_last, _Layer._mix_end, _Layer._mix, self, stream, (Keys(*new),), frame.last_P)
        return constrain_batch(hidden_PGXD), new

    def _mix(self, stream: tuple[Array, Array, Array], parts: tuple[Keys, ...], _last_P: Array | None = None) -> Array:
        """Adds to every token what it reads from the keys, and then its MLP's. _last_P: unread, as `cond` gives both branches the same."""
        hidden_PGXD, x_PGXD, angle_PGXC = stream
        config = self.config
        mixed_PGXHC = attend(self._rotated("query", config.num_heads, x_PGXD, angle_PGXC), *parts)
        shape = (config.num_heads, config.head_dim, config.d_model)
        hidden_PGXD = hidden_PGXD + self._project("output", mixed_PGXHC, shape, residual=True)
        return hidden_PGXD + self._mlp(hidden_PGXD)

    def _mix_end(self, stream: tuple[Array, Array, Array], parts: tuple[Keys, ...], last_P: Array) -> Array:
        """Does so for the last token of each prompt alone: nothing reads what the last layer would make of the others."""
        index_P111 = last_P[:, None, None, None]
        end = constrain_batch(jax.tree.map(lambda x_PGXD: jnp.take_along_axis(x_PGXD, index_P111, axis=2), stream))
        keys = parts[0]._replace(seen=last_P[:, None] + 1)
        hidden_PGXD = stream[0]
        is_end_X = jnp.arange(hidden_PGXD.shape[2])[None, None, :, None] == index_P111
        return jnp.where(is_end_X, self._mix(end, (keys,)), hidden_PGXD)

    def _mlp(self, hidden_PGXD: Array) -> Array:
        """Applies SwiGLU (arXiv 2002.05202): down(silu(gate(x)) * up(x))."""
        D, F = self.config.d_model, self.config.d_ff
        x_PGXD = self._norm("mlp_norm", hidden_PGXD)
        gate_PGXF = jax.nn.silu(self._project("gate", x_PGXD, (D, F)))
        return self._project("down", gate_PGXF * self._project("up", x_PGXD, (D, F)), (F, D), residual=True)

    def _rotated(self, name: str, num_heads: int, x_PGXD: Array, angle_PGXC: Array) -> Array:
        return rotate(self._head_norm(f"{name}_norm", self._heads(name, num_heads, x_PGXD)), angle_PGXC)

    def _heads(self, name: str, num_heads: int, x_PGXD: Array) -> Array:
        config = self.config
        heads = self._project(name, x_PGXD, (config.d_model, num_heads, config.head_dim))
        if not config.qkv_bias:
            return heads
        bias_HC = self.param(f"{name}_bias", nn.initializers.zeros, (num_heads, config.head_dim))
        return heads + bias_HC.astype(heads.dtype)[None, None, None]

    def _head_norm(self, name: str, x_PGXHC: Array) -> Array:
        if not self.config.qk_norm:
            return x_PGXHC
        return _rms_norm(x_PGXHC, self.param(name, nn.initializers.ones, (self.config.head_dim,)), self.config.norm_eps)

    def _norm(self, name: str, x_PGXD: Array) -> Array:
        return _rms_norm(x_PGXD, self.param(name, nn.initializers.ones, (self.config.d_model,)), self.config.norm_eps)

    def _project(self, name: str, x: Array, shape: tuple[int, ...], residual: bool = False) -> Array:
        """Declares a matrix and applies it, and its adapter where the parameters hold one; `residual` keeps 2N additions at unit scale."""
        axes, dtype = contracted_axes(name), self.config.dtype
        std = (math.prod(shape[:axes]) * (2 * self.config.num_layers if residual else 1)) ** -0.5
        y = _product(x, self.param(name, nn.initializers.normal(std), shape).astype(dtype), axes)
        down, up = factor_names(name)
        if not self.has_variable("params", down):
            return y
        low_PGXZ = _product(x, self.get_variable("params", down).astype(dtype), axes)
        return y + _product(low_PGXZ, self.get_variable("params", up).astype(dtype))


class _Decoder(nn.Module):
    """Embedding, scanned layers, final norm; and the two heads, which are read by `logits` and `values`."""

    config: ModelConfig

    @nn.compact
    def __call__(self, tokens_PGX: Array, cached: tuple, frame: _Frame):
        config = self.config
        # With standard deviation D**-0.5 tied logits start at unit scale, and so does the stream relative to what layers add to it.
        # The customary 0.02 is a fifth of that in a small model, and slows its learning visibly.
        normal = nn.initializers.normal(config.d_model**-0.5)
        embedding_VD = self.param("embedding", normal, (config.vocab_size, config.d_model))
        if not config.tie_embeddings:
            self.param("unembedding", normal, (config.d_model, config.vocab_size))
        self.param("value_head", nn.initializers.zeros, (config.d_model,))
        keep = jax.checkpoint_policies.save_only_these_names(KEPT)
        layer = nn.remat(_Layer, prevent_cse=False, policy=keep) if config.remat else _Layer
        layers = nn.scan(
            layer,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=(0, 0, nn.broadcast),
            length=config.num_layers,
        )
        hidden_PGXD = constrain_batch(embedding_VD[tokens_PGX].astype(config.dtype))
        is_last_N = jnp.arange(config.num_layers) == config.num_layers - 1
        hidden_PGXD, key_value = layers(config, name="layers")(hidden_PGXD, cached, is_last_N, frame)
        self.param("final_norm", nn.initializers.ones, (config.d_model,))
        return hidden_PGXD, key_value


def init_params(config: ModelConfig, key: Array) -> PyTree:
    """Draws fresh float32 parameters as a plain nested dict; everything under "layers" has a leading axis N."""
    tokens_PGX = jnp.zeros((1, 1, 1), jnp.int32)
    return _Decoder(config).init(key, tokens_PGX, (None, None), _frame(config, tokens_PGX))["params"]


def logical_axes(params: PyTree) -> PyTree:
    """Names the axes of every parameter: the same tree with a tuple of names, one an axis, in each array's place.

    Names: vocab, embed, heads, kv_heads, head_dim, mlp, rank, layers.
    """

    def name(path, _):
        axes = table[path[-1].key]
        return ("layers", *axes) if path[0].key == "layers" else axes

    table = _LOGICAL_AXES | adapter_axes(_LOGICAL_AXES)
    return jax.tree_util.tree_map_with_path(name, params)


def count_parameters(params: PyTree) -> int:
    """Counts the numbers in a tree of arrays or of their shapes."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def prefill(config: ModelConfig, params: PyTree, prompt_PL: Array, length_P: Array) -> Cache:
    """Reads P prompts, padded on the right.

    What the padding holds never matters: it lies after every real token, and `length` masks it for the responses.
    """
    P, L = prompt_PL.shape
    position_PGX = jnp.broadcast_to(jnp.arange(L)[None, None], (P, 1, L))
    last_P = jnp.maximum(length_P - 1, 0)
    frame = replace(_frame(config, position_PGX), last_P=last_P)
    hidden_PGXD, (key, value) = _apply(config, params, prompt_PL[:, None], (None, None), frame)
    last_PD = jnp.take_along_axis(hidden_PGXD[:, 0], last_P[:, None, None], axis=1)[:, 0]
    return Cache(key[:, :, :, 0], value[:, :, :, 0], length_P, last=_final_norm(config, params, last_PD))


def extend(config: ModelConfig, params: PyTree, cache: Cache, tokens_PGR: Array) -> Array:
    """Reads G responses to each prompt at once, given the prompts. Returns float[P, G, R, D]: the state after reading each token."""
    P, G, R = tokens_PGR.shape
    chex.assert_axis_dimension(cache.length, 0, P)
    position_PGX = jnp.broadcast_to(cache.length[:, None, None] + jnp.arange(R)[None, None], (P, G, R))
    frame = _frame(config, position_PGX, cache.length)
    hidden_PGRD, _ = _apply(config, params, tokens_PGR, ((cache.key, cache.value), None), frame)
    return _final_norm(config, params, hidden_PGRD)


def response_hidden(config: ModelConfig, params: PyTree, prompt_PL: Array, length_P: Array, response_PGR: Array) -> Array:
    """Returns float[P, G, R, D] in which entry r is the state that predicts response token r."""
    return continue_hidden(config, params, prefill(config, params, prompt_PL, length_P), response_PGR)


def continue_hidden(config: ModelConfig, params: PyTree, cache: Cache, response_PGR: Array) -> Array:
    """Computes `response_hidden` from what `prefill` returned, so that one prompt pass can serve rollout and loss."""
    P, G, _ = response_PGR.shape
    first_PGRD = jnp.broadcast_to(cache.last[:, None, None], (P, G, 1, config.d_model))
    return jnp.concatenate([first_PGRD, extend(config, params, cache, response_PGR[..., :-1])], axis=2)


def init_response_cache(config: ModelConfig, P: int, G: int, R: int) -> ResponseCache:
    """Makes room for R tokens of each response."""
    shape = (config.num_layers, P, config.num_kv_heads, G, R, config.head_dim)
    return ResponseCache(key=jnp.zeros(shape, config.dtype), value=jnp.zeros(shape, config.dtype))


def decode(
    config: ModelConfig, params: PyTree, cache: Cache, response_cache: ResponseCache, token_PG: Array, r: Array
) -> tuple[Array, ResponseCache]:
    """Reads token r of each response, given its prompt and its first r tokens, which are in the cache.

    Returns float[P, G, D], the state that predicts token r + 1, and the cache with token r in it.
    """
    position_PGX = jnp.broadcast_to((cache.length + r)[:, None, None], (*token_PG.shape, 1))
    frame = _frame(config, position_PGX, cache.length, index=r)
    cached = ((cache.key, cache.value), (response_cache.key, response_cache.value))
    hidden_PGXD, (key, value) = _apply(config, params, token_PG[..., None], cached, frame)
    # The layers hand back only the new token's keys and values: one small write a step, instead of a copy of the cache through the scan.
    response_cache = ResponseCache(key=_put(response_cache.key, key, r), value=_put(response_cache.value, value, r))
    return _final_norm(config, params, hidden_PGXD[:, :, 0]), response_cache


def logits(config: ModelConfig, params: PyTree, hidden: Array) -> Array:
    """Scores the vocabulary: float[..., D] to float32[..., V]."""
    matrix, product = (params["embedding"], "...D,VD->...V") if config.tie_embeddings else (params["unembedding"], "...D,DV->...V")
    return jnp.einsum(product, hidden, matrix.astype(hidden.dtype), preferred_element_type=jnp.float32)


def values(config: ModelConfig, params: PyTree, hidden: Array) -> Array:
    """Estimates the return from each state: float[..., D] to float32[...]. The head starts at 0."""
    return jnp.einsum("...D,D->...", hidden.astype(jnp.float32), params["value_head"])


def _visible(new: tuple[Array, Array], cached: tuple, frame: _Frame) -> tuple[Keys, ...]:
    """Lists what new tokens see: each other, or the response cache with the one new token in it; and the prompt, if there is one."""
    prompt, own = cached
    parts = [Keys(*new)]
    if own is not None:
        key, value = (_put(cache, x, frame.index) for cache, x in zip(own, new, strict=True))
        parts = [Keys(key, value, jnp.reshape(frame.index + 1, (1, 1)))]
    if prompt is not None:
        parts.append(Keys(prompt[0], prompt[1], frame.length_P[:, None]))
    return tuple(parts)


def _put(cache: Array, new: Array, index: Array) -> Array:
    """Writes new tokens into a response cache, [..., R, C], from token `index` on."""
    return jax.lax.dynamic_update_slice_in_dim(cache, new, index, axis=-2)


def _frame(config: ModelConfig, position_PGX: Array, length_P: Array | None = None, index: Array | None = None):
    """Computes the rotary angles of the positions once for all layers (arXiv 2104.09864, eq. 15)."""
    return _Frame(position_PGX[..., None] * frequencies(config)[None, None, None], length_P, index)


def _product(x: Array, matrix: Array, axes: int = 1) -> Array:
    """Contracts the last `axes` axes of x with the first of a matrix, as one plain product of two matrices.

    With the token axes left apart, the gradient of the matrix contracts three of them at once, which XLA runs at half the speed on a CPU.
    """
    lead, kept = x.shape[: x.ndim - axes], matrix.shape[axes:]
    size = math.prod(matrix.shape[:axes])
    return (x.reshape(-1, size) @ matrix.reshape(size, -1)).reshape(*lead, *kept)


def _rms_norm(x: Array, scale_D: Array, eps: float) -> Array:
    """Divides by the root mean square, in float32 (arXiv 1910.07467, eq. 4)."""
    x32 = x.astype(jnp.float32)
    x32 = x32 * jax.lax.rsqrt(jnp.mean(jnp.square(x32), axis=-1, keepdims=True) + eps)
    return (x32 * scale_D.reshape((1,) * (x.ndim - 1) + (-1,))).astype(x.dtype)


def _final_norm(config: ModelConfig, params: PyTree, hidden: Array) -> Array:
    return _rms_norm(hidden, params["final_norm"], config.norm_eps)


def _apply(config: ModelConfig, params: PyTree, tokens_PGX: Array, cached: tuple, frame: _Frame):
    return _Decoder(config).apply({"params": params}, tokens_PGX, cached, frame)
