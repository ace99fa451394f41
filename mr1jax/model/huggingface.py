"""Weights from a Hugging Face folder: sharded safetensors, tensor by tensor, straight into arrays where they belong.

There a layer's matrices are [out, in] and stand alone; here they are [in, heads, head_dim] and stacked over layers. `tensors` says
which is which.
"""

import functools
import json
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Sharding
from safetensors import SafetensorError, safe_open

from mr1jax.config import ModelConfig, require
from mr1jax.model import transformer
from mr1jax.structs import Array, PyTree

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
_PART_BYTES = 32 * 2**20
_FLOATS = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": jnp.bfloat16}  # as safetensors names them


@dataclass(frozen=True)
class Tensor:
    """One tensor of a checkpoint. path: of the parameter here; shape: there; layer: its place in the stack, None outside the layers."""

    name: str
    path: tuple[str, ...]
    shape: tuple[int, ...]
    layer: int | None
    transposed: bool


def tensors(config: ModelConfig) -> Iterator[Tensor]:
    """Lists every tensor of a checkpoint of this model."""
    D, V = config.d_model, config.vocab_size
    yield Tensor("model.embed_tokens.weight", ("embedding",), (V, D), None, False)
    yield Tensor("model.norm.weight", ("final_norm",), (D,), None, False)
    if not config.tie_embeddings:
        yield Tensor("lm_head.weight", ("unembedding",), (V, D), None, True)
    for layer in range(config.num_layers):
        for name, ours, shape in _layer_tensors(config):
            yield Tensor(f"model.layers.{layer}.{name}", ("layers", ours), shape, layer, len(shape) == 2)


def _layer_tensors(config: ModelConfig) -> list[tuple[str, str, tuple[int, ...]]]:
    D, F, C = config.d_model, config.d_ff, config.head_dim
    widths = {"query": config.num_heads * C, "key": config.num_kv_heads * C, "value": config.num_kv_heads * C}
    tensors: list[tuple[str, str, tuple[int, ...]]] = [
        ("input_layernorm.weight", "attention_norm", (D,)),
        ("post_attention_layernorm.weight", "mlp_norm", (D,)),
    ]
    for ours, width in widths.items():
        tensors += [(f"self_attn.{ours[0]}_proj.weight", ours, (width, D))]
        tensors += [(f"self_attn.{ours[0]}_proj.bias", f"{ours}_bias", (width,))] if config.qkv_bias else []
    tensors += [(f"self_attn.{ours[0]}_norm.weight", f"{ours}_norm", (C,)) for ours in ("query", "key") if config.qk_norm]
    tensors += [("self_attn.o_proj.weight", "output", (D, config.num_heads * C))]
    return [
        *tensors,
        ("mlp.gate_proj.weight", "gate", (F, D)),
        ("mlp.up_proj.weight", "up", (F, D)),
        ("mlp.down_proj.weight", "down", (D, F)),
    ]


def load_backbone(
    folder: str | Path,
    config: ModelConfig,
    shardings: PyTree | None = None,
    dtype: str = "float32",
    swap: tuple[int, int] = (0, 0),
) -> PyTree:
    """Reads the weights of a folder into the parameters of `config`, each tensor straight into its place in its sharded array.

    On the host there is never more than one tensor of a layer at a time, or `_PART_BYTES` of the vocabulary's matrices, which are many
    times larger. shardings: a tree as the parameters', None for the default device. dtype: of the parameters; swap: two tokens that
    change places, see `HuggingFaceTokenizer`. The value head, which no checkpoint has, is 0.

    Raises ValueError, naming file and tensor, for weights that are missing, left over, of another shape, cut short, or pickled only.
    """
    wanted = {tensor.name: tensor for tensor in tensors(config)}
    where = _locate(Path(folder))
    _check_names(Path(folder), wanted, where, config)
    shapes = jax.eval_shape(lambda: transformer.init_params(config, jax.random.key(0)))
    params = _zeros(shapes, shardings, dtype)
    for file in sorted(set(where.values())):
        for tensor in (wanted[name] for name, at in where.items() if at == file and name in wanted):
            leaf, keys = params, tensor.path
            for key in keys[:-1]:
                leaf = leaf[key]
            for start, part in _parts(file, tensor, swap):
                # Written before the next is read: what waits to be written is memory too.
                leaf[keys[-1]] = jax.block_until_ready(_place(leaf[keys[-1]], part, tensor, start))
    return params


