"""What the programs that time a step share: what they are told, the marks between steps, the proof that the work was equal.

They run in environments that have nothing in common, so this file imports the standard library only. A program is started with one
argument, the JSON of a `Work`, and prints one line of JSON at its end, or exits with one sentence.
"""

import json
import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass, field

PARAMETERS = 4_002_048
DTYPE = "float32"


@dataclass(frozen=True)
class Work:
    """The sizes of a step, of its model, and how many steps to do. The timed ones come after `warm_up` others."""

    prompts: int
    group: int
    prompt_length: int  # tokens, of every prompt
    response_length: int  # tokens, of every response
    vocab_size: int
    d_model: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    d_ff: int
    rope_theta: float
    norm_eps: float
    kl_coef: float
    learning_rate: float
    cores: int
    warm_up: int  # the last of them ends where the first timed step begins
    timed: int

    @property
    def rows(self) -> int:
        """Responses in a step."""
        return self.prompts * self.group

    @property
    def steps(self) -> int:
        """Steps in all."""
        return self.warm_up + self.timed

    def to_argument(self) -> str:
        """Spells it as the argument of a program."""
        return json.dumps(asdict(self))


def told() -> Work:
    """Reads what this program is told to do."""
    return Work(**json.loads(sys.argv[1]))


@dataclass
class Clock:
    """Seconds on the clock and of all cores together, at one place in every step."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def mark(self) -> None:
        """Notes the time. To be called once a step."""
        self.wall.append(time.perf_counter())
        self.cpu.append(time.process_time())


@dataclass
class Seen:
    """What a system was seen to do.

    parameters, dtype   of the model that is trained
    prompts             tokens of the prompts that the reference read, one number a step
    responses           tokens of every response of every step
    kl                  the divergence from the reference, as the system itself reports it, one number a step
    moved               the largest change of each tensor of parameters, from before the first step to after the last
    reference_moved     the same of the reference
    """

    parameters: int
    dtype: str
    prompts: list[int]
    responses: list[int]
    kl: list[float]
    moved: list[float]
    reference_moved: list[float]

    def other_work(self, work: Work) -> str | None:
        """Says in one sentence how the work differed from what it was told to be; None where it did not."""
        if (self.parameters, self.dtype) != (PARAMETERS, DTYPE):
            return f"its model has {self.parameters:,} parameters of {self.dtype}, not {PARAMETERS:,} of {DTYPE}"
        if self.prompts != [work.prompt_length] * work.steps:
            return f"the reference read prompts of {self.prompts} tokens, not of {work.prompt_length} in each of {work.steps} steps"
        if self.responses != [work.response_length] * (work.rows * work.steps):
            lengths = dict(Counter(self.responses))
            return f"responses by length are {lengths}, not {work.rows} of {work.response_length} tokens in each of {work.steps} steps"
        if still := sum(not change > 0 for change in self.moved):  # a NaN is above nothing
            return f"{still} of its {len(self.moved)} tensors did not move"
        if changed := [change for change in self.reference_moved if change != 0]:
            return f"its reference moved by {changed[0]:.1e}"
        if len(self.kl) != work.steps or not self.kl[-1] > 0:
            return f"the KL to the reference reads {self.kl} over {work.steps} steps; after the last update it must be above 0"
        return None


def finish(work: Work, clock: Clock, seen: Seen, versions: dict[str, str]) -> None:
    """Prints the seconds of each timed step as the last line, or exits with one sentence where other work was done."""
    wrong = seen.other_work(work)
    if wrong is None and len(clock.wall) != work.steps:
        wrong = f"it marked {len(clock.wall)} steps, not {work.steps}"
    if wrong is not None:
        sys.exit(f"This was not workload W: {wrong}.")
    shown = {"parameters": seen.parameters, "kl": seen.kl[-1], "moved": max(seen.moved)}
    print(json.dumps({"wall_s": _timed(clock.wall, work), "cpu_s": _timed(clock.cpu, work), "versions": versions, "shown": shown}))


def _timed(marks: list[float], work: Work) -> list[float]:
    between = [later - earlier for earlier, later in zip(marks[:-1], marks[1:], strict=True)]
    return between[work.warm_up - 1 :]
