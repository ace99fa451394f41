"""One experiment from its configuration to the weights in its folder, in the smallest world there is."""

import jax
import numpy as np
import pytest
import tiny
from tiny import CONFIG, LANGUAGE, TOKENIZER, unoptimised  # noqa: F401

from mr1jax import checkpoint, experiment
from mr1jax.config import ProcessConfig, replace
from mr1jax.model.weights import load_params
from mr1jax.prepare import Start
from mr1jax.step import init_state


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Runs an experiment whose data and start are those of `tiny`, of 20 tasks each to train and to validate on."""
    rng = np.random.default_rng(0)
    tasks = tiny.answer_tasks([tiny.random_memories(rng) for _ in range(20)], [(tiny.random_question(rng), "tea") for _ in range(20)])
    monkeypatch.setattr(experiment, "read_splits", lambda *_: dict.fromkeys(("train", "validation", "test"), []))
    monkeypatch.setattr(experiment, "describe_data", lambda *_: {"data": "tiny", "splits": {}, "shared": {}})
    monkeypatch.setattr(experiment, "make_tasks", lambda *_: tasks)
    monkeypatch.setattr(experiment, "load_start", lambda config: Start(config, tiny.both(), TOKENIZER, LANGUAGE))
    return lambda config: experiment.run_experiment(config, ProcessConfig(), tmp_path)


def test_the_weights_of_a_run_are_those_of_its_best_step(run, tmp_path, monkeypatch, capsys):
    """Oracle: scores given by hand, of which the second is the best; without validation tasks the last step counts."""
    config, scores = replace(CONFIG, steps=3, save_every=1, validation_tasks=6), iter((0.25, 0.75, 0.5))
    monkeypatch.setattr("mr1jax.train.make_validation", lambda *_: lambda *_: next(scores))
    run(config)
    like = jax.eval_shape(lambda: init_state(config, tiny.both(), jax.random.key(0)))
    best, last = (checkpoint.restore(tmp_path / "checkpoints", like, step=step)[0].params["answerer"] for step in (2, 3))
    tiny.assert_equal(load_params(tmp_path / "answerer.safetensors"), jax.device_get(best))
    assert not np.array_equal(best["embedding"], last["embedding"])
    assert "its weights are of step 2, the best on validation tasks" in capsys.readouterr().out


def test_more_validation_tasks_than_there_are(run, tmp_path):
    """Oracle: the sentence; nothing is written."""
    with pytest.raises(ValueError, match="Config.validation_tasks is 21, and the validation split has 20; use at most that many"):
        run(replace(CONFIG, validation_tasks=21))
    assert list(tmp_path.iterdir()) == []
