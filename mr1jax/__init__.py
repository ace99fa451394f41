"""Memory-R1 (arXiv 2508.19828) in JAX."""

import importlib
import os

# What packages below would report of this machine and its use, off before any of them is imported; whoever sets these keeps them.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("ENABLE_RUNTIME_UPTIME_TELEMETRY", "0")  # of the TPU runtime, which JAX would turn on


_AGENTS = {"MemoryAgent": "mr1jax.service.agent", "AsyncMemoryAgent": "mr1jax.service.async_agent"}


def __getattr__(name: str):
    """Imports what a program calls when it is first asked for: a store and a model are no part of training."""
    if name in _AGENTS:
        return getattr(importlib.import_module(_AGENTS[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
