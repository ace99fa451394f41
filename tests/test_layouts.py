"""The step on any mesh, in any number of micro-batches, against one device and the whole batch; and where everything lies meanwhile."""

import functools
import re

import jax
import numpy as np
import pytest
import tiny
from test_step import BRANCH, CONFIG, LANGUAGE, MANAGER, PPO, answer_tasks, first_key, program, rollout, three_steps
from tiny import unoptimised  # noqa: F401

from mr1jax.config import Config, LossConfig, MeshConfig, OptimizerConfig, replace
from mr1jax.model.transformer import logical_axes
from mr1jax.sharding import batch_sharding, join_batch, make_mesh, on_mesh, param_sharding, replicated, split_batch, state_sharding
from mr1jax.step import compile_train_step, draw_rollout, init_state
from mr1jax.update import loss_gradient, make_loss_batch

SLOW = pytest.mark.slow
# AdamW divides by the gradient's own size and so multiplies what is rounded differently: at this rate 1e-6 is 1/900 of what it moves.
OPTIMIZER = OptimizerConfig(learning_rate=3e-4, warmup_steps=0)
GRPO = replace(CONFIG, loss=LossConfig(kl_coef=0.1), optimizer=OPTIMIZER)


def assert_close(tree, expected):
    jax.tree.map(lambda got, want: np.testing.assert_allclose(got, want, rtol=0, atol=1e-6), tree, expected)


def assert_same_run(config, expected):
    """Three steps of two configurations: the same parameters and rewards, nothing compiled anew. Returns the state of the first."""
    params, records, state, compiled = three_steps(config)
    assert compiled == []
    wanted, wanted_records, *_ = three_steps(expected)
    assert_close(params, wanted)
    for record, one in zip(records, wanted_records, strict=True):
        assert record == pytest.approx(one, rel=1e-4, abs=1e-5)
    return state


# ------------------------------------------------------------------------------------------------------------------ micro-batches


@SLOW
@pytest.mark.parametrize("config", [GRPO, PPO], ids=["grpo", "ppo"])
def test_gradients_of_microbatches_add_up(config):
    """Oracle: the gradient and the metrics of the whole batch at once, of responses that end early and late."""
    params = tiny.both()
    trajectory = rollout()(params, answer_tasks(), first_key())
    cut = trajectory.generation.length - np.arange(8)[:, None] % 4  # each part has another number of tokens
    trajectory = trajectory.replace(generation=trajectory.generation.replace(length=np.maximum(cut, 1)))

    def gradient(num_parts):
        of = replace(config, loss=replace(config.loss, num_minibatches=1, num_microbatches=num_parts))

        @jax.jit
        def run(params, trajectory):
            batch = make_loss_batch(trajectory, jax.tree.map(lambda x: 1.1 * x, params), LANGUAGE, of)
            return loss_gradient(params, trajectory, batch, LANGUAGE, of)

        return run(params["answerer"], trajectory)

    (whole, metrics), (parts, metrics_of_parts) = gradient(1), gradient(4)
    assert_close(parts, whole)
    assert max(np.max(np.abs(leaf)) for leaf in jax.tree.leaves(whole)) > 1e-2
    jax.tree.map(lambda got, want: np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-6), metrics_of_parts, metrics)


@SLOW
@pytest.mark.parametrize("config", [GRPO, replace(PPO, optimizer=OPTIMIZER)], ids=["grpo", "ppo"])
def test_microbatches_make_the_same_run(config):
    """Oracle: the run without."""
    assert_same_run(replace(config, loss=replace(config.loss, num_microbatches=4)), config)


@SLOW
def test_a_microbatch_is_all_that_needs_memory():
    """Oracle: the compiler's own account of what is allocated meanwhile, with one part and with eight."""

    def temporaries(num_parts):
        loss = LossConfig(kl_coef=0.1, num_microbatches=num_parts)
        config = replace(CONFIG, prompts_per_step=64, loss=loss, rollout_microbatches=num_parts)
        state = jax.eval_shape(lambda: init_state(config, tiny.both(), jax.random.key(0)))
        step = compile_train_step(config, make_mesh(config.mesh), state)
        tasks = tiny.at(answer_tasks(), np.arange(64) % 8)
        return step.lower(state, tasks, LANGUAGE).compile().memory_analysis().temp_size_in_bytes

    assert temporaries(8) < 0.2 * temporaries(1)


