"""Layouts on eight fake devices against the table of rules read by hand, and against one device."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

from mr1jax import sharding
from mr1jax.config import MeshConfig
from mr1jax.structs import TrainState

LOGICAL_AXES = {
    "embed": ("vocab", "embed"),
    "layers": {"gate": ("layers", "embed", "mlp"), "query": ("layers", "embed", "heads", "head_dim"), "scale": ("layers", "embed")},
    "adapter": ("embed", None),
}
SHAPES = {"embed": (16, 8), "layers": {"gate": (3, 8, 4), "query": (3, 8, 2, 4), "scale": (3, 8)}, "adapter": (8, 5)}
SPECS = {
    "embed": P("tensor", "fsdp"),
    "layers": {"gate": P(None, "fsdp", "tensor"), "query": P(None, "fsdp", "tensor", None), "scale": P(None, "fsdp")},
    "adapter": P("fsdp", None),
}
TX = optax.adamw(1e-2)


@pytest.fixture(scope="module")
def mesh():
    return sharding.make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))


@pytest.fixture(scope="module")
def params():
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda shape: rng.normal(size=shape).astype(np.float32), SHAPES, is_leaf=lambda x: isinstance(x, tuple))


def specs(shardings):
    return jax.tree.map(lambda s: s.spec, shardings)


def loss(params, x_BD):
    """A few products through every parameter, so that each has a gradient from each row of the batch."""
    hidden_BF = jnp.einsum("BD,NDF->BF", x_BD * jnp.prod(params["layers"]["scale"], axis=0)[None, :], params["layers"]["gate"])
    heads_B = jnp.einsum("BD,NDHC->B", x_BD, params["layers"]["query"])
    return (
        jnp.mean(jnp.square(x_BD @ params["embed"].T))
        + jnp.mean(hidden_BF)
        + jnp.mean(jnp.square(x_BD @ params["adapter"]))
        + heads_B.mean()
    )


def test_params_lie_as_the_rules_say(mesh, params):
    """Oracle: the table of rules, applied by hand to each parameter."""
    assert specs(sharding.param_sharding(params, LOGICAL_AXES, mesh)) == SPECS


def test_a_dimension_that_does_not_divide_stays_whole():
    """Oracle: by hand. fsdp 4 divides 8 but not 6; tensor 2 divides 4 but not 5; what else the parameter has is still cut."""
    mesh = sharding.make_mesh(MeshConfig(fsdp=4, tensor=2))
    shapes = {"a": jax.ShapeDtypeStruct((6, 4), jnp.float32), "b": jax.ShapeDtypeStruct((8, 5), jnp.float32)}
    axes = {"a": ("embed", "mlp"), "b": ("embed", "vocab")}
    assert specs(sharding.param_sharding(shapes, axes, mesh)) == {"a": P(None, "tensor"), "b": P("fsdp", None)}


def test_every_copy_of_a_parameter_lies_as_the_parameter(mesh, params):
    """Oracle: the specs of the parameters, wherever they are repeated; counters and keys are whole everywhere."""
    state = jax.eval_shape(lambda p: TrainState({"manager": p, "answerer": p}, p, TX.init(p), jnp.int32(0), jax.random.key(0)), params)
    got = specs(sharding.state_sharding(state, LOGICAL_AXES, mesh))
    assert got.params == {"manager": SPECS, "answerer": SPECS}
    assert got.reference == got.opt_state[0].mu == got.opt_state[0].nu == SPECS
    assert got.step == got.key == got.opt_state[0].count == P()


def test_factored_moments_are_whole(mesh, params):
    """Oracle: by hand. Adafactor keeps rows and columns of a matrix under the matrix's own path: no rule speaks of those."""
    tx = optax.scale_by_factored_rms(min_dim_size_to_factor=4)
    got = sharding.state_sharding(jax.eval_shape(lambda p: (p, tx.init(p)), params), LOGICAL_AXES, mesh)
    assert got[1].v_row["embed"].spec == got[1].v_col["layers"]["gate"].spec == P()
    assert specs(got[0]) == SPECS


def test_names_that_end_alike_are_told_apart(mesh):
    """Oracle: by hand. `b/w` is not a copy of `w`, and `my_w` of neither."""
    leaf = jax.ShapeDtypeStruct((4, 4), jnp.float32)
    axes = {"w": ("embed", None), "b": {"w": ("mlp", None)}}
    got = sharding.state_sharding({"mu": {"w": leaf, "b": {"w": leaf}}, "my_w": leaf}, axes, mesh)
    assert specs(got) == {"mu": {"w": P("fsdp", None), "b": {"w": P("tensor", None)}}, "my_w": P()}


