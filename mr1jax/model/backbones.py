"""Which published models can be a backbone, and what a Hugging Face `config.json` says of one.

The table holds names and ids only: every size comes from the folder that the weights are in.
"""

import json
from pathlib import Path
from typing import Any

from mr1jax.config import ModelConfig, require

BACKBONES = {
    "qwen2.5-0.5b": "Qwen/Qwen2.5-0.5B-Instruct",
    "qwen2.5-1.5b": "Qwen/Qwen2.5-1.5B-Instruct",
    "qwen2.5-3b": "Qwen/Qwen2.5-3B-Instruct",
    "qwen2.5-7b": "Qwen/Qwen2.5-7B-Instruct",
    "qwen2.5-14b": "Qwen/Qwen2.5-14B-Instruct",
    "qwen3-0.6b": "Qwen/Qwen3-0.6B",
    "qwen3-1.7b": "Qwen/Qwen3-1.7B",
    "qwen3-4b": "Qwen/Qwen3-4B",
    "qwen3-8b": "Qwen/Qwen3-8B",
    "llama-3.2-1b": "meta-llama/Llama-3.2-1B-Instruct",
    "llama-3.2-3b": "meta-llama/Llama-3.2-3B-Instruct",
    "llama-3.1-8b": "meta-llama/Llama-3.1-8B-Instruct",
}

# What of an architecture its config.json does not say, or says only where it differs from this.
_ARCHITECTURES: dict[str, dict[str, Any]] = {
    "Qwen2ForCausalLM": {"attention_bias": True, "qk_norm": False},
    "Qwen3ForCausalLM": {"attention_bias": False, "qk_norm": True},
    "LlamaForCausalLM": {"attention_bias": False, "qk_norm": False},
}
_SIZES = {
    "vocab_size": "vocab_size",
    "d_model": "hidden_size",
    "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "d_ff": "intermediate_size",
    "norm_eps": "rms_norm_eps",
}
_LLAMA3 = {
    "rope_factor": "factor",
    "rope_low_freq_factor": "low_freq_factor",
    "rope_high_freq_factor": "high_freq_factor",
    "rope_original_length": "original_max_position_embeddings",
}
_UNSUPPORTED = {"hidden_act": "silu", "mlp_bias": False, "use_sliding_window": False}  # and the one value that is supported


def read_config(folder: str | Path) -> ModelConfig:
    """Reads `config.json` of a Hugging Face folder.

    Raises ValueError, naming the field, where the folder has none, where the architecture is none of Qwen2, Qwen3 and Llama, or
    where it uses something of these that this decoder does not have.
    """
    path = Path(folder) / "config.json"
    require(path.is_file(), f"{folder} has no config.json; give a folder as Hugging Face has it")
    try:
        raw = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is no JSON ({error}); download it again") from error
    names = raw.get("architectures") or ["none"]
    require(names[0] in _ARCHITECTURES, f"{path} is of architecture {names[0]}; supported are {', '.join(_ARCHITECTURES)}")
    known = _ARCHITECTURES[names[0]] | raw
    for field, supported in _UNSUPPORTED.items():
        value = known.get(field, supported)
        require(value == supported, f"{path} has {field} {value!r}; only {supported!r} is supported")
    missing = [field for field in _SIZES.values() if field not in known]
    require(not missing, f"{path} lacks {', '.join(missing)}; download it again")
    num_heads = known["num_attention_heads"]
    return ModelConfig(
        **{ours: known[theirs] for ours, theirs in _SIZES.items()},
        **_rope(path, known),
        num_kv_heads=known.get("num_key_value_heads") or num_heads,
        head_dim=known.get("head_dim") or known["hidden_size"] // num_heads,
        qkv_bias=known["attention_bias"],
        qk_norm=known["qk_norm"],
        tie_embeddings=known.get("tie_word_embeddings", False),
    )


def _rope(path: Path, known: dict[str, Any]) -> dict[str, Any]:
    """Reads the rotary embedding, which transformers 4 writes as two fields and transformers 5 as one."""
    scaling = known.get("rope_parameters") or known.get("rope_scaling") or {}
    theta = {"rope_theta": float(scaling.get("rope_theta", known.get("rope_theta", 10_000.0)))}
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    require(kind in ("default", "llama3"), f"{path} has rotary embeddings of type {kind!r}; 'default' and 'llama3' are supported")
    if kind == "default":
        return theta
    missing = [field for field in _LLAMA3.values() if field not in scaling]
    require(not missing, f"{path} has rotary embeddings of type 'llama3' without {', '.join(missing)}; download it again")
    return theta | {ours: scaling[theirs] for ours, theirs in _LLAMA3.items()}
