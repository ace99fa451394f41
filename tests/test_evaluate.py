"""The benchmark against one conversation at a time, one question at a time, and against what a reader of the conversations would say."""

import dataclasses

import jax
import numpy as np
import pytest

from mr1jax import evaluate
from mr1jax.agents.manager import NewFact
from mr1jax.agents.prompts import MARKERS, Dates, make_language
from mr1jax.agents.rollout import ManagerTask, answer, manage
from mr1jax.agents.tasks import answer_tasks
from mr1jax.config import GREEDY, AgentConfig, BankConfig, Config, ModelConfig, replace
from mr1jax.data.episodes import EpisodeShape, encode_record, stack
from mr1jax.data.records import Fact, Question, Record
from mr1jax.memory.bank import init_bank
from mr1jax.model.transformer import init_params
from mr1jax.prepare import Start, make_tasks
from mr1jax.text.tokenizer import train_sentencepiece

SPRING, SUMMER = "4 May 2031", "9 July 2031"
RECORDS = (
    Record(
        "long",
        ("Mia", "Bo"),
        (
            Fact("Mia lives in Rome", 0, SPRING),
            Fact("Bo likes chess", 1, SPRING),
            Fact("Mia lives in Oslo", 0, SUMMER),
            Fact("Bo likes golf", 1, SUMMER),
        ),
        (
            Question("Where is Rome ?", "no", 4, (0, 2), 1),
            Question("Where did Mia live ?", "Rome", 4, (0,), 1, valid_until=3),  # no longer true at the end
            Question("What golf ?", "golf", 1, (3,), 4),
            Question("Who likes tea ?", "nobody", 2, (), 4),
            Question("Is chess known ?", "yes", 4, (1,), 5),  # asked after a fifth fact, which there is not
        ),
    ),
    Record(
        "short",
        ("Ann", "Cy"),
        (Fact("Ann eats figs", 0, SUMMER), Fact("Cy sings", 1, SUMMER)),
        (Question("Who eats figs ?", "Ann", 4, (0,), 2), Question("Who sings ?", "Cy", 4, (1,), 1, valid_until=3)),
    ),
)
ASKED = [(0, 0), (0, 2), (0, 3), (1, 0), (1, 1)]  # (record, question), as read off the above


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """(tokenizer, language, conversations of numpy, configuration, two sets of parameters)."""
    texts = [fact.text for record in RECORDS for fact in record.facts] + [q.question for record in RECORDS for q in record.questions]
    tokenizer = train_sentencepiece(texts * 3, tmp_path_factory.mktemp("tokenizer") / "tokenizer.model", 340, MARKERS)
    model = ModelConfig(
        vocab_size=tokenizer.vocab_size, d_model=32, num_layers=2, num_heads=2, num_kv_heads=1, head_dim=16, d_ff=32, remat=False
    )
    config = Config(
        model=model,
        bank=BankConfig(num_slots=3, slot_width=16, num_terms=8),
        manager=AgentConfig(num_retrieved=2, prompt_length=96, response_length=14),
        answerer=AgentConfig(num_retrieved=2, prompt_length=96, response_length=24),
    )
    shape = dataclasses.replace(EpisodeShape.fit(RECORDS, tokenizer, slot_width=16), answer_bytes=96)
    conversations = stack([encode_record(record, tokenizer, shape) for record in RECORDS])
    params = [init_params(model, jax.random.key(seed)) for seed in (4, 5)]
    return tokenizer, make_language(tokenizer, 2), conversations, config, params


def at(tree, index):
    return jax.tree.map(lambda x: x[index], tree)


def texts_in(bank, tokenizer):
    """The texts of one bank, oldest first."""
    slots = sorted(np.flatnonzero(bank.occupied), key=lambda slot: bank.written[slot])
    return [tokenizer.decode(bank.tokens[slot][: bank.length[slot]].tolist()) for slot in slots]


@pytest.fixture(scope="module")
def managed(world):
    """What the Manager makes of both conversations, in chunks of three: one of the chunk's places stays empty."""
    _, language, conversations, config, params = world
    twice = jax.tree.map(lambda x: np.concatenate([x, x]), conversations)
    return evaluate.build_banks(params[0], twice, language, config, chunk=3)


@pytest.fixture(scope="module")
def appended(world):
    _, language, conversations, config, _ = world
    return evaluate.append_only_banks(conversations, language, config)


@pytest.fixture(scope="module")
def answers(world, appended):
    """All questions, in chunks of three: the second is incomplete. A line shows the last write, so the first may say anything."""
    _, language, conversations, config, params = world
    banks = appended.banks.replace(created=np.zeros_like(appended.banks.created))
    return evaluate.answer_questions(params[0], banks, conversations, language, config, chunk=3)


