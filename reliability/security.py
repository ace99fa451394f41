"""What no one may make the library do: run code that came with data, leave a folder, or send anything anywhere. Read off the source by
`ast`, and tried with names and chat templates that would like to."""

import ast
import functools
import json
import random
import tempfile
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import small_backbone
from test_layers import FILES, imports, module_name, names_used

from mr1jax import cli
from mr1jax.data import datasets
from mr1jax.experiment import read_run
from mr1jax.model import hub
from mr1jax.model.backbones import read_config
from mr1jax.model.huggingface import INDEX, load_backbone
from mr1jax.text.huggingface_tokenizer import HuggingFaceTokenizer
from reliability.outcome import Outcome
from tpu import launch

CODE = ("pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "joblib", "runpy", "code", "codeop", "eval", "exec", "compile")
CODE += ("__import__", "os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput", "yaml.load", "torch.load")
TELEMETRY = ("wandb", "mlflow", "sentry_sdk", "posthog", "analytics", "neptune", "comet_ml", "opentelemetry")
NETWORK = (
    "socket",
    "ssl",
    "http",
    "urllib",
    "requests",
    "httpx",
    "httpx2",
    "aiohttp",
    "ftplib",
    "smtplib",
    "websockets",
    "grpc",
    "huggingface_hub",
)
MAY_REACH = {
    "mr1jax.model.hub": {"huggingface_hub"},
    "mr1jax.data.locomo.source": {"http", "urllib"},
    "mr1jax.data.published": {"huggingface_hub"},
    "mr1jax.judge_models": {"http", "urllib"},  # asks the server that --judge-url names, and no other
    "mr1jax.service.serve": {"socket"},  # takes the port that it listens on
    "mr1jax.service.chat_server": {"httpx2"},  # asks the server that base_url names, and no other
    "bench.service.load": {"http"},  # asks the server that it starts on this machine
    "reliability.resuming": {"socket"},  # finds a free port for two processes on this machine
}
FORBIDDEN_KEYWORDS = ("allow_pickle", "shell", "trust_remote_code")


def findings(source: str, module: str) -> list[str]:
    """Returns one line for each thing in a file that runs code from data, starts a shell, or reaches for the network where it may not."""
    used = set(names_used(source)) | imports(source, module)
    wrong = [f"{module} uses {name}" for name in sorted(used) if _reaches(name, (*CODE, *TELEMETRY))]
    allowed = MAY_REACH.get(module, set())
    wrong += [f"{module} reaches the network by {name}" for name in sorted(used) if _reaches(name, NETWORK) and not _reaches(name, allowed)]
    keywords = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.keyword) and node.arg in FORBIDDEN_KEYWORDS]
    return wrong + [f"{module} sets {node.arg}" for node in keywords if ast.unparse(node.value) != "False"]


def _reaches(name: str, what) -> bool:
    """Tells whether a dotted name is one of these or lies in one."""
    return any(name == each or name.startswith(f"{each}.") for each in what)


def source() -> Outcome:
    """Looks through every file of the library, its experiments, benchmarks, launcher and this folder."""
    outcome = Outcome()
    for path in FILES:
        wrong = findings(path.read_text(), module_name(path))
        outcome.check(not wrong, "; ".join(wrong))
    return outcome


HOSTILE_TEMPLATES = (
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ cycler.__init__.__globals__.os.system('touch PATH') }}",
    "{{ lipsum.__globals__['os'].popen('touch PATH').read() }}",
    "{{ raise_exception.__globals__['__builtins__']['open']('PATH', 'w') }}",
    "{{ strftime_now.__globals__.__builtins__.open('PATH', 'w').close() }}",
    "{{ (strftime_now|attr('__globals__'))['__builtins__']['open']('PATH', 'w') }}",
    "{{ '{0.__globals__}'.format(raise_exception) }}",
    "{{ self.__init__.__globals__.__builtins__.open('PATH', 'w') }}",
    "{{ namespace.__init__.__globals__.sys.modules.os.system('touch PATH') }}",
    "{% include '/etc/passwd' %}",
    "{% import 'PATH' as p %}",
    "{{ messages.append(1) }}",
    "{{ messages[0].update(content='') }}",
    "{{ range(10 ** 6)|list }}",
    "{{ 1 / 0 }}",
    "{{ messages[9].content.more }}",
    "{{ strftime_now(1, 2, 3) }}",
    "{% for m in messages %}{{ m.content }}{{ m.content }}{% endfor %}",
    "{{",
)


