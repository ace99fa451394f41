"""The notebooks run from the first cell to the last, on a CPU, without a network, and hold no output that no run has made."""

import json
import sys
import types
from pathlib import Path

import jax
import pytest
from small_backbone import make_folder
from tiny import unoptimised  # noqa: F401

from mr1jax import demo
from mr1jax.config import replace

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "tpu").glob("*.ipynb"))


def run_cells(path):
    """Executes the code cells of a notebook in one namespace, as a kernel would. Returns the namespace."""
    namespace = {}
    for cell in json.loads(path.read_text())["cells"]:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), f"{path.name}, {cell['id']}", "exec"), namespace)
    return namespace


@pytest.fixture
def in_a_checkout(tmp_path, monkeypatch):
    """A folder that looks like a checkout, for cells that would clone one and that leave runs/ there; figures go to no screen."""
    (tmp_path / "experiments").symlink_to(ROOT / "experiments")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "agg")
    return tmp_path


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_holds_no_output(path):
    """Oracle: the file: no cell has run, and each is where Jupyter would look for it."""
    notebook = json.loads(path.read_text())
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert code
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
    assert notebook["nbformat"] == 4


@pytest.mark.slow
def test_grpo_notebook_trains(in_a_checkout, monkeypatch):
    """Oracle: two steps of a small random model: its log, its adapter, and the figure's points, which are those of the log."""
    pyplot = pytest.importorskip("matplotlib.pyplot")
    folder = in_a_checkout / "backbone"
    folder.mkdir()
    make_folder(folder)
    devices = jax.devices()[:1]  # on all eight the same compiles for a minute
    monkeypatch.setattr(jax, "devices", lambda *_: devices)
    for name, value in {"BACKBONE": str(folder), "STEPS": "2", "PROMPT_LENGTH": "600"}.items():
        monkeypatch.setenv(name, value)
    cells = run_cells(ROOT / "tpu" / "colab_grpo.ipynb")
    assert [record["step"] for record in cells["records"]] == [1, 2]
    assert (in_a_checkout / "runs/colab_grpo/answerer.safetensors").is_file()
    (line,) = pyplot.gca().lines
    assert line.get_ydata().tolist() == [record["reward"] for record in cells["records"]]
    pyplot.close("all")


@pytest.mark.slow
def test_demo_notebook_runs(in_a_checkout, monkeypatch):
    """Oracle: the rows and the figure of a demo of two steps on two conversations."""
    short = dict(steps=1, conversations=12, prompts_per_step=8)
    train_agent = demo._train_agent
    monkeypatch.setattr(demo, "NUM_TEST_CONVERSATIONS", 2)
    monkeypatch.setattr(demo, "MIN_QUESTIONS", 1)
    monkeypatch.setattr(
        demo, "_train_agent", lambda start, params, config, folder: train_agent(start, params, replace(config, **short), folder)
    )
    ipython = types.ModuleType("IPython")
    ipython.version_info, ipython.get_ipython = (9, 0), lambda: None  # matplotlib asks whether it is inside one
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    display = types.ModuleType("IPython.display")
    display.Image = lambda path: Path(path).read_bytes()
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    rows = run_cells(ROOT / "tpu" / "colab_demo.ipynb")["rows"]
    assert "rl_both" in rows
    assert (in_a_checkout / "runs/demo/curves.png").is_file()
