"""Memory-SFT: what it imitates, and what it does not train twice."""

import dataclasses
import itertools

import jax
import numpy as np
import pytest

from mr1jax.baselines import memory_sft
from mr1jax.config import Config, LoraConfig, ModelConfig, replace
from mr1jax.data.memdial.world import NO_ANSWER
from mr1jax.lesson_arrays import OPENINGS
from mr1jax.model.transformer import init_params
from mr1jax.model.weights import load_metadata, load_params, save_params
from mr1jax.prepare import ASSETS, Start
from mr1jax.text.tokenizer import SentencePieceTokenizer
from mr1jax.warm_start import Phase, Stage, batches_by_size, imitation_loss

SMALL = ModelConfig(d_model=16, num_layers=1, num_heads=2, num_kv_heads=1, head_dim=8, d_ff=16, remat=False)
STEPS = 3
PHASES = {agent: Phase((Stage(STEPS, 3, 1),), 0.0, 2.0, 0.01, 0.01) for agent in ("manager", "answerer")}


@pytest.fixture(scope="module")
def tokenizer():
    return SentencePieceTokenizer(ASSETS / "tokenizer.model")


@pytest.fixture(scope="module")
def start(tokenizer):
    config = Config(model=replace(SMALL, vocab_size=tokenizer.vocab_size))
    one = jax.device_get(jax.jit(init_params, static_argnums=0)(config.model, jax.random.key(0)))
    return Start(config, {"manager": one, "answerer": one}, tokenizer, None)


@pytest.fixture
def trained(monkeypatch):
    """Adds one to every number in place of training. Returns the agents that were trained, each with its number of batches."""
    log = []

    def imitate(phase, batches, params, model, tokenizer, path, about, description):
        shapes = [batch.prompt.shape for batch in itertools.islice(batches, phase.steps)]
        log.append((about["agent"], len(shapes)))
        after = jax.tree.map(lambda x: x + 1, params)
        save_params(path, after, about | {"steps": str(phase.steps)})
        return after

    monkeypatch.setattr(memory_sft, "imitate", imitate)
    return log


def test_what_is_finished_is_read_and_not_trained_again(trained, start, tmp_path):
    """Oracle: a log of what is trained, by hand: both at first, none again, and only the one whose file is gone or is of fewer steps."""
    first = memory_sft.train_memory_sft(start, tmp_path, PHASES)
    assert trained == [("manager", STEPS), ("answerer", STEPS)]
    again = memory_sft.train_memory_sft(start, tmp_path, PHASES)
    assert len(trained) == 2
    jax.tree.map(np.testing.assert_array_equal, first, again)
    jax.tree.map(lambda before, after: np.testing.assert_array_equal(before + 1, after), start.params, again)
    (tmp_path / "answerer.safetensors").unlink()
    memory_sft.train_memory_sft(start, tmp_path, PHASES)
    assert trained[2:] == [("answerer", STEPS)]
    longer = PHASES | {"manager": replace(PHASES["manager"], stages=(Stage(STEPS + 1, 3, 1),))}
    memory_sft.train_memory_sft(start, tmp_path, longer)
    assert trained[3:] == [("manager", STEPS + 1)]
    other = dataclasses.replace(start, params={agent: jax.tree.map(lambda x: x * 2, tree) for agent, tree in start.params.items()})
    memory_sft.train_memory_sft(other, tmp_path, longer)
    assert trained[4:] == [("manager", STEPS + 1), ("answerer", STEPS)]


def test_an_unfinished_file_is_trained_again(trained, start, tmp_path):
    """Oracle: the log: a file that was saved on the way has fewer steps in its metadata."""
    memory_sft.train_memory_sft(start, tmp_path, PHASES)
    path = tmp_path / "manager.safetensors"
    save_params(path, load_params(path), load_metadata(path) | {"steps": "1"})
    memory_sft.train_memory_sft(start, tmp_path, PHASES)
    assert trained[2:] == [("manager", STEPS)]


@pytest.mark.slow
def test_training_imitates_what_it_is_given(start, tmp_path):
    """Oracle: the loss of the first lessons before and after, by `imitation_loss`: a few real steps of a small model lower it."""
    few = {agent: replace(phase, stages=(Stage(61, 3, 1),)) for agent, phase in PHASES.items()}  # one more than the warm-up has
    trained = memory_sft.train_memory_sft(start, tmp_path, few)
    openings = tuple(start.tokenizer.encode_exactly(opening)[0] for opening in OPENINGS)
    loss = jax.jit(imitation_loss, static_argnums=(2, 3, 4))
    for agent, room in (("manager", start.config.manager), ("answerer", start.config.answerer)):
        size = room.prompt_length, room.response_length
        batch = next(batches_by_size(memory_sft.oracle_lessons(agent, start.tokenizer, start.config), [size]))
        assert (batch.prompt.shape[1], batch.response.shape[1]) == size
        before, after = (float(loss(tree[agent], batch, start.config.model, openings, 2.0)[0]) for tree in (start.params, trained))
        assert after < before - 0.5


def test_lessons_are_of_the_agent_alone(tokenizer, start):
    """Oracle: the first token of every reply and its odds: a decision is certain and of one of four kinds, an answer has none."""
    kinds = {tokenizer.encode_exactly(opening)[0]: place for place, opening in enumerate(("ADD:", "UPDATE", "DELETE", "NOOP"))}
    seen = set()
    for batch in itertools.islice(memory_sft.oracle_lessons("manager", tokenizer, start.config), 200):
        place = kinds[int(batch.response[0, 0])]
        assert batch.odds.tolist() == [[float(place == other) for other in range(4)]]
        seen.add(place)
    assert seen == {0, 1, 2, 3}
    silent = 0
    for batch in itertools.islice(memory_sft.oracle_lessons("answerer", tokenizer, start.config), 40):
        assert not batch.odds.any()
        texts = [tokenizer.decode(row[:length]) for row, length in zip(batch.response.tolist(), batch.response_length, strict=True)]
        assert all("**Answer:** " in text for text in texts)
        silent += sum(text.endswith(f"**Answer:** {NO_ANSWER}") for text in texts)
    assert 0 < silent < 80


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"backbone": "qwen"}, "^Memory-SFT writes lessons for the tiny model, and the start is qwen; leave backbone empty$"),
        ({"lora": LoraConfig(rank=4)}, "^Memory-SFT trains all parameters, and lora.rank is 4; set it to 0$"),
    ],
)
def test_what_it_cannot_train_is_one_sentence(start, tmp_path, change, sentence):
    """Oracle: the sentence; nothing is written."""
    with pytest.raises(ValueError, match=sentence):
        memory_sft.train_memory_sft(dataclasses.replace(start, config=replace(start.config, **change)), tmp_path / "new", PHASES)
    assert not (tmp_path / "new").exists()
