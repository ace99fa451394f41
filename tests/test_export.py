"""A trained agent as a Hugging Face folder: what was read and written again is what was read, and nothing in the target is lost."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file
from small_backbone import make_folder
from test_huggingface import FAMILIES, random_checkpoint, write_folder

from mr1jax.config import Config, LoraConfig, replace
from mr1jax.experiment import export_experiment, read_run
from mr1jax.model.backbones import read_config
from mr1jax.model.export import export_adapter, export_backbone
from mr1jax.model.huggingface import load_backbone
from mr1jax.model.lora import init_adapter
from mr1jax.model.weights import save_params
from mr1jax.prepare import describe_agent


def tensors_of(folder):
    """{name: array} of all weights of a folder, read file by file."""
    return {name: array for path in sorted(folder.glob("*.safetensors")) for name, array in load_file(path).items()}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_read_and_exported_is_the_same_checkpoint(family, dtype, tmp_path):
    """Oracle: the file that was read: the same tensors under the same names, bit for bit, two tokens swapped and swapped back."""
    raw = FAMILIES[family]
    published = {name: array.astype(dtype) for name, array in random_checkpoint(raw).items()}
    source = write_folder(tmp_path / "published", raw, published)
    config, swap = read_config(source), (0, 7)
    params = load_backbone(source, config, dtype=dtype, swap=swap)
    assert not np.array_equal(params["embedding"][0], published["model.embed_tokens.weight"][0])
    files = export_backbone(params, config, source, tmp_path / "out", swap=swap)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == files
    exported = tensors_of(tmp_path / "out")
    assert exported.keys() == published.keys()
    for name, array in published.items():
        assert exported[name].dtype == array.dtype
        assert exported[name].tobytes() == array.tobytes(), name
    settings = json.loads((tmp_path / "out" / "config.json").read_text())
    assert settings == raw | {"dtype": dtype, "torch_dtype": dtype}


def test_shards_have_an_index_that_reads_back(tmp_path):
    """Oracle: the parameters that were written, bit for bit; the sizes of the files; the bytes of all tensors."""
    raw = FAMILIES["qwen2 untied, one kv head"]
    source = write_folder(tmp_path / "published", raw, random_checkpoint(raw))
    config = read_config(source)
    params = load_backbone(source, config)
    export_backbone(params, config, source, tmp_path / "out", shard_bytes=4000)
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    files = sorted(path.name for path in (tmp_path / "out").glob("*.safetensors"))
    assert sorted(set(index["weight_map"].values())) == files
    assert len(files) > 3
    assert files[0] == f"model-00001-of-{len(files):05d}.safetensors"
    sizes = {file: [array.nbytes for array in load_file(tmp_path / "out" / file).values()] for file in files}
    assert all(sum(each) <= 4000 or len(each) == 1 for each in sizes.values())
    assert index["metadata"]["total_size"] == sum(map(sum, sizes.values()))
    for ours, theirs in zip(jax.tree.leaves(params), jax.tree.leaves(load_backbone(tmp_path / "out", config)), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_folder_that_is_not_empty_is_refused_and_kept(tmp_path):
    """Oracle: the bytes of what was there, before and after; with --overwrite what has another name stays too."""
    raw = FAMILIES["qwen3"]
    source = write_folder(tmp_path / "published", raw, random_checkpoint(raw))
    config = read_config(source)
    params, target = load_backbone(source, config), tmp_path / "out"
    target.mkdir()
    (target / "notes.txt").write_text("mine")
    (target / "config.json").write_text("old")
    with pytest.raises(ValueError, match=r"out is not empty; name a new folder, or set --overwrite"):
        export_backbone(params, config, source, target)
    assert {path.name: path.read_text() for path in target.iterdir()} == {"notes.txt": "mine", "config.json": "old"}
    export_backbone(params, config, source, target, overwrite=True)
    assert (target / "notes.txt").read_text() == "mine"
    assert read_config(target) == config
    with pytest.raises(ValueError, match=r"notes.txt is not empty"):
        export_backbone(params, config, source, target / "notes.txt")


@pytest.mark.parametrize(("old", "new"), [(400, 10**9), (10**9, 400)], ids=["shards then one file", "one file then shards"])
def test_weights_that_would_be_read_instead_are_not_left_beside(old, new, tmp_path):
    """Oracle: the bytes of the first export, before and after."""
    raw = FAMILIES["qwen3"]
    source = write_folder(tmp_path / "published", raw, random_checkpoint(raw))
    config, target = read_config(source), tmp_path / "out"
    export_backbone(load_backbone(source, config), config, source, target, shard_bytes=old)
    before = {path.name: path.read_bytes() for path in target.iterdir()}
    with pytest.raises(ValueError, match=r"out holds model.safetensors.* of another export"):
        export_backbone(load_backbone(source, config), config, source, target, overwrite=True, shard_bytes=new)
    assert {path.name: path.read_bytes() for path in target.iterdir()} == before


def test_an_export_that_reads_back_differently_is_no_export(tmp_path, monkeypatch):
    """Oracle: the target: no weights, and nothing half written."""
    raw = FAMILIES["qwen3"]
    source = write_folder(tmp_path / "published", raw, random_checkpoint(raw))
    params = load_backbone(source, read_config(source))
    monkeypatch.setattr("mr1jax.model.weights.load_file", lambda path: {name: array + 1 for name, array in load_file(path).items()})
    with pytest.raises(ValueError, match="read back differently"):
        export_backbone(params, read_config(source), source, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_run_is_exported_with_its_tokenizer_and_chat_template(tmp_path):
    """Oracle: the backbone's own files byte for byte, and the trained weights as `load_backbone` reads them back."""
    source = make_folder(tmp_path / "published")
    config = read_config(source)
    trained = jax.tree.map(lambda x: x + np.float32(0.5), load_backbone(source, config))
    run = tmp_path / "run"
    run.mkdir()
    save_params(run / "answerer.safetensors", trained)
    (run / "config.json").write_text(json.dumps({"agent": "answerer", "backbone": str(source)}))
    export_experiment(run, tmp_path / "out")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "out" / name).read_bytes() == (source / name).read_bytes()
    end = json.loads((source / "tokenizer.json").read_text())["added_tokens"][1]["id"]
    again = load_backbone(tmp_path / "out", config, swap=(0, end))  # <|endoftext|>, the padding, changes places with token 0
    for name in ("embedding", "final_norm"):
        np.testing.assert_array_equal(again[name], trained[name])


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({}, "run is no folder of a run: it has no config.json; train an experiment first"),
        ({"config.json": "{"}, "config.json is no configuration of a run; train the experiment again"),
        ({"config.json": json.dumps({"agent": "answerer", "backbone": ""})}, "run was trained from the tiny model that ships"),
    ],
    ids=["none", "broken", "tiny"],
)
def test_runs_that_cannot_be_exported(files, says, tmp_path):
    """Oracle: by hand. One sentence, and no folder made."""
    run = tmp_path / "run"
    run.mkdir()
    for name, text in files.items():
        (run / name).write_text(text)
    with pytest.raises(ValueError, match=says):
        export_experiment(run, tmp_path / "out")
    assert not (tmp_path / "out").exists()


