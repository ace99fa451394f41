"""Which updates are not done: those of numbers that are not finite, and, where it is asked for, those far above the ones before.

A skipped update leaves parameters and moments as they were. What is far above is judged by a window of the updates that were done:

    x > mean(x) + sigmas * (std(x) + floor)     for x the loss or the gradient norm

as in MaxText's `skip_step_on_spikes`, which takes 6 deviations over 128 steps.
"""

import jax.numpy as jnp

from mr1jax.structs import Array, Guard

WINDOW = 128  # updates
_ENOUGH = 16  # updates from which on there is something to compare with
_FLOOR = 1e-4  # so that a loss that is nought but for rounding has no spikes


def init_guard(sigmas: float) -> Guard | None:
    """Starts with no updates; None where sigmas is 0, and nothing is a spike."""
    return Guard(jnp.zeros((2, WINDOW), jnp.float32), jnp.int32(0)) if sigmas > 0 else None


def is_sound(guard: Guard | None, loss: Array, grad_norm: Array, sigmas: float) -> Array:
    """Says whether an update may be done: both numbers, float32[], are finite and no spike. Returns bool[]."""
    number_2 = jnp.stack([loss, grad_norm])
    finite = jnp.all(jnp.isfinite(number_2))
    if guard is None:
        return finite
    seen_2W = jnp.broadcast_to(jnp.arange(WINDOW)[None] < guard.count, guard.history.shape)
    mean_2, std_2 = jnp.mean(guard.history, axis=1, where=seen_2W), jnp.std(guard.history, axis=1, where=seen_2W)
    return finite & ((guard.count < _ENOUGH) | jnp.all(number_2 <= mean_2 + sigmas * (std_2 + _FLOOR)))


def remember(guard: Guard | None, loss: Array, grad_norm: Array) -> Guard | None:
    """Adds an update that is done to the ring."""
    if guard is None:
        return None
    history_2W = guard.history.at[:, guard.count % WINDOW].set(jnp.stack([loss, grad_norm]))
    return Guard(history_2W, guard.count + 1)
