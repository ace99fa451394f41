"""Adapters: as matrices against numpy, in the compiled step against what may and may not change there."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import test_model
import tiny
from jax.sharding import PartitionSpec as P
from test_step import random_answer_tasks, tasks_that_pay
from tiny import CONFIG, LANGUAGE, unoptimised  # noqa: F401

from mr1jax import checkpoint
from mr1jax.agents.play import manager_rollout
from mr1jax.agents.rollout import answer_rollout
from mr1jax.config import AGENTS, PROJECTIONS, LoraConfig, LossConfig, MeshConfig, ModelConfig, replace
from mr1jax.model import transformer
from mr1jax.model.lora import BASE, agent_params, init_adapter, merge_adapter
from mr1jax.model.sizes import count_lora, measure
from mr1jax.model.transformer import init_params, logical_axes
from mr1jax.sharding import make_mesh, state_sharding
from mr1jax.step import compile_train_step, init_state
from mr1jax.train import train
from mr1jax.update import score_trajectory

LORA = replace(CONFIG, lora=LoraConfig(rank=2, alpha=3.0), loss=LossConfig(kl_coef=0.5))
HALF = replace(LORA, model=replace(LORA.model, dtype="bfloat16"), lora=replace(LORA.lora, base_dtype="bfloat16"))

# Sampler and trainer add the same numbers in another order. Where that tips the rounding of a state to bfloat16, it moves by a unit of its
# last place, 2**-8: in 3 of 36 steps from other parameters, by up to 0.008 of a ratio.
GAP = {"float32": 1e-5, "bfloat16": 2**-5}


def noisy(adapter, seed=0):
    """The adapter with nothing left at zero."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: np.asarray(x + 0.3 * rng.standard_normal(x.shape), np.float32), adapter)


@functools.cache
def base_of(config):
    return jax.device_get(jax.tree.map(lambda x: x.astype(config.lora.base_dtype), tiny.params(0, config=config)))


def start_params(config):
    """A base, and an adapter of each agent that already does something."""
    base = base_of(config)
    adapters = {agent: noisy(init_adapter(config.lora, base, jax.random.key(k)), k) for k, agent in enumerate(AGENTS)}
    return {BASE: base} | adapters


@functools.cache
def whole_agents(config):
    """Both agents without an adapter: multiplied out in numpy."""
    params = start_params(config)
    agents = {agent: by_hand(params[BASE], params[agent], config.lora) for agent in AGENTS}
    return jax.tree.map(lambda x: np.asarray(x, np.float32), agents)


def tasks_of(config):
    return random_answer_tasks(0) if config.agent == "answerer" else tasks_that_pay(whole_agents(config)["answerer"])


@functools.cache
def program(config):
    """(start, step): what makes a fresh state with its base on the mesh, and the one compiled step."""
    mesh, params = make_mesh(config.mesh), start_params(config)

    def start():
        state = init_state(config, {agent: jax.tree.map(np.array, params[agent]) for agent in AGENTS}, jax.random.key(0))
        return jax.device_put(state, state_sharding(state, logical_axes(params["manager"]), mesh))

    return start, compile_train_step(config, mesh, start(), params[BASE])


@functools.cache
def three_steps(config):
    """(state, metrics of each step) of three steps from a fresh state on one batch."""
    (start, step), base, records = program(config), start_params(config)[BASE], []
    state = start()
    for _ in range(3):
        state, metrics = step(state, tasks_of(config), LANGUAGE, base)
        records.append({name: float(value) for name, value in metrics.items()})
    return state, records


MANAGER = pytest.param(replace(LORA, agent="manager"), id="manager", marks=pytest.mark.slow)
PPO = pytest.param(replace(LORA, loss=LossConfig(algorithm="ppo", kl_coef=0.5)), id="ppo", marks=pytest.mark.slow)
IN_BFLOAT16 = pytest.param(HALF, id="answerer in bfloat16")
EVERY = pytest.mark.parametrize("config", [pytest.param(LORA, id="answerer"), IN_BFLOAT16, MANAGER, PPO])

# The formula ----------------------------------------------------------------------------------------------------------------------


