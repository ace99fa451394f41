"""Fills tpu/fit.md: which backbones fit which TPUs, by compiling a step for each. Minutes a cell; goes on where it was stopped.

    .venv/bin/python -m tpu.fit_table [--again] ["qwen2.5-7b LoRA v5e-16 256" ...]

Without a cell named, all of them. What is known lies in tpu/fit.json, one record a cell as `mr1jax fit --json` writes it. A cell that
nobody has compiled is empty.
"""

import json
import subprocess
import sys
import tempfile
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).parent
RECORDS, TABLE = HERE / "fit.json", HERE / "fit.md"
GIB = 2**30
TOPOLOGIES = {"v5e-16": "v5e:4x4", "v5p-8": "v5p:2x2x1", "v5p-16": "v5p:2x2x2", "v6e-8": "v6e:2x4", "v6e-16": "v6e:4x4"}
BACKBONES = ("qwen2.5-3b", "qwen2.5-7b", "llama-3.1-8b", "qwen2.5-14b")
RANKS = {"LoRA": 8, "full": 0}
RESPONSES = (256, 2048)
PROMPTS, PROMPT_LENGTH = 16, 4096

_ABOUT = f"""\
One step of the Answer Agent by GRPO, {PROMPTS} prompts of {PROMPT_LENGTH} tokens, 8 responses each, activations in bfloat16, compiled
by `mr1jax fit` for chips that were not there. LoRA: rank 8, on a bfloat16 base that both agents share. Full: both agents in float32, one
of them with its Adam moments. The mesh is fsdp alone, over all chips.

GiB of one chip, of what its compiler lets a program use: v5e 15.75, v5p 95.74, v6e 31.25; *no* where it is too much, with the compiler's
reason below; empty where nobody has compiled it yet (`.venv/bin/python -m tpu.fit_table` goes on). A v5p's number counts TensorCores, two
a chip: a v5p-8 has 4 chips, a v5p-16 has 8.

**Nothing here has run on a TPU.** Seconds are lower bounds by published peaks, for responses of full length, with what the chips send each
other hidden behind their products.
"""


class Cell(NamedTuple):
    """One entry of the table."""

    backbone: str
    trained: str
    tpu: str
    response: int

    @property
    def name(self) -> str:
        return " ".join(map(str, self))

    def options(self) -> list[str]:
        rank = RANKS[self.trained]
        settings = {
            "topology": TOPOLOGIES[self.tpu],
            "backbone": self.backbone,
            "lora.rank": rank,
            "lora.base-dtype": "bfloat16",
            "model.dtype": "bfloat16",
            "prompts-per-step": PROMPTS,
            "answerer.prompt-length": PROMPT_LENGTH,
            "answerer.response-length": self.response,
        }
        return [text for name, value in settings.items() for text in (f"--{name}", str(value))]


def cells() -> list[Cell]:
    """Lists the cells, those that matter most first: LoRA and short responses before the rest."""
    return [Cell(b, t, tpu, r) for r, t, b, tpu in product(RESPONSES, RANKS, BACKBONES, TOPOLOGIES)]


def compile_cell(cell: Cell) -> dict[str, Any]:
    """Runs `mr1jax fit` in a process of its own. Returns its record; raises where it says that its input was wrong."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "fit.json"
        command = [sys.executable, "-c", "from mr1jax.cli import main; main()", "fit", "grpo_answer", "--json", str(file), *cell.options()]
        done = subprocess.run(command, stdout=subprocess.DEVNULL)
        if done.returncode not in (0, 1) or not file.is_file():
            raise RuntimeError(f"{cell.name}: mr1jax fit ended with status {done.returncode}")
        return json.loads(file.read_text())


def render(records: dict[str, Any]) -> str:
    """Writes the table: GiB a chip where it fits, and what was too much where it does not."""
    lines = [
        "# What fits which TPU",
        "",
        *_ABOUT.splitlines(),
    ]
    refused = []
    for response in RESPONSES:
        lines += ["", f"## Responses of {response} tokens", "", "| backbone | trained | " + " | ".join(TOPOLOGIES) + " |"]
        lines += ["| --- " * (2 + len(TOPOLOGIES)) + "|"]
        for backbone, trained in product(BACKBONES, RANKS):
            row = [Cell(backbone, trained, tpu, response) for tpu in TOPOLOGIES]
            lines.append(f"| {backbone} | {trained} | " + " | ".join(_entry(records.get(cell.name)) for cell in row) + " |")
            refused += [f"- {cell.name}: {records[cell.name]['problem']}" for cell in row if _does_not_fit(records.get(cell.name))]
    return "\n".join([*lines, *(["", "## What did not fit", "", *refused] if refused else []), ""])


def _does_not_fit(record: dict[str, Any] | None) -> bool:
    return record is not None and not record["fits"]


def _entry(record: dict[str, Any] | None) -> str:
    if record is None:
        return ""
    if not record["fits"]:
        return "*no*"
    return f"{record['total'] / GIB:.1f} ({record['step_seconds_at_least']['hidden']:.0f} s)"


def main() -> None:
    """Compiles every cell, or those named, that has no record, and writes records and table after each."""
    arguments = sys.argv[1:]
    named = [name for name in arguments if name != "--again"]
    chosen = [cell for cell in cells() if cell.name in named or not named]
    if unknown := set(named) - {cell.name for cell in chosen}:
        print(f"there is no cell {min(unknown)!r}; one is called {cells()[0].name!r}", file=sys.stderr)
        sys.exit(2)
    records = json.loads(RECORDS.read_text()) if RECORDS.is_file() else {}
    for cell in chosen:
        if cell.name not in records or "--again" in arguments:
            print(cell.name, flush=True)
            records[cell.name] = compile_cell(cell)
            RECORDS.write_text(json.dumps(records, indent=1) + "\n")
            TABLE.write_text(render(records))


if __name__ == "__main__":
    main()