def test_manager_builds_each_bank_as_if_it_were_alone(world, managed):
    """Oracle: a loop over the facts of one conversation at a time, one decision each: its bank, and its operations, here counted twice."""
    tokenizer, language, conversations, config, params = world
    decide = jax.jit(manage, static_argnames=("config", "group_size", "sampling"))
    operations = dict.fromkeys(evaluate.OPERATIONS, 0)
    for index, record in enumerate(RECORDS):
        told = at(conversations, slice(index, index + 1))
        bank = jax.tree.map(lambda x: x[None], init_bank(config.bank))
        for turn in range(len(record.facts)):
            columns = (told.fact_tokens, told.fact_length, told.fact_speaker, told.fact_time)
            task = ManagerTask(bank, NewFact(*(x[:, turn] for x in columns)), None, None, Dates(told.date_tokens, told.date_length))
            _, after, counts = decide(params[0], task, jax.random.key(9), language, config, group_size=1, sampling=GREEDY)
            bank = jax.tree.map(lambda x: x[:, 0], after)
            operations = {name: operations[name] + 2 * int(np.sum(counts[name])) for name in operations}
        for place in (index, index + 2):
            assert texts_in(at(managed.banks, place), tokenizer) == texts_in(at(bank, 0), tokenizer)
            assert managed.banks.clock[place] == bank.clock[0]
    assert managed.banks.clock.shape == (4,)
    assert operations["add"] > 0
    assert managed.operations == operations


def test_the_answer_agent_is_trained_at_the_banks_of_its_partner(world, managed):
    """Oracle: the banks that the Manager builds in evaluation, each with the questions that hold at its end; append-only ones hold all."""
    tokenizer, language, _, config, params = world
    start = Start(config, {"manager": params[0], "answerer": params[1]}, tokenizer, language)
    forgot = 0
    for banks_by in ("manager", "append_only"):
        tasks = make_tasks(RECORDS, dataclasses.replace(start, config=replace(config, banks_by=banks_by)))
        assert [tokenizer.decode(row[:n].tolist()) for row, n in zip(tasks.question.tokens, tasks.question.length, strict=True)] == [
            RECORDS[of].questions[which].question for of, which in ASKED
        ]
        for number, (of, _) in enumerate(ASKED):
            said = [fact.text for fact in RECORDS[of].facts]
            kept = texts_in(at(tasks.bank, number), tokenizer)
            assert kept == (texts_in(at(managed.banks, of), tokenizer) if banks_by == "manager" else said)
            forgot += kept != said
    assert forgot


def test_append_only_keeps_the_last_that_fit(world, appended):
    """Oracle: a list of what was said, cut to the last three."""
    tokenizer = world[0]
    for index, record in enumerate(RECORDS):
        assert texts_in(at(appended.banks, index), tokenizer) == [fact.text for fact in record.facts][-3:]
    assert appended.operations == {"add": 6, "update": 0, "delete": 0, "noop": 0, "refused": 0}


def test_append_only_is_refused_by_a_full_bank(world):
    """Oracle: a list cut to the first three; the fourth of the long conversation is refused."""
    tokenizer, language, conversations, config, _ = world
    rejecting = replace(config, bank=replace(config.bank, when_full="reject"))
    memories = evaluate.append_only_banks(conversations, language, rejecting)
    assert texts_in(at(memories.banks, 0), tokenizer) == [fact.text for fact in RECORDS[0].facts[:3]]
    assert memories.operations == {"add": 5, "update": 0, "delete": 0, "noop": 0, "refused": 1}


def test_asks_what_holds_at_the_end(answers):
    """Oracle: the list above; each answer carries the question's own words, gold answer and category."""
    assert [(a.conversation, a.number) for a in answers] == ASKED
    for got, (record, number) in zip(answers, ASKED, strict=True):
        question = RECORDS[record].questions[number]
        assert (got.question, got.gold, got.category) == (question.question, question.answer, question.category)


def test_shows_what_was_retrieved_and_recalls_evidence(answers):
    """Oracle: by hand. Three of four facts are left, two are shown, oldest first; the first question's evidence is gone in one half."""
    assert answers[1].memories == (f"Mia lives in Oslo | {SUMMER}", f"Bo likes golf | {SUMMER}")
    assert answers[3].memories == (f"Ann eats figs | {SUMMER}", f"Cy sings | {SUMMER}")
    assert answers[0].memories == (f"Mia lives in Oslo | {SUMMER}", f"Bo likes golf | {SUMMER}")
    assert [a.evidence_recall for a in answers] == [0.5, 1.0, None, 1.0, 1.0]


