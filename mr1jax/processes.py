"""Several processes as one run: how they find each other, and what only the first of them does.

All run the same program, each for the devices of its host; arrays lie on the devices of all. What a run leaves goes into a folder that
every process sees, and the first of them writes it. Alone, a process is the first, and waits for nobody.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from mr1jax.config import ProcessConfig, require
from mr1jax.status import USER_ERROR

AUTO = "auto"
_SIGNALS = (signal.SIGTERM, signal.SIGINT)  # what a cloud or a scheduler sends, and Ctrl-C


def connect(config: ProcessConfig) -> None:
    """Joins the other processes of the run; to be called before anything touches a device.

    Where one of them does not come within `config.timeout` seconds, each that waits says so and ends with status 2. Raises `ValueError`
    where "auto" finds no cluster.
    """
    if not config.coordinator:
        return
    named: dict[str, Any] = {}
    if config.coordinator != AUTO:
        named |= {"coordinator_address": config.coordinator, "num_processes": config.num_processes, "process_id": config.process_id}
        named |= {"cluster_detection_method": "deactivate"}
    jax.config.update("jax_cpu_collectives_implementation", "gloo")  # between CPUs; other devices have their own
    # JAX ends a process that has waited in vain with a stack trace. This comes before it.
    give_up = threading.Timer(config.timeout, _give_up, [config])
    give_up.start()
    try:
        jax.distributed.initialize(**named, initialization_timeout=2 * config.timeout + 60)
    except ValueError as error:
        require(config.coordinator != AUTO, f"--coordinator auto finds no TPU pod, Slurm or Open MPI here ({error}); give host:port")
        raise
    finally:
        give_up.cancel()


def _give_up(config: ProcessConfig) -> None:
    where = "the cluster's coordinator" if config.coordinator == AUTO else config.coordinator
    which = "a process" if config.coordinator == AUTO else f"process {config.process_id} of {config.num_processes}"
    sentence = f"{which} has waited {config.timeout} s at {where} for the others; start all of them, or raise --timeout"
    print(f"mr1jax: {sentence}", file=sys.stderr, flush=True)
    os._exit(USER_ERROR)  # the main thread waits inside JAX, where no exception reaches it


def is_first() -> bool:
    """Tells whether this process is the one that writes."""
    return jax.process_index() == 0


def wait_for_all(what: str) -> None:
    """Returns when every process has called this with the same words."""
    multihost_utils.sync_global_devices(what)


def from_first(number: int) -> int:
    """Returns the number that the first process has called this with."""
    return int(multihost_utils.broadcast_one_to_all(np.int32(number)))


@contextlib.contextmanager
def told_to_stop() -> Iterator[Callable[[int], bool]]:
    """Yields what tells, after a step, whether the run has been told to stop: by SIGTERM or Ctrl-C, of which a second one ends it at once.

    Several processes are all told at the same step, whichever of them got the SIGTERM; it must be asked after every step. Outside the
    block, and in a thread other than the first, signals do what they did.
    """
    if jax.process_count() > 1:
        yield multihost_utils.reached_preemption_sync_point
        return
    told = threading.Event()
    before = {number: signal.getsignal(number) for number in _SIGNALS}

    def hear(number, frame):
        told.set()
        signal.signal(number, before[number])

    in_first_thread = threading.current_thread() is threading.main_thread()
    for number in _SIGNALS if in_first_thread else ():
        signal.signal(number, hear)
    try:
        yield lambda step: told.is_set()
    finally:
        for number in _SIGNALS if in_first_thread else ():
            signal.signal(number, before[number])


@contextlib.contextmanager
def first_alone(what: str) -> Iterator[None]:
    """Lets the first process through the block before the others: it prepares the files that they then find."""
    if not is_first():
        wait_for_all(what)
    yield
    if is_first():
        wait_for_all(what)
