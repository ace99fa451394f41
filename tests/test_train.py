"""The host loop: what it logs, what it saves, and that a run which stopped goes on as if it had not."""

import json
import signal
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from tiny import CONFIG, LANGUAGE, unoptimised  # noqa: F401

from mr1jax import checkpoint, update
from mr1jax.agents import answerer
from mr1jax.agents.rollout import answer
from mr1jax.config import GREEDY, OptimizerConfig, replace
from mr1jax.data.loader import make_loader
from mr1jax.run_log import RunLog
from mr1jax.status import Stopped
from mr1jax.step import init_state
from mr1jax.train import _Run, train
from reliability.processes import timeless

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
    config = replace(CONFIG, steps=2, save_every=1)
    first, records, _ = train(config, params, tasks, LANGUAGE, tmp_path)
    assert checkpoint.saved_steps(tmp_path / "checkpoints") == [1, 2]
    before = (tmp_path / "metrics.jsonl").read_text()
    again, same_records, num_compilations = train(config, params, tasks, LANGUAGE, tmp_path)
    tiny.assert_equal(jax.device_get(again), jax.device_get(first))
    assert same_records == records
    assert (tmp_path / "metrics.jsonl").read_text() == before
    assert num_compilations == 0


def test_weights_that_are_not_finite_are_refused(params, tasks, tmp_path):
    """Oracle: the sentence that names the planted leaf, of the agent that trains and of the one that does not; nothing is written."""
    for agent in ("answerer", "manager"):
        broken = params | {agent: params[agent] | {"final_norm": params[agent]["final_norm"].at[1].set(np.nan)}}
        with pytest.raises(ValueError, match=f"^1 of the weights to start from hold NaN or infinity, such as 0/{agent}/final_norm; start"):
            train(CONFIG, broken, tasks, LANGUAGE, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_folder_of_another_run_is_refused(params, tasks, tmp_path):
    """Oracle: the sentence that names what differs; steps and mesh may, and the log stays as it was."""
    train(replace(CONFIG, steps=1), params, tasks, LANGUAGE, tmp_path)
    before = (tmp_path / "metrics.jsonl").read_text()
    other = replace(CONFIG, optimizer=OptimizerConfig(learning_rate=0.5, warmup_steps=0))
    with pytest.raises(ValueError, match=r"another configuration: optimizer.learning_rate was 0.003 and is 0.5; resume with that one"):
        train(other, params, tasks, LANGUAGE, tmp_path)
    with pytest.raises(ValueError, match=r"of a run with data hash \w{16}, and this one's is \w{16}; resume with that one"):
        train(replace(CONFIG, steps=2), params, tiny.at(tasks, slice(12)), LANGUAGE, tmp_path)
    assert (tmp_path / "metrics.jsonl").read_text() == before


def test_a_run_that_is_told_to_stop_saves_and_goes_on_as_if_it_had_not(unbroken, params, tasks, tmp_path, monkeypatch):
    """Oracle: the unbroken run, bit for bit; the step in which the signal came, by counting; handlers put back."""
    before, advance = signal.getsignal(signal.SIGTERM), _Run.advance

    def interrupt(self):
        record = advance(self)
        if record["step"] == 3:
            signal.raise_signal(signal.SIGTERM)
        return record

    monkeypatch.setattr(_Run, "advance", interrupt)
    with pytest.raises(Stopped, match=r"told to stop, and saved after step 3 in .*; the same command goes on"):
        train(replace(CONFIG, steps=NUM_STEPS), params, tasks, LANGUAGE, tmp_path)
    monkeypatch.undo()
    assert signal.getsignal(signal.SIGTERM) is before
    assert checkpoint.saved_steps(tmp_path / "checkpoints") == [3]
    state, records, _ = train(replace(CONFIG, steps=NUM_STEPS), params, tasks, LANGUAGE, tmp_path)
    tiny.assert_equal(jax.device_get(state), jax.device_get(unbroken[0]))
    assert timeless(records) == timeless(logged(tmp_path)) == timeless(unbroken[1])


def test_a_row_of_skipped_steps_ends_the_run_and_can_be_seen_again(params, tasks, tmp_path, monkeypatch):
    """Oracle: the loader says which batch holds the task that was spoilt; the same command breaks down there again, with equal metrics."""
    config = replace(CONFIG, steps=9, save_every=1, optimizer=replace(CONFIG.optimizer, max_skipped=1))
    order = [next(loader) for loader in [make_loader(range(20), lambda i: np.int32(i), batch_size=8, seed=0)] for _ in range(2)]
    spoilt = next(int(task) for task in order[1] if task not in order[0])
    marked = replace(tasks, question=replace(tasks.question, answer_length=tasks.question.answer_length.copy()))
    marked.question.answer_length[spoilt] = 0
    whole = answerer.reward
    monkeypatch.setattr(answerer, "reward", lambda t, n, q, *a, **k: jnp.where(q.answer_length == 0, jnp.nan, whole(t, n, q, *a, **k)))
    sentence = r"no update was done in 1 steps in a row, from step 2 on: \w+ is nan; it is saved as it was before in .*; lower optimizer"
    seen = []
    for _ in range(2):
        with pytest.raises(FloatingPointError, match=sentence):
            train(config, params, marked, LANGUAGE, tmp_path)
        seen.append(timeless(logged(tmp_path)))
        assert checkpoint.saved_steps(tmp_path / "checkpoints") == [1]
    assert seen[0] == seen[1]
    assert [record["skipped"] for record in seen[0]] == [0, 1]
    assert seen[0][1]["reward"] is None


def test_what_is_saved_before_skipped_steps_is_the_run_as_it_was(params, tasks, tmp_path, monkeypatch):
    """Oracle: the checkpoint of a run of one step that nothing befell; it is written although no save was due there."""
    train(replace(CONFIG, steps=1), params, tasks, LANGUAGE, tmp_path / "calm")
    whole = _Run.advance
    monkeypatch.setattr(_Run, "advance", lambda self: whole(self) | {"skipped": float(self.place.step >= 1)})
    monkeypatch.setattr(update, "is_sound", lambda guard, loss, norm, sigmas: jnp.isfinite(loss))
    with pytest.raises(FloatingPointError, match=r"in 3 steps in a row, from step 2 on: loss .* is a spike of over 0.0 deviations"):
        train(replace(CONFIG, steps=9), params, tasks, LANGUAGE, tmp_path / "broken")
    like = init_state(CONFIG, params, jax.random.key(0))
    calm, broken = (checkpoint.restore(tmp_path / name / "checkpoints", like) for name in ("calm", "broken"))
    assert calm[2] == broken[2] == 1
    assert int(broken[0].step) == 1
    assert broken[1]["loader"] == calm[1]["loader"]


def test_the_best_step_by_validation_is_known(params, tasks, tmp_path):
    """Oracle: the evaluation's own greedy answers, scored one by one; the score of each save, and none between."""
    held_out = tiny.at(tasks, slice(11))  # more than a batch, and no multiple of one
    config = replace(CONFIG, steps=4, save_every=2)
    state, records, _ = train(config, params, tasks, LANGUAGE, tmp_path, validation=held_out)
    assert [checkpoint.VALIDATION in record for record in records] == [False, True, False, True]
    greedy = jax.jit(partial(answer, language=LANGUAGE, config=config, group_size=1, sampling=GREEDY))
    trajectory, _ = greedy(state.params["answerer"], held_out, jax.random.key(3))
    assert records[3][checkpoint.VALIDATION] == pytest.approx(float(jnp.mean(trajectory.reward)))
    scores = {record["step"]: record[checkpoint.VALIDATION] for record in records if checkpoint.VALIDATION in record}
    assert checkpoint.best_step(tmp_path / "checkpoints") == max(scores, key=lambda number: (scores[number], -number))


def test_a_log_that_lost_lines_is_warned_of(params, tasks, tmp_path, caplog):
    """Oracle: the lines that were taken away; a line that is no record is refused, and a log that is gone is not missed."""
    train(replace(CONFIG, steps=2), params, tasks, LANGUAGE, tmp_path)
    path = tmp_path / "metrics.jsonl"
    whole = path.read_bytes()
    for content, left in ((whole.splitlines(keepends=True)[0], 1), (b"", 0)):
        path.write_bytes(content)
        log = RunLog(tmp_path, len(whole), 2)
        log.close()
        assert len(log.records) == left
        assert f"has {left} records of the 2 steps so far" in caplog.text
    path.write_bytes(b"?" + whole)
    with pytest.raises(ValueError, match=r"metrics.jsonl, line 1, is no record of a step; put the file right, or remove it"):
        RunLog(tmp_path, len(whole), 2)
    assert path.read_bytes() == b"?" + whole


def test_the_same_seed_gives_the_same_bits_and_another_other_samples(unbroken, params, tasks):
    """Oracle: the unbroken run, which the same seed repeats; under another the rewards of the first step differ."""
    again, records, _ = train(replace(CONFIG, steps=NUM_STEPS), params, tasks, LANGUAGE)
    tiny.assert_equal(jax.device_get(again), jax.device_get(unbroken[0]))
    assert timeless(records) == timeless(unbroken[1])
    _, other, _ = train(replace(CONFIG, steps=1, seed=1), params, tasks, LANGUAGE)
    assert timeless(other) != timeless(records[:1])
