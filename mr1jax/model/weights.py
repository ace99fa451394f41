"""Parameters on disk: one safetensors file, tensors named by their path in the tree ("layers/query")."""

import os
from collections.abc import Mapping
from pathlib import Path

import jax
import numpy as np
from flax import traverse_util
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save_file

from mr1jax.structs import PyTree


def save_params(path: str | Path, params: PyTree, metadata: dict[str, str] | None = None) -> None:
    """Writes parameters, reads them back, compares, and only then gives the file its name.

    Raises:
      ValueError: what was read back is not what was written; a file that was there before is untouched.
    """
    save_tensors(Path(path), _flatten(jax.device_get(params)), metadata)


def save_tensors(path: Path, tensors: Mapping[str, np.ndarray], metadata: dict[str, str] | None = None) -> None:
    """Does the same for tensors by name: what `save_params` writes, and what a checkpoint in another layout is made of."""
    # safetensors writes the memory of a transposed array as it lies, under the shape it seems to have: make it lie as it seems.
    tensors = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
    partial = path.with_name(path.name + ".partial")
    try:
        save_file(tensors, partial, metadata=metadata)
        written = load_file(partial)
        for name, tensor in tensors.items():
            if written[name].tobytes() != tensor.tobytes():
                raise ValueError(f"{path} was not saved: tensor {name} read back differently than it was written; try another disk")
        partial.chmod(0o644)  # safetensors leaves a file that nobody else can read
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def load_params(path: str | Path, abstract_params: PyTree | None = None) -> PyTree:
    """Reads the parameter tree of a file as numpy arrays.

    Args:
      abstract_params: a tree of arrays or `jax.ShapeDtypeStruct` that the file must match in names, shapes and dtypes.

    Raises:
      ValueError: the file is absent, cut short or no safetensors file, or does not match; the sentence names the tensor.
    """
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is no complete safetensors file ({error}); download or save it again") from error
    if abstract_params is not None:
        _check(path, tensors, _flatten(abstract_params))
    return traverse_util.unflatten_dict(tensors, sep="/")


def load_metadata(path: str | Path) -> dict[str, str]:
    """Reads what `save_params` was given as metadata; raises ValueError where the file is absent, cut short or no safetensors file."""
    try:
        with safe_open(path, framework="numpy") as file:
            return file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is no complete safetensors file ({error}); download or save it again") from error


def _flatten(params: PyTree) -> dict:
    return traverse_util.flatten_dict(params, sep="/")


def _check(path: str | Path, tensors: dict, wanted: dict) -> None:
    for name in sorted(wanted.keys() - tensors.keys()):
        raise ValueError(f"{path} lacks tensor {name}; it was saved from another model configuration")
    for name in sorted(tensors.keys() - wanted.keys()):
        raise ValueError(f"{path} holds tensor {name}, which the model does not have; it was saved from another model configuration")
    for name, tensor in wanted.items():
        found, expected = (f"{x.dtype}{list(x.shape)}" for x in (tensors[name], tensor))
        if found != expected:
            raise ValueError(f"tensor {name} of {path} is {found}, and the model's is {expected}; use the configuration it was saved with")
