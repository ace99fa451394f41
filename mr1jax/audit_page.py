"""The page of an audit, in Markdown: how often each sign was seen and what it was paid, then the highest rewarded trajectories."""

import re
from collections.abc import Sequence
from pathlib import Path

from mr1jax.audit import SIGNS, Sample, audit_run, rank
from mr1jax.config import Config, require
from mr1jax.report import write_whole

PAGE = "audit.md"  # in the folder of the run


def write_audit(run: Path, top: int, num_batches: int, data_dir: Path) -> None:
    """Draws trajectories of what was trained in `run` and writes `run/audit.md`, whole; raises ValueError as `audit_run` does."""
    require(top >= 1, f"--top is {top}; show 1 trajectory or more")
    config, samples = audit_run(run, num_batches, data_dir)
    write_whole(run / PAGE, format_page(run.name, config, samples, top))
    mean = sum(sample.reward for sample in samples) / len(samples)
    print(f"read {len(samples)} trajectories of {run}, mean reward {mean:.3f}; see {run / PAGE}")


def format_page(name: str, config: Config, samples: Sequence[Sample], top: int) -> str:
    """Lays the page out: `samples` are all that were drawn, `top` how many of the ranked are shown."""
    shown = rank(list(samples))[:top]
    groups = len({sample.group for sample in samples})
    about = (
        f"The {config.agent} after {config.steps} steps: {groups} prompts of its training tasks, {config.group_size} responses to each,\n"
        "drawn as training draws them. A sign is nothing wrong by itself; one that pays more than the rest deserves a look."
    )
    rows = [_sign_row(sign, samples) for sign in SIGNS[config.agent]]
    mean = sum(sample.reward for sample in samples) / len(samples)
    table = ["| sign | share | mean reward | of the rest |", "| --- | --- | --- | --- |", *rows, f"| all | 100 % | {mean:.2f} | |"]
    heading = f"## The {len(shown)} highest rewarded, those with most signs first"
    entries = [_entry(number, sample) for number, sample in enumerate(shown, 1)]
    return "\n\n".join([f"# Audit of {name}", about, "\n".join(table), heading, *entries]) + "\n"


def _sign_row(sign: str, samples: Sequence[Sample]) -> str:
    seen = [sample.reward for sample in samples if sign in sample.signs]
    rest = [sample.reward for sample in samples if sign not in sample.signs]
    means = (f"{sum(rewards) / len(rewards):.2f}" if rewards else "" for rewards in (seen, rest))
    return f"| {sign} | {100 * len(seen) / len(samples):.1f} % ({len(seen)}) | {' | '.join(means)} |"


def _entry(number: int, sample: Sample) -> str:
    signs = f": {', '.join(sample.signs)}" if sample.signs else ""
    asked = [f"- asked {_code(question)}, right is {_code(gold)}" for question, gold in sample.asked]
    deeds = [f"- {_code(deed)}" for deed in sample.deed] or ["- does nothing"]
    group = " ".join(f"{reward:.2f}" for reward in sample.rewards)
    others = f"- its group got {group}; {sample.same} of {len(sample.rewards)} wrote this"
    return "\n\n".join(
        [
            f"### {number}. Reward {sample.reward:.2f}{signs}",
            "\n".join([*asked, *deeds, others]),
            f"Prompt\n\n{_block(sample.prompt)}",
            f"Response, {sample.tokens} tokens\n\n{_block(sample.response)}",
        ]
    )


def _code(text: str) -> str:
    """Writes text on one line so that nothing in it is Markdown."""
    fence, line = "`" * (1 + _longest_run(text)), " ".join(text.split())
    apart = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{fence}{apart}{line}{apart}{fence}" if line else "nothing"


def _block(text: str) -> str:
    fence = "`" * max(3, 1 + _longest_run(text))
    return f"{fence}text\n{text.rstrip()}\n{fence}"


def _longest_run(text: str) -> int:
    return max(map(len, re.findall("`+", text)), default=0)
