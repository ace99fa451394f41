"""Where the heads of a fresh model's first layer look: one, two, three ... tokens back.

Whoever copies has to know what stood before each token, and a model that starts with random heads finds that out last: its loss stays on
a plateau until one layer looks back and the next one uses it (arXiv 2209.11895, "induction heads"). With biases on queries and keys,
rotary embedding can say it from the start.
"""

import jax.numpy as jnp
import numpy as np

from mr1jax.config import ModelConfig, require
from mr1jax.model.rotary import frequencies
from mr1jax.structs import PyTree

_BIAS = 6.0  # of each pair of a key: a head of 32 then gives 97 % of its attention to its own distance
_NUM_PAIRS = 6  # the fastest ones; the slower turn too little from one token to the next to tell them apart


def look_back(params: PyTree, config: ModelConfig) -> PyTree:
    """Returns fresh parameters in which head h of the first layer attends to the token h + 1 before its own, as far as its random matrices,
    which are left as they are, do not disturb it. It is free to unlearn it.

    With the bias b e_c on pair c of every key and the bias b R(-d f_c) e_c on that pair of a query, the score of a key that lies D tokens
    back is b^2 sum_c cos((D - d) f_c), which is greatest at D = d: R is the rotation and f_c are the frequencies of arXiv 2104.09864,
    section 3.2.2.

    Raises ValueError for a model without biases on queries and keys.
    """
    require(config.qkv_bias, "ModelConfig.qkv_bias is False; heads can only be told where to look by their biases: set it")
    frequency_C = np.asarray(frequencies(config))
    size_C = np.where(np.arange(len(frequency_C)) < _NUM_PAIRS, _BIAS, 0.0)
    distance_H = 1 + np.arange(config.num_heads)[:, None]
    query_HC = np.concatenate([size_C * np.cos(distance_H * frequency_C), -size_C * np.sin(distance_H * frequency_C)], axis=1)
    key_JC = np.broadcast_to(np.concatenate([size_C, np.zeros_like(size_C)]), (config.num_kv_heads, config.head_dim))
    layers = params["layers"]
    biases = {
        "query_bias": layers["query_bias"].at[0].set(jnp.asarray(query_HC, jnp.float32)),
        "key_bias": layers["key_bias"].at[0].set(jnp.asarray(key_JC, jnp.float32)),
    }
    return params | {"layers": layers | biases}
