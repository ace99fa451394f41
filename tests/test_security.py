"""What may not happen whatever data, weights or names come in: code that runs, a folder that is left, a word sent anywhere."""

import json
import os
import re
import shlex
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import small_backbone

from mr1jax import cli, prepare
from mr1jax.config import AgentConfig, Config
from mr1jax.data import datasets
from mr1jax.experiment import read_run
from mr1jax.model import hub
from mr1jax.model.backbones import read_config
from mr1jax.model.huggingface import INDEX, load_backbone
from reliability import security
from tpu import launch

ROOT = Path(__file__).parents[1]


def test_source_runs_no_code_from_data_and_sends_nothing():
    """Oracle: the names and keywords that do, read off every syntax tree, under whatever alias."""
    outcome = security.source()
    assert outcome.is_clean, outcome.failures
    assert outcome.tried > 100


@pytest.mark.parametrize(
    "planted",
    [
        "import pickle",
        "from pickle import loads as read",
        "import cloudpickle as c",
        "def f(x):\n    import marshal",
        "eval('1')",
        "def f(x):\n    exec(x)",
        "import builtins\nf = __import__('os')",
        "import numpy as np\nnp.load('x', allow_pickle=True)",
        "import numpy as np\nnp.load('x', allow_pickle=given)",
        "import yaml\nyaml.load('x')",
        "from yaml import load as read\nread('x')",
        "import subprocess\nsubprocess.run('ls', shell=True)",
        "import os\nos.system('ls')",
        "from os import system as run\nrun('ls')",
        "model(trust_remote_code=True)",
        "import torch\ntorch.load('x')",
        "import wandb",
        "import socket",
        "from urllib import request",
        "import urllib.request as r",
        "from http.client import HTTPConnection",
        "import requests",
        "from huggingface_hub import snapshot_download",
    ],
)
def test_what_source_may_not_do_is_seen(planted):
    """Oracle: snippets with one such thing each."""
    assert security.findings(planted, "mr1jax.train")


def test_what_source_may_do_passes():
    """Oracle: by hand: what only looks alike, and the files that download, each by its own means."""
    innocent = "model.eval()\nself.evaluate()\nimport re\nre.compile('x')\ncompiled = jit.lower().compile()\nf(shell=False)\nsegment.length"
    assert not security.findings(innocent, "mr1jax.train")
    assert not security.findings("import urllib.request\nimport http.client", "mr1jax.data.locomo.source")
    assert not security.findings("from huggingface_hub import snapshot_download", "mr1jax.model.hub")
    assert security.findings("import urllib.request", "mr1jax.model.hub")


def test_hostile_chat_templates_are_refused():
    """Oracle: nineteen templates that reach for the interpreter, for files or for too much: a sentence each, and a file not there."""
    outcome = security.templates()
    assert outcome.is_clean, outcome.failures


def test_random_names_leave_no_folder():
    """Oracle: an independent description of a name for every door; whatever is none is refused in one sentence."""
    outcome = security.names(points=150, seed=0)
    assert outcome.is_clean, outcome.failures


# Every place where a name becomes a path or a command: what takes it, names it must refuse, and how it says so.
def _read_run_of(agent, folder):
    (folder / "config.json").write_text(json.dumps({"agent": agent}))
    return read_run(folder)


def _read_weights_of(file, folder):
    model = small_backbone.make_folder(folder / "model")
    weight_map = json.loads((model / INDEX).read_text())["weight_map"]
    (folder / "outside.safetensors").write_bytes((model / "model-00001-of-00002.safetensors").read_bytes())
    absolute = str(folder / "outside.safetensors")
    weight_map = {name: file.replace("ABSOLUTE", absolute) if isinstance(file, str) else file for name in weight_map}
    (model / INDEX).write_text(json.dumps({"weight_map": weight_map}))
    return load_backbone(model, read_config(model))


