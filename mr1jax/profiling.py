"""Traces of a few steps, to be looked at in xprof or Perfetto.

Within one compiled step the host cannot see where time goes; the device can. The phases of a step are named scopes (`prefill`, `decode`,
`reward`, `reference`, `update`), which every operation in a trace carries in its name.
"""

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

import jax

from mr1jax.config import require


class Trace:
    """Traces the steps of a window into a folder, and nothing outside it.

    window: "10:13" for steps 10, 11 and 12, counted from 1 as the log does; empty for none. Raises ValueError for anything else.
    """

    def __init__(self, window: str = "", folder: Path | None = None):
        found = re.fullmatch(r"(\d+):(\d+)", window or "0:0")
        require(found is not None, f"--profile is {window!r}; give steps as first:end, such as 10:13 for steps 10, 11 and 12")
        self.steps = range(int(found[1]), int(found[2]))
        require(not window or bool(self.steps) and self.steps.start > 0, f"--profile is {window!r}, which holds no step; they count from 1")
        self.folder = folder
        self._running = False

    @contextlib.contextmanager
    def step(self, number: int) -> Iterator[None]:
        """Surrounds one step. The trace is written after the last step of the window, or when a step raises."""
        if number not in self.steps:
            yield
            return
        if not self._running:
            jax.profiler.start_trace(self.folder, create_perfetto_trace=True)
            self._running = True
        try:
            with jax.profiler.StepTraceAnnotation("step", step_num=number):
                yield
        except BaseException:
            self.stop()
            raise
        if number + 1 not in self.steps:
            self.stop()

    def stop(self) -> None:
        """Writes the trace, if one is being taken: of a run that ends inside the window too."""
        if self._running:
            self._running = False
            jax.profiler.stop_trace()
