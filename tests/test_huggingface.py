"""Checkpoints in Hugging Face's layout, against a decoder written for that layout: numpy, float64, one sequence, one head at a time."""

import dataclasses
import json
import math
import weakref

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from mr1jax.model import huggingface, transformer
from mr1jax.model.backbones import BACKBONES, read_config
from mr1jax.model.huggingface import load_backbone

BASE = {
    "vocab_size": 31,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 20,
    "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,  # so that the 12 tokens of the tests turn slow, between and fast
}
FAMILIES = {
    "qwen2 tied": BASE | {"architectures": ["Qwen2ForCausalLM"], "num_key_value_heads": 2, "rope_theta": 1e6, "tie_word_embeddings": True},
    "qwen2 untied, one kv head": BASE | {"architectures": ["Qwen2ForCausalLM"], "num_key_value_heads": 1, "rope_theta": 1e6},
    "qwen3": BASE | {"architectures": ["Qwen3ForCausalLM"], "num_key_value_heads": 4, "head_dim": 10, "rope_theta": 1e6},
    "llama3": BASE | {"architectures": ["LlamaForCausalLM"], "num_key_value_heads": 2, "rope_theta": 500.0, "rope_scaling": LLAMA3},
    "transformers 5": BASE | {"architectures": ["LlamaForCausalLM"], "rope_parameters": LLAMA3 | {"rope_theta": 500.0}},
}


