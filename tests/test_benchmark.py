"""Which banks meet which reader in a comparison, and which runs the trained agents come from."""

import chat_data
import jax
import numpy as np
import pytest

from mr1jax import benchmark, evaluate, report
from mr1jax.config import Config, replace
from mr1jax.data.longmemeval.reader import to_record
from mr1jax.model.weights import save_params
from mr1jax.prepare import load_start

WARM = {"manager": "warm manager", "answerer": "warm answerer"}


@pytest.fixture(scope="module")
def start():
    return load_start(Config())


@pytest.fixture
def pairings(monkeypatch, start):
    """{row: (who built the banks, who reads them)} for the agents that were trained; nothing is computed."""
    monkeypatch.setattr(evaluate, "build_banks", lambda params, *_: f"banks of the {params}")
    monkeypatch.setattr(evaluate, "empty_banks", lambda *_: "no banks")
    monkeypatch.setattr(evaluate, "append_only_banks", lambda *_: "all facts")
    monkeypatch.setattr(evaluate, "evaluate", lambda reader, memories, *_, seed: (memories, reader, seed))
    warm = benchmark.Start(start.config, WARM, start.tokenizer, start.language)
    return lambda trained: benchmark.compare(warm, trained, "conversations", 3)


BASE = {
    "no_memory": ("no banks", "warm answerer", 3),
    "append_only": ("all facts", "warm answerer", 3),
    "warm_start": ("banks of the warm manager", "warm answerer", 3),
}
READS = {"rl_answer": ("banks of the warm manager", "rl answerer", 3)}
KEEPS = {"rl_manager": ("banks of the rl manager", "warm answerer", 3)}
BOTH = {"rl_both": ("banks of the rl manager", "rl answerer", 3)}


@pytest.mark.parametrize(
    ("trained", "rows"),
    [
        ({"answerer": "rl answerer"}, BASE | READS),
        ({"manager": "rl manager"}, BASE | KEEPS),
        ({"answerer": "rl answerer", "manager": "rl manager"}, BASE | READS | KEEPS | BOTH),
    ],
    ids=["answerer", "manager", "both"],
)
def test_every_pairing_once_and_the_most_trained_last(pairings, trained, rows):
    """Oracle: the pairs written out by hand, in their order."""
    got = pairings(trained)
    assert list(got.items()) == list(rows.items())
    assert report.most_trained(got) == list(rows)[-1]


def test_trained_agents_come_from_the_run_and_its_partner(tmp_path, start):
    """Oracle: what was saved. The agent of the run itself goes before one of that kind in the partner's folder."""
    mine, other = (jax.tree.map(lambda x, shift=shift: np.asarray(x) + shift, start.params["manager"]) for shift in (1, 2))
    run, partner = tmp_path / "grpo_answer", tmp_path / "grpo_manager"
    for folder, agent, params in [(run, "answerer", mine), (partner, "answerer", other), (partner, "manager", other)]:
        folder.mkdir(exist_ok=True)
        save_params(folder / f"{agent}.safetensors", params, {"agent": agent})
    alone = benchmark.load_trained(start, [run, tmp_path / "absent"])
    assert list(alone) == ["answerer"]
    jax.tree.map(np.testing.assert_array_equal, alone["answerer"], mine)
    pair = benchmark.load_trained(start, [run, partner])
    jax.tree.map(np.testing.assert_array_equal, pair, {"manager": other, "answerer": mine})


def test_a_backbone_keeps_its_budgets_on_locomo():
    """Oracle: by hand: 30 + 30 memories for both; lengths of prompt and response are the run's where its tokenizer is."""
    answerer = replace(Config().answerer, prompt_length=900, response_length=50)
    tiny, own = (benchmark.for_locomo(Config(backbone=backbone, answerer=answerer)) for backbone in ("", "folder"))
    assert (tiny.answerer.prompt_length, own.answerer.prompt_length) == (112, 900)
    assert tiny.answerer.num_shown == own.answerer.num_shown == 60
    assert own.answerer.response_length == 50
    assert tiny.bank == own.bank


def test_a_run_that_trained_nothing_is_one_sentence(tmp_path):
    """Oracle: the sentence."""
    with pytest.raises(ValueError, match=r"^there is no trained answerer at .*; run: make train EXP=grpo_answer$"):
        benchmark.run_benchmark(Config(), tmp_path / "grpo_answer", tmp_path / "grpo_manager", "memdial", tmp_path, 0)


def test_chats_get_a_slot_a_fact_and_room_for_their_questions(start):
    """Oracle: counts of the hand-made file; the tiny model's prompt grows by the longest question, a backbone's is the run's."""
    records = [to_record(entry) for entry in chat_data.ORACLE]
    base = benchmark.for_locomo(Config())
    tiny = benchmark.for_chats(base, records, start.tokenizer)
    longest = max(len(start.tokenizer.encode(record.questions[0].question)) for record in records)
    assert tiny.bank == replace(base.bank, num_slots=3)
    assert tiny.answerer == replace(base.answerer, prompt_length=112 + longest)
    assert tiny.manager == base.manager
    own = benchmark.for_chats(replace(base, backbone="folder"), records, start.tokenizer)
    assert (own.answerer, own.bank) == (base.answerer, tiny.bank)
