"""Fresh heads look back: seen in the gradient of the real network, with everything but one head of the first layer silenced."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mr1jax.config import ModelConfig, replace
from mr1jax.model.look_back import look_back
from mr1jax.model.transformer import init_params, prefill

CONFIG = ModelConfig(vocab_size=64, num_layers=1)
PROMPT = jnp.arange(1, 41)[None]  # every token once, so that a row of the embedding is a place of the prompt


def only_head(params, head):
    """The parameters with the output of all other heads and of the feed-forward part at 0, and no queries and keys but the biases."""
    layers = dict(params["layers"])
    kept_H = jnp.arange(CONFIG.num_heads) == head
    layers["output"] = layers["output"] * kept_H[None, :, None, None]
    layers |= {name: jnp.zeros_like(layers[name]) for name in ("query", "key", "down")}
    return params | {"layers": layers}


@jax.jit
def reach(params, direction_D):
    """How much each place of the prompt moves the last hidden state along a direction, besides the last place itself: float[L - 1]."""

    def along(embedding):
        hidden_PD = prefill(CONFIG, params | {"embedding": embedding}, PROMPT, jnp.array([PROMPT.size])).last
        return hidden_PD[0] @ direction_D

    return jnp.linalg.norm(jax.grad(along)(params["embedding"])[PROMPT[0, :-1]], axis=-1)


@pytest.mark.parametrize("head", range(CONFIG.num_heads))
def test_a_head_reads_the_token_at_its_distance(head):
    """Oracle: the gradient. Of all earlier tokens the one `head + 1` back moves the output most, by a factor of 4 and more."""
    params = only_head(look_back(init_params(CONFIG, jax.random.key(0)), CONFIG), head)
    moved_L = np.asarray(reach(params, jax.random.normal(jax.random.key(1), (CONFIG.d_model,))))
    nearest_first = moved_L[::-1]
    assert np.argmax(nearest_first) == head
    assert nearest_first[head] > 4 * np.delete(nearest_first, head).max()


def test_nothing_else_is_touched():
    """Oracle: the parameters as drawn, all but two biases of one layer."""
    config = replace(CONFIG, num_layers=2)
    before = init_params(config, jax.random.key(0))
    after = look_back(before, config)
    for name, old in before["layers"].items():
        changed = np.asarray(old != after["layers"][name])
        assert not changed[1:].any()
        assert changed[:1].any() == (name in ("query_bias", "key_bias"))
    assert all(np.array_equal(before[name], after[name]) for name in before if name != "layers")


def test_a_model_without_biases_is_refused():
    """Oracle: the sentence."""
    with pytest.raises(ValueError, match=r"ModelConfig.qkv_bias is False; .* set it"):
        look_back({}, replace(CONFIG, qkv_bias=False))
