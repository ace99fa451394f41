"""Trains an experiment on a Cloud TPU from any machine with gcloud: request, set up, launch, stream, resume after preemption, tear down.

    python3 tpu/launch.py grpo_answer --tpu NAME --zone ZONE --project PROJECT [--type v5litepod-16] [--spot]
        [--setup COMMAND] [--dry-run] [-- --steps 200]

Standard library and gcloud only. The TPU is a queued resource with one node of the same name. The tree goes there as it is committed, and
every worker runs the same program. While it trains, runs/<experiment> is fetched from worker 0 every few minutes: so a TPU that is
preempted, which leaves nothing behind, is deleted, requested again and goes on from the newest checkpoint that had arrived whole. Whatever
ends the training, Ctrl-C too, tears the TPU down.
"""

import argparse
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
POLL_SECONDS = 30
FETCH_SECONDS = 300
RUNTIMES = {"v5litepod": "v2-alpha-tpuv5-lite", "v5p": "v2-alpha-tpuv5", "v6e": "v2-alpha-tpuv6e"}  # cloud.google.com/tpu/docs/runtimes
# The images come with Python 3.10, which is too old; uv brings a newer one, for the user alone.
_INSTALL = (
    "python3 -m pip install --quiet --user uv && ~/.local/bin/uv python install 3.12 && "
    'make -C mr1jax PYTHON="$(~/.local/bin/uv python find 3.12)" .venv/.ready-tpu'
)
LOST = ("FAILED", "SUSPENDING", "SUSPENDED")  # states of a queued resource that it does not come back from
USER_ERROR = 2


class Gcloud:
    """Runs gcloud, or prints what it would run."""

    def __init__(self, zone: str, project: str, dry_run: bool):
        self._where = [f"--zone={zone}", f"--project={project}"]
        self._dry_run = dry_run

    def run(self, *arguments: str, answer_if_dry: str = "") -> tuple[int, str]:
        """Runs `gcloud compute tpus ...` and waits. Returns (exit status, what it printed); its errors go where ours go."""
        command = self._command(arguments)
        if self._dry_run:
            print(shlex.join(command))
            return 0, answer_if_dry
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
        return done.returncode, done.stdout.strip()

    def stream(self, *arguments: str, meanwhile: Callable[[], None] = lambda: None) -> int:
        """Runs the same with its output passed on as it comes, and calls `meanwhile` now and then. Returns the exit status."""
        command = self._command(arguments)
        if self._dry_run:
            print(shlex.join(command))
            meanwhile()
            return 0
        with subprocess.Popen(command) as running:
            while True:
                try:
                    return running.wait(FETCH_SECONDS)
                except subprocess.TimeoutExpired:
                    meanwhile()

    def _command(self, arguments: Sequence[str]) -> list[str]:
        return ["gcloud", "compute", "tpus", *arguments, *self._where]


class Launch:
    """One training run on one TPU that may go and come back."""

    def __init__(self, options: argparse.Namespace):
        self.options = options
        self.gcloud = Gcloud(options.zone, options.project, options.dry_run)
        self.fetched = Path("runs") / options.experiment

    def train(self) -> int:
        """Trains to the end, through preemptions; returns the exit status of the training itself."""
        for attempt in range(1, self.options.attempts + 1):
            try:
                status = self._attempt()
            finally:
                self._tear_down()
            if status is not None:
                return status
            print(f"the TPU was taken away (attempt {attempt} of {self.options.attempts})", file=sys.stderr)
        print(f"{self.options.tpu} was taken away {self.options.attempts} times; start again later, training goes on", file=sys.stderr)
        return 1

    def _attempt(self) -> int | None:
        """Requests, sets up and trains once. Returns the status of the training, or None where the TPU was lost."""
        status, _ = self._request()
        if status:
            return status
        if not self._wait():
            return None
        status = self._set_up() or self._launch()
        self._fetch()
        lost = bool(status) and self._state() != "ACTIVE"
        return None if lost else status

    def _request(self) -> tuple[int, str]:
        o = self.options
        kind = [f"--node-id={o.tpu}", f"--accelerator-type={o.type}", f"--runtime-version={runtime(o.type)}"]
        return self.gcloud.run("queued-resources", "create", o.tpu, *kind, *(["--spot"] if o.spot else []))

    def _wait(self) -> bool:
        """Waits until the TPU is there; False where the request failed or the TPU was lost meanwhile."""
        while (state := self._state()) != "ACTIVE":
            if state in LOST:
                return False
            print(f"{self.options.tpu}: {state or 'no answer'}", file=sys.stderr)
            time.sleep(POLL_SECONDS)
        return True

    def _state(self) -> str:
        return self.gcloud.run("queued-resources", "describe", self.options.tpu, "--format=value(state.state)", answer_if_dry="ACTIVE")[1]

    def _set_up(self) -> int:
        """Copies the committed tree, and what an earlier attempt had saved, to all workers, and installs there."""
        tpu, archive = self.options.tpu, "mr1jax.tar.gz"
        pack = ["git", "archive", "--prefix=mr1jax/", f"--output={archive}", "HEAD"]
        if self.options.dry_run:
            print(shlex.join(pack))
        else:
            subprocess.run(pack, check=True)
        status = self.gcloud.stream("tpu-vm", "scp", archive, f"{tpu}:", "--worker=all")
        status = status or self._on_all(
            " && ".join([f"tar -xzf {archive}", "mkdir -p mr1jax/runs", self.options.setup or "true", _INSTALL])
        )
        if not status and self.fetched.is_dir():
            status = self.gcloud.stream("tpu-vm", "scp", "--recurse", str(self.fetched), f"{tpu}:mr1jax/runs/", "--worker=all")
        return status

    def _launch(self) -> int:
        processes = ["--coordinator", "auto"] if has_several_workers(self.options.type) else []
        arguments = shlex.join([*processes, *self.options.overrides]).replace("$", "$$")  # which make would read as a variable
        train = ["make", "-C", "mr1jax", "train-tpu", f"EXP={self.options.experiment}", f"ARGS={arguments}"]
        return self._on_all(shlex.join(train), meanwhile=self._fetch)

    def _on_all(self, command: str, meanwhile: Callable[[], None] = lambda: None) -> int:
        return self.gcloud.stream("tpu-vm", "ssh", self.options.tpu, "--worker=all", f"--command={command}", meanwhile=meanwhile)

    def _fetch(self) -> None:
        """Brings runs/<experiment> back from worker 0, which writes it; a TPU that is gone has none to give."""
        self.gcloud.stream("tpu-vm", "scp", "--recurse", f"{self.options.tpu}:mr1jax/runs/{self.options.experiment}", "runs/", "--worker=0")

    def _tear_down(self) -> None:
        self.gcloud.run("queued-resources", "delete", self.options.tpu, "--force", "--quiet")


