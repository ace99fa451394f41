"""Memory-R1 (arXiv 2508.19828) in JAX."""

import os

# What packages below would report of this machine and its use, off before any of them is imported; whoever sets these keeps them.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("ENABLE_RUNTIME_UPTIME_TELEMETRY", "0")  # of the TPU runtime, which JAX would turn on
