"""What vouches for the files of a folder: the sha256 of each, written once all are there and compared before any of them is read.

A folder without its manifest was never finished. Against accidents, not against malice: whoever can change a file can change its sum.
"""

import hashlib
import json
from pathlib import Path

MANIFEST = "manifest.json"


def write_manifest(folder: Path) -> None:
    """Writes the sum of every file of a folder, as {path in the folder: sha256}: the last thing that is written there."""
    sums = {name: _sha256(folder / name) for name in files_of(folder)}
    (folder / MANIFEST).write_text(json.dumps(sums, indent=1))


def verify_folder(folder: Path) -> list[str]:
    """Compares a folder with its manifest, file by file. Returns the problems, one short clause each: an empty list means sound."""
    try:
        sums = json.loads((folder / MANIFEST).read_text())
    except FileNotFoundError:
        return [f"{MANIFEST} is missing, so the save did not finish or the file was lost"]
    except (OSError, ValueError):  # what JSON or UTF-8 cannot be
        return [f"{MANIFEST} is not readable"]
    if not isinstance(sums, dict):
        return [f"{MANIFEST} is no list of files"]
    there = [name for name in files_of(folder) if name != MANIFEST]  # a name of the manifest never becomes a path
    missing = [f"{name} is missing" for name in sums if name not in there]
    added = [f"{name} was added" for name in there if name not in sums]
    return missing + added + [f"{name} was changed" for name in there if name in sums and _sha256(folder / name) != sums[name]]


def is_finished(folder: Path) -> bool:
    """Tells whether the manifest is there, whatever it says."""
    return (folder / MANIFEST).is_file()


def files_of(folder: Path) -> list[str]:
    """Lists the files of a folder and of those in it, by their paths in it."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
