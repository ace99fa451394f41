"""Attention by the fused kernels of accelerators: splash on a TPU, cuDNN on a GPU. `attention` says when, and in which layout."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernel
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

from mr1jax.sharding import on_shards
from mr1jax.structs import Array

KEPT = "attention"
"""What a layer that is recomputed in the backward pass should keep nevertheless: attention is its dearest part, and small to store."""

_LANES = 128  # a TPU's vector registers are so wide: every block is a multiple
_MAX_BLOCK = 512


@dataclass(frozen=True)
class _GroupMask(masks.Mask):
    """What the tokens of a group see when its responses lie behind each other, and behind their prompt among the keys.

    prompt: L; responses: G of `tokens` each. Rows and keys past the last are padding; such a row sees what the last response does, since
    the kernel knows no row that sees nothing.
    """

    prompt: int
    group: int
    tokens: int
    rows: int
    keys: int

    @property
    def shape(self) -> tuple[int, int]:
        return self.rows, self.keys

    def __getitem__(self, index: tuple[slice, slice]) -> np.ndarray:
        row, key = np.arange(self.rows)[index[0], None], np.arange(self.keys)[None, index[1]] - self.prompt
        member = np.minimum(row // self.tokens, self.group - 1)
        own = (key >= member * self.tokens) & (key <= row) & (key < (member + 1) * self.tokens)
        return own | (key < 0)


def splash(
    query_PJGIXC: Array, key_PJGXC: Array, value_PJGXC: Array, prefix: tuple[Array, Array, Array] | None, *, interpret: bool = False
) -> Array:
    """Attends, each token of a response to those up to itself and to its prompt, in one kernel a device (arXiv 2205.14135).

    prefix: key_PJLC, value_PJLC, and how many of the first are there, int32[P]. Returns float[P, J, G, I, X, C]. The G responses are rows
    and keys of one sequence behind the prompt; blocks that belong to two of them are never visited, and the prompt is there once.
    """
    P, J, _, _, _, C = query_PJGIXC.shape
    if prefix is None:
        nothing = jnp.zeros((P, J, 0, C), key_PJGXC.dtype)
        prefix = nothing, nothing, jnp.zeros(P, jnp.int32)

    def of_device(*arrays: Array) -> Array:
        return jax.vmap(lambda *of_prompt: _splash_prompt(*of_prompt, interpret=interpret))(*arrays)

    return on_shards(of_device, query_PJGIXC, key_PJGXC, value_PJGXC, *prefix)


def _splash_prompt(
    query_JGIXC: Array,
    key_JGXC: Array,
    value_JGXC: Array,
    prefix_key_JLC: Array,
    prefix_value_JLC: Array,
    length: Array,
    *,
    interpret: bool,
) -> Array:
    J, G, heads, X, C = query_JGIXC.shape
    L = prefix_key_JLC.shape[1]
    row_block, key_block = _block(G * X), _block(L + G * X)
    query_HZC = _padded((query_JGIXC * C**-0.5).swapaxes(1, 2).reshape(J * heads, G * X, C), row_block)
    key_JYC, value_JYC = (
        _padded(jnp.concatenate([prefix, own.reshape(J, G * X, C)], axis=1), key_block)
        for prefix, own in ((prefix_key_JLC, key_JGXC), (prefix_value_JLC, value_JGXC))
    )
    mask = _GroupMask(L, G, X, query_HZC.shape[1], key_JYC.shape[1])
    attend = kernel.make_splash_mha(
        masks.MultiHeadMask([mask] * (J * heads)),
        block_sizes=_block_sizes(row_block, key_block),
        head_shards=1,
        q_seq_shards=1,
        residual_checkpoint_name=KEPT,
        interpret=interpret,
    )
    index_Y = jnp.arange(mask.keys)
    padding_Y = ((index_Y >= length) & (index_Y < L)) | (index_Y >= L + G * X)
    segments = kernel.SegmentIds(q=jnp.zeros(mask.rows, jnp.int32), kv=padding_Y.astype(jnp.int32))
    mixed_HZC = attend(query_HZC, key_JYC, value_JYC, segments)
    return mixed_HZC[:, : G * X].reshape(J, heads, G, X, C).swapaxes(1, 2)


def cudnn(query_PJGIXC: Array, key_PJGXC: Array, value_PJGXC: Array) -> Array:
    """Attends, each token of a prompt (G = 1) to those up to itself, in cuDNN's kernel, which knows 16-bit numbers only."""
    P, J, _, heads, X, C = query_PJGIXC.shape
    query_PXHC = query_PJGIXC[:, :, 0].transpose(0, 3, 1, 2, 4).reshape(P, X, J * heads, C)
    key_PXJC, value_PXJC = (x[:, :, 0].swapaxes(1, 2) for x in (key_PJGXC, value_PJGXC))
    mixed_PXHC = jax.nn.dot_product_attention(query_PXHC, key_PXJC, value_PXJC, is_causal=True, implementation="cudnn")
    return mixed_PXHC.reshape(P, X, J, heads, C).transpose(0, 2, 3, 1, 4)[:, :, None]


def _block(size: int) -> int:
    return min(_MAX_BLOCK, -(-size // _LANES) * _LANES)


def _block_sizes(rows: int, keys: int) -> kernel.BlockSizes:
    """Gives all three kernels, one forwards and two backwards, the same blocks."""
    return kernel.BlockSizes(
        block_q=rows, block_kv=keys, block_q_dkv=rows, block_kv_dkv=keys, block_kv_dkv_compute=keys, block_q_dq=rows, block_kv_dq=keys
    )


def _padded(x: Array, multiple: int) -> Array:
    return jnp.pad(x, ((0, 0), (0, -x.shape[1] % multiple), (0, 0)))