def test_parts_of_a_batch_stay_where_they_are():
    """Oracle: every third row in numpy; the rows back in their order; and no collective in the program of eight devices."""
    mesh = make_mesh(MeshConfig(data=4, fsdp=2))
    x = np.arange(24 * 2, dtype=np.float32).reshape(24, 2)

    def split(x):
        with on_mesh(mesh):
            return split_batch(x, 3)

    compiled = jax.jit(split, in_shardings=batch_sharding(mesh)).lower(x).compile()
    parts = compiled(jax.device_put(x, batch_sharding(mesh)))
    np.testing.assert_array_equal(parts, [x[0::3], x[1::3], x[2::3]])
    np.testing.assert_array_equal(join_batch(parts), x)
    assert {shard.data.shape for shard in parts.addressable_shards} == {(3, 1, 2)}
    assert collectives(compiled.as_text()) == []


@SLOW
def test_a_rollout_in_parts_is_the_rollouts_of_its_parts():
    """Oracle: the rollout of every second task, with a key of its own, by itself."""
    config = replace(CONFIG, rollout_microbatches=2)
    trajectory, metrics = jax.jit(lambda params, tasks, key: draw_rollout(params, tasks, key, LANGUAGE, config))(
        tiny.both(), answer_tasks(), first_key()
    )
    for part, key in enumerate(jax.random.split(first_key(), 2)):
        alone = rollout()(tiny.both(), tiny.at(answer_tasks(), slice(part, None, 2)), key)
        tiny.assert_equal(
            jax.tree.map(lambda x, part=part: x[part::2].astype(int), trajectory), jax.tree.map(lambda x: x.astype(int), alone)
        )
    assert metrics["reward"] == np.mean(trajectory.reward)


# ------------------------------------------------------------------------------------------------------------------------- meshes

MESHES = ["8x1x1", "1x8x1", "1x1x8", "4x2x1", "4x1x2", "2x4x1", "1x4x2", "2x1x4", "1x2x4", "2x2x2"]
IN_FAST_SUITE = ("2x2x2",)


