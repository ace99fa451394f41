"""mr1jax doctor: each thing that can be wrong with a machine, planted."""

import importlib.metadata
import json
import re
import shutil
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest
from test_cli import run  # noqa: F401

from mr1jax import cli, doctor, warm_start
from mr1jax.config import Config
from mr1jax.data import datasets
from mr1jax.data.honesty import describe_split
from mr1jax.data.memdial import memdial_dataset_builder
from mr1jax.manifest import write_manifest
from mr1jax.text.tokenizer import SentencePieceTokenizer

ROOT = Path(__file__).parents[1]


def states(findings):
    return {finding.what: finding.state for finding in findings}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """A small memdial as it is built."""
    patch, folder = pytest.MonkeyPatch(), tmp_path_factory.mktemp("data")
    patch.setattr(memdial_dataset_builder, "NUM_CONVERSATIONS", {"train": 3, "validation": 2, "test": 2})
    datasets.build_dataset("memdial", folder)
    yield folder
    patch.undo()


def test_a_sound_machine_passes(monkeypatch, capsys, tmp_path):
    """Oracle: this checkout, on which the tests run, so that it must pass; JSON says what the lines say, and the exit status is 0."""
    monkeypatch.setattr(shutil, "disk_usage", lambda _: namedtuple("Usage", "free")(2 * doctor.MIN_FREE))
    printed = []
    for form in ([], ["--json"]):
        monkeypatch.setattr(sys, "argv", ["mr1jax", "doctor", "--data-dir", str(tmp_path), *form])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        assert stopped.value.code == 0
        printed.append(capsys.readouterr().out)
    told = json.loads(printed[1])
    assert told["healthy"]
    lines = [f"{each['state']:8} {each['what']:24} {each['found']}" for each in told["findings"]]
    assert printed[0].splitlines() == [*lines, "all that mr1jax needs is here"]
    assert {"Python", "jax", "devices", "assets/tokenizer.model", "data sets", "free disk", "libtpu", "chromium"} <= {
        each["what"] for each in told["findings"]
    }


def test_a_problem_is_status_1(monkeypatch, run, capsys):  # noqa: F811
    """Oracle: the exit status, for one problem among what is sound; nothing is said on standard error."""
    monkeypatch.setattr(shutil, "disk_usage", lambda _: namedtuple("Usage", "free")(doctor.MIN_FREE - 1))
    assert run("doctor") == (1, "")
    assert doctor.check_disk().found == "1.0 GiB; checkpoints need more"


