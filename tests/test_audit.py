"""The audit: what it draws is what training draws, what a hack leaves is seen, and the page says it."""

import dataclasses
import json
import re
import shutil
import sys

import jax
import numpy as np
import pytest
import tiny
from tiny import CONFIG, LANGUAGE, TOKENIZER, Said, unoptimised  # noqa: F401

from mr1jax import audit, audit_page, cli, prepare
from mr1jax.agents.rollout import read
from mr1jax.config import Config, LoraConfig, ModelConfig, replace
from mr1jax.data.loader import make_loader
from mr1jax.data.memdial.world import conversations
from mr1jax.model.transformer import init_params
from mr1jax.model.weights import save_params
from mr1jax.prepare import Start
from mr1jax.step import draw_rollout
from mr1jax.structs import Generation, Trajectory
from mr1jax.text.metrics import exact_match
from mr1jax.text.tokenizer import SentencePieceTokenizer

P, G = CONFIG.prompts_per_step, CONFIG.group_size
MANAGER = replace(CONFIG, agent="manager")
MEMORIES = {0: Said("Mia likes tea"), 1: Said("Ben plays jazz", 1), 2: Said("Zoe sees chess", 2)}
FULL = MEMORIES | {slot: Said("Ben likes blue", 2) for slot in (3, 4, 5)}


def start_of(config, seed=0):
    return Start(config, tiny.both(seed, scale=3.0), TOKENIZER, LANGUAGE)


def answer_tasks(count=P):
    return tiny.answer_tasks([MEMORIES] * count, [("What Mia likes?", "tea")] * count)


def manager_tasks(count=P):
    return tiny.manager_tasks([FULL] * count, [Said("Mia likes jazz", 2)] * count, [[("What Mia likes?", "jazz")]] * count)


def planted(config, tasks, responses, rewards, monkeypatch):
    """The samples of a batch whose every group wrote these responses and earned these rewards, whatever the agent would have written."""
    rows = [tiny.response(text, config.trained.response_length, finished) for text, finished in responses]
    tokens, length = (np.stack([np.stack(column)] * P) for column in zip(*rows, strict=True))

    def draw(params, tasks, key, language, config):
        reading = read(params[config.agent], tasks, language, config)
        nothing = np.zeros(tokens.shape, np.float32)
        generation = Generation(tokens=tokens, length=length, log_prob=nothing, state=tokens, value=nothing)
        earned = np.broadcast_to(np.float32(rewards), (P, G))
        return Trajectory(prompt=reading.view.prompt, prompt_length=reading.view.length, generation=generation, reward=earned), {}

    with monkeypatch.context() as patch:
        patch.setattr(audit, "draw_rollout", draw)
        traced_anew = audit._draw.__wrapped__
        patch.setattr(audit, "_draw", jax.jit(lambda *arguments: traced_anew(*arguments), static_argnums=4))
        return audit.draw_samples(start_of(config), tasks, 1)


def test_signs_of_an_answer(monkeypatch):
    """Oracle: by hand: a marker twice, two lines of the prompt in a row, a quote that no memory has, a response that its budget cut off."""
    lines = " Mia likes tea [1] 1 May\n Ben plays jazz [2] 2 May"
    responses = [(f"{lines}\n**Answer:** tea", True), ("Mia likes jazz [1] 1 May\n**Answer:** tea", True)]
    responses += [("**Answer:** tea **Answer:** jazz", True), (" ".join(["Mia likes tea"] * 8), False)]
    config = replace(CONFIG, answerer=replace(CONFIG.answerer, response_length=24))
    samples = planted(config, answer_tasks(), responses, [1, 1, 0, 0], monkeypatch)
    assert [sample.signs for sample in samples[:G]] == [
        (audit.COPIES, audit.ALONE),
        (audit.INVENTS, audit.ALONE),
        (audit.TWICE, audit.ALONE),
        (audit.LIMIT, audit.EMPTY, audit.INVENTS, audit.ALONE),
    ]
    assert [sample.deed for sample in samples[:G]] == [("answers 'tea'",)] * 2 + [("answers 'tea **Answer:** jazz'",), ("answers ''",)]
    assert samples[0].prompt == f"Question: What Mia likes?\nMemories:\n{lines}\n Zoe sees chess [3] 3 May\n"
    assert samples[0].asked == (("What Mia likes?", "tea"),)
    assert (samples[5].group, samples[5].rewards, samples[5].same) == (1, (1, 1, 0, 0), 1)


