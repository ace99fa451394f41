"""Rotary position embedding (arXiv 2104.09864), with the slower rotations of Llama 3.1's long contexts."""

import jax.numpy as jnp

from mr1jax.config import ModelConfig
from mr1jax.structs import Array


def frequencies(config: ModelConfig) -> Array:
    """Returns how far each pair of a head turns from one token to the next, in radians: float32[C / 2].

        f_c  = theta^(-2c / C)                  turns_c = original_length f_c / 2 pi
        f'_c = (1 - s) f_c / factor + s f_c     s = clip((turns_c - low) / (high - low), 0, 1)

    Source: arXiv 2104.09864, section 3.2.2. f', which is f where the factor is 1: Llama 3.1's reference code, `apply_scaling`, which says
    the same in wavelengths.
    """
    frequency_C = config.rope_theta ** (-jnp.arange(0, config.head_dim, 2, dtype=jnp.float32) / config.head_dim)
    if config.rope_factor == 1.0:
        return frequency_C
    turns_C = config.rope_original_length * frequency_C / (2 * jnp.pi)
    low, high = config.rope_low_freq_factor, config.rope_high_freq_factor
    kept_C = jnp.clip((turns_C - low) / (high - low), 0.0, 1.0)
    return (1 - kept_C) * frequency_C / config.rope_factor + kept_C * frequency_C


def rotate(x_PGXHC: Array, angle_PGXC: Array) -> Array:
    """Rotates each pair (c, c + C/2) of a head by its angle: the half-split pairing of Qwen and Llama checkpoints."""
    cos, sin = jnp.cos(angle_PGXC)[..., None, :], jnp.sin(angle_PGXC)[..., None, :]
    first, second = jnp.split(x_PGXHC.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1).astype(x_PGXHC.dtype)