def templates() -> Outcome:
    """Renders chat templates that reach for the interpreter, for files, or for too much: one sentence each, and nothing touched."""
    outcome = Outcome()
    with tempfile.TemporaryDirectory() as scratch:
        folder, touched = small_backbone.make_folder(Path(scratch) / "model"), Path(scratch) / "touched"
        for template in HOSTILE_TEMPLATES:
            (folder / "chat_template.jinja").write_text(template.replace("PATH", str(touched)))
            tokenizer = HuggingFaceTokenizer(folder)
            said = refusal(tokenizer.chat_frame)
            outcome.check(said.startswith("the chat template of ") and "\n" not in said, f"{template} ended in {said!r}")
            outcome.check(not touched.exists(), f"{template} wrote a file")
    return outcome


_PIECES = (
    "..",
    ".",
    "/",
    "//",
    "\\",
    "~",
    "-",
    "--",
    "@",
    " ",
    "\n",
    "\0",
    "$(id)",
    "`id`",
    ";id",
    "|id",
    "%2e%2e",
    "\u2215",
    "a",
    "etc/x",
    "b1",
)
_PIECES += ("memdial", "grpo_answer", ".safetensors", "answerer", "owner/model")


def names(points: int, seed: int) -> Outcome:
    """Gives names made of what paths and commands are made of to every door where a name becomes a path: each is refused in one sentence,
    unless it is a name, which stays inside."""
    outcome, rng = Outcome(), random.Random(f"names/{seed}")
    with tempfile.TemporaryDirectory() as scratch:
        doors = open_doors(Path(scratch))
        for _ in range(points):
            name = "".join(rng.choices(_PIECES, k=rng.randint(1, 5)))
            for door, (enter, is_name) in doors.items():
                said = refusal(lambda enter=enter, name=name: enter(name))
                one_sentence = bool(said) and (said.count("\n") == 0)
                outcome.check(one_sentence or (not said and is_name(name)), f"{door} took {name!r}: {said or 'and let it through'}")
    return outcome


def refusal(call: Callable[[], object]) -> str:
    """Returns the sentence that a call is refused with, "" where it is not; any other exception is none."""
    try:
        call()
    except ValueError as error:
        return str(error)
    return ""


def open_doors(scratch: Path) -> dict[str, tuple[Callable[[str], object], Callable[[str], bool]]]:
    """Lists where a name becomes a path or a command: what takes it, and whether it may. Nothing is fetched, built or launched.

    scratch: an empty folder; a file that weights may not be read from is laid beside the model in it.
    """
    folder = small_backbone.make_folder(scratch / "model")
    config = read_config(folder)
    index = json.loads((folder / INDEX).read_text())
    first = next(iter(index["weight_map"]))

    def fetch(backbone: str) -> object:
        with mock.patch.object(hub, "_fetch", return_value=scratch / "commit"), mock.patch.object(Path, "is_dir", return_value=False):
            return hub.find_backbone(backbone)

    def read_shard(file: str) -> object:
        (folder / INDEX).write_text(json.dumps({"weight_map": index["weight_map"] | {first: file}}))
        with mock.patch.object(Path, "is_file", return_value=True):
            return load_backbone(folder, config)

    def read_agent(agent: str) -> object:
        (scratch / "config.json").write_text(json.dumps({"agent": agent}))
        return read_run(scratch)

    def build(name: str) -> object:
        with mock.patch.object(datasets.importlib, "import_module"):
            return datasets.build_dataset(name, scratch / "data")

    return {
        "an experiment": (cli.load_config, {"grpo_answer"}.__contains__),
        "a data set": (build, {name + tail for name in datasets.BUILDERS for tail in ("", "/")}.__contains__),
        "an agent of a run": (read_agent, {"answerer", "manager"}.__contains__),
        "a backbone": (fetch, _is_hub_name),
        "a file of weights": (read_shard, lambda _: False),
        "a TPU": (functools.partial(launch.require_name, "--tpu"), _is_cloud_name),
        "a project": (functools.partial(launch.require_name, "--project"), _is_cloud_name),
        "a kind of TPU": (launch.runtime, lambda _: False),
    }


def _is_cloud_name(name: str) -> bool:
    return name.replace("-", "").isalnum() and name.isascii() and not name.startswith("-")


def _is_hub_name(name: str) -> bool:
    repository, _, revision = name.partition("@")
    parts = [*repository.split("/"), *(revision.split("/") if revision else [])]
    safe = all(part.replace(".", "").replace("-", "").replace("_", "").isalnum() and part.isascii() for part in parts)
    return safe and ".." not in name and repository.count("/") == 1
