"""The fit check: the step compiled for TPUs that are not there, and what is read off it."""

import functools
import json

import jax
import jax.numpy as jnp
import pytest

from mr1jax import fit
from mr1jax.agents.prompts import make_language
from mr1jax.config import AgentConfig, Config, LoraConfig, MeshConfig, ModelConfig, OptimizerConfig, replace
from mr1jax.data.episodes import EpisodeShape
from mr1jax.data.memdial.world import conversations
from mr1jax.model.backbones import read_config
from mr1jax.model.sizes import measure
from mr1jax.prepare import ASSETS, Start, make_tasks
from mr1jax.roofline import Chip, bound_seconds, collectives, largest_arrays, matrix_products, total_flops
from mr1jax.text.tokenizer import SentencePieceTokenizer

SMALL = Config(
    agent="answerer",
    prompts_per_step=4,
    group_size=2,
    model=ModelConfig(d_model=32, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=8, d_ff=64),
    answerer=AgentConfig(num_retrieved=3, prompt_length=128, response_length=16),
    optimizer=OptimizerConfig(warmup_steps=0),
)
needs_compiler = pytest.mark.skipif(not fit.has_compiler(), reason="no libtpu here: make .libtpu/.ready installs it on Linux on x86")


@pytest.fixture
def no_environment(monkeypatch):
    """Puts back what looking for a TPU's compiler sets."""
    for name in (*fit._WITHOUT_A_TPU, "TPU_LIBRARY_PATH"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


@functools.cache
def small_fit():
    return fit.check_fit(SMALL, "v5e:2x2")


@needs_compiler
def test_a_step_compiles_for_a_tpu(no_environment, tmp_path):
    """Oracle: the compiler itself, which raises where a kernel does not lower; counting for the arguments; the file for what is printed."""
    found = small_fit()
    assert not found.problem
    assert found.about["mesh"] == [1, 4, 1]
    per_chip = sum(found.arguments.values())
    assert per_chip <= found.hbm["arguments"] < per_chip + 2**22  # tiles are padded
    assert found.hbm["aliased"] > 0.9 * sum(found.arguments[name] for name in ("optimizer", "parameters of the answerer"))
    assert {"prefill", "decode", "update"} <= found.seconds.keys()
    assert "all-gather" in found.collectives  # fsdp gathers weights
    record = json.loads(json.dumps(fit.as_record(found)))
    assert record["fits"]
    assert record["total"] == found.total
    assert "fits" in fit.describe_fit(found).splitlines()


@needs_compiler
@pytest.mark.parametrize("topology", ["v5e:3x5", "nonsense"])
def test_topology_that_does_not_exist_is_one_sentence(no_environment, topology):
    """Oracle: the sentence, before anything compiles."""
    with pytest.raises(ValueError, match=f"there is no TPU topology '{topology}' .*; give one such as v5e:4x4"):
        fit.check_fit(SMALL, topology)


def test_mesh_is_chosen_or_has_all_chips():
    """Oracle: by hand: 24 prompts go over 8 of 16 chips; a mesh of as many devices as chips is left alone, and no other passes."""
    config = replace(SMALL, prompts_per_step=24)
    assert fit.choose_mesh(config, "v5e:4x4", 16) == MeshConfig(fsdp=8, tensor=2)
    own = MeshConfig(data=2, tensor=2)
    assert fit.choose_mesh(replace(config, mesh=own), "v5e:2x2", 4) == own
    with pytest.raises(ValueError, match="a mesh of data 2, fsdp 1 and tensor 2 has 4 devices, and v5e:2x4 has 8 chips; make .* 8"):
        fit.choose_mesh(replace(config, mesh=own), "v5e:2x4", 8)


def test_no_compiler_is_one_sentence(monkeypatch, no_environment):
    """Oracle: the sentence, where neither the folder nor the package is there."""
    monkeypatch.setattr(fit, "has_compiler", lambda: False)
    with pytest.raises(ValueError, match="there is no libtpu here, .*; on Linux on x86 this installs it: make .libtpu/.ready"):
        fit.check_fit(SMALL, "v5e:2x2")


def test_too_large_is_explained():
    """Oracle: a message of the compiler, and the largest array of a program by hand; anything else it says is raised as it is."""

    def step(x_BD):
        with jax.named_scope("update"):
            return jax.lax.scan(lambda x, _: (x + 0 * (x @ x.T) @ x, None), x_BD, None, length=2)[0]

    jaxpr = jax.jit(step).trace(jnp.zeros((512, 8))).jaxpr.jaxpr
    said = "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the memory required (19.35G) exceeds available HBM (15.75G).\nmore"
    sentence = fit._explain(RuntimeError(said), jaxpr)
    assert sentence.startswith("Ran out of memory on HBM, the memory required (19.35G) exceeds available HBM (15.75G); the largest arrays,")
    assert largest_arrays(jaxpr, 1) == [(4 * 512 * 512, "float32[512,512]", "update")]
    with pytest.raises(RuntimeError, match="something else"):
        fit._explain(RuntimeError("something else"), jaxpr)


@pytest.mark.parametrize(
    "changes",
    [{"agent": "answerer"}, {"agent": "manager"}, {"agent": "manager", "horizon": 3, "lead": 2}, {"agent": "manager", "horizon": 999}],
    ids=["answerer", "manager", "horizon and lead", "replay"],
)
def test_abstract_tasks_are_those_of_a_run(changes):
    """Oracle: `make_tasks` on the same conversations: every shape but the number of tasks, and every dtype."""
    config = replace(SMALL, **changes)
    tokenizer = SentencePieceTokenizer(ASSETS / "tokenizer.model")
    records = list(conversations("train", 1, 2))
    real = make_tasks(records, Start(config, {}, tokenizer, make_language(tokenizer, 3)))
    abstract = fit.abstract_tasks(config, EpisodeShape.fit(records, tokenizer, config.bank.slot_width))
    jax.tree.map(lambda a, b: (a.shape[1:], a.dtype) == (b.shape[1:], b.dtype) or pytest.fail(f"{a.shape} {b.shape}"), real, abstract)
    assert {leaf.shape[0] for leaf in jax.tree.leaves(abstract)} == {config.prompts_per_step}


def test_shipped_sizes_are_the_published_ones():
    """Oracle: the numbers of parameters on the cards of the models, in billions."""
    published = {
        "qwen2.5-0.5b": 0.49,
        "qwen2.5-1.5b": 1.54,
        "qwen2.5-3b": 3.09,
        "qwen2.5-7b": 7.62,
        "qwen2.5-14b": 14.77,
        "llama-3.1-8b": 8.03,
    }
    assert sorted(path.name for path in fit.SHAPES.iterdir()) == sorted(published)
    for name, billions in published.items():
        counted = int(measure(read_config(fit.SHAPES / name), LoraConfig())["parameters"].replace(",", ""))
        assert round(counted / 1e9, 2) == billions, name


# ---------------------------------------------------------------------------------------------------------------------- the roofline


def layers_then_tokens(weights_NDD, x_BD):
    """N products in a scan, then one a turn of a loop; each reads one weight."""
    with jax.named_scope("prefill"):
        x_BD = jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x_BD, weights_NDD)[0]
    with jax.named_scope("decode"):
        return jax.lax.while_loop(lambda c: c[0] < 5, lambda c: (c[0] + 1, c[1] @ weights_NDD[0]), (0, x_BD))[1]


