"""LoRA: what an agent learns as two thin matrices beside each of the base's, so that two agents share one frozen base.

    y = x W + (alpha / Z) (x A) B        A [in, Z] drawn, B [Z, out] zero, W frozen

Source: arXiv 2106.09685, section 4.1, eq. 3 (there W is [out, in], and A and B stand the other way round). With B zero an agent starts as
the base itself.

An adapter is a tree of its own, {"layers": {"query_lora_a": [N, D, Z], "query_lora_b": [N, Z, H, C], ...}, "value_head": [D]}, float32:
all that is trained of an agent, and all that has optimizer state. `agent_params` lays it over the base, as one tree for the transformer;
the arrays of the base are in that tree themselves and are not copied.
"""

import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from mr1jax.config import PROJECTIONS, LoraConfig
from mr1jax.structs import Array, PyTree

BASE = "base"  # the tree that both agents' adapters are laid over, beside them in a dict of parameters
_CONTRACTED = {"output": 2}  # leading axes of a matrix that a product sums over, where they are more than one


def contracted_axes(matrix: str) -> int:
    """Counts the axes of a projection's matrix that come from its input; those of its output follow."""
    return _CONTRACTED.get(matrix, 1)


def factor_names(matrix: str) -> tuple[str, str]:
    """Names the two factors of a matrix's adapter as they stand beside it in a layer: A, then B."""
    return f"{matrix}_lora_a", f"{matrix}_lora_b"


def adapter_axes(axes: Mapping[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    """Names the axes of both factors of every projection, given those of its matrix."""
    named: dict[str, tuple[str, ...]] = {}
    for matrix in PROJECTIONS:
        down, up = factor_names(matrix)
        split = contracted_axes(matrix)
        named |= {down: (*axes[matrix][:split], "rank"), up: ("rank", *axes[matrix][split:])}
    return named


def init_adapter(lora: LoraConfig, base: PyTree, key: Array) -> PyTree:
    """Draws an adapter that changes nothing yet: A normal with variance 1 / in, B zero, and the base's value head to train on."""
    layers: dict[str, Array] = {}
    for index, matrix in enumerate(PROJECTIONS):
        if matrix not in lora.targets:
            continue
        N, *shape = base["layers"][matrix].shape
        split, (down, up) = contracted_axes(matrix), factor_names(matrix)
        noise = jax.random.normal(jax.random.fold_in(key, index), (N, *shape[:split], lora.rank), jnp.float32)
        layers |= {down: noise * math.prod(shape[:split]) ** -0.5, up: jnp.zeros((N, lora.rank, *shape[split:]), jnp.float32)}
    return {"layers": layers, "value_head": jnp.array(base["value_head"], jnp.float32)}


def agent_params(params: Mapping[str, PyTree], agent: str, lora: LoraConfig) -> PyTree:
    """Returns the parameters of one agent as the transformer reads them.

    params: {"manager": tree, "answerer": tree}, of which it is one; with LoRA {"base": tree, "manager": adapter, "answerer": adapter}, of
    which it is the base with the adapter's factors in its layers, alpha / Z multiplied into B.
    """
    if BASE not in params:
        return params[agent]
    base, adapter = params[BASE], params[agent]
    factors = dict(adapter["layers"])
    for _, up in map(factor_names, lora.targets):
        factors[up] = factors[up] * (lora.alpha / lora.rank)
    return base | {"layers": base["layers"] | factors, "value_head": adapter["value_head"]}


def merge_adapter(base: PyTree, adapter: PyTree, lora: LoraConfig) -> PyTree:
    """Adds an adapter to its base for good: W + (alpha / Z) A B, computed in float32, as parameters of the base's shapes and dtypes."""
    layers = dict(base["layers"])
    for matrix in lora.targets:
        (N, *shape), split = layers[matrix].shape, contracted_axes(matrix)
        down_NXZ, up_NZY = (adapter["layers"][name] for name in factor_names(matrix))
        down_NXZ = down_NXZ.reshape(N, math.prod(shape[:split]), lora.rank)
        added_NXY = jnp.matmul(down_NXZ, up_NZY.reshape(N, lora.rank, -1), precision="highest") * (lora.alpha / lora.rank)
        layers[matrix] = (layers[matrix].astype(jnp.float32) + added_NXY.reshape(N, *shape)).astype(layers[matrix].dtype)
    return base | {"layers": layers, "value_head": adapter["value_head"]}
