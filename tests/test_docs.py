"""docs/serve.md is true: its blocks are run in their order, a section in a folder of its own, and what they print is what stands below.

Bash is real, and so are curl, the servers and the clients. `mr1jax` on the path hands its arguments to this process, where main() runs
with what is compiled already; only mr1jax mcp, whose standard streams are its wire, is a process of its own.
"""

import contextlib
import io
import json
import os
import re
import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from small_backbone import make_folder

from mr1jax import cli
from mr1jax.service import serve
from mr1jax.service.extract import FACTS_PATTERN
from mr1jax.text.parsing import ANSWER_PATTERN, MANAGER_PATTERN

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/serve.md").read_text()
SECTIONS = {part.split("\n")[0]: part for part in re.split(r"^## ", PAGE, flags=re.MULTILINE)[1:]}
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
RUN = ("python", "bash")
COMMAND = """#!{python} -S
import json, os, socket, sys
name, arguments = os.path.basename(sys.argv[0]), sys.argv[1:]
if arguments[0] == "mcp":
    os.environ |= {environment!r}
    os.execv({python!r}, [{python!r}, "-c", "from mr1jax.cli import main; main()", *arguments])
with socket.create_connection(("127.0.0.1", {port})) as wire:
    wire.sendall(json.dumps([name, arguments, sys.stdin.read()]).encode() + b"\\n")
    status, out, err = json.loads(wire.makefile().read())
sys.stdout.write(out)
sys.stderr.write(err)
sys.exit(status)
"""
SHORT = "--steps 1 --prompts-per-step 8 --group-size 2 --conversations 2 --answerer.response-length 24 --manager.response-length 24".split()
WRITTEN = {
    FACTS_PATTERN: "- The user has a dog called Bramo",
    MANAGER_PATTERN: "ADD: The user has a dog called Bramo",
    ANSWER_PATTERN: "has a dog called Bramo [1]\n**Answer:** Bramo",
}


class StandIn(BaseHTTPRequestHandler):
    """Answers in the place of vLLM: that it is there, and one line for each grammar that it is asked to hold to."""

    def do_GET(self):
        self.send_response(200 if self.path == "/health" else 404)
        self.send_header("content-length", "0")
        self.end_headers()

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        assert (self.path, asked["model"]) == ("/v1/chat/completions", self.server.model)
        body = json.dumps({"choices": [{"message": {"content": WRITTEN[asked["structured_outputs"]["regex"]]}}]}).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Reader:
    """Runs the blocks of a section in the working folder, as a reader of the page would."""

    def __init__(self, folder, monkeypatch):
        self._patch, self._names = monkeypatch, {"__name__": "docs"}
        self._cleanup = contextlib.ExitStack()
        self._listener = self._cleanup.enter_context(socket.create_server(("127.0.0.1", 0)))
        self._listener.settimeout(0.05)
        self._ports = {old: free_port() for old in ("8000", "8001")}
        here = {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "JAX_COMPILATION_CACHE_DIR": str(ROOT / ".jax_cache")}
        text = COMMAND.format(python=sys.executable, environment=here, port=self._listener.getsockname()[1])
        (folder / "bin").mkdir()
        for name in ("mr1jax", "vllm"):
            (folder / "bin" / name).write_text(text)
            (folder / "bin" / name).chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder / 'bin'}:{os.environ['PATH']}")
        monkeypatch.setenv("HOME", str(folder))
        for name in ("XDG_DATA_HOME", "MR1JAX_STORE", "OPENAI_API_KEY"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.chdir(folder)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._cleanup.close()

    def run(self, language, block):
        """Returns what a block prints."""
        for old, new in self._ports.items():
            block = block.replace(old, str(new))
        return self._python(block) if language == "python" else self._bash(block)

    def _python(self, block):
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            exec(compile(block, "docs/serve.md", "exec"), self._names)
        return out.getvalue()

    def _bash(self, block):
        command = ["bash", "-euo", "pipefail", "-c", block]
        with open("out", "w+") as out, subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out) as process:
            while process.poll() is None:
                with contextlib.suppress(TimeoutError):
                    self._answer(*self._listener.accept())
            out.seek(0)
            assert process.returncode == 0
            return out.read()

    def _answer(self, wire, _):
        wire.settimeout(60)
        with wire, wire.makefile("r") as asked:
            name, arguments, said = json.loads(asked.readline())
            act = {"vllm": self._stand_in, "serve": self._serve}.get(name if name == "vllm" else arguments[0], self._main)
            wire.sendall(json.dumps(act(arguments, said)).encode())

    def _main(self, arguments, said):
        out, err, status = io.StringIO(), io.StringIO(), 0
        if arguments[0] == "train":
            make_folder(Path("path/to/Qwen2.5-7B-Instruct"))
            arguments = [*arguments, *SHORT]
        with self._patch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            patch.setattr(sys, "argv", ["mr1jax", *arguments])
            patch.setattr(sys, "stdin", io.StringIO(said))
            try:
                cli.main()
            except SystemExit as stopped:
                status = stopped.code
        return status, out.getvalue(), err.getvalue()

    def _serve(self, arguments, _):
        """Starts mr1jax serve in a thread, where there are no signals: at the end of the section it is told to stop as by one."""
        servers, make_server = [], serve.make_server
        self._patch.setattr(serve, "make_server", lambda app: servers.append(make_server(app)) or servers[0])
        self._patch.setattr(serve.signal, "signal", lambda *_: None)
        thread = threading.Thread(target=cli.parse(arguments))
        thread.start()

        def stop():
            servers[0].should_exit = True
            thread.join(timeout=60)
            assert not thread.is_alive()

        self._cleanup.callback(stop)
        return 0, "", ""

    def _stand_in(self, arguments, _):
        command, folder, *options = arguments
        assert (command, options[0], options[2]) == ("serve", "--served-model-name", "--port")
        assert {"config.json", "tokenizer.json"} <= {path.name for path in Path(folder).iterdir()}
        assert list(Path(folder).glob("*.safetensors"))
        server = self._cleanup.enter_context(ThreadingHTTPServer(("127.0.0.1", int(options[3])), StandIn))
        server.model = options[1]
        threading.Thread(target=server.serve_forever).start()
        self._cleanup.callback(server.shutdown)
        return 0, "", ""


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def blocks(section):
    """Yields (language, block, what is said to come of it: None where nothing is)."""
    found = BLOCK.findall(SECTIONS[section])
    for (language, block), (after, below) in zip(found, [*found[1:], ("", "")], strict=True):
        if language in RUN:
            yield language, block, below if after == "text" else None


