"""What was found by compiling a step for a TPU, as numbers, as JSON and as lines to read. Times are bounds by published peaks."""

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from mr1jax.roofline import Chip

GIB = 2**30


@dataclass(frozen=True)
class Fit:
    """What compiling a step for a topology says. Bytes are of one chip, FLOPs of all chips.

    about: what was compiled; arguments: bytes by what they are; hbm: bytes by kind, empty where the compiler gave up; seconds: a lower
    bound by phase, no measurement; collectives: {kind: (runs, bytes)}; problem: why it does not fit, in a sentence, empty where it does.
    """

    about: dict[str, Any]
    chip: Chip
    arguments: dict[str, int]
    hbm: dict[str, int] = field(default_factory=dict)
    flops: float = 0.0
    seconds: dict[str, float] = field(default_factory=dict)
    collectives: dict[str, tuple[int, int]] = field(default_factory=dict)
    problem: str = ""

    @property
    def total(self) -> int:
        """Bytes a chip holds at most; what the step gives back in the place of an argument counts once."""
        return sum(self.hbm.values()) - 2 * self.hbm.get("aliased", 0)

    @property
    def bounds(self) -> tuple[float, float]:
        """Bounds a step's seconds from below: with its collectives hidden behind its products, and not."""
        products = sum(self.seconds.values())
        return max(products, self.collective_seconds), products + self.collective_seconds

    @property
    def collective_seconds(self) -> float:
        """Bounds the time that the collectives take from below."""
        return sum(size for _, size in self.collectives.values()) / self.chip.interconnect


def as_record(fit: Fit) -> dict[str, Any]:
    """Gives a `Fit` and what follows from it as JSON has it."""
    bounds = dict(zip(("hidden", "in_turn"), fit.bounds, strict=True)) if fit.hbm else {}
    return {**dataclasses.asdict(fit), "total": fit.total, "step_seconds_at_least": bounds, "fits": not fit.problem}


def describe_fit(fit: Fit) -> str:
    """Writes a `Fit` as lines to read."""
    about, chip = fit.about, fit.chip
    lines = [
        f"{about['backbone']}, the {about['agent']} by {about['algorithm']}, "
        + (f"LoRA rank {about['lora_rank']}" if about["lora_rank"] else "all parameters")
        + f", on {about['topology']}: mesh data x fsdp x tensor = {' x '.join(map(str, about['mesh']))}",
        f"{about['prompts']} prompts of {about['prompt_length']} tokens x {about['group_size']} responses of {about['response_length']}",
        "",
        f"HBM of one chip, GiB, of {chip.hbm / GIB:.2f} that a {chip.name} lets a program use",
        *(f"  {name:32} {size / GIB:8.2f}" for name, size in fit.arguments.items()),
    ]
    if fit.hbm:
        lines += ["  as compiled:", *(f"    {name:30} {size / GIB:8.2f}" for name, size in fit.hbm.items())]
        lines += [f"    {'in all':30} {fit.total / GIB:8.2f}", "", "collectives of one step (a response of full length), a chip"]
        lines += [f"  {kind:20} {runs:10,} {size / GIB:12.2f} GiB" for kind, (runs, size) in fit.collectives.items()]
    lines += ["", f"{fit.flops / 1e12:,.1f} TFLOP in all; at best, by published peaks (an ESTIMATE: nothing was timed):"]
    lines += [f"  {phase:20} {seconds:10.2f} s" for phase, seconds in fit.seconds.items()]
    if fit.hbm:
        low, high = fit.bounds
        lines += [
            f"  {'collectives':20} {fit.collective_seconds:10.2f} s",
            f"  a step: {low:.2f} s if they are hidden, {high:.2f} s if not",
        ]
    return "\n".join([*lines, "", f"does not fit: {fit.problem}" if fit.problem else "fits"])
