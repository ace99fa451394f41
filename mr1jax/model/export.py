"""A trained agent as a Hugging Face folder, which whatever serves such models can read: the way of `huggingface.py`, back. An adapter can
be a folder of its own, as PEFT writes them.

Nothing that lies in the target is ever deleted. Every file is written beside its name, read back and compared, and only then renamed.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np

from mr1jax.config import LoraConfig, ModelConfig, require
from mr1jax.model.huggingface import INDEX, SINGLE, Tensor, tensors
from mr1jax.model.lora import factor_names
from mr1jax.model.weights import save_tensors
from mr1jax.structs import PyTree

ADAPTER = "adapter_model.safetensors"
ADAPTER_CONFIG = "adapter_config.json"
SHARD_BYTES = 4 * 10**9
_COPIED = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "special_tokens_map.json", "generation_config.json")


def export_backbone(
    params: PyTree,
    config: ModelConfig,
    backbone: str | Path,
    target: str | Path,
    *,
    swap: tuple[int, int] = (0, 0),
    overwrite: bool = False,
    shard_bytes: int = SHARD_BYTES,
) -> list[str]:
    """Writes parameters as a folder like `backbone`, from which they were trained: weights, config.json, tokenizer, chat template.

    Weights keep their dtype. swap: the two tokens that changed places when the backbone was read, see `HuggingFaceTokenizer`; they
    change back. shard_bytes: of a file of weights at most, one tensor alone excepted. Returns the names of the files written.

    Raises ValueError if the target holds anything and overwrite is not set, if it holds weights that would go on to be read instead of
    these, or if what was written reads back differently.
    """
    source, target = Path(backbone), Path(target)
    shards = list(_shards(config, params, shard_bytes))
    _make_room(target, overwrite, (INDEX if len(shards) == 1 else SINGLE, ADAPTER_CONFIG))
    names = [SINGLE] if len(shards) == 1 else [f"model-{k:05d}-of-{len(shards):05d}.safetensors" for k in range(1, len(shards) + 1)]
    for name, shard in zip(names, shards, strict=True):
        save_tensors(target / name, {tensor.name: _tensor(params, tensor, swap) for tensor in shard}, {"format": "pt"})
    written = [*names, *(name for name in _COPIED if (source / name).is_file())]
    for name in written[len(names) :]:
        _write(target / name, (source / name).read_bytes())
    dtype = str(params["embedding"].dtype)
    settings = json.loads((source / "config.json").read_text()) | {"torch_dtype": dtype, "dtype": dtype}
    _write(target / "config.json", _as_json(settings))
    if "generation_config.json" not in written:
        ends = {name: settings[name] for name in ("bos_token_id", "eos_token_id", "pad_token_id") if name in settings}
        _write(target / "generation_config.json", _as_json(ends))
    if len(names) > 1:
        where = {tensor.name: name for name, shard in zip(names, shards, strict=True) for tensor in shard}
        size = sum(_num_bytes(params, tensor) for shard in shards for tensor in shard)
        _write(target / INDEX, _as_json({"metadata": {"total_size": size}, "weight_map": where}))
    return sorted({*written, "config.json", "generation_config.json", *([INDEX] if len(names) > 1 else [])})


def export_adapter(
    adapter: PyTree, lora: LoraConfig, config: ModelConfig, backbone: str | Path, target: str | Path, *, overwrite: bool = False
) -> list[str]:
    """Writes an adapter as a folder that PEFT lays over `backbone`: adapter_config.json and adapter_model.safetensors.

    PEFT's factors are those of `lora` transposed, lora_A [Z, in] and lora_B [out, Z], layer by layer, and it scales by alpha / Z too. The
    value head, which PEFT does not know, stays behind. backbone: its folder, or its id at the hub with the commit, as a run has it.
    Returns the names of the files written; raises ValueError as `export_backbone` does.
    """
    target = Path(target)
    _make_room(target, overwrite, (SINGLE, INDEX))
    factors, modules = {}, set()
    for tensor in tensors(config):
        if tensor.path[-1] in lora.targets:
            module = tensor.name.removesuffix(".weight")
            modules.add(module.rpartition(".")[2])
            down, up = (np.asarray(adapter["layers"][name][tensor.layer]) for name in factor_names(tensor.path[-1]))
            factors[f"base_model.model.{module}.lora_A.weight"] = down.reshape(-1, lora.rank).T
            factors[f"base_model.model.{module}.lora_B.weight"] = up.reshape(lora.rank, -1).T
    save_tensors(target / ADAPTER, factors, {"format": "pt"})
    name, _, revision = (str(backbone), "", "") if Path(backbone).is_dir() else str(backbone).partition("@")
    settings = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": name,
        "revision": revision or None,
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "target_modules": sorted(modules),
        "lora_dropout": 0.0,
        "bias": "none",
        "inference_mode": True,
    }
    _write(target / ADAPTER_CONFIG, _as_json(settings))
    return [ADAPTER_CONFIG, ADAPTER]


def _make_room(target: Path, overwrite: bool, rivals: tuple[str, ...]) -> None:
    """Makes the folder, unless something is in it that may not be written over, or that readers would take instead of what is written."""
    occupied = target.exists() and (not target.is_dir() or any(target.iterdir()))
    require(overwrite or not occupied, f"{target} is not empty; name a new folder, or set --overwrite to write over its files")
    for name in rivals:
        require(
            not (target / name).exists(), f"{target} holds {name} of another export, which this one does not replace; name a new folder"
        )
    target.mkdir(parents=True, exist_ok=True)


def _shards(config: ModelConfig, params: PyTree, shard_bytes: int) -> Iterator[list[Tensor]]:
    """Deals the tensors to files in their order."""
    shard: list[Tensor] = []
    size = 0
    for tensor in tensors(config):
        num_bytes = _num_bytes(params, tensor)
        if shard and size + num_bytes > shard_bytes:
            yield shard
            shard, size = [], 0
        shard.append(tensor)
        size += num_bytes
    yield shard


def _num_bytes(params: PyTree, tensor: Tensor) -> int:
    return int(np.prod(tensor.shape)) * _leaf(params, tensor).dtype.itemsize


def _leaf(params: PyTree, tensor: Tensor) -> jax.Array:
    for key in tensor.path:
        params = params[key]
    return params


def _tensor(params: PyTree, tensor: Tensor, swap: tuple[int, int]) -> np.ndarray:
    """Reads one tensor to the host as the checkpoint has it: [out, in], and the two tokens back in their places."""
    leaf = _leaf(params, tensor)
    array = np.asarray(leaf if tensor.layer is None else leaf[tensor.layer])
    array = array.reshape(tensor.shape[::-1]).T if tensor.transposed else array.reshape(tensor.shape)
    if tensor.path[-1] not in ("embedding", "unembedding"):
        return array
    array = array.copy()
    array[[*swap]] = array[[*reversed(swap)]]
    return array


def _write(path: Path, content: bytes) -> None:
    partial = path.with_name(path.name + ".partial")
    try:
        partial.write_bytes(content)
        require(partial.read_bytes() == content, f"{path} was not written: it read back differently; try another disk")
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _as_json(content: dict) -> bytes:
    return (json.dumps(content, indent=2) + "\n").encode()
