"""How large a backbone is, and an adapter on it, from its configuration alone."""

import math

import jax

from mr1jax.config import LoraConfig, ModelConfig
from mr1jax.model.huggingface import tensors
from mr1jax.model.lora import init_adapter
from mr1jax.model.transformer import count_parameters, init_params

_BYTES = {"bfloat16": 2, "float32": 4}


def measure(config: ModelConfig, lora: LoraConfig) -> dict[str, str]:
    """Says in words: the parameters of a checkpoint and their bytes, the bytes that a token's keys and values take, and the parameters of
    one agent's adapter with those of its Adam moments, where the rank is above 0. The value head, which no checkpoint has, does not count.
    """
    parameters = sum(math.prod(tensor.shape) for tensor in tensors(config))
    cached = 2 * config.num_layers * config.num_kv_heads * config.head_dim
    lines = {"parameters": f"{parameters:,}"}
    lines |= {f"weights, {dtype}": f"{parameters * size:,} bytes" for dtype, size in _BYTES.items()}
    lines |= {f"keys and values of a token, {dtype}": f"{cached * size:,} bytes" for dtype, size in _BYTES.items()}
    if lora.rank:
        adapter = count_lora(config, lora)
        lines |= {f"LoRA parameters, rank {lora.rank}": f"{adapter:,}", "LoRA weights and moments, float32": f"{3 * 4 * adapter:,} bytes"}
    return lines


def count_lora(config: ModelConfig, lora: LoraConfig) -> int:
    """Counts the factors of one agent's adapter."""
    shapes = jax.eval_shape(lambda: init_adapter(lora, init_params(config, jax.random.key(0)), jax.random.key(0)))
    return count_parameters(shapes["layers"])