# Adapters -------------------------------------------------------------------------------------------------------------------------

LORA = LoraConfig(rank=3, alpha=4.5, targets=("query", "value", "output", "down"))
MODULES = {"query": "self_attn.q_proj", "value": "self_attn.v_proj", "output": "self_attn.o_proj", "down": "mlp.down_proj"}


def random_adapter(base, lora=LORA):
    rng = np.random.default_rng(7)
    shapes = jax.eval_shape(lambda: init_adapter(lora, base, jax.random.key(0)))
    return jax.tree.map(lambda x: rng.standard_normal(x.shape).astype(np.float32), shapes)


def lora_run(tmp_path, lora=LORA):
    """(backbone, run): the folder of a small model, and that of a run that trained an adapter on it."""
    source, run = make_folder(tmp_path / "published"), tmp_path / "run"
    config = Config(backbone=str(source), lora=lora, model=read_config(source))
    base = load_backbone(source, config.model, dtype=lora.base_dtype, swap=swap_of(source))
    run.mkdir()
    save_params(run / "answerer.safetensors", random_adapter(base, lora), describe_agent(config, "answerer", base))
    (run / "config.json").write_text(json.dumps(dataclasses.asdict(config)))
    return source, run


def swap_of(source):
    """<|endoftext|>, the padding, changes places with token 0."""
    return 0, json.loads((source / "tokenizer.json").read_text())["added_tokens"][1]["id"]


