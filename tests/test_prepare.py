"""What a run starts from and trains on, with the files that ship, against the conversations themselves."""

import shutil

import jax
import ml_dtypes
import numpy as np
import pytest

from mr1jax import prepare
from mr1jax.agents.tasks import take
from mr1jax.config import AgentConfig, Config, LoraConfig, ModelConfig, replace
from mr1jax.data.memdial.world import conversations
from mr1jax.model.transformer import init_params
from mr1jax.model.weights import save_params
from mr1jax.text.tokenizer import SentencePieceTokenizer

RECORDS = list(conversations("train", 3, 4))


@pytest.fixture(scope="module")
def start():
    return prepare.load_start(Config())


def test_the_answer_agent_is_asked_of_banks_that_forgot_nothing(start):
    """Oracle: the records: all that was said, in order, and every question that holds at the end, each with its own gold answer."""
    tasks, text = prepare.make_tasks(RECORDS, start), start.tokenizer.decode
    asked = [(record, q) for record in RECORDS for q in record.questions if q.asked_after <= len(record.facts) < q.valid_until]
    assert len(tasks.question.length) == len(asked)
    for index, (record, question) in enumerate(asked):
        bank = take(tasks.bank, index)
        assert [text(row[:length].tolist()) for row, length in zip(bank.tokens, bank.length, strict=True)] == [f.text for f in record.facts]
        said = take(tasks.question, index)
        assert text(said.tokens[: said.length].tolist()) == question.question
        assert bytes(said.answer[: said.answer_length]).decode() == question.answer


def test_the_manager_meets_full_banks_and_others(start):
    """Oracle: the records: two banks in three in use to the last slot, facts that were said; as many questions as are asked for at most."""
    manager = replace(start.config, agent="manager")
    tasks = prepare.make_tasks(RECORDS, prepare.Start(manager, start.params, start.tokenizer, start.language))
    texts = {fact.text for record in RECORDS for fact in record.facts}
    assert np.mean(np.all(tasks.bank.occupied, axis=1)) == pytest.approx(2 / 3)
    assert tasks.asked.shape[1] == manager.questions_per_state
    assert np.all(tasks.asked.sum(axis=1) >= 1)
    for row, length in zip(tasks.fact.tokens, tasks.fact.length, strict=True):
        assert start.tokenizer.decode(row[:length].tolist()) in texts


def test_both_agents_are_adapters_on_the_tiny_model(tmp_path):
    """Oracle: the file that ships in place of the tiny model, rounded to bfloat16 by numpy; adapters that add nothing yet and differ."""
    shutil.copy(prepare.ASSETS / "tokenizer.model", tmp_path)
    model = ModelConfig(d_model=16, num_layers=1, num_heads=2, num_kv_heads=1, head_dim=8, d_ff=8)
    vocab_size = SentencePieceTokenizer(tmp_path / "tokenizer.model").vocab_size
    params = jax.device_get(init_params(replace(model, vocab_size=vocab_size), jax.random.key(0)))
    save_params(tmp_path / "warm_start.safetensors", params)
    config = Config(model=model, lora=LoraConfig(rank=2, targets=("up",), base_dtype="bfloat16"))
    start = prepare.load_start(config, tmp_path)
    expected = jax.tree.map(lambda x: x.astype(ml_dtypes.bfloat16), params)
    jax.tree.map(np.testing.assert_array_equal, start.params["base"], expected)
    mine, other = (start.params[agent]["layers"] for agent in ("manager", "answerer"))
    assert mine.keys() == {"up_lora_a", "up_lora_b"}
    assert not np.any(mine["up_lora_b"])
    assert not np.array_equal(mine["up_lora_a"], other["up_lora_a"])


def test_what_cannot_start_is_one_sentence(tmp_path, start):
    """Oracle: the sentence, with the file or the budget."""
    with pytest.raises(ValueError, match=r"^there are no weights at .*answerer.safetensors; train a run with agent answerer there$"):
        prepare.load_start(Config(answerer_from=str(tmp_path)))
    with pytest.raises(ValueError, match="set manager.response_length to at least"):
        prepare.load_start(Config(manager=AgentConfig(3, 128, 1)))
    short = replace(start.config, answerer=AgentConfig(3, 9, 48))
    with pytest.raises(ValueError, match="prompt budget of 9 tokens is smaller than .*; set answerer.prompt_length to at least"):
        prepare.make_tasks(RECORDS, prepare.Start(short, start.params, start.tokenizer, start.language))
