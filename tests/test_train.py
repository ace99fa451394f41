"""The host loop: what it logs, what it saves, and that a run which stopped goes on as if it had not."""

import json

import jax
import numpy as np
import pytest
import tiny
from tiny import CONFIG, LANGUAGE, unoptimised  # noqa: F401

from mr1jax import checkpoint
from mr1jax.config import OptimizerConfig, replace
from mr1jax.train import train

NUM_STEPS = 4


@pytest.fixture(scope="module")
def tasks():
    """More tasks than a step takes, so that the order of the batches matters and an epoch ends inside the run."""
    rng = np.random.default_rng(0)
    return tiny.answer_tasks([tiny.random_memories(rng) for _ in range(20)], [(tiny.random_question(rng), "tea") for _ in range(20)])


@pytest.fixture(scope="module")
def params():
    return tiny.both()


@pytest.fixture(scope="module")
def unbroken(params, tasks):
    """One run of all steps that keeps nothing."""
    return train(replace(CONFIG, steps=NUM_STEPS), params, tasks, LANGUAGE)


def logged(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def timeless(records):
    timed = ("seconds", "data_seconds", "tokens_per_second")
    return [{name: value for name, value in record.items() if name not in timed} for record in records]


def test_a_run_takes_its_steps_and_leaves_the_parameters_it_was_given(unbroken, params):
    """Oracle: counting; one compilation; and parameters that are still there, and still the same."""
    state, records, num_compilations = unbroken
    assert [record["step"] for record in records] == [1, 2, 3, 4]
    assert int(state.step) == NUM_STEPS
    assert num_compilations == 1
    assert all(record["ratio_gap"] < 1e-5 for record in records)
    tiny.assert_equal(params, tiny.both())
    assert not np.array_equal(state.params["answerer"]["embedding"], params["answerer"]["embedding"])


def test_a_run_that_stopped_goes_on_as_if_it_had_not(unbroken, params, tasks, tmp_path):
    """Oracle: the unbroken run: parameters, moments and metrics, bit for bit. A line that was logged but not saved is written anew."""
    train(replace(CONFIG, steps=2), params, tasks, LANGUAGE, tmp_path)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        print(json.dumps({"step": 3, "loss": 5.0}), file=file)
    different = jax.tree.map(lambda x: x + 1, params)  # what a run goes on with is what it saved
    state, records, _ = train(replace(CONFIG, steps=NUM_STEPS), different, tasks, LANGUAGE, tmp_path)
    tiny.assert_equal(jax.device_get(state), jax.device_get(unbroken[0]))
    assert timeless(records) == timeless(logged(tmp_path)) == timeless(unbroken[1])
    assert checkpoint.saved_steps(tmp_path / "checkpoints") == [2, 4]


def test_a_finished_run_is_not_run_again(unbroken, params, tasks, tmp_path):
    """Oracle: the state and the log that the run left."""
    config = replace(CONFIG, steps=2)
    first, records, _ = train(config, params, tasks, LANGUAGE, tmp_path, save_every=1)
    assert checkpoint.saved_steps(tmp_path / "checkpoints") == [1, 2]
    before = (tmp_path / "metrics.jsonl").read_text()
    again, same_records, num_compilations = train(config, params, tasks, LANGUAGE, tmp_path, save_every=1)
    tiny.assert_equal(jax.device_get(again), jax.device_get(first))
    assert same_records == records
    assert (tmp_path / "metrics.jsonl").read_text() == before
    assert num_compilations == 0


def test_a_run_that_breaks_down_says_so_and_saves_nothing(params, tasks, tmp_path):
    """Oracle: the sentence, the empty log and no checkpoint, of a run whose parameters hold a NaN."""
    broken = params | {"answerer": params["answerer"] | {"final_norm": params["answerer"]["final_norm"] * np.nan}}
    with pytest.raises(FloatingPointError, match=r"^\w+ is nan at step 1; lower optimizer.learning_rate and start again$"):
        train(CONFIG, broken, tasks, LANGUAGE, tmp_path, save_every=1)
    assert logged(tmp_path) == []
    assert checkpoint.saved_steps(tmp_path / "checkpoints") == []


def test_the_folder_of_another_run_is_refused(params, tasks, tmp_path):
    """Oracle: the sentence that names what differs; steps and mesh may, and the log stays as it was."""
    train(replace(CONFIG, steps=1), params, tasks, LANGUAGE, tmp_path)
    before = (tmp_path / "metrics.jsonl").read_text()
    other = replace(CONFIG, optimizer=OptimizerConfig(learning_rate=0.5, warmup_steps=0))
    with pytest.raises(ValueError, match=r"another configuration: optimizer.learning_rate was 0.003 and is 0.5; resume with that one"):
        train(other, params, tasks, LANGUAGE, tmp_path)
    with pytest.raises(ValueError, match="items 20, this run has 12"):
        train(replace(CONFIG, steps=2), params, tiny.at(tasks, slice(12)), LANGUAGE, tmp_path)
    assert (tmp_path / "metrics.jsonl").read_text() == before
