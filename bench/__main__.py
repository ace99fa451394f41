"""`make bench`: the demo's training steps, the memory bank, backbones and retrieval. Prints tables and writes bench/results.json."""

import json
import platform
from pathlib import Path

import jax

from bench import bank, import_memory, step

RESULTS = Path(__file__).with_name("results.json")


def main() -> None:
    """Measures everything in one go, so that ratios are of one machine at one time."""
    machine = {"platform": platform.platform(), "devices": [str(device) for device in jax.devices()], "jax": jax.__version__}
    results = {"machine": machine, "step": step.measure(), "bank": bank.measure(), "import": import_memory.measure()}
    RESULTS.write_text(json.dumps(results, indent=2, default=str) + "\n")
    print(f"written to {RESULTS}")


if __name__ == "__main__":
    main()
