"""Does jobs in processes of their own, as many at once as there are cores, each after those that it waits for."""

import os
import subprocess
import sys
import time
from collections.abc import Sequence

from paper.jobs import CORE, is_done
from paper.plan import RUNS, Item


def do_all(items: Sequence[Item], workers: int) -> None:
    """Does what of it is not done yet. Raises RuntimeError, once the others are done, where a job failed."""
    waiting = [item for item in items if not is_done(item)]
    total, running, failed = len(waiting), {}, []
    (RUNS / "logs").mkdir(parents=True, exist_ok=True)
    while waiting or running:
        open_names = {item.name for item in [*waiting, *(item for item, _ in running.values())]} | set(failed)
        for core in sorted(set(range(workers)) - set(running)):
            ready = next((item for item in waiting if not open_names & set(item.after)), None)
            if ready:
                waiting.remove(ready)
                running[core] = (ready, _start(ready, core, workers))
                print(f"{total - len(waiting)} of {total}: {ready.name}", flush=True)
        if not running:
            break
        time.sleep(0.5)
        for core, (item, process) in list(running.items()):
            if process.poll() is not None:
                del running[core]
                failed += [item.name] if process.returncode else []
    if failed or waiting:
        stopped = ", ".join([*failed, *(item.name for item in waiting)])
        raise RuntimeError(f"these failed or wait for one that did: {stopped}; see {RUNS / 'logs'}, and the same command goes on")


def _start(item: Item, core: int, workers: int) -> subprocess.Popen:
    own = {"JAX_COMPILATION_CACHE_DIR": str((RUNS / ".jax_cache").resolve())}  # runs of one shape compile once
    if workers > 1 and hasattr(os, "sched_setaffinity"):
        own[CORE] = str(core)
    with (RUNS / "logs" / f"{item.name}.log").open("ab") as log:
        command = [sys.executable, "-m", "paper.jobs", item.name]
        return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=os.environ | own)
