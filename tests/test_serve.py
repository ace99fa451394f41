"""mr1jax serve: what stops it before a model is read, and a process of its own from its start to SIGTERM."""

import os
import re
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from test_cli import run  # noqa: F401

ROOT = Path(__file__).parents[1]
START = "from mr1jax.cli import main; main()"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--host", "0.0.0.0"], "--host 0.0.0.0 can be reached from elsewhere; give --tokens a file of tokens, or leave --host out"),
        (["--tokens", "gone"], "--tokens gone is no file; write one with a token a line, and after it the user it is bound to"),
        (["--port", "65536"], "--port is 65536; give a number below 65536"),
        (["--limits.rate", "0"], "(?:.* )?Limits.rate is 0.0; give requests a second, above 0.*"),
        (["--store", "mysql://x"], "the store's address is none that is known; .*"),
        (["--base-url", "http://127.0.0.1:9/v1"], "base_url is given without a model; .*"),
    ],
)
def test_what_is_wrong_stops_it(run, monkeypatch, tmp_path, arguments, sentence):  # noqa: F811
    """Oracle: the sentence and the exit status; no weights are read, and no file is made."""
    monkeypatch.setattr("mr1jax.service.agent.load_start", lambda _: pytest.fail("a model was read"))
    arguments = arguments if "--port" in arguments else ["--port", "0", *arguments]
    status, said = run("serve", *arguments)
    assert status == 2
    assert re.fullmatch(f"mr1jax: {sentence}\n", said), said
    assert [path.name for path in tmp_path.iterdir() if path.name != "memory.db"] == []


def test_tools_need_a_user(run, tmp_path):  # noqa: F811
    """Oracle: the sentence and the exit status."""
    assert run("mcp") == (2, "mr1jax: no user is named; say whose memory this is, by --user-id\n")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_process_of_its_own_ends_well(tmp_path, number):
    """Oracle: exit status 0 after SIGTERM and Ctrl-C, nothing but the address on standard error, and a store that SQLite finds whole."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    arguments = [sys.executable, "-c", START, "serve", "--port", "0", "--store", "sqlite:///memory.db"]
    with subprocess.Popen(arguments, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True) as process:
        line = process.stderr.readline()
        url = re.fullmatch(r"mr1jax: listening on (http://127\.0\.0\.1:\d+)\n", line)[1]
        assert httpx.get(f"{url}/readyz", timeout=120).json() == {"status": "ready"}
        assert httpx.get(f"{url}/v1/memories", params={"user_id": "ann"}, timeout=120).json() == {"results": []}
        process.send_signal(number)
        assert (process.wait(timeout=120), process.stderr.read()) == (0, "")
    with sqlite3.connect(tmp_path / "memory.db") as store:
        assert store.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_the_package_holds_the_page():
    """Oracle: the table of package data: a pattern of it for each file of the page."""
    patterns = (ROOT / "pyproject.toml").read_text()
    assert '"service/inspector.*"' in patterns
    assert sorted(path.name for path in (ROOT / "mr1jax/service").glob("inspector.*")) == [
        "inspector.css",
        "inspector.html",
        "inspector.js",
    ]
