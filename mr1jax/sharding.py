"""Which axis lives where: the only file that names a `PartitionSpec`.

The model names the dimensions of its parameters (`embed`, `mlp`, ...); one table sends these names to the three axes of a mesh:

    data    copies of the model, each with its part of the batch
    fsdp    parts of the batch too, and parameters and optimizer state cut along their `embed` dimension
    tensor  parameters cut along heads, feed-forward width and vocabulary

XLA derives the layout of everything in between, and the collectives, from these and from one rule more: whatever has a leading axis of
prompts is cut along it. Left alone XLA would carry the cut of the embedding into all that is computed from it, and every device would
work on the whole batch. Inside `on_mesh` the functions of the step hold arrays to these layouts; outside, as on a single device in
evaluation, they change nothing.
"""

import contextlib
import math
from collections.abc import Callable, Sequence

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from mr1jax.config import MeshConfig, require
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

    Raises `ValueError` if the configuration asks for more devices than there are, or several processes have more than it asks for.
    """
    devices = jax.devices() if devices is None else devices
    if config.num_devices > len(devices):
        raise ValueError(
            f"MeshConfig asks for {config.num_devices} devices (data {config.data}, fsdp {config.fsdp}, tensor {config.tensor}), but there "
            f"are {len(devices)}; lower one of the three until their product is at most {len(devices)}"
        )
    num_processes = len({device.process_index for device in devices})
    require(
        num_processes == 1 or config.num_devices == len(devices),
        f"MeshConfig asks for {config.num_devices} devices (data {config.data}, fsdp {config.fsdp}, tensor {config.tensor}), and the "
        f"{num_processes} processes of this run have {len(devices)}; the product of the three must be {len(devices)}",
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


def local_rows(mesh: Mesh, batch_size: int) -> list[int]:
    """Lists the rows of a batch that the devices of this process hold: all of them where there is but one process."""
    cuts = batch_sharding(mesh).addressable_devices_indices_map((batch_size,)).values()
    return sorted({row for (cut,) in cuts for row in range(batch_size)[cut]})


def place_batch(tree: PyTree, rows: Sequence[int], mesh: Mesh, batch_size: int) -> PyTree:
    """Makes a batch of what the processes read of it: each gives its own `local_rows`, [len(rows), ...], and none sends any."""

    def put(x):
        def part(index):
            start, stop, _ = index[0].indices(batch_size)
            return x[rows.index(start) : rows.index(start) + stop - start]

        return jax.make_array_from_callback((batch_size, *x.shape[1:]), batch_sharding(mesh), part)

    return jax.tree.map(put, tree)


def place(tree: PyTree, shardings: PyTree) -> PyTree:
    """Copies arrays, from wherever they are, to where a layout says; every process fills its own devices."""

    def put(x, sharding):
        x = to_host(x)
        return jax.make_array_from_callback(x.shape, sharding, lambda index: np.array(x[index]))

    return jax.tree.map(put, tree, shardings)


def to_host(tree: PyTree) -> PyTree:
    """Gives every process the whole arrays as numpy, one at a time; all processes must call it."""
    return jax.tree.map(lambda x: np.asarray(x if _is_here(x) else multihost_utils.process_allgather(x, tiled=True)), tree)


def _is_here(x: jax.Array | np.ndarray) -> bool:
    return not isinstance(x, jax.Array) or x.is_fully_addressable or x.is_fully_replicated


def on_mesh(mesh: Mesh) -> contextlib.AbstractContextManager:
    """Makes this the mesh that the functions below hold arrays to, while a program is traced."""
    return jax.sharding.use_abstract_mesh(mesh.abstract_mesh)


def constrain_batch(tree: PyTree) -> PyTree:
    """Holds every leaf of a batch to `batch_sharding`. The data and fsdp devices must divide the leading axis."""
    return _constrain(tree, PartitionSpec(BATCH_AXES))


def split_batch(tree: PyTree, num_parts: int) -> PyTree:
    """Divides a batch in parts that are spread over the devices as the whole is: [P, ...] to [parts, P / parts, ...].

    Part m takes the rows m, m + parts, m + 2 parts and so on, so that each device has some of every part and none of them moves.
    Devices of data and fsdp times parts must divide the leading axis.
    """
    parts = jax.tree.map(lambda x: x.reshape(-1, num_parts, *x.shape[1:]).swapaxes(0, 1), tree)
    return _constrain(parts, PartitionSpec(None, BATCH_AXES))


def join_batch(tree: PyTree) -> PyTree:
    """Puts the rows that `split_batch` divided back in their order."""
    return jax.tree.map(lambda x: x.swapaxes(0, 1).reshape(-1, *x.shape[2:]), tree)


def on_shards(function: Callable[..., jax.Array], *arrays: jax.Array) -> jax.Array:
    """Lets every device apply a function to its own part of arrays [P, J, ...] and [P], and gets [P, J, ...]: the prompts P are cut as a
    batch is, key-value heads J along tensor, unless that does not divide them. XLA cannot divide a kernel by itself.

    The mesh is the one that the program is traced under; without one the function is applied as it is.
    """
    if (mesh := _mesh()).empty:
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


def gather_fsdp(params: PyTree, logical_axes: PyTree) -> PyTree:
    """Holds parameters to their layout without fsdp: whole along what it cuts, still cut by tensor.

    So every device has what a loop over tokens reads, before the loop begins. Arguments as in `param_sharding`.
    """
    if (mesh := _mesh()).empty:
        return params
    return jax.tree.map(lambda param, axes: _constrain(param, _spec(param.shape, axes, mesh, whole="fsdp")), params, logical_axes)


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


def _mesh() -> AbstractMesh:
    return jax.sharding.get_abstract_mesh()


def _constrain(tree: PyTree, spec: PartitionSpec) -> PyTree:
    return tree if _mesh().empty else jax.lax.with_sharding_constraint(tree, spec)


def _sharding(shape: tuple[int, ...], axes: tuple[str | None, ...], mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, _spec(shape, axes, mesh))


def _spec(shape: tuple[int, ...], axes: tuple[str | None, ...], mesh: Mesh | AbstractMesh, whole: str = "") -> PartitionSpec:
    unknown = [axis for axis in axes if axis not in RULES]
    if unknown:
        raise ValueError(f"sharding.RULES has no rule for the logical axis {unknown[0]!r} of {axes}; add one")
    mesh_axes = [RULES[axis] for axis in axes]
    is_cut = [bool(axis) and axis != whole and size % mesh.shape[axis] == 0 for size, axis in zip(shape, mesh_axes, strict=True)]
    return PartitionSpec(*(axis if cut else None for axis, cut in zip(mesh_axes, is_cut, strict=True)))


def _is_axes(node: PyTree) -> bool:
    return isinstance(node, tuple)


def _name(path: tuple) -> str:
    """Spells a path as "/a/b", whether its steps are keys, attributes or indices; the leading slash keeps suffixes to whole steps."""
    return "/" + jax.tree_util.keystr(path, simple=True, separator="/")
