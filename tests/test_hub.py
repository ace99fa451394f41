"""Backbones by name and id, from a hub that this file plays on the loopback: the real client, its real cache, and what it asks for."""

import json
import threading
import types
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import huggingface_hub
import jax
import numpy as np
import pytest
import small_backbone
from huggingface_hub import constants

from mr1jax import cli, experiment, prepare
from mr1jax.config import AgentConfig, Config, ProcessConfig
from mr1jax.model.backbones import BACKBONES
from mr1jax.model.hub import find_backbone

NAME = "qwen2.5-0.5b"
REPOSITORY = BACKBONES[NAME]
OLD, NEW = "a" * 40, "b" * 40
SMALL = AgentConfig(num_retrieved=2, prompt_length=300, response_length=24)


class Hub:
    """One repository of two commits. asked: paths; broken: a file that breaks off in the middle; gated: whether terms come first."""

    def __init__(self, files):
        self.commits = {OLD: files | {"config.json": b"{}"}, NEW: files}
        self.asked, self.broken, self.gated = [], "", False

    def answer(self, path):
        """(status, headers, body) of a request, as the published service gives them."""
        path = path.split("?")[0]
        self.asked.append(path)
        if REPOSITORY not in path:
            return 404, {"X-Error-Code": "RepoNotFound"}, b""
        if self.gated:
            return 403, {"X-Error-Code": "GatedRepo"}, b""
        kind, _, rest = path.partition(f"{REPOSITORY}/")[2].partition("/")
        revision, _, name = rest.partition("/")
        commit = NEW if revision == "main" else revision
        if commit not in self.commits:
            return 404, {"X-Error-Code": "RevisionNotFound"}, b""
        files = self.commits[commit]
        if kind == "revision":
            return 200, {}, json.dumps({"id": REPOSITORY, "sha": commit, "siblings": []}).encode()
        if kind == "tree":
            return 200, {}, json.dumps([{"type": "file", "path": f, "size": len(x), "oid": f} for f, x in files.items()]).encode()
        return 200, {"ETag": f'"{commit[0]}{name.replace("/", "_")}"', "X-Repo-Commit": commit}, files[name]


