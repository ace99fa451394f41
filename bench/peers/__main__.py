"""`make bench-peers`: a GRPO step of workload W in mr1jax, TRL and google-tunix. Prints a table; `workload_w` of bench/results.json.

    python -m bench.peers --rounds 3 --steps 4

In a round the systems take turns, each a process in an environment of its own on the same two cores, so that a ratio is of one machine at
one time. A step's seconds are the median over a round, and a result is the median over rounds. Work that was not equal is an error.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench import results
from bench.peers.work import Work
from bench.workload import BASE, Workload

ROOT = Path(__file__).parents[2]
OURS = "mr1jax"
SYSTEMS = {
    OURS: (sys.executable, "-m", "bench.peers.mr1jax_step"),
    "trl": (str(ROOT / ".venv-peers/trl/bin/python"), "-m", "bench.peers.trl_step"),
    "tunix": (str(ROOT / ".venv-peers/tunix/bin/python"), "-m", "bench.peers.tunix_step"),
}
CORES = 2
WARM_UP = 2  # the first step of each system compiles, and so does the update after the first call of a reward
TAIL = 8  # lines that are shown of what a process that failed said
# On the CPU, without a network, and as many threads as there are cores.
ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "CUDA_VISIBLE_DEVICES": "",
    "OMP_NUM_THREADS": str(CORES),
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "WANDB_MODE": "disabled",
    "TF_CPP_MIN_LOG_LEVEL": "2",
}
Systems = dict[str, Sequence[str]]
Round = dict[str, dict[str, Any]]


def main(arguments: Sequence[str] | None = None, systems: Systems = SYSTEMS, path: Path = results.RESULTS) -> int:
    """Measures, prints and writes. Returns the exit status: 2 where something is wrong, and then `path` is as it was."""
    parser = argparse.ArgumentParser(prog="bench.peers", description="Times a GRPO step of workload W in mr1jax and in its peers.")
    parser.add_argument("--rounds", type=_positive, default=3, help="how often the systems take turns")
    parser.add_argument("--steps", type=_positive, default=4, help="timed steps of each system in a round")
    options = parser.parse_args(arguments)
    try:
        kept = results.read(path)  # before minutes are spent
        hold_to_cores()
        machine, work = describe_machine(), make_work(BASE, options.steps)
        rounds = [run_round(number + 1, systems, work) for number in range(options.rounds)]
    except ValueError as error:
        print(f"bench.peers: {error}", file=sys.stderr)
        return 2
    row = summarise(rounds) | {"timed_steps": options.steps, "machine": machine}
    results.write(path, kept | {"workload_w": row})
    print_table(row, list(systems))
    print(f"written to {path}")
    return 0


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is less than 1")
    return number


def make_work(workload: Workload, timed: int) -> Work:
    """Spells a workload out for programs that do not know mr1jax."""
    config, model = workload.config, workload.config.model
    return Work(
        prompts=workload.prompts,
        group=workload.group,
        prompt_length=workload.prompt_length,
        response_length=workload.response_length,
        vocab_size=model.vocab_size,
        d_model=model.d_model,
        num_layers=model.num_layers,
        num_heads=model.num_heads,
        num_kv_heads=model.num_kv_heads,
        head_dim=model.head_dim,
        d_ff=model.d_ff,
        rope_theta=model.rope_theta,
        norm_eps=model.norm_eps,
        kl_coef=config.loss.kl_coef,
        learning_rate=config.optimizer.learning_rate,
        cores=CORES,
        warm_up=WARM_UP,
        timed=timed,
    )


def hold_to_cores() -> None:
    """Keeps this process, and with it every system it starts, on `CORES` cores. ValueError where there are fewer."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < CORES:
        raise ValueError(f"there is {len(cores)} core here; workload W is timed on {CORES}")
    os.sched_setaffinity(0, cores[:CORES])


def describe_machine() -> dict[str, Any]:
    """Describes where the systems run, as it is before the first of them."""
    models = [line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return {
        "platform": platform.platform(),
        "processor": models[0] if models else platform.machine(),
        "cores": CORES,
        "cores_of_machine": os.cpu_count(),
        "load_before": os.getloadavg()[0],  # of others: what was measured beside them is theirs as well
    }


def run_round(number: int, systems: Systems, work: Work) -> Round:
    """Runs the systems one after another, and prints how long their steps took as they come."""
    measured = {}
    for name, command in systems.items():
        measured[name] = run_system(name, command, work)
        print(f"round {number}: {name} {statistics.median(measured[name]['wall_s']):.2f} s a step", flush=True)
    return measured


def run_system(name: str, command: Sequence[str], work: Work) -> dict[str, Any]:
    """Runs a program and reads its last line. ValueError with the end of what it said where it failed."""
    environment = os.environ | ENVIRONMENT
    try:
        done = subprocess.run([*command, work.to_argument()], cwd=ROOT, env=environment, capture_output=True, text=True)
    except FileNotFoundError:
        raise ValueError(f"there is no {command[0]} to run {name} with; `make bench-peers` sets it up") from None
    if done.returncode:
        tail = "\n  ".join(line for line in done.stderr.splitlines()[-TAIL:] if line.strip())
        raise ValueError(f"{name} failed with status {done.returncode}, and nothing was written; it ended with\n  {tail}")
    try:
        measured = json.loads(done.stdout.splitlines()[-1])
        complete = len(measured["wall_s"]) == len(measured["cpu_s"]) == work.timed and measured["versions"]
    except (IndexError, KeyError, TypeError, ValueError):
        complete = False
    if not complete:
        raise ValueError(f"{name} did not print the seconds of {work.timed} steps as its last line, so that nothing was written")
    return measured


def summarise(rounds: Sequence[Round]) -> dict[str, Any]:
    """Takes medians of every system, and of every peer's ratio to us in the same round, with the least and the greatest of them."""
    wall = {name: [statistics.median(one[name]["wall_s"]) for one in rounds] for name in rounds[0]}
    cpu = {name: [statistics.median(one[name]["cpu_s"]) for one in rounds] for name in rounds[0]}
    row: dict[str, Any] = {f"{name}_s": statistics.median(seconds) for name, seconds in wall.items()}
    row |= {f"{name}_cpu_s": statistics.median(seconds) for name, seconds in cpu.items()}
    for name in [name for name in wall if name != OURS]:
        ratios = [theirs / ours for theirs, ours in zip(wall[name], wall[OURS], strict=True)]
        row[f"{name}_over_{OURS}"] = {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)}
    versions = {name: measured["versions"] for name, measured in rounds[0].items()}
    return row | {"rounds": list(rounds), "versions": versions}


def print_table(row: dict[str, Any], names: Sequence[str]) -> None:
    """Prints a line for each system."""
    print(f"\n{'':8} {'s a step':>9} {'s of all cores':>15}   times mr1jax, and from least to greatest over {len(row['rounds'])} rounds")
    for name in names:
        ratio = row.get(f"{name}_over_{OURS}")
        times = f"{ratio['median']:.2f}, {ratio['min']:.2f} to {ratio['max']:.2f}" if ratio else "1"
        print(f"{name:8} {row[f'{name}_s']:>9.2f} {row[f'{name}_cpu_s']:>15.2f}   {times}")
    for name, versions in row["versions"].items():
        print(f"{name}: {', '.join(f'{package} {version}' for package, version in versions.items())}")


if __name__ == "__main__":
    sys.exit(main())