def runtime(accelerator: str) -> str:
    """Names the software of a TPU VM by its accelerator type; raises ValueError for a type that is not known here."""
    generation, _, size = accelerator.partition("-")
    if generation not in RUNTIMES or not re.fullmatch("[0-9]+", size):
        raise ValueError(f"--type is {accelerator!r}; give one such as v5litepod-16, v5p-8 or v6e-8")
    return RUNTIMES[generation]


def has_several_workers(accelerator: str) -> bool:
    """Tells whether a TPU of this type has more than one machine, which holds above eight chips, or eight cores of a v5p."""
    return int(accelerator.rpartition("-")[2]) > 8


def require_name(option: str, name: str) -> None:
    """Raises ValueError for what Google Cloud has no name like, such as a path, an option or a command."""
    domain = r"(?:[a-z0-9][a-z0-9.-]*:)?" if option == "--project" else ""  # of the oldest projects
    if not re.fullmatch(domain + r"[a-z](?:[a-z0-9-]*[a-z0-9])?", name):
        raise ValueError(f"{option} is {name!r}; give a name of small letters, digits and hyphens")


def read_options(arguments: Sequence[str]) -> argparse.Namespace:
    """Reads the command line; what follows `--` goes to the training."""
    cut = arguments.index("--") if "--" in arguments else len(arguments)
    parser = argparse.ArgumentParser(prog="tpu/launch.py", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("experiment", help="a file of experiments/, without .py")
    parser.add_argument("--tpu", required=True, help="name of the TPU, a new one")
    parser.add_argument("--zone", required=True)
    parser.add_argument("--project", required=True)
    parser.add_argument("--type", default="v5litepod-16", help="accelerator type: v5litepod-16, v5p-8, v6e-8 and so on")
    parser.add_argument("--spot", action="store_true", help="cheaper, and may be taken away at any time")
    parser.add_argument("--setup", default="", help="what each worker runs first in its home, such as a mount of mr1jax/runs")
    parser.add_argument("--attempts", type=int, default=20, help="how often to go on after a preemption")
    parser.add_argument("--dry-run", action="store_true", help="print every command and run none")
    options = parser.parse_args(arguments[:cut])
    options.overrides = arguments[cut + 1 :]
    return options


def main() -> None:
    """Runs what the command line says; what a user got wrong is one sentence and exit status 2."""
    options = read_options(sys.argv[1:])
    try:
        names = sorted(path.stem for path in (ROOT / "experiments").glob("*.py"))
        if options.experiment not in names:
            raise ValueError(f"there is no experiment {options.experiment!r}; choose one of {', '.join(names)}")
        runtime(options.type)
        for name in ("tpu", "zone", "project"):
            require_name(f"--{name}", getattr(options, name))
        if not options.dry_run and not shutil.which("gcloud"):
            raise ValueError("there is no gcloud here; install the Google Cloud CLI, or see what would be run with DRY_RUN=1")
    except ValueError as error:
        print(f"tpu/launch.py: {error}", file=sys.stderr)
        sys.exit(USER_ERROR)
    if has_several_workers(options.type) and not options.setup:
        print(f"{options.type} has several workers, which must see one mr1jax/runs: --setup says how, such as a mount", file=sys.stderr)
    sys.exit(Launch(options).train())


if __name__ == "__main__":
    main()