def alike(text):
    """Takes ids, days and times out of a text, and numbers the ids in their order: who is meant stays."""
    ids = {}
    text = re.sub(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", lambda found: ids.setdefault(found[0], f"ID{len(ids)}"), text)
    return re.sub(r"\d{4}-\d\d-\d\d(T[\d:]{8}(\.\d{6}\+00:00)?)?", lambda found: "TIME" if found[1] else "DAY", text).rstrip()


SLOW = {"MCP", "A model of your own behind vLLM"}


@pytest.mark.parametrize("section", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in SECTIONS])
def test_the_page_says_what_comes(section, tmp_path, monkeypatch):
    """Oracle: what the page itself prints below each block, ids and days aside; a block without it exits with 0 and raises nothing."""
    with Reader(tmp_path, monkeypatch) as reader:
        for language, block, expected in blocks(section):
            printed = reader.run(language, block)
            if expected is not None:
                assert alike(printed) == alike(expected), block


def test_every_block_is_run_or_is_what_one_prints():
    """Oracle: the languages of the page; each text follows a block that is run, and every picture is there."""
    found = [(language, block) for section in SECTIONS for language, block in BLOCK.findall(SECTIONS[section])]
    assert len(found) == len(BLOCK.findall(PAGE)) == PAGE.count("\n```") / 2
    assert {language for language, _ in found} == {"python", "bash", "text", "json"}
    assert all(before in RUN for (before, _), (language, _) in zip(found, found[1:], strict=False) if language == "text")
    pictures = re.findall(r"!\[.*?\]\((.*?)\)", PAGE)
    assert len(pictures) == 2
    assert all((ROOT / "docs" / picture).is_file() for picture in pictures)


def test_the_client_of_mcp_starts_what_the_page_starts():
    """Oracle: the arguments in Python, on the page itself; the command line takes them."""
    (config,) = [json.loads(block) for language, block in BLOCK.findall(SECTIONS["MCP"]) if language == "json"]
    server = config["mcpServers"]["memory"]
    assert f"StdioServerParameters(command={json.dumps(server['command'])}, args={json.dumps(server['args'])})" in SECTIONS["MCP"]
    assert callable(cli.parse(server["args"]))


def test_what_differs_is_seen():
    """Oracle: pairs by hand: other ids and days are alike, another order of the same ids or another word is not."""
    first, second = "0b0f8a0c-6d0f-4c4b-8f59-6a3c0a0e5d55", "7d2e6f13-5a6c-4bfa-9a1c-0b9f2c1f7a42"
    assert alike(f"{first} 2026-11-28 x\n") == alike(f"{second} 1999-01-02 x")
    assert alike(f"{first} {second} {first}") != alike(f"{first} {second} {second}")
    assert alike("2026-11-28") != alike("2026-11-28T05:55:00")
    assert alike("Bramo") != alike("Rex")
