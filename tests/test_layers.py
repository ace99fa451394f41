"""The shape of the source: imports point down, files and functions stay small, and each of a few things has one home."""

import ast
import graphlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted(
    path for folder in ("mr1jax", "experiments", "bench", "tpu", "reliability", "paper") for path in (ROOT / folder).rglob("*.py")
)

# A room imports from floors below its own only; rooms of one floor do not know each other. The host loops may, short of a circle.
FLOORS = (
    ("checks",),
    ("structs", "config", "status"),
    ("processes", "manifest"),
    ("sharding", "checkpoint", "identity", "statistics", "profiling", "roofline"),
    ("memory", "text", "model"),
    ("data", "rl"),
    ("agents",),
    ("update",),
    ("step",),
    tuple("train run_log validate evaluate report locomo_report prepare embeddings experiment benchmark lesson_arrays warm_start".split())
    + ("audit", "audit_page", "demo", "doctor", "fit", "fit_report", "run_report", "run_examples", "run_chart", "run_page")
    + ("judge", "judge_models", "category_report", "chat_report", "baselines", "operation_accuracy"),
    ("service",),
    ("cli",),
    ("__main__",),
)
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
HOST_LOOPS = FLOOR_OF["train"]
MAX_FILE, MAX_FUNCTION, MAX_CLOSURE = 350, 60, 2