def test_bytes_on_a_device_are_a_share(mesh, params):
    """Oracle: arithmetic. Cut by fsdp 2 and tensor 2, a device holds a quarter of `embed`, in the optimizer's moments too."""
    state = (params, TX.init(params))
    _, opt_state = jax.device_put(state, sharding.state_sharding(state, LOGICAL_AXES, mesh))
    assert {shard.data.size for shard in opt_state[0].mu["embed"].addressable_shards} == {16 * 8 // 4}


def two_updates(params, mesh):
    """Runs two steps of AdamW on a mesh, as training does: laid out and donated; returns the parameters and their specs."""
    state = (params, TX.init(params))
    layout = sharding.state_sharding(state, LOGICAL_AXES, mesh)

    def update(state, x_BD):
        params, opt_state = state
        with sharding.on_mesh(mesh):
            gradient = jax.grad(loss)(params, sharding.constrain_batch(x_BD))
        updates, opt_state = TX.update(gradient, opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    step = jax.jit(update, in_shardings=(layout, sharding.batch_sharding(mesh)), out_shardings=layout, donate_argnums=0)
    x_BD = np.random.default_rng(1).normal(size=(8, 8)).astype(np.float32)
    params, _ = step(step(jax.device_put(state, layout), x_BD), x_BD)
    assert step._cache_size() == 1  # the layout that comes out is the one that goes in
    return params


@pytest.fixture(scope="module")
def updated_on_one_device(params):
    return two_updates(params, sharding.make_mesh(MeshConfig()))


@pytest.mark.parametrize("config", [MeshConfig(fsdp=8), MeshConfig(data=2, fsdp=2, tensor=2)], ids=["fsdp", "all"])
def test_an_update_is_the_same_on_any_mesh(config, params, updated_on_one_device):
    """Oracle: the same update on one device; and the parameters lie afterwards as the rules say."""
    mesh = sharding.make_mesh(config)
    updated = two_updates(params, mesh)
    jax.tree.map(lambda one, many: np.testing.assert_allclose(one, many, rtol=1e-4, atol=1e-5), updated_on_one_device, updated)
    layout = sharding.param_sharding(params, LOGICAL_AXES, mesh)
    assert jax.tree.all(jax.tree.map(lambda x, at: x.sharding.is_equivalent_to(at, x.ndim), updated, layout))


def test_batch_is_cut_over_data_and_fsdp(mesh):
    """Oracle: arithmetic. 8 rows over data 2 x fsdp 2 are 2 rows a device, and each is on the two devices of a tensor pair."""
    x = jax.device_put(np.arange(16.0).reshape(8, 2), sharding.batch_sharding(mesh))
    rows = sorted(int(shard.data[0, 0]) // 2 for shard in x.addressable_shards)
    assert rows == [0, 0, 2, 2, 4, 4, 6, 6]
    assert {shard.data.shape for shard in x.addressable_shards} == {(2, 2)}
    with sharding.on_mesh(mesh):
        inside = jax.jit(lambda x: sharding.constrain_batch(x * 2), in_shardings=sharding.replicated(mesh))(np.arange(16.0).reshape(8, 2))
    assert inside.sharding.is_equivalent_to(sharding.batch_sharding(mesh), 2)


def test_a_process_gives_its_rows_and_no_more():
    """Oracle: the batch put in place whole. A process alone holds every row; of the devices' parts of what it read, none is copied."""
    mesh = sharding.make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    x = np.arange(16.0).reshape(8, 2)
    assert sharding.local_rows(mesh, 8) == list(range(8))
    batch = sharding.place_batch({"x": x}, range(8), mesh, 8)["x"]
    assert batch.sharding == sharding.batch_sharding(mesh)
    np.testing.assert_array_equal(batch, x)


def test_what_is_placed_is_a_copy_and_comes_back_whole(mesh, params):
    """Oracle: the arrays themselves, and their layout; the host may then change its own."""
    own = jax.tree.map(np.array, params)
    layout = sharding.param_sharding(own, LOGICAL_AXES, mesh)
    placed = sharding.place(own, layout)
    assert jax.tree.map(lambda x: x.sharding, placed) == layout
    jax.tree.map(lambda x: x.fill(0), own)
    jax.tree.map(np.testing.assert_array_equal, sharding.to_host(placed), params)


def test_gathered_parameters_are_whole_along_fsdp(mesh, params):
    """Oracle: the table of rules without fsdp, by hand; outside a mesh nothing is said."""

    def gather(params):
        with sharding.on_mesh(mesh):
            return sharding.gather_fsdp(params, LOGICAL_AXES)

    layout = sharding.param_sharding(params, LOGICAL_AXES, mesh)
    gathered = jax.jit(gather, in_shardings=(layout,))(params)
    without = jax.tree.map(
        lambda spec: P(*(axis if axis == "tensor" else None for axis in spec)), SPECS, is_leaf=lambda x: isinstance(x, P)
    )
    wanted = jax.tree.map(lambda spec: jax.sharding.NamedSharding(mesh, spec), without, is_leaf=lambda x: isinstance(x, P))
    assert jax.tree.all(jax.tree.map(lambda x, at: x.sharding.is_equivalent_to(at, x.ndim), gathered, wanted))
    assert sharding.gather_fsdp(params, LOGICAL_AXES) == params


@pytest.mark.parametrize(
    ("act", "sentence"),
    [
        (lambda mesh: sharding.make_mesh(MeshConfig(data=3, fsdp=4)), "asks for 12 devices .* there are 8; lower"),
        (lambda mesh: sharding.make_mesh(MeshConfig(data=2), jax.devices()[:1]), "asks for 2 devices .* there are 1; lower"),
        (lambda mesh: sharding.param_sharding({"w": jnp.ones(2)}, {"w": ("width",)}, mesh), "no rule for the logical axis 'width'"),
        (lambda mesh: sharding.state_sharding({"v": jnp.ones(2)}, {"w": ("embed",)}, mesh), "parameter /w, which the state does not hold"),
    ],
    ids=["too many devices", "too few given", "unknown axis", "missing parameter"],
)
def test_errors_say_what_to_do(mesh, act, sentence):
    """Oracle: the sentence a user needs."""
    with pytest.raises(ValueError, match=sentence):
        act(mesh)
