"""A sentence encoder, BERT (arXiv 1810.04805) with its tokens' mean as MiniLM's sentence models have it, as functions of (config, params).

What a text means becomes one vector of length 1, so that the inner product of two is their cosine. T counts texts, L their tokens.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from safetensors import SafetensorError
from safetensors.numpy import load_file

from mr1jax.config import require
from mr1jax.model.attention import MASKED
from mr1jax.structs import Array, PyTree


@dataclass(frozen=True)
class EncoderConfig:
    """The sizes of an encoder. max_length: tokens of a text at most, the two special ones included."""

    vocab_size: int
    d_model: int
    num_layers: int
    num_heads: int
    d_ff: int
    num_positions: int
    num_types: int
    norm_eps: float
    max_length: int


_SIZES = {
    "vocab_size": "vocab_size",
    "d_model": "hidden_size",
    "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "d_ff": "intermediate_size",
    "num_positions": "max_position_embeddings",
    "num_types": "type_vocab_size",
    "norm_eps": "layer_norm_eps",
}
# Where a parameter here stands in a checkpoint there: outside the layers, and in layer n.
_NAMES = {
    "words": "embeddings.word_embeddings.weight",
    "positions": "embeddings.position_embeddings.weight",
    "types": "embeddings.token_type_embeddings.weight",
    "norm": "embeddings.LayerNorm",
    "query": "encoder.layer.{n}.attention.self.query",
    "key": "encoder.layer.{n}.attention.self.key",
    "value": "encoder.layer.{n}.attention.self.value",
    "output": "encoder.layer.{n}.attention.output.dense",
    "attention_norm": "encoder.layer.{n}.attention.output.LayerNorm",
    "up": "encoder.layer.{n}.intermediate.dense",
    "down": "encoder.layer.{n}.output.dense",
    "mlp_norm": "encoder.layer.{n}.output.LayerNorm",
}
_PARTS = {"kernel": ".weight", "scale": ".weight", "bias": ".bias"}
_SPARE = {"embeddings.position_ids", "pooler.dense.weight", "pooler.dense.bias"}  # for other uses of the same model


class _Block(nn.Module):
    """One post-norm block: attention over the whole text, then two dense layers with the exact GELU between them."""

    config: EncoderConfig

    @nn.compact
    def __call__(self, hidden_TLD: Array, mask_TL: Array):
        D, F, H, eps = self.config.d_model, self.config.d_ff, self.config.num_heads, self.config.norm_eps

        def heads(name: str) -> Array:
            return nn.Dense(D, name=name)(hidden_TLD).reshape(*hidden_TLD.shape[:2], H, D // H)

        query_TLHC, key_TLHC, value_TLHC = heads("query"), heads("key"), heads("value")
        score_THXL = jnp.einsum("TXHC,TLHC->THXL", query_TLHC, key_TLHC) * (D // H) ** -0.5
        weight_THXL = jax.nn.softmax(jnp.where(mask_TL[:, None, None], score_THXL, MASKED))
        mixed_TLD = jnp.einsum("THXL,TLHC->TXHC", weight_THXL, value_TLHC).reshape(hidden_TLD.shape)
        hidden_TLD = nn.LayerNorm(eps, name="attention_norm")(hidden_TLD + nn.Dense(D, name="output")(mixed_TLD))
        up_TLF = jax.nn.gelu(nn.Dense(F, name="up")(hidden_TLD), approximate=False)
        return nn.LayerNorm(eps, name="mlp_norm")(hidden_TLD + nn.Dense(D, name="down")(up_TLF)), None


class _Encoder(nn.Module):
    config: EncoderConfig

    @nn.compact
    def __call__(self, tokens_TL: Array, mask_TL: Array) -> Array:
        config, normal = self.config, nn.initializers.normal(0.02)
        words_VD = self.param("words", normal, (config.vocab_size, config.d_model))
        positions_LD = self.param("positions", normal, (config.num_positions, config.d_model))
        types_D = self.param("types", normal, (config.num_types, config.d_model))[0]  # a text alone is all of the first type
        hidden_TLD = words_VD[tokens_TL] + (positions_LD[: tokens_TL.shape[1]] + types_D[None])[None]
        hidden_TLD = nn.LayerNorm(config.norm_eps, name="norm")(hidden_TLD)
        blocks = nn.scan(_Block, variable_axes={"params": 0}, split_rngs={"params": True}, in_axes=nn.broadcast, length=config.num_layers)
        return blocks(config, name="layers")(hidden_TLD, mask_TL)[0]


def encode(config: EncoderConfig, params: PyTree, tokens_TL: Array, length_T: Array) -> Array:
    """Encodes T texts, padded on the right: float32[T, E], each of length 1.

        e = m / |m|,   m = mean over the text's own tokens of the last layer's output

    Source: arXiv 1908.10084 (Sentence-BERT), section 3, "MEAN". A text of no tokens is the zero vector.
    """
    mask_TL = jnp.arange(tokens_TL.shape[1])[None] < length_T[:, None]
    hidden_TLD = _Encoder(config).apply({"params": params}, tokens_TL, mask_TL)
    mean_TD = jnp.sum(jnp.where(mask_TL[..., None], hidden_TLD, 0.0), axis=1) / jnp.maximum(length_T, 1)[:, None]
    return mean_TD / jnp.maximum(jnp.linalg.norm(mean_TD, axis=1, keepdims=True), 1e-12)


def read_encoder(folder: str | Path) -> tuple[EncoderConfig, PyTree]:
    """Reads config.json and model.safetensors of a sentence encoder's folder; parameters come as numpy, layers stacked.

    Raises ValueError, naming file and tensor, for another architecture and for weights that are missing, left over or of another shape.
    """
    config, path = _read_config(Path(folder)), Path(folder) / "model.safetensors"
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is no complete safetensors file ({error}); give the folder of a sentence encoder") from error
    params = {}
    for keys, shape in traverse_util.flatten_dict(jax.eval_shape(lambda: _init(config))).items():
        stacked = keys[0] == "layers"
        shapes = shape.shape[1:] if stacked else shape.shape
        parts = [_take(tensors, path, keys, shapes, n) for n in range(config.num_layers if stacked else 1)]
        params[keys] = np.stack(parts) if stacked else parts[0]
    left = sorted(tensors.keys() - _SPARE)
    require(not left, f"{path} holds {left[0] if left else ''}, which its config.json does not know")
    return config, traverse_util.unflatten_dict(params)


def _init(config: EncoderConfig) -> PyTree:
    tokens_TL = jnp.zeros((1, 1), jnp.int32)
    return _Encoder(config).init(jax.random.key(0), tokens_TL, tokens_TL == 0)["params"]


def _take(tensors: dict[str, np.ndarray], path: Path, keys: tuple[str, ...], shape: tuple[int, ...], n: int) -> np.ndarray:
    """Takes one tensor out of those read, as it lies here; a second layer's is another, so each is used once."""
    part = _PARTS.get(keys[-1], "")
    name = _NAMES[keys[-2] if part else keys[-1]].format(n=n) + part
    require(name in tensors, f"{path} lacks {name}, which its config.json promises")
    tensor = tensors.pop(name)
    tensor = tensor.T if keys[-1] == "kernel" else tensor
    require(tensor.shape == shape, f"{name} of {path} is {list(tensor.shape)} here, and its config.json makes it {list(shape)}")
    return tensor


def _read_config(folder: Path) -> EncoderConfig:
    path = folder / "config.json"
    require(path.is_file(), f"{folder} has no config.json; give the folder of a sentence encoder, such as all-MiniLM-L6-v2")
    raw = json.loads(path.read_text())
    kind = raw.get("model_type"), raw.get("hidden_act"), raw.get("position_embedding_type", "absolute")
    require(kind == ("bert", "gelu", "absolute"), f"{path} is of {kind}; only BERT with gelu and absolute positions is supported")
    limits = folder / "sentence_bert_config.json"
    longest = json.loads(limits.read_text())["max_seq_length"] if limits.is_file() else raw["max_position_embeddings"]
    return EncoderConfig(**{ours: raw[theirs] for ours, theirs in _SIZES.items()}, max_length=longest)
