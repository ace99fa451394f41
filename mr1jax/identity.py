"""What a run is known by: its configuration, the data it trains on, the base under its adapters. A run resumes only as itself."""

import dataclasses
import hashlib
import importlib.metadata
import json
import logging
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mr1jax.config import require
from mr1jax.structs import PyTree

logger = logging.getLogger(__name__)

RECORDED_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")
MAY_CHANGE = ("steps", "save_every", "mesh")  # a run may be prolonged and moved to other devices; anything else makes it another run
_DIGITS = 16  # of a hash, in hexadecimal


def describe_run(config: Any, tasks: PyTree, base: PyTree | None = None) -> dict[str, Any]:
    """Describes a run for what it saves, as JSON gives it back.

    config: a dataclass; tasks: numpy arrays, all that the run draws from; base: what its adapters are laid over. Returns {"config":
    fields under dotted names, "config_hash": of those that may not change, "data": hash of the tasks, "base": fingerprint or None,
    "versions"}.
    """
    fields = dotted_fields(config)
    fixed = {name: value for name, value in fields.items() if name.split(".")[0] not in MAY_CHANGE}
    return {
        "config": fields,
        "config_hash": hashlib.sha256(json.dumps(fixed, sort_keys=True).encode()).hexdigest()[:_DIGITS],
        "data": hash_arrays(tasks),
        "base": None if base is None else fingerprint(base),
        "versions": {package: importlib.metadata.version(package) for package in RECORDED_PACKAGES},
    }


def dotted_fields(config: Any) -> dict[str, Any]:
    """Lists the fields of a configuration under names such as "loss.kl_coef", as JSON gives them back: a tuple is a list."""
    return _dotted(json.loads(json.dumps(dataclasses.asdict(config))))


def require_same_run(then: dict[str, Any], now: dict[str, Any]) -> None:
    """Compares two descriptions, that of a checkpoint and that of the run which is to go on from it.

    Raises `ValueError` where configuration (`MAY_CHANGE` aside), data or base differ. Other versions of packages are only warned of: they
    may round otherwise.
    """
    before, after = then["config"], now["config"]
    changed = [name for name in sorted(before.keys() | after.keys()) if before.get(name) != after.get(name)]
    differences = [f"{name} was {before.get(name)} and is {after.get(name)}" for name in changed if name.split(".")[0] not in MAY_CHANGE]
    remedy = "resume with that one, or give another directory"
    require(not differences, f"the checkpoint is of another configuration: {', '.join(differences)}; {remedy}")
    for name in ("data", "base"):
        known = f"{name} hash {then.get(name)}"
        require(then.get(name) == now[name], f"the checkpoint is of a run with {known}, and this one's is {now[name]}; {remedy}")
    other = [f"{name} {then['versions'].get(name)}" for name, version in now["versions"].items() if then["versions"].get(name) != version]
    if other:
        logger.warning("the checkpoint was saved with %s; the run goes on, but perhaps not bit for bit", ", ".join(other))


def hash_arrays(tree: PyTree) -> str:
    """Returns 16 hexadecimal digits of the sha256 over name, type, shape and bytes of every array of a tree, on the host."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        array = np.ascontiguousarray(leaf)
        digest.update(f"{jax.tree_util.keystr(path)}{array.dtype}{list(array.shape)}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()[:_DIGITS]


def fingerprint(tree: PyTree) -> str:
    """Returns 16 hexadecimal digits by which weights are known again, whatever their layout and whether they are float32 or bfloat16.

    They are of the name and shape of each leaf and of the sum, modulo 2**32, of the bits of its numbers in bfloat16: a sum of integers is
    the same in any order, so that every device adds up what it holds. Against accidents, not against malice.
    """
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    sums = jax.device_get(_sum_of_bits([leaf for _, leaf in leaves]))
    names = (f"{jax.tree_util.keystr(path)}{list(leaf.shape)}" for path, leaf in leaves)
    text = "".join(f"{name}{int(total)}\n" for name, total in zip(names, sums, strict=True))
    return hashlib.sha256(text.encode()).hexdigest()[:_DIGITS]


@jax.jit
def _sum_of_bits(leaves: list[jax.Array]) -> list[jax.Array]:
    bits = [jax.lax.bitcast_convert_type(leaf.astype(jnp.bfloat16), jnp.uint16) for leaf in leaves]
    return [jnp.sum(each, dtype=jnp.uint32) for each in bits]


def _dotted(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for name, value in values.items():
        fields |= _dotted(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return fields
