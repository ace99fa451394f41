"""What a run of `reliability.program` is to do, as one argument of a command."""

import dataclasses
import json
import sys
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Spec:
    """A run, and when it is to kill itself; 0 for never.

    mesh: devices along data, fsdp and tensor; at_event: when it touches a file of its folder for the so-manieth time;
    after_save, milliseconds: so long after the so-manieth save began; coordinator, process_id: of two processes, where there are two.
    """

    agent: str = "answerer"
    algorithm: str = "grpo"
    mesh: tuple[int, int, int] = (1, 1, 1)
    steps: int = 6
    save_every: int = 2
    at_event: int = 0
    after_save: int = 0
    milliseconds: float = 0.0
    coordinator: str = ""
    process_id: int = 0

    def command(self, folder: Path) -> list[str]:
        """Spells the command that runs this in a folder."""
        return [sys.executable, "-m", "reliability.program", str(folder), json.dumps(dataclasses.asdict(self))]
