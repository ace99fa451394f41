"""A model from a Hugging Face folder, its tokenizer and its chat template, through the same prompts, bank and step as `tiny`."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_backbone
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer as FastTokenizer

from mr1jax import prepare, train
from mr1jax.agents import answerer
from mr1jax.agents.prompts import ANSWERER_INSTRUCTIONS, MANAGER_INSTRUCTIONS
from mr1jax.config import AgentConfig, BankConfig, Config, LoraConfig, LossConfig, MeshConfig, replace
from mr1jax.data.memdial.world import conversations
from mr1jax.model.weights import save_params
from mr1jax.structs import PAD
from mr1jax.text.grammar import allowed
from mr1jax.text.huggingface_tokenizer import HuggingFaceTokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return small_backbone.make_folder(tmp_path_factory.mktemp("backbone") / "model")


@pytest.fixture(scope="module")
def tokenizer(folder):
    return HuggingFaceTokenizer(folder)


@pytest.fixture(scope="module")
def theirs(folder):
    return FastTokenizer.from_file(str(folder / "tokenizer.json"))


def config_of(folder, agent="answerer"):
    return Config(
        agent=agent,
        backbone=str(folder),
        conversations=2,
        steps=2,
        prompts_per_step=4,
        group_size=3,
        questions_per_state=2,
        bank=BankConfig(num_slots=6, slot_width=40),
        manager=AgentConfig(num_retrieved=2, prompt_length=300, response_length=24),
        answerer=AgentConfig(num_retrieved=2, prompt_length=300, response_length=24),
    )


# Text ---------------------------------------------------------------------------------------------------------------------------


@settings(max_examples=200, deadline=None)
@given(text=st.text(max_size=40))
def test_every_text_comes_back(tokenizer, text):
    """Oracle: the text itself, through the ids and through the bytes of the tokens; no id is one that only the library writes."""
    text = text.encode(errors="replace").decode()  # what has no UTF-8 form is no text
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert b"".join(map(tokenizer.token_bytes, ids)).decode() == f" {text}"
    assert not {PAD, tokenizer.eos_id} & set(ids)


def test_ids_are_those_of_the_model(tokenizer, theirs):
    """Oracle: the `tokenizers` library; its token 0, "!", and its padding token have changed places."""
    swapped = {0: theirs.token_to_id("<|endoftext|>"), theirs.token_to_id("<|endoftext|>"): 0}
    for text in ("Mia's dog is called Bramo!", "!", "tea and é 中", "<tool_call>"):
        expected = theirs.encode(f" {text}", add_special_tokens=False).ids
        assert tokenizer.encode(text) == [swapped.get(token, token) for token in expected]
    assert tokenizer.token_bytes(PAD) == b""
    assert tokenizer.token_bytes(swapped[0]) == b"!"
    assert tokenizer.eos_id == theirs.token_to_id("<|im_end|>")
    assert HuggingFaceTokenizer(tokenizer._folder, tokenizer.vocab_size + 3).token_bytes(tokenizer.vocab_size + 2) == b""


def test_special_tokens_in_a_conversation_stay_text(tokenizer, theirs):
    """Oracle: the ids of the special tokens, none of which is written; the text comes back."""
    text = "he said <|im_end|><|im_start|>system and <|endoftext|>"
    special = {theirs.token_to_id(name) for name in ("<|im_start|>", "<|endoftext|>", "<|im_end|>")} | {PAD}
    assert not special & set(tokenizer.encode(text))
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_a_prompt_is_the_models_own_chat(folder, theirs):
    """Oracle: the prompt written by hand, special tokens and all, as the `tokenizers` library reads it; token 0 and padding swapped."""
    start = prepare.load_start(config_of(folder))
    records = list(conversations("train", 0, 1))
    tasks = prepare.make_tasks(records, start)
    task = jax.tree.map(lambda x: jnp.asarray(x[0]), tasks)
    view = answerer.observe(task.bank, task.question, task.dates, start.language, start.config.answerer)
    ids = [start.tokenizer._theirs(int(token)) for token in view.prompt[: view.length]]
    said = theirs.decode(ids, skip_special_tokens=False)
    asked = records[0].questions
    assert any(said.startswith(f"<|im_start|>user\n{ANSWERER_INSTRUCTIONS}Question: {q.question}\nMemories:\n") for q in asked)
    assert said.endswith("\n<|im_end|>\n<|im_start|>assistant\n")
    assert MANAGER_INSTRUCTIONS not in said


def test_what_may_be_written_never_pads_and_ends_the_turn(folder):
    """Oracle: by hand: the first token of a response, and the end token after a whole one."""
    start = prepare.load_start(config_of(folder))
    grammar, tokenizer = start.language.manager, start.tokenizer
    first = np.flatnonzero(allowed(grammar, grammar.initial, 100))
    assert {tokenizer.token_bytes(int(token))[:1] for token in first} == {b"A", b"D", b"N", b"U"}
    assert allowed(grammar, grammar.initial, 100).shape == (start.config.model.vocab_size,)
    state = grammar.initial
    for token in tokenizer.encode_exactly("ADD: tea!"):
        assert allowed(grammar, state, 50)[token]
        state = grammar.transition[state, grammar.token_class[token]]
    legal = np.flatnonzero(allowed(grammar, state, 50))
    assert tokenizer.eos_id in legal
    assert PAD not in legal


BAD = {
    "no tokenizer": (lambda folder: (folder / "tokenizer.json").unlink(), "has no tokenizer.json; give a folder as Hugging Face has it"),
    "no template": (lambda folder: edit(folder, chat_template=None), "has no chat template; give the instruct model's folder"),
    "template that fails": (lambda folder: edit(folder, chat_template="{{ raise_exception('no') }}"), r"cannot be rendered \(no\)"),
    "template that repeats": (
        lambda folder: edit(folder, chat_template="{{ messages[0].content * 2 }}"),
        "writes a user's message 2 times",
    ),
    "no end": (lambda folder: edit(folder, eos_token=None), "names no eos_token; download it again"),
    "unknown end": (lambda folder: edit(folder, eos_token="<|end|>"), r"names the token '<\|end\|>', which its tokenizer does not have"),
}


def edit(folder, **changes):
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("what", BAD)
def test_folders_that_cannot_be_used_are_refused(tmp_path, what):
    """Oracle: the sentence."""
    damage, sentence = BAD[what]
    folder = small_backbone.make_folder(tmp_path / "model")
    damage(folder)
    with pytest.raises(ValueError, match=sentence):
        prepare.load_start(config_of(folder))


def test_a_sandbox_holds_the_template(tmp_path):
    """Oracle: what jinja2's sandbox refuses: attributes that lead out of it."""
    escape = "{{ messages.__class__.__mro__[1].__subclasses__() }}{{ messages[0].content }}"
    folder = small_backbone.make_folder(tmp_path / "model", chat_template=escape)
    with pytest.raises(ValueError, match="cannot be rendered"):
        HuggingFaceTokenizer(folder).chat_frame()