def serve(hub):
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self):
            self.reply(body=False)

        def do_GET(self):
            self.reply(body=True)

        def reply(self, body):
            status, headers, content = hub.answer(self.path)
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            if not body:
                return
            cut = hub.broken and self.path.endswith(hub.broken)
            self.wfile.write(content[: len(content) // 2] if cut else content)
            self.close_connection = self.close_connection or bool(cut)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A small model's folder, and beside it what must stay where it is."""
    folder = small_backbone.make_folder(tmp_path_factory.mktemp("source") / "model")
    (folder / "chat_template.jinja").write_text(small_backbone.TEMPLATE)
    wanted = {path.name: path.read_bytes() for path in folder.iterdir()}
    left = dict.fromkeys(("pytorch_model.bin", "model.pth", "modeling.py", "README.md", "original/params.json"), b"never")
    return types.SimpleNamespace(folder=folder, wanted=wanted, left=left)


@pytest.fixture
def hub(files, monkeypatch, tmp_path):
    """The hub that `HF_ENDPOINT` and `HF_HOME` would name, with an empty cache; `hub.close()` takes the network away."""
    hub = Hub(files.wanted | files.left)
    server = serve(hub)
    endpoint = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)
    hub.close = lambda: (server.shutdown(), server.server_close(), huggingface_hub.close_session())
    yield hub
    hub.close()


def test_a_name_is_fetched_without_pickles_and_code(hub, files):
    """Oracle: the bytes that the hub holds; the paths that it was asked for."""
    pinned, folder = find_backbone(NAME)
    assert pinned == f"{REPOSITORY}@{NEW}"
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == files.wanted
    assert any(path.endswith("model-00001-of-00002.safetensors") for path in hub.asked)
    assert not [path for path in hub.asked if path.endswith(tuple(files.left))]


def test_a_commit_stands_for_the_same_bytes_without_a_network(hub, files):
    """Oracle: the two commits, of which "main" is the newer; then the hub is gone, and the cache answers."""
    assert find_backbone(REPOSITORY)[0] == find_backbone(f"{NAME}@main")[0] == f"{REPOSITORY}@{NEW}"
    pinned, folder = find_backbone(f"{NAME}@{OLD}")
    assert pinned == f"{REPOSITORY}@{OLD}"
    assert (folder / "config.json").read_bytes() == b"{}" != files.wanted["config.json"]
    hub.close()
    assert find_backbone(pinned) == (pinned, folder)
    assert find_backbone(NAME)[0] == f"{REPOSITORY}@{NEW}"


def test_a_run_starts_from_an_id_and_records_its_commit(hub, files, monkeypatch, tmp_path):
    """Oracle: the parameters of the same folder given as a path; the commit in the run's config.json, where `main` was asked for."""
    config = Config(backbone=f"{REPOSITORY}@main", conversations=1, manager=SMALL, answerer=SMALL)
    start = prepare.load_start(config)
    local = prepare.load_start(Config(backbone=str(files.folder), manager=SMALL, answerer=SMALL))
    jax.tree.map(np.testing.assert_array_equal, start.params, local.params)
    assert local.config.backbone == str(files.folder)
    (tmp_path / "run").mkdir()
    state = types.SimpleNamespace(params=start.params)
    monkeypatch.setattr(experiment, "train", lambda *_, **__: (state, [{"step": 1, "reward": 0.0}], 1))
    monkeypatch.setattr(experiment, "read_splits", lambda *_: {"train": []})
    monkeypatch.setattr(experiment, "make_tasks", lambda *_: None)
    experiment.run_experiment(config, ProcessConfig(), tmp_path / "run")
    assert json.loads((tmp_path / "run/config.json").read_text())["backbone"] == f"{REPOSITORY}@{NEW}"


def test_sizes_need_the_settings_alone(hub, files, capsys):
    """Oracle: the sizes of the same folder given as a path; the files that the hub was asked for."""
    cli.info(str(files.folder))
    local = capsys.readouterr().out
    cli.info(NAME)
    assert capsys.readouterr().out == local != ""
    assert {path.rsplit("/", 1)[1] for path in hub.asked if "/resolve/" in path} == {"config.json"}


def test_what_the_hub_does_not_give_is_one_sentence(hub):
    """Oracle: the sentence; a cache without a snapshot."""
    with pytest.raises(ValueError, match=r"^Qwen/nothing is neither a folder nor a model of the Hugging Face hub; check its spelling.*$"):
        find_backbone("Qwen/nothing")
    with pytest.raises(ValueError, match=rf"^{REPOSITORY} has no revision 'v9' on the hub; leave it out, or give a commit.*$"):
        find_backbone(f"{NAME}@v9")
    hub.gated = True
    with pytest.raises(ValueError, match=rf"^the hub gives {REPOSITORY} to those who accepted its terms; accept them there and set HF_.*$"):
        find_backbone(NAME)
    for wrong in ("no/such/folder", "qwen", "@main", "Qwen/"):
        with pytest.raises(ValueError, match=rf"^there is no folder '{wrong}'; give a folder, .* or one of qwen2.5-0.5b, qwen2.5-1.5b.*$"):
            find_backbone(wrong)


def test_an_interrupted_download_is_no_model(hub, files):
    """Oracle: the sentence, while one file breaks off and while there is no network at all; then the bytes of the hub."""
    hub.broken = "model-00002-of-00002.safetensors"
    sentence = (
        rf"^{REPOSITORY} cannot be fetched from the Hugging Face hub \(\w+\); try again with a network, or give the path of a folder$"
    )
    with pytest.raises(ValueError, match=sentence):
        find_backbone(NAME)
    endpoint = constants.ENDPOINT
    constants.ENDPOINT = "http://127.0.0.1:9"
    with pytest.raises(ValueError, match=sentence):
        find_backbone(NAME)
    with pytest.raises(ValueError, match="^Qwen/Qwen3-0.6B cannot be fetched from"):
        find_backbone("qwen3-0.6b")
    constants.ENDPOINT, hub.broken = endpoint, ""
    assert {path.name: path.read_bytes() for path in find_backbone(NAME)[1].iterdir()} == files.wanted