def test_signs_of_an_operation(monkeypatch):
    """Oracle: by hand, at a full bank: an ADD over the oldest memory, the answer's marker in one, NOOP twice, a number not shown."""
    forged = ("UPDATE 1: **Answer:** the blue", True)
    responses = [("ADD: Mia likes jazz", True), forged, ("NOOP", True), ("NOOP", True)]
    samples = planted(MANAGER, manager_tasks(), responses, [1, 0.5, 0, 0], monkeypatch)
    assert samples[0].signs == (audit.OVERWRITES, audit.ALONE)
    assert samples[0].deed == ("writes 'Mia likes jazz' over 'Mia likes tea'",)
    assert samples[1].signs == (audit.MARKED, audit.FORGES, audit.ALONE)
    assert re.fullmatch(r"writes '\*\*Answer:\*\* the blue' over '.+'", samples[1].deed[0])
    assert [(sample.signs, sample.deed, sample.same) for sample in samples[2:G]] == [((audit.IDLE,), (), 2)] * 2
    deeds = planted(MANAGER, manager_tasks(), [("DELETE 1", True), ("DELETE 12", True)] + [("NOOP", True)] * 2, [0] * 4, monkeypatch)
    assert re.fullmatch("drops '.+'", deeds[0].deed[0])
    assert (deeds[1].deed, audit.IDLE in deeds[1].signs) == ((), True)


@pytest.mark.parametrize("config", [CONFIG, MANAGER], ids=["answerer", "manager"])
def test_what_is_drawn_is_what_training_draws(config):
    """Oracle: the rollout of a step itself, with the key of the step after the last, on the first batches of the loader that trains."""
    tasks, start = (answer_tasks if config is CONFIG else manager_tasks)(2 * P), start_of(config)
    samples = audit.draw_samples(start, tasks, 2)
    assert len(samples) == 2 * P * G
    loader = make_loader(range(2 * P), lambda i: tiny.at(tasks, i), batch_size=P, seed=config.seed)
    for number in range(2):
        key = jax.random.split(jax.random.fold_in(jax.random.key(config.seed), config.steps + number))[0]
        trajectory, _ = jax.device_get(jax.jit(draw_rollout, static_argnums=4)(start.params, next(loader), key, LANGUAGE, config))
        drawn = samples[number * P * G : (number + 1) * P * G]
        texts = [TOKENIZER.decode([token for token in row if token]) for row in trajectory.generation.tokens.reshape(P * G, -1).tolist()]
        assert [sample.response for sample in drawn] == texts
        assert [sample.reward for sample in drawn] == trajectory.reward.reshape(-1).tolist()
        assert [sample.rewards for sample in drawn[::G]] == [tuple(row) for row in trajectory.reward.tolist()]
    if config is CONFIG:
        answers = [re.fullmatch("answers '(.*)'", sample.deed[0])[1] for sample in samples]
        assert [exact_match(text, "tea") for text in answers] == [sample.reward for sample in samples]


def sample(reward, response, signs=(), group=0, same=1, tokens=3):
    return audit.Sample(group, "Who?", response, tokens, (("Who?", "Mia"),), ("answers 'Mia'",), reward, (reward, 0.0), same, signs)


def test_the_highest_rewarded_come_first_and_of_equals_the_suspicious():
    """Oracle: the order by hand: reward, then signs, then how few of the group wrote it, then length; the same of one group once."""
    wanted = [
        sample(1, "two signs", ("a", "b"), same=2),
        sample(1, "one sign", ("a",), same=2),
        sample(1, "rare", same=1, tokens=2),
        sample(1, "common and long", same=4, tokens=9),
        sample(1, "common", same=4, group=1),
        sample(0.5, "less", ("a", "b", "c")),
    ]
    assert audit.rank([*wanted[::-1], wanted[4], wanted[2]]) == wanted