def by_hand(base, adapter, lora):
    """The base with W + alpha / rank A B in place of every W that has an adapter, layer by layer in float64."""
    layers = {name: np.asarray(matrix, np.float64) for name, matrix in base["layers"].items()}
    products = {"output": "hcz,zd->hcd", "gate": "dz,zf->df", "up": "dz,zf->df", "down": "fz,zd->fd"}
    for name in lora.targets:
        factors = zip(*(np.asarray(adapter["layers"][f"{name}_lora_{x}"], np.float64) for x in "ab"), strict=True)
        added = np.stack([np.einsum(products.get(name, "dz,zhc->dhc"), a, b) for a, b in factors])
        layers[name] = layers[name] + lora.alpha / lora.rank * added
    return base | {"layers": layers}


@pytest.mark.parametrize("targets", [PROJECTIONS, ("query", "down"), ("output",)], ids=" ".join)
def test_an_adapter_adds_its_product_to_the_matrix(targets):
    """Oracle: numpy in float64: the naive decoder on W + alpha / rank A B, and these matrices themselves for what is merged."""
    config, lora = test_model.CONFIG, LoraConfig(rank=3, alpha=4.5, targets=targets)
    base = test_model.random_params(config)
    adapter = noisy(init_adapter(lora, base, jax.random.key(3)))
    expected = by_hand(base, adapter, lora)
    own = agent_params({BASE: base, "manager": None, "answerer": adapter}, "answerer", lora)
    prompt_PL, response_PGR = test_model.random_tokens()
    hidden = test_model.jitted(transformer.response_hidden)(own, prompt_PL, test_model.LENGTH_P, response_PGR)
    for p, length in enumerate(test_model.LENGTH_P):
        naive = test_model.naive_hidden(config, expected, np.concatenate([prompt_PL[p, :length], response_PGR[p, 1]]))
        np.testing.assert_allclose(hidden[p, 1], naive[length - 1 : -1], rtol=1e-4, atol=1e-4)
    merged = merge_adapter(base, adapter, lora)
    for name, matrix in expected["layers"].items():
        np.testing.assert_allclose(merged["layers"][name], matrix, rtol=1e-5, atol=1e-6)
        assert np.array_equal(merged["layers"][name], base["layers"][name]) == (name not in targets)
    assert merged["value_head"] is adapter["value_head"]


def test_a_fresh_adapter_is_the_base():
    """Oracle: the base's states, bit for bit; the arrays of the base are in the agent's tree themselves; factors differ by agent."""
    base, lora = test_model.random_params(test_model.CONFIG), LoraConfig(rank=3)
    adapter = init_adapter(lora, base, jax.random.key(0))
    own = agent_params({BASE: base, "manager": adapter}, "manager", lora)
    prompt_PL, _ = test_model.random_tokens()
    prefill = test_model.jitted(lambda *args: transformer.prefill(*args).last)
    np.testing.assert_array_equal(prefill(own, prompt_PL, test_model.LENGTH_P), prefill(base, prompt_PL, test_model.LENGTH_P))
    assert all(own["layers"][name] is array for name, array in base["layers"].items())
    assert own["embedding"] is base["embedding"]
    drawn_NDZ = adapter["layers"]["query_lora_a"]
    assert abs(float(jnp.std(drawn_NDZ)) * drawn_NDZ.shape[1] ** 0.5 - 1) < 0.2
    assert not np.array_equal(drawn_NDZ, init_adapter(lora, base, jax.random.key(1))["layers"]["query_lora_a"])
    tiny.assert_equal(agent_params({"manager": base, "answerer": adapter}, "manager", LoraConfig()), base)


def test_every_factor_names_its_axes():
    """Oracle: the sizes that the names stand for in the configuration."""
    c, lora = test_model.CONFIG, LoraConfig(rank=5)
    size = dict(embed=c.d_model, heads=c.num_heads, kv_heads=c.num_kv_heads, head_dim=c.head_dim, mlp=c.d_ff, layers=c.num_layers, rank=5)
    shapes = jax.eval_shape(lambda: init_adapter(lora, init_params(c, jax.random.key(0)), jax.random.key(0)))
    axes = jax.tree.map(lambda axes: tuple(size[name] for name in axes), logical_axes(shapes), is_leaf=lambda x: isinstance(x, tuple))
    assert axes == jax.tree.map(lambda x: x.shape, shapes)
    assert len(shapes["layers"]) == 2 * len(PROJECTIONS)


# The step -------------------------------------------------------------------------------------------------------------------------