def on(config: Config, shape: str, gather_for_rollout=False) -> Config:
    """The configuration on a mesh, in as many micro-batches as its rows can be divided in."""
    data, fsdp, tensor = map(int, shape.split("x"))
    loss = replace(config.loss, num_microbatches=8 // (data * fsdp))
    return replace(config, mesh=MeshConfig(data, fsdp, tensor, gather_for_rollout), loss=loss)


def meshes(config):
    return [pytest.param(on(config, shape), id=shape, marks=() if shape in IN_FAST_SUITE else SLOW) for shape in MESHES]


@pytest.mark.parametrize(
    "config",
    [
        *meshes(GRPO),
        pytest.param(on(GRPO, "2x4x1", gather_for_rollout=True), id="2x4x1 gathered", marks=SLOW),
        pytest.param(on(replace(MANAGER, optimizer=OPTIMIZER), "2x2x2"), id="2x2x2 manager", marks=SLOW),
        pytest.param(on(replace(BRANCH, optimizer=OPTIMIZER), "2x2x2"), id="2x2x2 branch", marks=SLOW),
        pytest.param(on(replace(PPO, optimizer=OPTIMIZER, loss=replace(PPO.loss, num_minibatches=1)), "1x4x2"), id="1x4x2 ppo", marks=SLOW),
    ],
)
def test_eight_devices_do_what_one_does(config):
    """Oracle: three steps of the whole batch on one device; each leaf of the state where the table of rules says; and the optimizer's
    moments cut by fsdp and tensor, which divide this matrix."""
    state = assert_same_run(config, replace(config, mesh=MeshConfig(), loss=replace(config.loss, num_microbatches=1)))
    layout = state_sharding(state, logical_axes(state.params["manager"]), program(config).mesh)
    assert jax.tree.all(jax.tree.map(lambda x, at: x.sharding.is_equivalent_to(at, x.ndim), state, layout))
    moment = state.opt_state[1][0].mu["layers"]["gate"]
    assert {shard.data.size for shard in moment.addressable_shards} == {moment.size // (config.mesh.fsdp * config.mesh.tensor)}


# ----------------------------------------------------------------------------------------------------------- what is sent to where


def collectives(hlo):
    """(kind, shape, loops around it) of every collective in the text of a compiled program, or of each array it sends."""
    found, in_entry = [], False
    for line in hlo.splitlines():
        in_entry = line.startswith("ENTRY") if line.endswith("{") else in_entry
        if match := re.search(r"= (\(.*\)|\S+) (all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute)(?:-start)?\(", line):
            named = re.search(r'op_name="([^"]*)"', line)
            assert named or in_entry, f"nothing says how many loops are around {line}"  # what the compiler itself adds has no name
            depth = named[1].count("while/body") if named else 0
            found += [
                (match[2], tuple(map(int, filter(None, shape.split(",")))), depth) for shape in re.findall(r"\w+\[([\d,]*)\]", match[1])
            ]
    return found


# Sizes that tell what an array is: 48 the width, 80 the feed-forward width, 4 x 12 the heads, 2 x 12 those of keys and values.
WIDE = replace(CONFIG, model=replace(CONFIG.model, d_model=48, num_layers=2, num_heads=4, head_dim=12, d_ff=80))
MATRICES = {(48, 80), (80, 48), (48, 24), (24, 48), (48, 48), (46, 48)}


@functools.cache
def rollout_program(mesh_config):
    """The text of the compiled rollout."""
    config = replace(WIDE, mesh=mesh_config)
    mesh, params = make_mesh(mesh_config), jax.eval_shape(lambda: tiny.both(config=config))
    layout = {agent: param_sharding(tree, logical_axes(tree), mesh) for agent, tree in params.items()}

    def run(params, tasks, key):
        with on_mesh(mesh):
            return draw_rollout(params, tasks, key, LANGUAGE, config)

    shardings = (layout, batch_sharding(mesh), replicated(mesh))
    return jax.jit(run, in_shardings=shardings).lower(params, answer_tasks(), first_key()).compile().as_text()


def test_fsdp_sends_parameters_and_no_activations():
    """Oracle: the sizes of what is sent. Each layer's matrices are put together where they are read, once a token in the loop over
    tokens; what is computed from the rows of a device stays there, and only embeddings come in, from the devices that hold them."""
    sent = collectives(rollout_program(MeshConfig(fsdp=2)))
    gathered = {(shape, depth) for kind, shape, depth in sent if kind == "all-gather"}
    assert {shape[-2:] for shape, depth in gathered if depth == 2} >= {(48, 80), (80, 48)}
    rows, heads = {8, 32, 8 * 32}, {48, 80, 24}
    assert not [shape for shape, _ in gathered if len(shape) > 1 and shape[0] in rows and shape[-1] in heads]
    assert not [shape for kind, shape, _ in sent if kind == "all-reduce" and shape[-1:] and shape[-1] in heads]


def test_parameters_can_be_gathered_once_a_rollout():
    """Oracle: the same program without the layout of its own, in which they are gathered in the loop over tokens."""
    in_loops = {
        gathered: [shape for kind, shape, depth in collectives(rollout_program(MeshConfig(fsdp=2, gather_for_rollout=gathered))) if depth]
        for gathered in (False, True)
    }
    assert MATRICES & {shape[-2:] for shape in in_loops[False]}
    assert not MATRICES & {shape[-2:] for shape in in_loops[True]}


@SLOW
def test_tensor_parallelism_gathers_no_parameter():
    """Oracle: the sizes of all that is gathered: no matrix among them."""
    sent = collectives(rollout_program(MeshConfig(tensor=2)))
    assert "all-reduce" in {kind for kind, *_ in sent}
    assert not MATRICES & {shape[-2:] for kind, shape, _ in sent if kind == "all-gather"}
