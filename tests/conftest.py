"""The machine every test runs on: eight fake CPU devices, no silent broadcasting between ranks, no network."""

import errno
import os
import socket
from pathlib import Path

import jax
import pytest

os.environ["JAX_PLATFORMS"] = "cpu"  # for the processes that tests start; this one is told below
# XLA's pool has a thread a device, and a device may wait for a collective on several at once: eight devices that share eight
# threads sooner or later all wait, none is left to join them, and XLA ends the process. More threads than could ever wait.
os.environ["PJRT_NPROC"] = "64"
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_compilation_cache_dir", str(Path(__file__).parents[1] / ".jax_cache"))  # a second run compiles little


@pytest.fixture(scope="module", autouse=True)
def _forget_programs():
    """Forgets compiled programs between files once they take half of what a process may map: Linux allows 65,530 pieces of memory."""
    yield
    maps = Path("/proc/self/maps")
    if maps.exists() and len(maps.read_bytes().splitlines()) > 30_000:
        jax.clear_caches()


@pytest.fixture(scope="session", autouse=True)
def _no_network():
    """Lets sockets reach this machine only; anything else fails as it does where there is no network."""
    patch = pytest.MonkeyPatch()
    for name in ("connect", "connect_ex"):
        patch.setattr(socket.socket, name, _local_only(getattr(socket.socket, name)))
    yield
    patch.undo()


def _local_only(connect):
    def connect_if_local(self, address):
        if self.family in (socket.AF_INET, socket.AF_INET6) and not address[0].startswith(("127.", "::1", "localhost")):
            raise OSError(errno.ENETUNREACH, f"tests have no network, and {address[0]} is not this machine")
        return connect(self, address)

    return connect_if_local