UP = ["../outside", "..", "/etc/passwd", "a/../../outside", "~/x", ""]
DOORS = {
    "experiment": (lambda name, _: cli.load_config(name), UP, "there is no experiment '.*'; choose one of demo, .*"),
    "data set": (datasets.build_dataset, UP, "there is no data set '.*'; choose one of memdial, locomo, msc, longmemeval"),
    "its form": (
        datasets.build_dataset,
        ["memdial/../x", "locomo/..", "locomo/turns/.."],
        ".* has no configuration '.*'; choose one of .*",
    ),
    "agent of a run": (_read_run_of, UP, ".*config.json is no configuration of a run; train the experiment again"),
    "weights": (
        _read_weights_of,
        ["../outside.safetensors", "ABSOLUTE", "x/../../outside.safetensors", "config.json", ".safetensors/..", "", 3, None, ["a"]],
        r".* says that [\w.]+ is in .*, which is no safetensors file beside it; do not use it",
    ),
    "hub id": (
        lambda name, _: hub.find_backbone(name),
        ["../x", "a/..", "a..b/c", "-a/b", "a/b/../c", "a/b c", "\u0430/b\n", "~/x"],
        "there is no folder .*; give a folder, an id of the Hugging Face hub as owner/model, or one of .*",
    ),
    "revision": (
        lambda name, _: hub.find_backbone(f"owner/model@{name}"),
        ["../x", "main/../..", "/etc", "a b", "-x", "..", "a//b"],
        "'.*' names no commit, tag or branch of owner/model; leave it out, or give one",
    ),
    "TPU": (
        lambda name, _: launch.require_name("--tpu", name),
        ["x;id", "$(id)", "-x", "--quiet", "../x", "a b", "X", "a:b", ""],
        "--tpu is '.*'; give a name of small letters, digits and hyphens",
    ),
    "kind of TPU": (
        lambda name, _: launch.runtime(name),
        ["v6e-;id-8", "v6e-8;id", "v6e-\u0663", "../v6e-8"],
        "--type is '.*'; give one .*",
    ),
}


