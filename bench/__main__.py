"""`make bench`: training steps, the memory bank, backbones and retrieval. Prints tables and writes bench/results.json."""

import json
import platform
from pathlib import Path

import jax

from bench import bank, grammar, import_memory, retrieval, step, workload

RESULTS = Path(__file__).with_name("results.json")


def main() -> None:
    """Measures everything in one go, so that ratios are of one machine at one time."""
    machine = {"platform": platform.platform(), "devices": [str(device) for device in jax.devices()], "jax": jax.__version__}
    rooms = {"step": step, "workload": workload, "bank": bank, "grammar": grammar, "import": import_memory, "retrieval": retrieval}
    results = {"machine": machine} | {name: room.measure() for name, room in rooms.items()}
    RESULTS.write_text(json.dumps(results, indent=2, default=str) + "\n")
    print(f"written to {RESULTS}")


if __name__ == "__main__":
    main()