def test_versions_are_compared(monkeypatch):
    """Oracle: what pyproject.toml and the requirements ask for, read by hand; versions planted in place of the installed ones."""
    installed = importlib.metadata.version
    planted = {"jax": "0.9.9", "tyro": "1.99.0", "numpy": "10.0.0"}

    def version(name):
        if name in ("flax", "sqlalchemy"):
            raise importlib.metadata.PackageNotFoundError(name)
        return planted.get(name) or installed(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    found = {finding.what: (finding.state, finding.found) for finding in doctor.check_versions(ROOT)}
    assert found["jax"] == ("problem", "0.9.9 is older than 0.10.2; run: make setup")
    assert found["flax"] == ("problem", "is not installed; run: make setup")
    assert found["sqlalchemy"][0] == "problem"
    assert found["sqlalchemy"][1].endswith("mcp need it; run: pip install -r requirements-serve.txt")
    assert found["tyro"] == ("note", "1.99.0; the tests run on 1.0.17")
    assert found["numpy"][0] == "note"  # 10 is more than 2
    assert found["Python"][0] == "ok"
    monkeypatch.setattr(sys, "version_info", (3, 14, 0))
    assert next(doctor.check_versions(ROOT)).state == "problem"
    monkeypatch.setattr(sys, "version_info", (3, 10, 9))
    assert next(doctor.check_versions(ROOT)).found.startswith("3.10.9, and mr1jax runs on >=3.11,<3.14; ")


def test_it_starts_where_nothing_is_installed():
    """Oracle: a process without site-packages: the module is imported, and JAX is reported as missing."""
    program = "from mr1jax import doctor; print([f.state for f in (*doctor.check_versions(doctor.ROOT), *doctor.check_devices())])"
    done = subprocess.run([sys.executable, "-S", "-c", program], cwd=ROOT, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"\['ok', ('problem', )+'problem'\]\n", done.stdout)


def test_damaged_assets_are_problems(tmp_path):
    """Oracle: the shipped files, then each with one byte changed, removed, or beside one more."""
    assets = tmp_path / "assets"
    shutil.copytree(ROOT / "assets", assets)
    sound = list(doctor.check_assets(assets))
    assert states(sound) == {"assets/tokenizer.model": "ok", "assets/warm_start.safetensors": "ok"}
    assert all(re.fullmatch("sha256 [0-9a-f]{64}", finding.found) for finding in sound)
    weights = assets / "warm_start.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    (changed,) = doctor.check_assets(assets)
    assert (changed.state, "warm_start.safetensors was changed" in changed.found) == ("problem", True)
    weights.unlink()
    assert "warm_start.safetensors is missing" in next(doctor.check_assets(assets)).found
    shutil.rmtree(assets)
    assert next(doctor.check_assets(assets)).state == "problem"


def test_devices_are_those_of_jax(monkeypatch):
    """Oracle: the tests' eight; a backend that cannot be started, planted."""
    (found,) = doctor.check_devices()
    assert (found.state, found.found) == ("ok", "8 of cpu (cpu)")

    def fail():
        raise RuntimeError("Unable to initialize backend 'tpu': busy\nmore")

    monkeypatch.setattr("jax.devices", fail)
    (found,) = doctor.check_devices()
    assert (found.state, found.found) == ("problem", "JAX finds none: Unable to initialize backend 'tpu': busy")


def test_data_sets_are_read_whole(data_dir, tmp_path):
    """Oracle: the sums of the records as the reader of a run gives them; a file cut short, and a folder without any data set."""
    (found,) = doctor.check_data(data_dir)
    assert (found.state, found.what.startswith("data memdial/")) == ("ok", True)
    for split in datasets.SPLITS:
        about = describe_split(datasets.read_split("memdial", split, data_dir))
        assert f"{split} {about['conversations']} conversations ({about['sha256'][:16]})" in found.found
    shutil.copytree(data_dir, tmp_path / "data")
    (shard,) = (tmp_path / "data").glob("memdial/*/*-test.array_record*")
    shard.write_bytes(shard.read_bytes()[:-100])
    (damaged,) = doctor.check_data(tmp_path / "data")
    assert damaged.state == "problem"
    assert damaged.found.startswith("cannot be read (")
    (none,) = doctor.check_data(tmp_path / "nothing")
    assert none.state == "note"


def test_optional_things_are_notes(monkeypatch, tmp_path):
    """Oracle: a machine that has none of them, and this one's own folder and PATH with a libtpu and a browser put in."""
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert set(states(doctor.check_optional(tmp_path)).values()) == {"note"}
    (tmp_path / ".libtpu").mkdir()
    (tmp_path / "chromium").touch(mode=0o755)
    found = states(doctor.check_optional(tmp_path))
    assert {what for what, state in found.items() if state == "ok"} == {"libtpu", "chromium"}


def test_the_sums_that_ship_are_of_what_ships(tmp_path):
    """Oracle: the sums computed again, and git's list of what ships."""
    for name in ("tokenizer.model", "warm_start.safetensors"):
        shutil.copy(ROOT / "assets" / name, tmp_path)
    write_manifest(tmp_path)
    assert json.loads((tmp_path / "manifest.json").read_text()) == json.loads((ROOT / "assets/manifest.json").read_text())


def test_a_new_warm_start_has_sums_of_its_own(monkeypatch, tmp_path):
    """Oracle: the folder, found sound after a warm start, and after a second one over it; while one is trained there are no sums."""

    def train_tokenizer(path):
        assert not (path.parent / "manifest.json").exists()
        shutil.copy(ROOT / "assets/tokenizer.model", path)
        return SentencePieceTokenizer(path)

    monkeypatch.setattr(warm_start, "train_tokenizer", train_tokenizer)
    for _ in range(2):
        warm_start.warm_start(Config(), (), tmp_path)
        assert states(doctor.check_assets(tmp_path)) == {"assets/tokenizer.model": "ok"}
