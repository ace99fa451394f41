"""Which axis lives where: the only file that names a `PartitionSpec`.

The model names the dimensions of its parameters (`embed`, `mlp`, ...); one table sends these names to the three axes of a mesh:

    data    copies of the model, each with its part of the batch
    fsdp    parts of the batch too, and parameters and optimizer state cut along their `embed` dimension
    tensor  parameters cut along heads, feed-forward width and vocabulary

XLA derives the layout of everything in between, and the collectives, from these.
"""

import math
from collections.abc import Callable, Sequence

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from mr1jax.config import MeshConfig
from mr1jax.structs import PyTree

BATCH_AXES = ("data", "fsdp")

RULES: dict[str | None, str | None] = {
    "vocab": "tensor",
    "embed": "fsdp",
    "heads": "tensor",
    "kv_heads": "tensor",
    "head_dim": None,
    "mlp": "tensor",
    "rank": None,
    "layers": None,  # the axis that the layers are scanned over: cutting it would move a layer's weights at every step of the scan
    None: None,
}


def make_mesh(config: MeshConfig, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Arranges devices in a mesh with the axes data, fsdp and tensor. Takes all devices by default, and uses the first it needs.

    Raises `ValueError` if the configuration asks for more devices than there are.
    """
    devices = jax.devices() if devices is None else devices
    if config.num_devices > len(devices):
        raise ValueError(
            f"MeshConfig asks for {config.num_devices} devices (data {config.data}, fsdp {config.fsdp}, tensor {config.tensor}), but there "
            f"are {len(devices)}; lower one of the three until their product is at most {len(devices)}"
        )
    return jax.make_mesh(
        (config.data, config.fsdp, config.tensor),
        ("data", "fsdp", "tensor"),
        axis_types=(AxisType.Auto,) * 3,
        devices=devices[: config.num_devices],
    )


def replicated(mesh: Mesh) -> NamedSharding:
    """Places a whole copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Cuts the leading axis over data and fsdp; what follows stays whole."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def constrain_batch(tree: PyTree, mesh: Mesh) -> PyTree:
    """Holds every leaf of a batch, inside jit, to `batch_sharding`. The data and fsdp devices must divide the leading axis."""
    return jax.lax.with_sharding_constraint(tree, batch_sharding(mesh))


def on_shards(function: Callable[..., jax.Array], *arrays: jax.Array) -> jax.Array:
    """Lets every device apply a function to its own part of arrays [P, J, ...] and [P], and gets [P, J, ...]: the prompts P are cut as a
    batch is, key-value heads J along tensor, unless that does not divide them. XLA cannot divide a kernel by itself.

    The mesh is the one that the program is traced under; without one the function is applied as it is.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return function(*arrays)
    P, J = arrays[0].shape[:2]
    batch = BATCH_AXES if P % math.prod(mesh.shape[axis] for axis in BATCH_AXES) == 0 else None
    heads = RULES["kv_heads"] if J % mesh.shape[RULES["kv_heads"]] == 0 else None
    specs = tuple(PartitionSpec(batch, heads) if x.ndim > 1 else PartitionSpec(batch) for x in arrays)
    return jax.shard_map(function, in_specs=specs, out_specs=PartitionSpec(batch, heads), check_vma=False)(*arrays)


def param_sharding(params: PyTree, logical_axes: PyTree, mesh: Mesh) -> PyTree:
    """Gives each parameter its sharding by `RULES`; a dimension that its mesh axis does not divide stays whole.

    params: a tree of arrays or `jax.ShapeDtypeStruct`; logical_axes: the same tree with a tuple of names, one a dimension, at each leaf.
    Raises `ValueError` on a name without a rule.
    """
    return jax.tree.map(lambda param, axes: _sharding(param.shape, axes, mesh), params, logical_axes)


def state_sharding(state: PyTree, logical_axes: PyTree, mesh: Mesh) -> PyTree:
    """Gives every copy of a parameter in a state the sharding of the parameter, and replicates the rest (counters, keys).

    A copy is a leaf whose path ends in the path of the parameter: with logical_axes of one agent's parameters {"embed": ...}, these are
    `params/answerer/embed`, `params/manager/embed`, `reference/embed`, `opt_state/0/mu/embed` and so on. So the moments of Adam are cut
    like what they belong to, as in ZeRO (arXiv:1910.02054).

    state: a tree of arrays or `jax.ShapeDtypeStruct`. Raises `ValueError` on a name without a rule, or a parameter that the state lacks.
    """
    axes_of = {_name(path): axes for path, axes in jax.tree_util.tree_leaves_with_path(logical_axes, is_leaf=_is_axes)}
    found = set()

    def leaf_sharding(path, leaf):
        owner = max((name for name in axes_of if _name(path).endswith(name)), key=len, default=None)
        found.add(owner)
        # optimizers that factor their moments keep rows and columns under the parameter's path: they have fewer dimensions
        is_copy = owner is not None and len(axes_of[owner]) == leaf.ndim
        return _sharding(leaf.shape, axes_of[owner], mesh) if is_copy else replicated(mesh)

    shardings = jax.tree_util.tree_map_with_path(leaf_sharding, state)
    missing = sorted(axes_of.keys() - found)
    if missing:
        raise ValueError(f"logical_axes names the parameter {missing[0]}, which the state does not hold; give the axes of one agent's tree")
    return shardings


def _sharding(shape: tuple[int, ...], axes: tuple[str | None, ...], mesh: Mesh) -> NamedSharding:
    unknown = [axis for axis in axes if axis not in RULES]
    if unknown:
        raise ValueError(f"sharding.RULES has no rule for the logical axis {unknown[0]!r} of {axes}; add one")
    mesh_axes = [RULES[axis] for axis in axes]
    spec = [axis if axis and size % mesh.shape[axis] == 0 else None for size, axis in zip(shape, mesh_axes, strict=True)]
    return NamedSharding(mesh, PartitionSpec(*spec))


def _is_axes(node: PyTree) -> bool:
    return isinstance(node, tuple)


def _name(path: tuple) -> str:
    """Spells a path as "/a/b", whether its steps are keys, attributes or indices; the leading slash keeps suffixes to whole steps."""
    return "/" + jax.tree_util.keystr(path, simple=True, separator="/")