def _locate(folder: Path) -> dict[str, Path]:
    """Returns {tensor: file} by the index, or by the one file there is."""
    if (folder / INDEX).is_file():
        try:
            weight_map = dict(json.loads((folder / INDEX).read_text())["weight_map"])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{folder / INDEX} is no index of weights; download it again") from error
        for name, file in weight_map.items():
            require(
                _is_file_name(file),
                f"{folder / INDEX} says that {name} is in {file!r}, which is no safetensors file beside it; do not use it",
            )
            require((folder / file).is_file(), f"{folder / INDEX} says that {name} is in {file}, which is not there; download it again")
        return {name: folder / file for name, file in weight_map.items()}
    if not (folder / SINGLE).is_file():
        pickled = sorted(path.name for path in folder.glob("*.bin")) + sorted(path.name for path in folder.glob("*.pt*"))
        reason = f"only {pickled[0]}, and pickled weights are never read" if pickled else "no weights"
        raise ValueError(f"{folder} holds {reason}; give a folder with {SINGLE} or {INDEX}")
    with _open(folder / SINGLE) as file:
        return dict.fromkeys(file.keys(), folder / SINGLE)


def _is_file_name(file: object) -> bool:
    """Tells whether this names a file of weights in the folder itself: an index may hold anything."""
    return isinstance(file, str) and re.fullmatch(r"[\w.-]+\.safetensors", file, re.ASCII) is not None


def _open(path: Path):
    try:
        return safe_open(path, framework="numpy")
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is no complete safetensors file ({error}); download it again") from error


def _check_names(folder: Path, wanted: dict[str, Tensor], where: dict[str, Path], config: ModelConfig) -> None:
    missing = sorted(wanted.keys() - where.keys())
    require(not missing, f"the weights in {folder} lack {missing[0] if missing else ''}, which its config.json promises")
    # Some tied checkpoints carry the head all the same; it is the embedding again. Old ones carry the rotary frequencies.
    spare = {"lm_head.weight"} if config.tie_embeddings else set()
    left = sorted(name for name in where.keys() - wanted.keys() - spare if not name.endswith("rotary_emb.inv_freq"))
    require(not left, f"the weights in {folder} hold {left[0] if left else ''}, which its config.json does not know")


def _parts(path: Path, tensor: Tensor, swap: tuple[int, int]) -> Iterator[tuple[int, np.ndarray]]:
    """Reads a tensor as (first row, some rows), with two rows of the vocabulary in each other's place.

    The file is opened for each part: what is mapped of it counts as memory until it is closed.
    """
    with _open(path) as file:
        dtype = _check_tensor(file, path, tensor)
    num_rows = step = tensor.shape[0]
    places: dict[int, int] = {}
    if tensor.path[-1] in ("embedding", "unembedding"):
        step = max(1, _PART_BYTES * num_rows // (math.prod(tensor.shape) * dtype.itemsize))
        places = {swap[0]: swap[1], swap[1]: swap[0]}
    for start in range(0, num_rows, step):
        with _open(path) as file:
            rows = file.get_slice(tensor.name)
            part = rows[start : min(start + step, num_rows)]
            for here, there in places.items():
                if start <= here < start + len(part):
                    part[here - start] = rows[there : there + 1][0]
            yield start, part


def _check_tensor(file, path: Path, tensor: Tensor) -> np.dtype:
    try:
        found = file.get_slice(tensor.name)
    except SafetensorError as error:
        raise ValueError(f"{path} does not hold {tensor.name}, which the index says it does; download it again") from error
    shape, dtype = tuple(found.get_shape()), found.get_dtype()
    require(shape == tensor.shape, f"{tensor.name} of {path} has shape {list(shape)}, and config.json makes it {list(tensor.shape)}")
    require(dtype in _FLOATS, f"{tensor.name} of {path} is {dtype}; only weights of {', '.join(_FLOATS)} are read")
    return np.dtype(_FLOATS[dtype])


def _zeros(shapes: PyTree, shardings: PyTree | None, dtype: str) -> PyTree:
    def zeros(shape, sharding: Sharding | None = None) -> Array:
        return jnp.zeros(shape.shape, dtype, device=sharding)

    return jax.tree.map(zeros, shapes) if shardings is None else jax.tree.map(zeros, shapes, shardings)


def _place(array: Array, part: np.ndarray, about: Tensor, start: int) -> Array:
    """Writes rows from `start` on of one tensor into their place; the array is donated and keeps its layout."""
    write = _writer(array.shape, array.dtype, array.sharding, about.layer is not None, about.transposed)
    return write(array, part, np.int32(start if about.layer is None else about.layer))


@functools.lru_cache(maxsize=256)
def _writer(shape: tuple[int, ...], dtype, sharding: Sharding, stacked: bool, transposed: bool) -> Callable:
    def write(array: Array, part: Array, at: Array) -> Array:
        part = (part.T if transposed else part).astype(dtype)
        if stacked:
            return jax.lax.dynamic_update_index_in_dim(array, part.reshape(shape[1:]), at, axis=0)
        return jax.lax.dynamic_update_slice_in_dim(array, part, at, axis=1 if transposed else 0)

    return jax.jit(write, donate_argnums=0, out_shardings=sharding)