@pytest.mark.parametrize("family", FAMILIES)
def test_an_adapter_folder_is_as_peft_writes_them(family, tmp_path):
    """Oracle: by hand: PEFT's names and, from each layer's factors, lora_B lora_A = (A B) transposed in numpy, [out, in]."""
    raw = FAMILIES[family]
    source = write_folder(tmp_path / "published", raw, random_checkpoint(raw))
    config, published = read_config(source), random_checkpoint(raw)
    adapter = random_adapter(load_backbone(source, config))
    files = export_adapter(adapter, LORA, config, source, tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == files == ["adapter_config.json", "adapter_model.safetensors"]
    written = load_file(tmp_path / "out" / "adapter_model.safetensors")
    for n in range(config.num_layers):
        for ours, module in MODULES.items():
            a, b = (written.pop(f"base_model.model.model.layers.{n}.{module}.lora_{x}.weight") for x in "AB")
            assert (b @ a).shape == published[f"model.layers.{n}.{module}.weight"].shape
            product = {"output": "hcz,zd->dhc", "down": "fz,zd->df"}.get(ours, "dz,zhc->hcd")
            expected = np.einsum(product, *(adapter["layers"][f"{ours}_lora_{x}"][n] for x in "ab"))
            np.testing.assert_allclose(b @ a, expected.reshape((b @ a).shape), rtol=1e-5, atol=1e-5)
    assert not written
    settings = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert (settings["r"], settings["lora_alpha"], settings["peft_type"]) == (3, 4.5, "LORA")
    assert settings["target_modules"] == ["down_proj", "o_proj", "q_proj", "v_proj"]
    assert (settings["base_model_name_or_path"], settings["revision"]) == (str(source), None)
    export_adapter(adapter, LORA, config, "owner/model@0123abc", tmp_path / "out", overwrite=True)
    settings = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert (settings["base_model_name_or_path"], settings["revision"]) == ("owner/model", "0123abc")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_run_with_an_adapter_is_exported_merged_and_alone(dtype, tmp_path):
    """Oracle: the published weights plus alpha / rank times the adapter's product, in numpy; what has no adapter, and both tokens that had
    changed places, bit for bit."""
    source, run = lora_run(tmp_path, replace(LORA, base_dtype=dtype))
    export_experiment(run, tmp_path / "merged")
    export_experiment(run, tmp_path / "alone", adapter=True)
    published, merged = tensors_of(source), tensors_of(tmp_path / "merged")
    alone = load_file(tmp_path / "alone" / "adapter_model.safetensors")
    assert merged.keys() == published.keys()
    for name, array in published.items():
        expected = array.astype(dtype)
        module = f"base_model.model.{name.removesuffix('.weight')}.lora"
        if f"{module}_A.weight" in alone:
            added = 4.5 / 3 * alone[f"{module}_B.weight"] @ alone[f"{module}_A.weight"]
            expected = (expected.astype(np.float32) + added).astype(dtype)
            near = {"float32": 1e-5, "bfloat16": 2**-7}[dtype]
            np.testing.assert_allclose(merged[name].astype(np.float32), expected.astype(np.float32), rtol=near, atol=near)
        else:
            assert merged[name].tobytes() == expected.tobytes(), name
    assert (tmp_path / "merged" / "tokenizer.json").read_bytes() == (source / "tokenizer.json").read_bytes()


def test_adapter_exports_that_are_refused(tmp_path):
    """Oracle: the sentence, and the bytes of every file there was."""
    source, run = lora_run(tmp_path)
    export_experiment(run, tmp_path / "merged")
    export_experiment(run, tmp_path / "alone", adapter=True)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match=r"alone is not empty; name a new folder, or set --overwrite"):
        export_experiment(run, tmp_path / "alone", adapter=True)
    with pytest.raises(ValueError, match=r"merged holds model.safetensors of another export"):
        export_experiment(run, tmp_path / "merged", adapter=True, overwrite=True)
    with pytest.raises(ValueError, match=r"alone holds adapter_config.json of another export"):
        export_experiment(run, tmp_path / "alone", overwrite=True)
    whole = tmp_path / "whole"
    whole.mkdir()
    (whole / "config.json").write_text(json.dumps({"agent": "answerer", "backbone": str(source)}))
    with pytest.raises(ValueError, match=r"whole was trained with lora.rank 0 and has no adapter; export it without --adapter"):
        export_experiment(whole, tmp_path / "out", adapter=True)
    (whole / "config.json").unlink()
    whole.rmdir()
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    export_experiment(run, tmp_path / "alone", adapter=True, overwrite=True)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_the_configuration_of_a_run_comes_back(tmp_path):
    """Oracle: what was written, fields that are tuples or configurations of their own included; what is not there has its default."""
    config = Config(steps=7, agent="manager", lora=LORA, manager_from="somewhere", bank=replace(Config().bank, num_slots=5))
    (tmp_path / "config.json").write_text(json.dumps(dataclasses.asdict(config)))
    assert read_run(tmp_path) == config
    (tmp_path / "config.json").write_text(json.dumps({"steps": 7}))
    assert read_run(tmp_path) == Config(steps=7)
    for text in ("[]", '{"stepps": 7}', '{"steps": 0}', '{"lora": {"rang": 1}}'):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(ValueError, match=r"config.json is no configuration of a run; train the experiment again"):
            read_run(tmp_path)