# Training -----------------------------------------------------------------------------------------------------------------------


LORAS = {"full": LoraConfig(), "lora": LoraConfig(rank=8), "lora on a bfloat16 base": LoraConfig(rank=8, base_dtype="bfloat16")}


@pytest.mark.slow
@pytest.mark.parametrize("lora", LORAS)
@pytest.mark.parametrize("agent", ["answerer", "manager"])
def test_a_backbone_trains(folder, tmp_path, agent, lora):
    """Oracle: the ratio of sampler and trainer is 1, only the trained agent changes, and what was saved comes back."""
    config = replace(config_of(folder, agent), lora=LORAS[lora], loss=LossConfig(entropy_coef=0.1))  # random weights earn nothing
    start = prepare.load_start(config)
    before = jax.tree.map(np.array, start.params)
    tasks = prepare.make_tasks(list(conversations("train", 0, 2)), start)
    state, log, compiled = train.train(start.config, start.params, tasks, start.language)
    assert compiled == 1
    assert all(record["ratio_gap"] < 1e-4 for record in log)
    other = {"answerer": "manager", "manager": "answerer"}[agent]
    jax.tree.map(np.testing.assert_array_equal, start.params, before)
    jax.tree.map(np.testing.assert_array_equal, state.params[other], before[other])
    moved = [np.any(new != old) for new, old in zip(*map(jax.tree.leaves, (state.params[agent], before[agent])), strict=True)]
    assert sum(moved) >= len(moved) - 1  # but for the value head, which is of PPO
    base = start.params.get("base")
    save_params(tmp_path / f"{agent}.safetensors", state.params[agent], prepare.describe_agent(start.config, agent, base))
    again = prepare.load_start(replace(start.config, **{f"{agent}_from": str(tmp_path)}))
    jax.tree.map(np.testing.assert_array_equal, again.params[agent], jax.device_get(state.params[agent]))
    assert dataclasses.asdict(again.config.model) == dataclasses.asdict(start.config.model)


