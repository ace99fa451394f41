"""Dense retrieval from a folder with an encoder to the lines of a prompt, in evaluation and in what the Answer Agent trains on."""

import dataclasses

import jax
import numpy as np
import pytest
import small_encoder
from test_evaluate import ASKED, RECORDS
from tiny import unoptimised  # noqa: F401

from mr1jax import evaluate, prepare
from mr1jax.agents import answerer
from mr1jax.agents.prompts import DATE_MARK, MARKERS, make_language
from mr1jax.config import AgentConfig, BankConfig, Config, ModelConfig, replace
from mr1jax.embeddings import embed_banks, embed_questions, load_encoder
from mr1jax.model.transformer import init_params
from mr1jax.text.tokenizer import train_sentencepiece

TEXTS = [fact.text for record in RECORDS for fact in record.facts] + [q.question for record in RECORDS for q in record.questions]
WORDS = sorted({word for text in TEXTS for word in text.split()})


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """A run's start with dense retrieval, every fact kept and two of them shown."""
    folder = tmp_path_factory.mktemp("dense")
    tokenizer = train_sentencepiece(TEXTS * 3, folder / "tokenizer.model", 340, MARKERS)
    model = ModelConfig(
        vocab_size=tokenizer.vocab_size, d_model=16, num_layers=1, num_heads=2, num_kv_heads=1, head_dim=8, d_ff=16, remat=False
    )
    agent = AgentConfig(num_retrieved=2, prompt_length=96, response_length=20)
    config = Config(
        model=model,
        encoder=str(small_encoder.make_folder(folder / "encoder", WORDS)),
        bank=BankConfig(num_slots=5, slot_width=16, num_terms=8),
        manager=agent,
        answerer=replace(agent, retrieval="dense"),
    )
    params = init_params(model, jax.random.key(0))
    return prepare.Start(config, {"manager": params, "answerer": params}, tokenizer, make_language(tokenizer, 2))


def nearest(record, question, start):
    """The two facts whose vectors have the largest product with the question's, as they were said."""
    encoder = load_encoder(start.config.encoder)
    product = encoder.embed([fact.text for fact in record.facts]) @ encoder.embed([question.question])[0]
    return [record.facts[index] for index in sorted(np.argsort(-product)[:2])]


def test_the_nearest_memories_are_shown(start):
    """Oracle: `sorted` over numpy's products of texts embedded apart from any bank; they are not what shared words would find."""
    conversations = prepare.encode(RECORDS, start)
    memories = evaluate.append_only_banks(conversations, start.language, start.config)
    rows = evaluate.answer_questions(start.params["answerer"], memories.banks, conversations, start.language, start.config)
    assert [(row.conversation, row.number) for row in rows] == ASKED
    for row, (record, number) in zip(rows, ASKED, strict=True):
        expected = nearest(RECORDS[record], RECORDS[record].questions[number], start)
        assert row.memories == tuple(f"{fact.text} {DATE_MARK} {fact.date}" for fact in expected)
    lexical = dataclasses.replace(start, config=replace(start.config, answerer=replace(start.config.answerer, retrieval="lexical")))
    by_words = evaluate.answer_questions(
        start.params["answerer"], memories.banks, prepare.encode(RECORDS, lexical), start.language, lexical.config
    )
    assert [row.memories for row in by_words] != [row.memories for row in rows]


def test_training_sees_the_same_vectors(start):
    """Oracle: the encoder on the text of each slot and question, one at a time; an empty slot has none. And the prompts."""
    tasks = prepare.make_tasks(RECORDS, start)
    encoder, decode = load_encoder(start.config.encoder), start.tokenizer.decode
    for index in range(len(ASKED)):
        task = jax.tree.map(lambda x, index=index: np.asarray(x[index]), tasks)
        said = [decode(row[:length].tolist()) for row, length in zip(task.bank.tokens, task.bank.length, strict=True)]
        for slot in range(len(said)):
            expected = encoder.embed([said[slot]])[0] if task.bank.occupied[slot] else 0.0
            np.testing.assert_allclose(task.bank.embedding[slot], expected, atol=1e-5)
        asked = decode(task.question.tokens[: task.question.length].tolist())
        np.testing.assert_allclose(task.question.embedding, encoder.embed([asked])[0], atol=1e-5)
    agent, language = start.config.answerer, start.language
    observe = jax.jit(jax.vmap(lambda task: answerer.observe(task.bank, task.question, task.dates, language, agent)))
    view = observe(tasks)
    prompts = [decode(row[:length]) for row, length in zip(view.prompt.tolist(), view.length.tolist(), strict=True)]
    for prompt, (record, number) in zip(prompts, ASKED, strict=True):
        assert all(fact.text in prompt for fact in nearest(RECORDS[record], RECORDS[record].questions[number], start))


def test_vectors_are_where_the_texts_are(start):
    """Oracle: shapes, and zeros where there is no text."""
    conversations = prepare.encode(RECORDS, start)
    encoder = load_encoder(start.config.encoder)
    banks = embed_banks(evaluate.append_only_banks(conversations, start.language, start.config).banks, start.language.table, encoder)
    assert np.array_equal(np.any(banks.embedding, axis=-1), banks.occupied)
    embedding_CQE = embed_questions(conversations, start.language.table, encoder)
    assert np.array_equal(np.any(embedding_CQE, axis=-1), conversations.question_length > 0)


def test_a_manager_does_not_train_by_meaning(start):
    """Oracle: the sentence."""
    manager = dataclasses.replace(start, config=replace(start.config, agent="manager"))
    with pytest.raises(ValueError, match="^answerer.retrieval is 'dense', and what a Manager writes in training has no embedding; use"):
        prepare.make_tasks(RECORDS, manager)