def module_name(path):
    """Returns `mr1jax.memory.bank` for mr1jax/memory/bank.py, and `mr1jax.memory` for the folder's __init__.py."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(source, module, is_package=False):
    """Returns the absolute name of everything that `source` imports, wherever in it the import stands."""
    package = module if is_package else module.rpartition(".")[0]
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = ".".join(package.split(".")[: len(package.split(".")) - node.level + 1]) if node.level else ""
            base = ".".join(filter(None, (above, node.module)))
            names |= {f"{base}.{alias.name}" for alias in node.names}
    return names


def rooms(names):
    """Returns the rooms of mr1jax among imported names; the package itself is a room called ""."""
    return {(name + ".").split(".")[1] for name in names if name.split(".")[0] == "mr1jax"}


def upward_imports(source, module, is_package=False):
    """Returns one line for each import that does not point down."""
    room = (module + ".").split(".")[1]
    wrong = []
    for other in sorted(rooms(imports(source, module, is_package)) - {room}):
        if room not in FLOOR_OF or other not in FLOOR_OF:
            wrong.append(f"{module} imports {other or 'mr1jax'}: both need a floor in FLOORS")
        elif FLOOR_OF[other] >= FLOOR_OF[room] and not FLOOR_OF[other] == FLOOR_OF[room] == HOST_LOOPS:
            wrong.append(f"{module} imports {other}, which is not below it")
    return wrong


def foreign_imports(source, module):
    """Returns what an experiment imports of the library besides its configuration."""
    library = [name for name in sorted(imports(source, module)) if name.split(".")[0] == "mr1jax"]
    return [f"{module} imports {name}" for name in library if name.split(".")[1:2] != ["config"]]


def functions(tree, depth=0):
    """Yields each function of a syntax tree with the number of functions around it."""
    for node in ast.iter_child_nodes(tree):
        is_function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        if is_function:
            yield node, depth
        yield from functions(node, depth + is_function)


def too_large(source, module):
    """Returns one line for a file, function or nest of closures over its limit."""
    lines = len(source.splitlines())
    wrong = [f"{module} has {lines} lines"] * (lines > MAX_FILE)
    for node, depth in functions(ast.parse(source)):
        length = node.end_lineno - node.lineno + 1
        wrong += [f"{module}.{node.name} has {length} lines"] * (length > MAX_FUNCTION)
        wrong += [f"{module}.{node.name} is a closure {depth} deep"] * (depth > MAX_CLOSURE)
    return wrong


def names_used(source):
    """Returns every dotted name in the code and in its imports: `jax.jit`, `flax.linen.Dense`; imported aliases by their origin."""
    tree = ast.parse(source)
    origin = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            origin |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            origin |= {alias.asname: alias.name for alias in node.names if alias.asname}
    dotted = [ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute | ast.Name)]
    used = [".".join((origin.get(first, first), *rest)) for first, *rest in (name.split(".") for name in dotted)]
    return used + sorted(imports(source, "outside"))


def uses(source, name):
    """Returns how often the code reaches for `name`; an import alone does not count."""
    return names_used(source).count(name) - (name in imports(source, "outside"))


def mentions(source, word):
    """Tells whether `word` occurs in a dotted name of the code or of its imports, under whatever alias."""
    return any(f".{word}." in f".{name}." for name in names_used(source))


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_source_keeps_its_shape(path):
    """Oracle: the table of floors and the limits above, read off the syntax tree."""
    source, module = path.read_text(), module_name(path)
    wrong = too_large(source, module)
    if module.startswith("mr1jax"):
        wrong += upward_imports(source, module, is_package=path.stem == "__init__")
    if module.startswith("experiments"):
        wrong += foreign_imports(source, module)
    if mentions(source, "flax.linen") and not module.startswith("mr1jax.model"):
        wrong.append(f"{module} uses flax.linen, which only model/ does")
    if mentions(source, "PartitionSpec") and module != "mr1jax.sharding":
        wrong.append(f"{module} uses PartitionSpec, which only sharding.py does")
    if path.stem in ("utils", "util", "helpers", "misc", "common"):
        wrong.append(f"{module} is named after nothing it does")
    assert not wrong, "\n".join(wrong)


def test_training_compiles_once():
    """Oracle: the text of step.py, and of the rooms that it compiles whole."""
    assert uses((ROOT / "mr1jax/step.py").read_text(), "jax.jit") == 1
    inside = [path for path in FILES if module_name(path).startswith(("mr1jax.model", "mr1jax.memory", "mr1jax.rl"))]
    on_the_host = {"mr1jax.model.huggingface"}  # reads weights before there is a program
    assert not {module_name(path) for path in inside if uses(path.read_text(), "jax.jit")} - on_the_host


def test_host_loops_are_no_circle():
    """Oracle: a topological order of all rooms exists; with one import upwards, from `evaluate` of `demo`, it does not."""
    graph = {}
    for path in FILES:
        if module_name(path).startswith("mr1jax."):
            room = module_name(path).split(".")[1]
            graph.setdefault(room, set()).update(rooms(imports(path.read_text(), module_name(path), path.stem == "__init__")) - {room})
    order = list(graphlib.TopologicalSorter(graph).static_order())
    assert set(graph) <= set(order)
    assert order.index("evaluate") < order.index("benchmark") < order.index("demo") < order.index("cli")
    graph["evaluate"].add("demo")
    with pytest.raises(graphlib.CycleError):
        graphlib.TopologicalSorter(graph).prepare()


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("mr1jax.memory.bank", "from mr1jax.rl import losses"),
        ("mr1jax.memory.bank", "import mr1jax.step"),
        ("mr1jax.memory.bank", "from mr1jax import text"),
        ("mr1jax.memory.bank", "from ..text import packing"),
        ("mr1jax.memory.bank", "def late():\n    from .. import agents"),
        ("mr1jax.config", "from mr1jax import structs"),
        ("mr1jax.rl.losses", "from mr1jax.data.records import Turn"),
        ("mr1jax.step", "from mr1jax.train import train"),
        ("mr1jax.train", "from mr1jax import cli"),
        ("mr1jax.train", "import mr1jax"),
        ("mr1jax.cellar", "from mr1jax import structs"),
    ],
)
def test_upward_import_is_seen(module, source):
    """Oracle: planted imports that point up or sideways, or at a room without a floor."""
    assert len(upward_imports(source, module)) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("mr1jax.memory.bank", "from mr1jax.structs import MemoryBank\nfrom . import retrieval\nimport jax"),
        ("mr1jax.agents.manager", "from ..memory.bank import empty_bank\nfrom mr1jax import config, sharding"),
        ("mr1jax.demo", "from mr1jax import train, evaluate, report"),
    ],
)
def test_downward_import_passes(module, source):
    """Oracle: imports as the rooms really make them."""
    assert not upward_imports(source, module)


def test_upward_import_of_a_package_is_seen():
    """Oracle: in an __init__.py one dot is the package itself, two are its parent."""
    assert not upward_imports("from .bank import empty_bank", "mr1jax.memory", is_package=True)
    assert upward_imports("from ..agents import manager", "mr1jax.memory", is_package=True)


def test_size_and_depth_are_seen():
    """Oracle: planted sources one over each limit, and at it."""
    nest = "def a():\n def b():\n  def c():\n   {}"
    body = "def long():\n" + "    x = 1\n" * (MAX_FUNCTION - 1)
    assert not too_large(nest.format("pass"), "planted")
    assert too_large(nest.format("def d(): pass"), "planted") == ["planted.d is a closure 3 deep"]
    assert not too_large(body, "planted")
    assert too_large(body + "    x = 1\n", "planted") == [f"planted.long has {MAX_FUNCTION + 1} lines"]
    assert not too_large("x = 1\n" * MAX_FILE, "planted")
    assert too_large("x = 1\n" * (MAX_FILE + 1), "planted") == [f"planted has {MAX_FILE + 1} lines"]


@pytest.mark.parametrize(
    "source",
    [
        "import flax.linen as nn",
        "from flax import linen as nn",
        "from flax.linen import Dense",
        "import flax\nflax.linen.Dense(3)",
    ],
)
def test_linen_is_seen_under_any_name(source):
    """Oracle: the four ways to reach it."""
    assert mentions(source, "flax.linen")
    assert not mentions("from flax import struct\nlinen = 'flax.linen'", "flax.linen")


def test_partition_spec_is_seen_under_any_name():
    """Oracle: planted sources; a word that merely contains the name is another."""
    assert mentions("from jax.sharding import PartitionSpec as P\nP('data')", "PartitionSpec")
    assert mentions("import jax\njax.sharding.PartitionSpec()", "PartitionSpec")
    assert not mentions("partition = 'PartitionSpec'\nPartitionSpecs = 1", "PartitionSpec")


def test_jit_is_counted():
    """Oracle: two uses by hand, under two spellings."""
    assert uses("import jax\nf = jax.jit(g)\n@jax.jit\ndef h(): pass", "jax.jit") == 2
    assert uses("from jax import jit\nf = jit(g)\n@jit\ndef h(): pass", "jax.jit") == 2
    assert uses("import jax\nfrom functools import partial\n@partial(jax.jit, donate_argnums=0)\ndef h(): pass", "jax.jit") == 1
    assert uses("from jax import jit", "jax.jit") == 0


def test_experiment_that_imports_the_library_is_seen():
    """Oracle: planted experiments; configuration alone is theirs to import."""
    assert foreign_imports("from mr1jax.step import make_step", "experiments.planted")
    assert foreign_imports("from mr1jax import train", "experiments.planted")
    assert not foreign_imports("from mr1jax.config import Config, LossConfig\nfrom experiments.demo import WARM", "experiments.planted")