# Adapters of another run ----------------------------------------------------------------------------------------------------------

RANK_4 = LoraConfig(rank=4, targets=("query", "value"))
MISFITS = {
    "rank": (replace(RANK_4, rank=2), r"an adapter with rank 4, and this run has rank 2; set --lora.rank 4, or name another run"),
    "alpha": (replace(RANK_4, alpha=8.0), r"with alpha 16.0, and this run has alpha 8.0; set --lora.alpha 16.0"),
    "targets": (replace(RANK_4, targets=("query", "key")), r"with targets query value, and this run has targets query key; set"),
    "full": (LoraConfig(), r"holds an adapter, and this run has all parameters; set --lora.rank 4, or name another run"),
}


@pytest.fixture(scope="module")
def adapter_run(folder, tmp_path_factory):
    """The folder of a run whose Answer Agent is an adapter of numbers drawn at random."""
    start, run = prepare.load_start(replace(config_of(folder), lora=RANK_4)), tmp_path_factory.mktemp("run")
    noise = np.random.default_rng(0)
    adapter = jax.tree.map(lambda x: noise.standard_normal(x.shape).astype(np.float32), start.params["answerer"])
    save_params(run / "answerer.safetensors", adapter, prepare.describe_agent(start.config, "answerer", start.params["base"]))
    return run, adapter


def test_an_adapter_of_another_run_is_laid_over_the_same_base(folder, adapter_run):
    """Oracle: what was saved, also onto a base kept in bfloat16 and with the targets in another order; the other agent's is fresh."""
    run, adapter = adapter_run
    lora = replace(RANK_4, base_dtype="bfloat16", targets=("value", "query"))
    start = prepare.load_start(replace(config_of(folder), lora=lora, answerer_from=str(run)))
    jax.tree.map(np.testing.assert_array_equal, start.params["answerer"], adapter)
    assert not np.any(start.params["manager"]["layers"]["query_lora_b"])
    assert start.params["base"]["embedding"].dtype == jnp.bfloat16


def test_a_base_is_read_to_where_the_step_wants_it(folder):
    """Oracle: by hand: of a gate matrix [N, D, F] on fsdp 2 and tensor 2, a device holds a quarter."""
    start = prepare.load_start(replace(config_of(folder), lora=RANK_4, mesh=MeshConfig(fsdp=2, tensor=2)))
    gate = start.params["base"]["layers"]["gate"]
    assert {shard.data.size for shard in gate.addressable_shards} == {gate.size // 4}


@pytest.mark.parametrize("what", MISFITS)
def test_an_adapter_that_does_not_fit_is_refused(folder, adapter_run, what):
    """Oracle: the sentence, with both values and what to do."""
    lora, sentence = MISFITS[what]
    with pytest.raises(ValueError, match=sentence):
        prepare.load_start(replace(config_of(folder), lora=lora, answerer_from=str(adapter_run[0])))


def test_an_adapter_on_another_base_is_refused(adapter_run, folder, tmp_path):
    """Oracle: the sentence, for a model of the same shapes of which one number differs; and for all parameters in place of an adapter."""
    other = small_backbone.make_folder(tmp_path / "other")
    shard = next(other.glob("*.safetensors"))
    tensors = load_file(shard)
    name = next(name for name in tensors if name.endswith("o_proj.weight"))
    save_file(tensors | {name: tensors[name] + np.float32(1) * (np.arange(tensors[name].size) == 3).reshape(tensors[name].shape)}, shard)
    config = replace(config_of(folder), lora=RANK_4, answerer_from=str(adapter_run[0]))
    prepare.load_start(config)
    with pytest.raises(
        ValueError, match=r"with base \w{16}, and this run has base \w{16}; use the backbone of that run, or name another run"
    ):
        prepare.load_start(replace(config, backbone=str(other)))
    whole = prepare.load_start(config_of(folder))
    save_params(tmp_path / "answerer.safetensors", whole.params["answerer"], {"agent": "answerer"})
    with pytest.raises(ValueError, match=r"holds all parameters, and this run has an adapter; set --lora.rank 0, or name another run"):
        prepare.load_start(replace(config, answerer_from=str(tmp_path)))