def test_products_in_loops_count_as_often_as_they_run():
    """Oracle: by hand: 2 B D D FLOPs a product, 3 layers and 5 tokens; D D 4 bytes of weight, 2 B D 4 of activations; either peak rules."""
    B, D = 8, 16
    traced = jax.jit(layers_then_tokens).trace(jnp.zeros((3, D, D)), jnp.zeros((B, D)))
    products = matrix_products(traced.jaxpr.jaxpr, [True, False], loop_length=5)
    assert total_flops(products) == (3 + 5) * 2 * B * D * D
    assert {product.phase for product in products} == {"prefill", "decode"}
    assert all((product.weight_bytes, product.other_bytes) == (4 * D * D, 2 * 4 * B * D) for product in products)
    by_flops = Chip("a", hbm=1, flops=2 * B * D * D, bandwidth=1e30, interconnect=1)
    assert bound_seconds(products, by_flops, 1, 1) == {"prefill": 3.0, "decode": 5.0}
    assert bound_seconds(products, by_flops, 2, 1) == {"prefill": 1.5, "decode": 2.5}
    by_bytes = Chip("b", hbm=1, flops=1e30, bandwidth=4 * D * D / 2 + 2 * 4 * B * D / 4, interconnect=1)
    assert bound_seconds(products, by_bytes, 4, 2) == {"prefill": 3.0, "decode": 5.0}