@pytest.mark.parametrize(("door", "name"), [(door, name) for door, (_, names, _) in DOORS.items() for name in names])
def test_a_name_that_leads_elsewhere_is_refused(door, name, monkeypatch, tmp_path):
    """Oracle: the sentence, of one line; a working folder in which nothing was made, and a hub that nobody asked."""
    enter, _, sentence = DOORS[door]
    monkeypatch.setattr(hub, "snapshot_download", lambda *_, **__: pytest.fail("asked the hub"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(ValueError, match="(?s)^" + sentence + "$") as refused:
        enter(name, tmp_path)
    assert "\n" not in str(refused.value)
    assert not list((tmp_path / "here").iterdir())


def test_names_that_lead_nowhere_else_pass(monkeypatch, tmp_path):
    """Oracle: names as they are in use."""
    monkeypatch.setattr(hub, "snapshot_download", lambda *_, **__: str(tmp_path / "c0ffee"))
    for name in ("Qwen/Qwen2.5-0.5B-Instruct", "a/b@main", "a/b@refs/pr/1", "qwen3-8b@v1.0", "sentence-transformers/all-MiniLM-L6-v2"):
        assert hub.find_backbone(name)[0].endswith("@c0ffee")
    launch.require_name("--tpu", "my-tpu-2")
    launch.require_name("--project", "example.com:my-project")
    assert launch.runtime("v5litepod-16") == "v2-alpha-tpuv5-lite"


def test_a_launched_training_reads_its_arguments_as_they_are(monkeypatch, tmp_path):
    """Oracle: a Makefile that prints ARGS a line each, run by a shell as on the TPU: what was given, and no command in it was run."""
    given = ["--backbone", "$(shell touch made)", "a'b", "$(touch made)`touch made`; touch made", "${HOME}", "x y"]
    options = launch.read_options(["grpo_answer", "--tpu", "t", "--zone", "z", "--project", "p", "--type", "v6e-8", "--", *given])
    commands = []
    monkeypatch.setattr(launch.Launch, "_on_all", lambda self, command, meanwhile: commands.append(command))
    launch.Launch(options)._launch()
    (tmp_path / "mr1jax").mkdir()
    (tmp_path / "mr1jax/Makefile").write_text("train-tpu:\n\t@printf '%s\\n' $(ARGS)\n")
    done = subprocess.run(["bash", "-c", commands[0]], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert [line for line in done.stdout.splitlines() if not line.startswith("make")] == given
    assert not list(tmp_path.rglob("made"))
    assert shlex.split(commands[0])[:4] == ["make", "-C", "mr1jax", "train-tpu"]


def test_code_in_a_weight_folder_is_never_imported(tmp_path):
    """Oracle: a file that its Python files would make, and pickled weights that nothing could unpickle beside the sound ones."""
    folder, touched = small_backbone.make_folder(tmp_path / "model"), tmp_path / "touched"
    for name in ("modeling.py", "configuration.py", "tokenization.py", "__init__.py", "conftest.py"):
        (folder / name).write_text(f"open({str(touched)!r}, 'w').close()")
    for file in ("config.json", "tokenizer_config.json"):
        auto_map = {
            "AutoConfig": "configuration.Config",
            "AutoModelForCausalLM": "modeling.Model",
            "AutoTokenizer": ["tokenization.T", None],
        }
        (folder / file).write_text(json.dumps(json.loads((folder / file).read_text()) | {"auto_map": auto_map, "trust_remote_code": True}))
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04cposix\nsystem\n.")
    small = AgentConfig(num_retrieved=2, prompt_length=300, response_length=24)
    prepare.load_start(Config(backbone=str(folder), manager=small, answerer=small))
    assert not touched.exists()
    assert str(folder) not in sys.path


# The network ----------------------------------------------------------------------------------------------------------------------


def test_tests_have_no_network():
    """Oracle: the sentence of `conftest`; an address that is nobody's (RFC 5737), over both kinds of sockets and both ways to connect."""
    for family, address in ((socket.AF_INET, ("192.0.2.1", 80)), (socket.AF_INET6, ("2001:db8::1", 80, 0, 0))):
        for connect in ("connect", "connect_ex"):
            with socket.socket(family) as each, pytest.raises(OSError, match="tests have no network"):
                getattr(each, connect)(address)


WATCHED = """
import pkgutil, importlib, sys, tempfile
watched = "socket.connect socket.getaddrinfo socket.gethostbyname socket.sendto subprocess.Popen os.system".split()
asked = []
sys.addaudithook(lambda event, arguments: asked.append((event, arguments[1:])) if event in watched else None)
import mr1jax
for module in pkgutil.walk_packages(mr1jax.__path__, "mr1jax."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
from mr1jax.data import datasets
from mr1jax.data.memdial import memdial_dataset_builder
memdial_dataset_builder.NUM_CONVERSATIONS = {"train": 3, "validation": 2, "test": 2}
datasets.read_splits("memdial", tempfile.mkdtemp(), 3)
import os, huggingface_hub
from huggingface_hub.utils import _telemetry
huggingface_hub.utils.send_telemetry("mr1jax")
print("asked", asked, "sent", _telemetry._TELEMETRY_QUEUE.qsize(), _telemetry._TELEMETRY_THREAD)
print("off", huggingface_hub.constants.HF_HUB_DISABLE_TELEMETRY, os.environ["ENABLE_RUNTIME_UPTIME_TELEMETRY"])
"""


def test_importing_everything_and_building_data_asks_nobody(tmp_path):
    """Oracle: Python's own audit events, in a process of its own: no name looked up, no connection, no process; and no telemetry sent even
    where somebody asks the hub's client for it."""
    quiet = ("HF_HUB_DISABLE_TELEMETRY", "DISABLE_TELEMETRY", "DO_NOT_TRACK", "HF_HUB_OFFLINE", "ENABLE_RUNTIME_UPTIME_TELEMETRY")
    environment = {name: value for name, value in os.environ.items() if name not in quiet} | {"HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", WATCHED], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert re.findall("^(?:asked|off) .*$", done.stdout, re.MULTILINE) == ["asked [] sent 0 None", "off True 0"]
