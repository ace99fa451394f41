"""What reading a backbone costs the host: peak memory beyond the parameters, against the largest tensor of a made-up checkpoint of 1 GB.

    python -m bench.import_memory

The reader is a process of its own, so that what else was measured here does not count.
"""

import json
import math
import multiprocessing
import tempfile
import time
from pathlib import Path

import jax
import numpy as np
from safetensors.numpy import save_file

from mr1jax.config import ModelConfig
from mr1jax.model.huggingface import INDEX, load_backbone, tensors

# The proportions of a small published model: each of the two vocabulary matrices is a fifth of all.
MODEL = ModelConfig(
    vocab_size=65_536, d_model=1_024, num_layers=12, num_heads=16, num_kv_heads=2, head_dim=64, d_ff=3_072, tie_embeddings=False
)
SHARD_BYTES = 64 * 2**20
MIB = 2**20


def measure(config: ModelConfig = MODEL) -> dict[str, float]:
    """Writes a random float32 checkpoint and reads it back with `load_backbone`. Sizes in MiB."""
    with tempfile.TemporaryDirectory() as folder:
        num_shards = _write(Path(folder), config)
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            seconds, growth = pool.apply(_read, (folder, config))
    sizes = [4 * math.prod(tensor.shape) for tensor in tensors(config)]
    result = {
        "checkpoint_mib": sum(sizes) / MIB,
        "shards": num_shards,
        "largest_tensor_mib": max(sizes) / MIB,
        "beyond_parameters_mib": (growth - sum(sizes)) / MIB,
        "of_largest_tensor": (growth - sum(sizes)) / max(sizes),
        "seconds": seconds,
    }
    print(
        f"import: {result['checkpoint_mib']:.0f} MiB in {num_shards} shards read in {seconds:.1f} s; peak memory beyond the parameters "
        f"{result['beyond_parameters_mib']:.0f} MiB, {result['of_largest_tensor']:.2f} of the largest tensor"
    )
    return result


def _write(folder: Path, config: ModelConfig) -> int:
    rng = np.random.default_rng(0)
    where: dict[str, str] = {}
    shard: dict[str, np.ndarray] = {}
    listed = list(tensors(config))
    for tensor in listed:
        shard[tensor.name] = rng.standard_normal(tensor.shape, np.float32)
        if sum(array.nbytes for array in shard.values()) >= SHARD_BYTES or tensor is listed[-1]:
            name = f"model-{len(set(where.values())):05d}.safetensors"
            save_file(shard, folder / name)
            where |= dict.fromkeys(shard, name)
            shard = {}
    (folder / INDEX).write_text(json.dumps({"weight_map": where}))
    return len(set(where.values()))


def _read(folder: str, config: ModelConfig) -> tuple[float, int]:
    """Returns seconds, and by how many bytes the peak of this process grew."""
    jax.block_until_ready(jax.numpy.zeros(1))  # the backend is there before the measurement begins
    before, started = _peak_bytes(), time.perf_counter()
    jax.block_until_ready(load_backbone(folder, config, swap=(0, 7)))
    return time.perf_counter() - started, _peak_bytes() - before


def _peak_bytes() -> int:
    """Reads Linux's high-water mark of this program; the one of `getrusage` outlives an exec, and would be the parent's."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) * 2**10


if __name__ == "__main__":
    measure()
