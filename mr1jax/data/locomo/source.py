"""Where locomo10.json comes from: the file named in LOCOMO_JSON, else a download. Only the one published file is accepted."""

import hashlib
import http.client
import json
import os
import tempfile
import urllib.request
from pathlib import Path
from typing import Any

COMMIT = "3eb6f2c585f5e1699204e3c3bdf7adc5c28cb376"
URL = f"https://raw.githubusercontent.com/snap-research/locomo/{COMMIT}/data/locomo10.json"
SHA256 = "79fa87e90f04081343b8c8debecb80a9a6842b76a7aa537dc9fdf651ea698ff4"
VARIABLE = "LOCOMO_JSON"


def load(folder: Path) -> list[dict[str, Any]]:
    """Reads the ten conversations from the file named in LOCOMO_JSON, else from `folder`, downloading it there once.

    Raises ValueError for a file that cannot be read or fetched, or whose sha256 is not the published one.
    """
    named = os.environ.get(VARIABLE)
    path = Path(named) if named else folder / "locomo10.json"
    if not named and not path.exists():
        _download(path)
    return json.loads(_read_verified(path))


def verify_named() -> None:
    """Raises ValueError if LOCOMO_JSON is set and does not name the published file."""
    if named := os.environ.get(VARIABLE):
        _read_verified(Path(named))


def _read_verified(path: Path) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ValueError(
            f"the LoCoMo file {path} cannot be read ({error.strerror}); set {VARIABLE} to the path of a copy of {URL}"
        ) from error
    _verify(content, str(path))
    return content


def _verify(content: bytes, origin: str) -> None:
    found = hashlib.sha256(content).hexdigest()
    if found != SHA256:
        raise ValueError(
            f"{origin} is not the published LoCoMo file: its sha256 is {found}, not {SHA256}; "
            f"set {VARIABLE} to the path of an unaltered copy of {URL}"
        )


def _download(path: Path) -> None:
    """Fetches the file into place. It appears under its name only complete and verified."""
    try:
        with urllib.request.urlopen(URL, timeout=60) as response:
            content = response.read()
    except (OSError, http.client.HTTPException) as error:
        raise ValueError(f"{URL} cannot be downloaded ({error}); set {VARIABLE} to the path of a copy of it") from error
    _verify(content, URL)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        part = Path(scratch) / path.name
        part.write_bytes(content)
        os.replace(part, path)