def random_checkpoint(raw, seed=0):
    """{name: float32} of every tensor of such a model, as its own code would name and lay them."""
    rng = np.random.default_rng(seed)
    D, F, H = raw["hidden_size"], raw["intermediate_size"], raw["num_attention_heads"]
    J, C = raw.get("num_key_value_heads", H), raw.get("head_dim", D // H)
    shapes = {"model.embed_tokens.weight": (raw["vocab_size"], D), "model.norm.weight": (D,)}
    if not raw.get("tie_word_embeddings"):
        shapes["lm_head.weight"] = (raw["vocab_size"], D)
    for n in range(raw["num_hidden_layers"]):
        layer = {"input_layernorm.weight": (D,), "post_attention_layernorm.weight": (D,), "self_attn.o_proj.weight": (D, H * C)}
        layer |= {f"self_attn.{x}_proj.weight": (width * C, D) for x, width in zip("qkv", (H, J, J), strict=True)}
        if raw["architectures"] == ["Qwen2ForCausalLM"]:
            layer |= {f"self_attn.{x}_proj.bias": (width * C,) for x, width in zip("qkv", (H, J, J), strict=True)}
        if raw["architectures"] == ["Qwen3ForCausalLM"]:
            layer |= {f"self_attn.{x}_norm.weight": (C,) for x in "qk"}
        layer |= {"mlp.gate_proj.weight": (F, D), "mlp.up_proj.weight": (F, D), "mlp.down_proj.weight": (D, F)}
        shapes |= {f"model.layers.{n}.{name}": shape for name, shape in layer.items()}
    return {name: (rng.standard_normal(shape) * shape[-1] ** -0.5 + (len(shape) == 1)).astype(np.float32) for name, shape in shapes.items()}


def write_folder(folder, raw, tensors, num_shards=1):
    """A folder with config.json and the tensors in one file, or in several with an index."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(raw))
    if num_shards == 1:
        save_file(tensors, folder / "model.safetensors")
        return folder
    weight_map = {name: f"model-{i % num_shards + 1:05d}-of-{num_shards:05d}.safetensors" for i, name in enumerate(tensors)}
    for file in set(weight_map.values()):
        save_file({name: tensors[name] for name, at in weight_map.items() if at == file}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder


# The decoder of the published checkpoints, one token position after the other -------------------------------------------------------


def norm(x, scale, eps):
    return x / np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + eps) * scale


def slowed(frequency, raw):
    """Llama 3.1's rule as its authors say it, in wavelengths."""
    scaling = raw.get("rope_scaling") or raw.get("rope_parameters")
    if not scaling:
        return frequency
    length, factor = scaling["original_max_position_embeddings"], scaling["factor"]
    wavelength = 2 * np.pi / frequency
    if wavelength < length / scaling["high_freq_factor"]:
        return frequency
    if wavelength > length / scaling["low_freq_factor"]:
        return frequency / factor
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    smooth = (length / wavelength - low) / (high - low)
    return (1 - smooth) * frequency / factor + smooth * frequency


def turn(x, position, raw):
    theta = raw.get("rope_theta") or raw["rope_parameters"]["rope_theta"]
    half = len(x) // 2
    frequency = np.array([slowed(theta ** (-c / half), raw) for c in range(half)])
    z = (x[:half] + 1j * x[half:]) * np.exp(1j * position * frequency)
    return np.concatenate([z.real, z.imag])


def attention(raw, w, x_XD):
    H, D = raw["num_attention_heads"], raw["hidden_size"]
    J, C = raw.get("num_key_value_heads", H), raw.get("head_dim", D // H)
    project = {x: x_XD @ w[f"self_attn.{x}_proj.weight"].T + w.get(f"self_attn.{x}_proj.bias", 0) for x in "qkv"}
    heads = {x: project[x].reshape(len(x_XD), -1, C) for x in "qkv"}
    for x in "qk":
        if f"self_attn.{x}_norm.weight" in w:
            heads[x] = norm(heads[x], w[f"self_attn.{x}_norm.weight"], raw["rms_norm_eps"])
    out = np.zeros((len(x_XD), H, C))
    for h in range(H):
        j = h * J // H
        for at in range(len(x_XD)):
            query = turn(heads["q"][at, h], at, raw)
            score = np.array([query @ turn(heads["k"][y, j], y, raw) for y in range(at + 1)]) / np.sqrt(C)
            weight = np.exp(score - score.max())
            out[at, h] = weight / weight.sum() @ heads["v"][: at + 1, j]
    return out.reshape(len(x_XD), H * C) @ w["self_attn.o_proj.weight"].T


def published_logits(raw, tensors, tokens_X):
    tensors = {name: tensor.astype(np.float64) for name, tensor in tensors.items()}
    hidden = tensors["model.embed_tokens.weight"][tokens_X]
    for n in range(raw["num_hidden_layers"]):
        start = f"model.layers.{n}."
        w = {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}
        hidden = hidden + attention(raw, w, norm(hidden, w["input_layernorm.weight"], raw["rms_norm_eps"]))
        x = norm(hidden, w["post_attention_layernorm.weight"], raw["rms_norm_eps"])
        gate = x @ w["mlp.gate_proj.weight"].T
        hidden = hidden + (gate / (1 + np.exp(-gate)) * (x @ w["mlp.up_proj.weight"].T)) @ w["mlp.down_proj.weight"].T
    head = tensors["model.embed_tokens.weight" if raw.get("tie_word_embeddings") else "lm_head.weight"]
    return norm(hidden, tensors["model.norm.weight"], raw["rms_norm_eps"]) @ head.T


@pytest.mark.parametrize("family", FAMILIES)
def test_a_checkpoint_computes_what_its_own_code_does(tmp_path, family):
    """Oracle: the decoder above on the same tensors; the prompt padded, the response read with its cache."""
    raw = FAMILIES[family]
    tensors = random_checkpoint(raw)
    folder = write_folder(tmp_path / "model", raw, tensors, num_shards=3)
    config = read_config(folder)
    params = load_backbone(folder, config)
    tokens_X = np.random.default_rng(1).integers(0, raw["vocab_size"], 12)
    prompt_PL, response_PGR = np.pad(tokens_X[:7], (0, 3))[None], tokens_X[None, None, 7:]
    hidden = transformer.response_hidden(config, params, jnp.asarray(prompt_PL), jnp.array([7]), jnp.asarray(response_PGR))
    got = transformer.logits(config, params, hidden)[0, 0]
    np.testing.assert_allclose(got, published_logits(raw, tensors, tokens_X)[6:-1], rtol=0, atol=1e-4)


# What is read, and what is refused --------------------------------------------------------------------------------------------------

RAW = FAMILIES["qwen2 untied, one kv head"]


@pytest.fixture
def tensors():
    return random_checkpoint(RAW)


def test_all_formats_of_a_folder_give_the_same_bits(tmp_path, tensors):
    """Oracle: one file against five; bfloat16 is widened exactly; a spare head and old rotary tables are passed over."""
    config = read_config(write_folder(tmp_path / "one", RAW, tensors))
    expected = load_backbone(tmp_path / "one", config)
    assert all(np.any(leaf) for path, leaf in jax.tree.leaves_with_path(expected) if path[0].key != "value_head")
    half = {name: tensor.astype(ml_dtypes.bfloat16) for name, tensor in tensors.items()}
    several = write_folder(tmp_path / "five", RAW, half | {"model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(3, np.float32)}, 5)
    rounded = jax.tree.map(lambda x: np.asarray(x).astype(ml_dtypes.bfloat16).astype(np.float32), expected)
    jax.tree.map(np.testing.assert_array_equal, load_backbone(several, config), rounded)
    tied = dataclasses.replace(config, tie_embeddings=True)
    assert "unembedding" not in load_backbone(tmp_path / "one", tied)


def test_arrays_come_where_they_belong(tmp_path, tensors):
    """Oracle: the shardings asked for, and the values of one device."""
    folder = write_folder(tmp_path / "model", RAW, tensors)
    config = read_config(folder)
    expected = load_backbone(folder, config)
    mesh = jax.make_mesh((8,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = jax.sharding.PartitionSpec
    shardings = jax.tree.map(
        lambda leaf: jax.sharding.NamedSharding(mesh, spec(*(None,) * (leaf.ndim - 1), "x" if leaf.shape[-1] % 8 == 0 else None)), expected
    )
    got = load_backbone(folder, config, shardings, "bfloat16")
    assert jax.tree.all(jax.tree.map(lambda leaf, sharding: leaf.sharding == sharding and leaf.dtype == jnp.bfloat16, got, shardings))
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(np.asarray(a), np.asarray(b.astype(jnp.bfloat16))), got, expected)


@pytest.mark.parametrize("part_bytes", [1, 700, 2**20])
def test_two_tokens_change_places_wherever_parts_end(tmp_path, tensors, monkeypatch, part_bytes):
    """Oracle: numpy on the tensors themselves; the vocabulary is read a row at a time, seven rows at a time and whole."""
    monkeypatch.setattr(huggingface, "_PART_BYTES", part_bytes)
    folder = write_folder(tmp_path / "model", RAW, tensors)
    got = load_backbone(folder, read_config(folder), swap=(3, 29))
    order = np.arange(31)
    order[[3, 29]] = 29, 3
    np.testing.assert_array_equal(got["embedding"], tensors["model.embed_tokens.weight"][order])
    np.testing.assert_array_equal(got["unembedding"], tensors["lm_head.weight"][order].T)
    same = load_backbone(folder, read_config(folder))
    jax.tree.map(np.testing.assert_array_equal, got["layers"], same["layers"])


def test_the_host_holds_one_part_at_a_time(tmp_path, tensors, monkeypatch):
    """Oracle: weak references: when a part has been read, those before it are gone; and the size of each, against the limit."""
    monkeypatch.setattr(huggingface, "_PART_BYTES", 1000)
    place, parts, alive = huggingface._place, [], []

    def watched(array, part, about, start):
        alive.append(sum(held() is not None for held in parts))
        assert part.nbytes <= max(1000, part.itemsize * math.prod(about.shape) * (about.layer is not None))
        parts.append(weakref.ref(part))
        return place(array, part, about, start)

    monkeypatch.setattr(huggingface, "_place", watched)
    folder = write_folder(tmp_path / "model", RAW, tensors, num_shards=3)
    load_backbone(folder, read_config(folder))
    assert len(parts) == len(tensors) + 2 * (math.ceil(31 / (1000 // (24 * 4))) - 1)
    assert max(alive) <= 1, alive


def changed(tensors, **changes):
    return {name: tensor for name, tensor in (tensors | changes).items() if tensor is not None}


BAD_WEIGHTS = {
    "missing": ({"model.norm.weight": None}, "lack model.norm.weight, which its config.json promises"),
    "left over": ({"model.layers.2.mlp.up_proj.weight": np.ones((20, 24), np.float32)}, "hold model.layers.2.mlp.up_proj.weight, which"),
    "shape": ({"lm_head.weight": np.ones((31, 25), np.float32)}, r"lm_head.weight of .* has shape \[31, 25\], and .* makes it \[31, 24\]"),
    "integers": (
        {"model.norm.weight": np.ones(24, np.int8)},
        "model.norm.weight of .* is I8; only weights of F64, F32, .* are read",
    ),
}


@pytest.mark.parametrize("what", BAD_WEIGHTS)
def test_weights_that_do_not_fit_are_named(tmp_path, tensors, what):
    """Oracle: the tensor in the sentence."""
    changes, sentence = BAD_WEIGHTS[what]
    folder = write_folder(tmp_path / "model", RAW, changed(tensors, **changes))
    with pytest.raises(ValueError, match=sentence):
        load_backbone(folder, read_config(folder))


def test_damaged_folders_are_refused(tmp_path, tensors):
    """Oracle: the sentence: a file cut short, one that the index names and nobody has, a tensor in another file, pickles only, nothing."""
    config = read_config(write_folder(tmp_path / "cut", RAW, tensors))
    whole = (tmp_path / "cut" / "model.safetensors").read_bytes()
    (tmp_path / "cut" / "model.safetensors").write_bytes(whole[:-100])
    with pytest.raises(ValueError, match="model.safetensors is no complete safetensors file"):
        load_backbone(tmp_path / "cut", config)
    shards = write_folder(tmp_path / "shards", RAW, tensors, num_shards=3)
    index = json.loads((shards / "model.safetensors.index.json").read_text())
    index["weight_map"]["model.norm.weight"] = "model-00001-of-00003.safetensors"
    (shards / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match="does not hold model.norm.weight, which the index says it does"):
        load_backbone(shards, config)
    (shards / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(ValueError, match="is in model-00002-of-00003.safetensors, which is not there"):
        load_backbone(shards, config)
    (tmp_path / "pickles").mkdir()
    with pytest.raises(ValueError, match="pickles holds no weights; give a folder with"):
        load_backbone(tmp_path / "pickles", config)
    (tmp_path / "pickles" / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(ValueError, match="only pytorch_model.bin, and pickled weights are never read"):
        load_backbone(tmp_path / "pickles", config)


BAD_CONFIGS = {
    "architecture": ({"architectures": ["GPT2LMHeadModel"]}, "is of architecture GPT2LMHeadModel; supported are Qwen2ForCausalLM, "),
    "activation": ({"hidden_act": "gelu"}, "has hidden_act 'gelu'; only 'silu' is supported"),
    "window": ({"use_sliding_window": True}, "has use_sliding_window True; only False is supported"),
    "rope": ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "of type 'yarn'; 'default' and 'llama3' are supported"),
    "half a rope": ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "without low_freq_factor, high_freq_factor, original_max_"),
}


@pytest.mark.parametrize("what", BAD_CONFIGS)
def test_models_that_are_another_are_refused_by_name(tmp_path, what):
    """Oracle: the field and its value in the sentence."""
    changes, sentence = BAD_CONFIGS[what]
    write_folder(tmp_path, RAW | changes, {})
    with pytest.raises(ValueError, match=sentence):
        read_config(tmp_path)


def test_every_backbone_has_an_id():
    """Oracle: the families that are read."""
    assert len(BACKBONES) == len(set(BACKBONES.values())) == 12
    assert {name.split("-")[0] for name in BACKBONES} == {"qwen2.5", "qwen3", "llama"}
