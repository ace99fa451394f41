"""Parameters on disk: what was saved comes back, and what is damaged or foreign is refused in one sentence."""

import dataclasses

import jax
import numpy as np
import pytest

from mr1jax.config import ModelConfig
from mr1jax.model import transformer, weights

CONFIG = ModelConfig(vocab_size=16, d_model=8, num_layers=2, num_heads=2, num_kv_heads=1, head_dim=4, d_ff=12)


@pytest.fixture(scope="module")
def params():
    return jax.device_get(jax.jit(transformer.init_params, static_argnums=0)(CONFIG, jax.random.key(0)))


def abstract_params(config):
    return jax.eval_shape(lambda key: transformer.init_params(config, key), jax.random.key(0))


@pytest.fixture
def saved(params, tmp_path):
    path = tmp_path / "model.safetensors"
    weights.save_params(path, params, {"steps": "7"})
    return path


def test_parameters_come_back(params, saved):
    """Oracle: the tree that was saved, bit for bit; its metadata; and no partial file left behind."""
    loaded = weights.load_params(saved, abstract_params(CONFIG))
    jax.tree.map(np.testing.assert_array_equal, loaded, params)
    assert weights.load_metadata(saved) == {"steps": "7"}
    assert [path.name for path in saved.parent.iterdir()] == ["model.safetensors"]


def test_arrays_that_lie_transposed_in_memory_come_back_as_they_look(tmp_path):
    """Oracle: the values by index. safetensors alone writes the memory of a transposed array in the wrong order."""
    matrix = np.arange(6, dtype=np.float32).reshape(2, 3).T
    weights.save_params(tmp_path / "t", {"layers": {"query": matrix}})
    np.testing.assert_array_equal(weights.load_params(tmp_path / "t")["layers"]["query"], [[0, 3], [1, 4], [2, 5]])


def test_a_failed_save_leaves_the_old_file(params, saved, monkeypatch):
    """Oracle: the bytes of the old file, after a save whose disk returns something else than was written."""
    before = saved.read_bytes()
    honest = weights.load_file
    monkeypatch.setattr(weights, "load_file", lambda path: honest(path) | {"final_norm": np.zeros(8, np.float32)})
    with pytest.raises(ValueError, match="tensor final_norm read back differently"):
        weights.save_params(saved, jax.tree.map(lambda x: x + 1, params))
    assert saved.read_bytes() == before
    assert [path.name for path in saved.parent.iterdir()] == ["model.safetensors"]


@pytest.mark.parametrize("kept", [0, 4, 60, -1])
def test_a_file_cut_short_is_refused(saved, kept):
    """Oracle: the error names the file, wherever the cut is: nothing left, in the header's length, in the header, in the last tensor."""
    saved.write_bytes(saved.read_bytes()[:kept])
    with pytest.raises(ValueError, match=r"model.safetensors is no complete safetensors file"):
        weights.load_params(saved)


def test_an_absent_file_is_refused(tmp_path):
    """Oracle: the error names the path."""
    with pytest.raises(ValueError, match="nowhere"):
        weights.load_params(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"d_ff": 16}, r"tensor layers/down of .* is float32\[2, 12, 8\], and the model's is float32\[2, 16, 8\]"),
        ({"tie_embeddings": False}, "lacks tensor unembedding"),
        ({"qkv_bias": False}, "holds tensor layers/key_bias, which the model does not have"),
    ],
)
def test_another_models_parameters_are_refused(saved, changes, message):
    """Oracle: the error names the first tensor that tells the two models apart."""
    with pytest.raises(ValueError, match=message):
        weights.load_params(saved, abstract_params(dataclasses.replace(CONFIG, **changes)))
