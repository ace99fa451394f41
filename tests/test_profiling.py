"""Traces of a few steps: which steps, what is written, and the phases in it."""

import gzip
import json
import re

import jax
import numpy as np
import pytest
import tiny
from tiny import CONFIG, LANGUAGE, unoptimised  # noqa: F401

from mr1jax.config import LossConfig, replace
from mr1jax.profiling import Trace
from mr1jax.roofline import PHASES
from mr1jax.train import train


@pytest.fixture
def names_as_written():
    """Keeps the cache of compiled programs from giving back one whose operations are named as they once were."""
    jax.config.update("jax_compilation_cache_include_metadata_in_key", True)
    yield
    jax.config.update("jax_compilation_cache_include_metadata_in_key", False)


def test_a_trace_has_its_steps_and_their_phases(tmp_path, names_as_written):
    """Oracle: the trace itself: steps 2 and 3 of 4 by number, and every phase in the names of its operations."""
    rng = np.random.default_rng(0)
    tasks = tiny.answer_tasks([tiny.random_memories(rng) for _ in range(8)], [(tiny.random_question(rng), "tea") for _ in range(8)])
    config = replace(CONFIG, steps=4, loss=LossConfig(kl_coef=0.1))
    _, records, _ = train(config, tiny.both(), tasks, LANGUAGE, trace=Trace("2:4", tmp_path))
    (perfetto,), (xprof,) = tmp_path.rglob("perfetto_trace.json.gz"), tmp_path.rglob("*.xplane.pb")
    events = json.loads(gzip.decompress(perfetto.read_bytes()))["traceEvents"]
    steps = [int(event["args"]["step_num"]) for event in events if event.get("name") == "step" and "step_num" in event.get("args", {})]
    assert sorted(set(steps)) == [2, 3]
    named = xprof.read_bytes()
    # "jvp(prefill)" where the pass is kept for the loss; "/decode/" elsewhere
    assert not [phase for phase in PHASES if not re.search(rf"[/(]{phase}[/)]".encode(), named)]
    for record in records:
        assert 0 <= record["data_seconds"] <= record["seconds"]
        drawn = record["response_tokens"] * config.prompts_per_step * config.group_size
        assert record["tokens_per_second"] * record["seconds"] == pytest.approx(drawn)


def test_a_window_that_a_run_ends_in_is_written_once(tmp_path, monkeypatch):
    """Oracle: the calls of the profiler, for a window longer than the run, one that a step breaks, and none."""
    calls = []
    monkeypatch.setattr("jax.profiler.start_trace", lambda folder, **_: calls.append(folder))
    monkeypatch.setattr("jax.profiler.stop_trace", lambda: calls.append("written"))

    def steps(window, numbers, broken=None):
        calls.clear()
        trace = Trace(window, tmp_path)
        for number in numbers:
            with trace.step(number):
                calls.append(number)
                if number == broken:
                    raise RuntimeError("broken")
        trace.stop()
        return list(calls)

    assert steps("2:9", range(1, 4)) == [1, tmp_path, 2, 3, "written"]
    assert steps("2:3", range(1, 4)) == [1, tmp_path, 2, "written", 3]
    assert steps("", range(1, 4)) == [1, 2, 3]
    with pytest.raises(RuntimeError, match="broken"):
        steps("2:9", range(1, 4), broken=3)
    assert calls == [1, tmp_path, 2, 3, "written"]


@pytest.mark.parametrize("window", ["10", "10-13", "3:3", "4:2", "0:2", "a:b"])
def test_a_window_without_steps_is_refused(window):
    """Oracle: the sentence with what was given."""
    with pytest.raises(ValueError, match=f"--profile is '{window}'"):
        Trace(window)