def test_the_backward_pass_and_what_it_recomputes_are_counted():
    """Oracle: by hand: three products forward, one of them again for the backward pass, and twice three there, less one to the input."""

    def loss(weights_NDD, x_BD):
        body = jax.checkpoint(lambda x, w: (jnp.tanh(x @ w), None), prevent_cse=False)
        return jnp.sum(jax.lax.scan(body, x_BD, weights_NDD)[0])

    B, D = 8, 16
    traced = jax.jit(jax.grad(loss)).trace(jnp.zeros((3, D, D)), jnp.zeros((B, D)))
    products = matrix_products(traced.jaxpr.jaxpr, [True, False], loop_length=1)
    assert total_flops(products) == (3 + 3 + 2 * 3) * 2 * B * D * D


HLO = """HloModule jit_step

%body.1 (p: (s32[], bf16[4,8])) -> (s32[], bf16[4,8]) {
  %p = (s32[]{:T(128)}, bf16[4,8]{1,0:T(8,128)(2,1)}) parameter(0)
  %w = bf16[4,8]{1,0:T(8,128)(2,1)S(1)} get-tuple-element(%p), index=1
  %all-gather.1 = bf16[16,8]{1,0:T(8,128)(2,1)} all-gather(%w), channel_id=1, dimensions={0}
  %fusion.5 = bf16[16,8]{1,0} fusion(%p), kind=kCustom, calls=%async_collective_fusion.5
  ROOT %t = (s32[], bf16[4,8]) tuple(%p)
}

%async_collective_fusion.5 (w: bf16[4,8]) -> bf16[16,8] {
  %w = bf16[4,8]{1,0} parameter(0)
  ROOT %all-gather.5 = bf16[16,8]{1,0:T(8,128)(2,1)} all-gather(%w), channel_id=9, dimensions={0}
}

%cond.1 (p: (s32[], bf16[4,8])) -> pred[] {
  %p = (s32[], bf16[4,8]) parameter(0)
  %constant.1 = s32[]{:T(128)} constant(28)
  ROOT %lt = pred[]{:T(512)} compare(%p, %constant.1), direction=LT
}

%all-reduce-scatter.2 (x: f32[16]) -> f32[4] {
  %x = f32[16]{0} parameter(0)
  %all-reduce.2 = f32[16]{0} all-reduce(%x), to_apply=%add
  ROOT %ds = f32[4]{0} dynamic-slice(%all-reduce.2, %x), dynamic_slice_sizes={4}
}

%async_collective_fusion.3 (w: bf16[4,8]) -> bf16[16,8] {
  %w = bf16[4,8]{1,0} parameter(0)
  ROOT %all-gather.3 = bf16[16,8]{1,0:T(8,128)(2,1)} all-gather(%w), channel_id=9, dimensions={0}
}

%async_collective_fusion.4 (w: bf16[4,8]) -> bf16[16,8] {
  %w = bf16[4,8]{1,0} parameter(0)
  ROOT %all-gather.4 = bf16[16,8]{1,0:T(8,128)(2,1)} all-gather(%w), channel_id=9, dimensions={0}
}

ENTRY %main (a: f32[16]) -> f32[4] {
  %a = f32[16]{0} parameter(0)
  %while.1 = (s32[], bf16[4,8]{1,0}) while(%a), condition=%cond.1, body=%body.1
  %fusion.2 = f32[4]{0} fusion(%a), kind=kCustom, calls=%all-reduce-scatter.2
  %fusion.3 = bf16[16,8]{1,0} fusion(%a), kind=kCustom, calls=%async_collective_fusion.3
  %fusion.4 = bf16[16,8]{1,0} fusion(%a), kind=kCustom, calls=%async_collective_fusion.4
  %start = (f32[16]{0}, f32[64]{0}) all-gather-start(%a), dimensions={0}
  ROOT %done = f32[64]{0} all-gather-done(%start)
}
"""


def test_collectives_count_as_often_as_they_run():
    """Oracle: by hand: 28 gathers of 16 x 8 bfloat16 in a loop, one in three fusions, one of 64 float32; a reduce-scatter of 16 float32."""
    assert collectives(HLO, loop_length=7) == {"all-gather": (30, 28 * 256 + 256 + 256), "reduce-scatter": (1, 64)}
    unknown = HLO.replace("constant(28)", "parameter(1)")
    assert collectives(unknown, loop_length=7)["all-gather"] == (9, 9 * 256)