@EVERY
def test_only_the_adapter_of_the_trained_agent_changes(config):
    """Oracle: the parameters at the start: the base, which the step was lent, and the other adapter are the same bits."""
    state, records = three_steps(config)
    start, (_, step) = start_params(config), program(config)
    assert step._cache_size() == 1
    assert all(np.isfinite(value) for record in records for value in record.values())
    assert all(record["ratio_gap"] < GAP[config.model.dtype] for record in records)
    assert records[0]["grad_norm"] > 1e-3
    assert state.params.keys() == {"manager", "answerer"}
    other = "manager" if config.agent == "answerer" else "answerer"
    tiny.assert_equal(start[BASE], base_of(config))
    tiny.assert_equal(state.params[other], start[other])
    moved = jax.tree.map(lambda new, old: bool(np.any(new != old)), state.params[config.agent], start[config.agent])
    assert moved.pop("value_head") == (config.loss.algorithm == "ppo")
    assert jax.tree.all(moved)


@EVERY
def test_optimizer_state_is_of_that_adapter_alone_and_float32(config):
    """Oracle: counting: two moments of each of its numbers and no more; the dtypes; and no copy of a reference."""
    state, _ = three_steps(config)
    moments = [leaf for leaf in jax.tree.leaves(state.opt_state) if leaf.ndim]
    assert sum(leaf.size for leaf in moments) == 2 * sum(leaf.size for leaf in jax.tree.leaves(state.params[config.agent]))
    assert {leaf.dtype for leaf in jax.tree.leaves((moments, state.params))} == {jnp.dtype("float32")}
    assert state.reference is None


@pytest.mark.parametrize("config", [pytest.param(LORA, id="answerer"), MANAGER])
def test_adapters_on_one_base_do_what_two_whole_agents_do(config):
    """Oracle: rollout and scores without LoRA, of parameters multiplied out in numpy: the same reward; the ratio of trainer and sampler is
    1; and kl to the base alone, which is the reference, in numpy."""
    agents, whole = whole_agents(config), replace(config, lora=LoraConfig())
    rollout = answer_rollout if config.agent == "answerer" else manager_rollout
    key = jax.random.split(jax.random.fold_in(jax.random.key(0), 0))[0]
    trajectory, expected = jax.jit(lambda agents, tasks: rollout(agents, tasks, key, LANGUAGE, whole))(agents, tasks_of(config))
    score = jax.jit(lambda params: score_trajectory(params, trajectory, LANGUAGE, whole).log_prob)
    gap_PGR = np.asarray(score(base_of(config)), np.float64) - np.asarray(score(agents[config.agent]), np.float64)
    k3_PG = np.sum(np.exp(gap_PGR) - gap_PGR - 1, axis=-1) / np.asarray(trajectory.generation.length)
    _, (first, *_) = three_steps(config)
    assert first["reward"] > 0
    assert first["kl"] > 1e-3
    assert first["ratio_gap"] < 1e-5
    assert first["reward"] == pytest.approx(float(expected["reward"]))
    assert first["kl"] == pytest.approx(np.mean(k3_PG), rel=1e-3)


@pytest.mark.slow
def test_no_second_copy_of_the_base():
    """Oracle: the compiler's own account of a step whose base is nearly all there is: it goes in once, does not come out, and what is
    allocated meanwhile is less than half of it."""
    model = ModelConfig(**vars(CONFIG.model) | {"d_model": 256, "d_ff": 1024, "num_layers": 6})
    config = replace(LORA, model=model, prompts_per_step=2, group_size=2)

    def start(key):
        base = init_params(model, key)
        return init_state(config, {agent: init_adapter(config.lora, base, key) for agent in AGENTS}, key), base

    state, base = jax.eval_shape(start, jax.random.key(0))
    step = compile_train_step(config, make_mesh(config.mesh), state, base)
    memory = step.lower(state, tiny.at(tasks_of(config), slice(2)), LANGUAGE, base).compile().memory_analysis()
    num_bytes = sum(4 * leaf.size for leaf in jax.tree.leaves(base))
    assert num_bytes < memory.argument_size_in_bytes < 1.1 * num_bytes
    assert memory.output_size_in_bytes < 0.1 * num_bytes
    assert memory.temp_size_in_bytes < 0.5 * num_bytes


def narrow_operations(jaxpr):
    """The names of all operations, however deep, of which an operand is bfloat16."""
    names = set()
    for equation in jaxpr.eqns:
        if any(getattr(v.aval, "dtype", None) == jnp.bfloat16 for v in equation.invars):
            names.add(equation.primitive.name)
        for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns") or hasattr(x, "jaxpr")):
            if hasattr(inner, "eqns") or hasattr(inner, "jaxpr"):
                names |= narrow_operations(getattr(inner, "jaxpr", inner))
    return names


