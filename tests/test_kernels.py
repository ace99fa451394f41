"""The kernels of accelerators without an accelerator: interpreted, in another implementation, and translated for one that is elsewhere."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh, AxisType
from test_attention import CASES, assert_close, by_loops, draw, run
from tiny import unoptimised  # noqa: F401

from mr1jax.config import MeshConfig, ModelConfig
from mr1jax.model import attention, kernels, transformer
from mr1jax.sharding import make_mesh


@pytest.mark.parametrize("case", [CASES["a prompt"], CASES["responses"]], ids=["a prompt", "responses"])
def test_splash_mixes_and_pulls_back_what_the_loops_do(case, monkeypatch):
    """Oracle: the loops. The kernel is interpreted; half of its rows and keys are padding."""
    monkeypatch.setattr(attention, "_LEAST_FOR_KERNEL", 1)
    monkeypatch.setattr(attention, "_platform", lambda: "tpu")
    monkeypatch.setattr(kernels, "splash", functools.partial(kernels.splash, interpret=True))
    drawn = draw(case)
    assert_close(run(case, *drawn), by_loops(case, *drawn), 1e-5)


def test_cudnn_is_asked_for_what_the_loops_do(monkeypatch):
    """Oracle: the loops, for what is asked of `jax.nn.dot_product_attention` when it answers by XLA; only prompts are."""
    real, case = jax.nn.dot_product_attention, CASES["a prompt"]
    monkeypatch.setattr(attention, "_LEAST_FOR_KERNEL", 1)
    monkeypatch.setattr(attention, "_platform", lambda: "gpu")
    asked = []

    def by_xla(*args, implementation, **settings):
        asked.append(implementation)
        return real(*args, **settings)

    monkeypatch.setattr(jax.nn, "dot_product_attention", by_xla)
    query, [(key, value)], d_mixed = draw(case, jnp.bfloat16)
    drawn = query[:, :1], [(key[:, :, :1], value[:, :, :1])], d_mixed[:, :1]
    want = by_loops(case, *drawn)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=np.abs(b).max() / 64), run(case, *drawn), want)
    assert asked == ["cudnn"]
    run(CASES["responses"], *draw(CASES["responses"], jnp.bfloat16))
    run(case, *draw(case))
    assert asked == ["cudnn"]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("num_kv_heads", [4, 1], ids=["heads divided", "heads whole"])
def test_training_translates_for_a_tpu(num_kv_heads, dtype):
    """Oracle: what Mosaic, the compiler of kernels, takes, for a mesh of eight chips that are not here: the kernel of the prompts and that
    of the responses, one forwards and two backwards each: layers are computed again in the backward pass, and their attention is kept."""
    config = ModelConfig(64, 64, 2, 4, num_kv_heads, 128, 64, dtype=dtype)
    device = make_mesh(MeshConfig()).abstract_mesh.abstract_device
    chip = type(device)(device_kind="TPU v5", num_cores=1, platform="tpu")
    mesh = AbstractMesh((2, 2, 2), ("data", "fsdp", "tensor"), (AxisType.Auto,) * 3, abstract_device=chip)

    def loss(params, prompt_PL, length_P, response_PGR):
        return jnp.sum(transformer.response_hidden(config, params, prompt_PL, length_P, response_PGR).astype(jnp.float32))

    params = jax.eval_shape(lambda: transformer.init_params(config, jax.random.key(0)))
    tokens = [jax.ShapeDtypeStruct(shape, jnp.int32) for shape in ((4, 256), (4,), (4, 3, 130))]
    with jax.sharding.use_abstract_mesh(mesh):
        text = jax.jit(jax.grad(loss)).trace(params, *tokens).lower(lowering_platforms=("tpu",)).as_text()
    assert text.count("tpu_custom_call") == 6
