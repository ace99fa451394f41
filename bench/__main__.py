"""`make bench`: training steps, the memory bank, backbones and retrieval. Prints tables and writes bench/results.json."""

import platform
import sys

import jax

from bench import bank, grammar, import_memory, manager, results, retrieval, saves, step, workload

ROOMS = {
    "step": step,
    "workload": workload,
    "manager": manager,
    "saves": saves,
    "bank": bank,
    "grammar": grammar,
    "import": import_memory,
    "retrieval": retrieval,
}


def main() -> None:
    """Measures everything in one go, so that ratios are of one machine at one time; what others wrote into the file stays there."""
    try:
        kept = results.read(results.RESULTS)  # before minutes are spent
    except ValueError as error:
        print(f"bench: {error}", file=sys.stderr)
        sys.exit(2)
    machine = {"platform": platform.platform(), "devices": [str(device) for device in jax.devices()], "jax": jax.__version__}
    measured = {"machine": machine} | {name: room.measure() for name, room in ROOMS.items()}
    results.write(results.RESULTS, kept | measured)
    print(f"written to {results.RESULTS}")


if __name__ == "__main__":
    main()