def test_bfloat16_is_for_products_alone():
    """Oracle: the operations of the traced step. Products take bfloat16; no exponential, logarithm, root, maximum or square does, which
    norms, softmax, log-probabilities and Adam are made of."""
    (start, step), params = program(HALF), start_params(HALF)
    narrow = narrow_operations(jax.make_jaxpr(lambda *args: step(*args))(start(), tasks_of(HALF), LANGUAGE, params[BASE]).jaxpr)
    assert "dot_general" in narrow
    assert not narrow & {"exp", "exp2", "expm1", "log", "log1p", "rsqrt", "sqrt", "reduce_max", "max", "div", "square", "integer_pow"}


def test_a_run_that_stopped_goes_on_and_only_on_its_own_base(tmp_path):
    """Oracle: the unbroken run, bit for bit; checkpoints without the base; the sentence where the base is another."""
    tasks, params = tasks_of(LORA), start_params(LORA)
    unbroken, log, compiled = train(replace(LORA, steps=2), params, tasks, LANGUAGE)
    train(replace(LORA, steps=1), params, tasks, LANGUAGE, tmp_path)
    state, again, _ = train(replace(LORA, steps=2), params, tasks, LANGUAGE, tmp_path)
    assert compiled == 1
    tiny.assert_equal(jax.device_get(state), jax.device_get(unbroken))
    assert [record["loss"] for record in again] == [record["loss"] for record in log]
    tiny.assert_equal(params, start_params(LORA))
    leaves = checkpoint.restore(tmp_path / "checkpoints", state)[0]
    assert sum(leaf.size for leaf in jax.tree.leaves(leaves.params)) == 2 * sum(leaf.size for leaf in jax.tree.leaves(params["manager"]))
    other = params | {BASE: params[BASE] | {"final_norm": params[BASE]["final_norm"] * np.float32(1.5)}}
    with pytest.raises(ValueError, match=r"of a run with base hash \w+, and this one's is \w+; resume with"):
        train(replace(LORA, steps=3), other, tasks, LANGUAGE, tmp_path)


@pytest.mark.slow
def test_eight_devices_do_what_one_does():
    """Oracle: three steps on one device; and each factor lies as the table of rules says."""
    config = replace(LORA, mesh=MeshConfig(2, 2, 2))
    state, records = three_steps(config)
    expected, expected_records = three_steps(LORA)
    jax.tree.map(
        lambda got, want: np.testing.assert_allclose(got, want, rtol=0, atol=1e-6), *(jax.device_get(x.params) for x in (state, expected))
    )
    for record, wanted in zip(records, expected_records, strict=True):
        assert record == pytest.approx(wanted, rel=1e-4, abs=1e-5)
    layers = state.params["answerer"]["layers"]
    assert layers["query_lora_a"].sharding.spec == P(None, "fsdp", None)
    assert layers["query_lora_b"].sharding.spec == P(None, None, "tensor", None)
    assert layers["down_lora_a"].sharding.spec == P(None, "tensor", None)


# Sizes ----------------------------------------------------------------------------------------------------------------------------

LLAMA_8B = ModelConfig(
    vocab_size=128256,
    d_model=4096,
    num_layers=32,
    num_heads=32,
    num_kv_heads=8,
    head_dim=128,
    d_ff=14336,
    qkv_bias=False,
    tie_embeddings=False,
)
QWEN_HALF_B = ModelConfig(vocab_size=151936, d_model=896, num_layers=24, num_heads=14, num_kv_heads=2, head_dim=64, d_ff=4864)


def test_sizes_are_the_published_ones():
    """Oracle: the parameter counts of Llama-3.1-8B (whose index says 16,060,522,496 bytes) and Qwen2.5-0.5B as published; PEFT's own count
    for rank 8 on query and value of the former; keys and values by arithmetic."""
    said = measure(LLAMA_8B, LoraConfig(rank=8, targets=("query", "value")))
    assert said["parameters"] == "8,030,261,248"
    assert said["weights, bfloat16"] == "16,060,522,496 bytes"
    assert said["LoRA parameters, rank 8"] == "3,407,872"
    assert said["keys and values of a token, bfloat16"] == f"{2 * 32 * 8 * 128 * 2:,} bytes"
    assert measure(QWEN_HALF_B, LoraConfig())["parameters"] == "494,032,768"
    assert "LoRA parameters, rank 0" not in measure(QWEN_HALF_B, LoraConfig())
    assert count_lora(LLAMA_8B, LoraConfig(rank=16)) == 41_943_040