def test_scores_are_those_the_program_pays(world, appended, answers):
    """Oracle: `rollout.answer` on each question alone, its response read by the tokenizer, its reward by the compiled exact match.

    Gold answers are what the model will say, in capitals and with an article, for every other question: so that some are right.
    """
    tokenizer, language, conversations, config, params = world
    gold, length = conversations.answer_bytes.copy(), conversations.answer_length.copy()
    for (record, number), said in list(zip(ASKED, answers, strict=True))[::2]:
        text = f"THE {said.prediction.upper()}".encode()
        gold[record, number, : len(text)], length[record, number] = list(text), len(text)
    edited = conversations.replace(answer_bytes=gold, answer_length=length)
    program = jax.jit(answer, static_argnames=("config", "group_size", "sampling"))
    got, rewards = evaluate.answer_questions(params[0], appended.banks, edited, language, config, chunk=3), []
    for said, place in zip(got, ASKED, strict=True):
        tasks = answer_tasks(appended.banks, edited, [place])
        trajectory, _ = program(params[0], tasks, jax.random.key(9), language, config, group_size=1, sampling=GREEDY)
        length = int(trajectory.generation.length[0, 0])
        assert said.response == tokenizer.decode(trajectory.generation.tokens[0, 0, :length].tolist())
        assert said.response_tokens == length
        assert said.prediction
        assert said.response.endswith(f"**Answer:** {said.prediction}")
        rewards.append(float(trajectory.reward[0, 0]))
    assert [a.scores["em"] for a in got] == rewards
    assert 0 < sum(rewards) < len(rewards)


def test_other_parameters_and_other_counts_compile_nothing(world, managed, appended, answers):
    """Oracle: the number of programs before. Another agent, other questions, other settings of training: the same two programs."""
    _, language, conversations, config, params = world
    before = evaluate.compilations()
    assert before >= 2
    other = replace(config, agent="manager", steps=7, seed=3)
    five = jax.tree.map(lambda x: np.concatenate([x, x, x[:1]]), conversations)
    memories = evaluate.build_banks(params[1], five, language, other, chunk=3)
    evaluate.answer_questions(params[1], memories.banks, five, language, other, chunk=3)
    assert evaluate.compilations() == before


def test_empty_banks_show_nothing(world):
    """Oracle: nothing shown, nothing recalled, nothing done."""
    _, language, conversations, config, params = world
    row = evaluate.evaluate(params[0], evaluate.empty_banks(conversations, config), conversations, language, config, seed=0, chunk=3)
    assert [a.memories for a in row.answers] == [()] * len(ASKED)
    assert (row.evidence_recall, row.bank_fill, sum(row.operations.values())) == (0.0, 0.0, 0)


def test_row_holds_what_the_banks_and_the_answers_rest_on(world, appended):
    """Oracle: by hand: the last three of what was said, oldest first, with their dates; the evidence that the records name."""
    _, language, conversations, config, params = world
    row = evaluate.evaluate(params[0], appended, conversations, language, config, seed=0, chunk=3)
    assert row.banks == tuple(tuple(f"{fact.text} | {fact.date}" for fact in record.facts[-3:]) for record in RECORDS)
    expected = [(RECORDS[record].facts, RECORDS[record].questions[number].evidence) for record, number in ASKED]
    assert [a.evidence for a in row.answers] == [tuple(facts[i].text for i in evidence) for facts, evidence in expected]


def scored(answers, values):
    return [dataclasses.replace(a, scores=dict.fromkeys(evaluate.METRICS, value)) for a, value in zip(answers, values, strict=True)]


def test_row_counts_every_question_the_same(appended, answers):
    """Oracle: by hand: three of five right, in percent; five of six slots in use; recall over the four that have evidence.

    One conversation has two of its three right, the other one of two: drawn again the mean is from 50 to 66.7.
    """
    row = evaluate.make_row(appended, scored(answers, [1, 1, 0, 0, 1]), seed=0)
    assert (row.em, row.f1, row.bleu1) == pytest.approx((60.0, 60.0, 60.0))
    assert row.ci95["em"] == pytest.approx((50.0, 200 / 3))
    assert row.bank_fill == pytest.approx(5 / 6)
    assert row.evidence_recall == pytest.approx(3.5 / 4)
    assert row.operations is appended.operations


def test_rows_are_compared_in_pairs(appended, answers):
    """Oracle: by hand. Two conversations differ the same way: two of four patterns reach it. And the sentence for other questions."""
    better, worse = (evaluate.make_row(appended, scored(answers, [value] * 5), seed=0) for value in (1, 0))
    assert evaluate.p_value(better, worse, seed=0) == pytest.approx(0.5, abs=0.02)
    with pytest.raises(ValueError, match="rows of 5 and 4 questions that are not the same cannot be compared in pairs"):
        evaluate.p_value(better, dataclasses.replace(worse, answers=worse.answers[1:]), seed=0)


def test_no_question_is_an_error(world, appended):
    """Oracle: the sentence."""
    _, language, conversations, config, params = world
    silent = conversations.replace(question_length=np.zeros_like(conversations.question_length))
    with pytest.raises(ValueError, match="^none of the 2 conversations has a question that holds at its end$"):
        evaluate.answer_questions(params[0], appended.banks, silent, language, config)