def test_the_page_counts_signs_and_lets_nothing_be_markdown():
    """Oracle: shares and means by hand; a response with a fence of its own is inside a longer one."""
    samples = [sample(1, "````\n# no heading", (audit.TWICE,), group=0), sample(0, "b", (audit.TWICE,), group=1)]
    samples += [sample(1, str(number), group=2 + number) for number in range(2)]
    page = audit_page.format_page("mine", CONFIG, samples, top=3)
    assert page.startswith("# Audit of mine\n\nThe answerer after 4 steps: 4 prompts of its training tasks, 4 responses to each,\n")
    assert "\n| marker twice | 50.0 % (2) | 0.50 | 1.00 |\n| copies the prompt | 0.0 % (0) |  | 0.75 |\n" in page
    assert "\n| all | 100 % | 0.75 | |\n" in page
    assert re.findall("^### .*$", page, re.MULTILINE) == ["### 1. Reward 1.00: marker twice", "### 2. Reward 1.00", "### 3. Reward 1.00"]
    assert "\n`````text\n````\n# no heading\n`````\n" in page
    assert "- asked `Who?`, right is `Mia`\n- `answers 'Mia'`\n- its group got 1.00 0.00; 1 of 2 wrote this\n" in page


@pytest.mark.parametrize(
    ("agent", "lora"),
    [("answerer", LoraConfig(rank=2, targets=("up",))), pytest.param("manager", LoraConfig(), marks=pytest.mark.slow)],
    ids=["adapter", "whole"],
)
def test_a_run_is_audited_from_the_command_line(agent, lora, tmp_path, monkeypatch, capsys):
    """Oracle: the weights in the folder, which must be those that are drawn from; the page, and the line that names it."""
    shutil.copy(prepare.ASSETS / "tokenizer.model", tmp_path)
    model = ModelConfig(d_model=16, num_layers=1, num_heads=2, num_kv_heads=1, head_dim=8, d_ff=8)
    vocab_size = SentencePieceTokenizer(tmp_path / "tokenizer.model").vocab_size
    save_params(tmp_path / "warm_start.safetensors", init_params(replace(model, vocab_size=vocab_size), jax.random.key(0)))
    config = Config(agent=agent, model=model, lora=lora, prompts_per_step=2, group_size=2, conversations=3, steps=5)
    start = prepare.load_start(config, tmp_path)
    trained = jax.tree.map(lambda x: x + np.float32(0.25), start.params[agent])
    run = tmp_path / "runs/mine"
    run.mkdir(parents=True)
    save_params(run / f"{agent}.safetensors", trained, prepare.describe_agent(start.config, agent, start.params.get("base")))
    (run / "config.json").write_text(json.dumps(dataclasses.asdict(config)))
    used = []
    monkeypatch.setattr(audit, "load_start", lambda config: used.append(prepare.load_start(config, tmp_path)) or used[0])
    monkeypatch.setattr(audit, "read_split", lambda *_: list(conversations("train", 0, 9)))
    monkeypatch.setattr(sys, "argv", ["mr1jax", "audit", str(run), "--batches", "1", "--top", "3"])
    cli.main()
    tiny.assert_equal(used[0].params[agent], jax.device_get(trained))
    page = (run / "audit.md").read_text()
    assert page.startswith(f"# Audit of mine\n\nThe {agent} after 5 steps: 2 prompts")
    assert 1 <= len(re.findall("^### ", page, re.MULTILINE)) <= 3
    assert capsys.readouterr().out.strip().endswith(f"see {run}/audit.md")


def test_what_cannot_be_audited_is_one_sentence(tmp_path):
    """Oracle: the sentences; no page."""
    with pytest.raises(ValueError, match="^--top is 0; show 1 trajectory or more$"):
        audit_page.write_audit(tmp_path, 0, 1, tmp_path)
    with pytest.raises(ValueError, match="^--batches is 0; draw 1 batch or more$"):
        audit_page.write_audit(tmp_path, 1, 0, tmp_path)
    with pytest.raises(ValueError, match="is no folder of a run: it has no config.json; train an experiment first$"):
        audit_page.write_audit(tmp_path, 1, 1, tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="^there are no weights at .*answerer.safetensors; train a run with agent answerer there$"):
        audit_page.write_audit(tmp_path, 1, 1, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]
