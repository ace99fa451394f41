"""bench/results.json, which `make bench` and `make bench-peers` both write: each replaces its own keys and keeps the other's."""

import json
import os
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).with_name("results.json")


def read(path: Path) -> dict[str, Any]:
    """Reads what was measured before; nothing where there is no file. ValueError where the file is no JSON object."""
    if not path.exists():
        return {}
    try:
        results = json.loads(path.read_text())
    except ValueError:
        results = None
    if not isinstance(results, dict):
        raise ValueError(f"{path} holds no JSON object; remove it, and measure again what was in it")
    return results


def write(path: Path, results: dict[str, Any]) -> None:
    """Writes the whole file beside its place and moves it there, so that a reader finds the old one or the new one."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(results, indent=2, default=str) + "\n")
    os.replace(partial, path)
