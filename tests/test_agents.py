"""What the agents see and do, against plain Python on text: dictionaries, string methods, and one question after the other."""

import functools
import re
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from reference_bank import NUM_SLOTS, WIDTH, Memory, ReferenceBank, memories_of, with_junk
from reference_grammar import read_operation
from test_retrieval import plain_best, plain_bm25
from tiny import CONFIG, DATES, LANGUAGE, TOKENIZER, Said, unoptimised  # noqa: F401

from mr1jax.agents import answerer, manager
from mr1jax.agents.play import manager_rollout, replay
from mr1jax.agents.rollout import AnswerTask, ManagerTask, answer, count_operations, manage
from mr1jax.config import GREEDY, SamplingConfig, replace
from mr1jax.memory.bank import apply_operations
from mr1jax.structs import NO_KIND, NO_SLOT, OperationKind, OperationStatus
from mr1jax.text.metrics import exact_match, normalize_answer, token_f1
from mr1jax.text.parsing import ANSWER_PATTERN
from mr1jax.text.words import hash_word, words

P, G, Q = CONFIG.prompts_per_step, CONFIG.group_size, CONFIG.questions_per_state
NUM_CASES = 160
KEY = jax.random.key(3)


# ---------------------------------------------------------------------------------------------------------------- plain Python


def ranked(memories, query, num):
    """The slots of the `num` memories that share most with a query, best first, the newest first among equals."""
    scores = plain_bm25({slot: words(said.text) for slot, said in memories.items()}, words(query))
    return plain_best(scores, list(memories), num, newest={slot: when for when, slot in enumerate(memories)})


def kept(slots, lines, fixed, budget):
    """The best of the ranked slots: as many as fit beside the fixed lines, none after the first that does not."""
    room = budget - num_tokens(*fixed)
    for count, line in enumerate(lines):
        room -= num_tokens(line)
        if room < 0:
            return slots[:count]
    return slots


def num_tokens(*texts):
    return sum(len(TOKENIZER.encode_exactly(text)) for text in texts)


def dated(said, mark="|"):
    return f"{said.text} {mark} {DATES[said.time]}\n"


def manager_prompt(memories, said):
    """The prompt as text, and the slots that its numbers stand for."""
    slots = ranked(memories, said.text, CONFIG.manager.num_retrieved)
    lines = [dated(memories[slot], f"[{number}]") for number, slot in enumerate(slots, 1)]
    asked = f"Fact: {dated(said)}Memories:\n"
    shown = kept(slots, lines, [f"Fact: {dated(said)}", "Memories:\n"], CONFIG.manager.prompt_length)
    return "".join([asked, *(f" {line}" for line in lines[: len(shown)])]), shown


def answerer_prompt(memories, question, config):
    """The prompt as text, and the slots that it shows in their order."""
    slots = ranked(memories, question, len(memories) if config.per_speaker else config.num_retrieved)
    if config.per_speaker:
        of_speaker = [[slot for slot in slots if memories[slot].speaker == who][: config.num_retrieved] for who in (0, 1)]
        slots = [slot for slot in slots if slot in sum(of_speaker, [])]
    lines = [dated(memories[slot], "[1]") for slot in slots]
    shown = kept(slots, lines, [f"Question: {question}\n", "Memories:\n"], config.prompt_length)
    by_age = [slot for slot in memories if slot in shown]
    numbered = [f" {dated(memories[slot], f'[{number}]')}" for number, slot in enumerate(by_age, 1)]
    return "".join([f"Question: {question}\nMemories:\n", *numbered]), by_age


def reference_of(memories):
    """The same bank as a dict of what each column holds."""
    reference = ReferenceBank(CONFIG.bank.when_full, clock=len(memories))
    for when, (slot, said) in enumerate(memories.items()):
        tokens, length = tiny.row(said.text, WIDTH)
        text = (tuple(tokens.tolist()), int(length), terms_of(said.text))
        reference.memories[slot] = Memory(*text, said.speaker, said.created, said.time, when, ())
    return reference


def terms_of(text):
    return tuple([hash_word(word) for word in words(text)] + [0] * tiny.NUM_TERMS)[: tiny.NUM_TERMS]


def carry_out(bank, tokens, said, shown):
    """Does to a `ReferenceBank` what a response (tokens without padding) asks for; returns the two statuses."""
    finished = tokens[-1] == TOKENIZER.eos_id
    delete, kind, number, text = read_operation(TOKENIZER.decode(tokens[:-1])) if finished else (False, NO_KIND, None, "")
    slot = shown[number - 1] if number is not None and 1 <= number <= len(shown) else NO_SLOT
    size = max(n for n in range(len(tokens)) if TOKENIZER.decode(tokens[len(tokens) - 1 - n : -1]) == text) if text else 0  # with its space
    written = tokens[len(tokens) - 1 - size : -1][:WIDTH] if size else []
    spelt = b"".join(map(TOKENIZER.token_bytes, written))[: 6 * WIDTH]  # bytes a token that are hashed
    new = (slot, written, len(written), terms_of(spelt.decode(errors="replace")), said.speaker, said.time, ())
    return [bank.apply(OperationKind.DELETE if delete else OperationKind.NOOP, *new), bank.apply(kind, *new)]


def plain_memories(banks):
    """Reads stacked banks as dicts, though they have no embeddings."""
    return memories_of(banks.replace(embedding=np.zeros((*banks.length.shape, 0), np.float32)))


def answer_in(tokens):
    """The answer in a response (tokens without padding) by string methods, "" where it is not legal or not finished."""
    text = TOKENIZER.decode(tokens[:-1])
    legal = tokens[-1] == TOKENIZER.eos_id and re.fullmatch(ANSWER_PATTERN, text)
    return text.split("\n")[-1].removeprefix("**Answer:** ") if legal else ""


# ------------------------------------------------------------------------------------------------------- what the agents see and do


def random_response(rng):
    """One of the forms, with numbers that are shown and numbers that are not, and text that a slot holds and text that it does not."""
    number = rng.choice(["1", "2", "3", "4", "12"], p=[0.3, 0.2, 0.3, 0.1, 0.1])
    text = " ".join(rng.choice([*tiny.OBJECTS, *tiny.SUBJECTS, "the", "2"], rng.integers(1, 7)))
    forms = ["NOOP", f"ADD: {text}", f"UPDATE {number}: {text}", f"DELETE {number}", f"DELETE {number}\nADD: {text}"]
    return str(rng.choice(forms, p=[0.05, 0.15, 0.3, 0.2, 0.3]))


@pytest.fixture(scope="module")
def managed_cases():
    """Random banks and facts, and responses that are finished but for one in ten: what went in, and all that came out."""
    rng = np.random.default_rng(0)
    memories = [tiny.random_memories(rng) for _ in range(NUM_CASES)]
    facts = [tiny.random_said(rng) for _ in range(NUM_CASES)]
    written = [tiny.response(random_response(rng), CONFIG.manager.response_length, finished=rng.random() > 0.1) for _ in range(NUM_CASES)]

    @jax.jit
    @jax.vmap
    def see_and_do(bank, fact, tokens_R, length):
        view = manager.observe(bank, fact, dates, LANGUAGE, CONFIG.manager)
        operations = manager.act(view, fact, tokens_R, length, LANGUAGE, tiny.NUM_TERMS)
        return view, *apply_operations(bank, operations, when_full=CONFIG.bank.when_full)

    dates = jax.tree.map(jnp.asarray, tiny.dates())
    banks, new = tiny.stack([tiny.bank(each) for each in memories]), tiny.stack([tiny.fact(said) for said in facts])
    return memories, facts, written, jax.device_get(see_and_do(banks, new, *map(np.stack, zip(*written, strict=True))))


def assert_shows(view, index, text, slots):
    """One row of a view is this text, padded, and shows these slots in this order and no others."""
    length = view.length[index]
    assert TOKENIZER.decode(view.prompt[index][:length]) == text
    assert not np.any(view.prompt[index][length:])
    assert view.shown.slot[index][view.shown.mask[index]].tolist() == slots
    assert np.all((view.shown.slot[index] == NO_SLOT) == ~view.shown.mask[index])


def test_manager_sees_the_fact_and_numbered_memories(managed_cases):
    """Oracle: the prompt written in plain Python, on 160 random banks; over the budget the last of the ranking go, all else stays."""
    memories, facts, _, (view, _, _) = managed_cases
    dropped = 0
    for index in range(NUM_CASES):
        text, slots = manager_prompt(memories[index], facts[index])
        assert_shows(view, index, text, slots)
        dropped += len(slots) < min(len(memories[index]), CONFIG.manager.num_retrieved)
    assert 20 < dropped < NUM_CASES - 20


def test_operations_do_what_the_text_says(managed_cases):
    """Oracle: the bank as a dict, and the text read by string methods; numbers count the memories shown, any other is refused."""
    memories, facts, written, (_, after, status) = managed_cases
    seen = set()
    for index, got in enumerate(plain_memories(after)):
        reference = reference_of(memories[index])
        _, shown = manager_prompt(memories[index], facts[index])
        tokens, length = written[index]
        statuses = carry_out(reference, tokens[:length].tolist(), facts[index], shown)
        assert got == reference.memories
        assert after.clock[index] == reference.clock == len(memories[index]) + 2
        assert [OperationStatus(each).name for each in status[index]] == statuses
        if set(statuses) != {"APPLIED"} and "ADD:" not in TOKENIZER.decode(tokens):
            assert got == reference_of(memories[index]).memories  # refused, and nothing changed
            seen.add("dropped" if len(shown) < min(len(memories[index]), CONFIG.manager.num_retrieved) else "not there")
        if len(memories[index]) == NUM_SLOTS and "\nADD:" in TOKENIZER.decode(tokens) and statuses == ["APPLIED", "APPLIED"]:
            assert len(got) == NUM_SLOTS  # what the DELETE freed is what the ADD took: in the other order five would be left
            seen.add("replaced in a full bank")
        if any(memory.length == WIDTH for memory in got.values()):
            seen.add("cut")
    assert seen == {"dropped", "not there", "replaced in a full bank", "cut"}


@pytest.mark.parametrize("changes", [{}, {"num_retrieved": 2, "per_speaker": True}], ids=["all", "per speaker"])
def test_answerer_sees_the_question_and_memories_by_age(changes):
    """Oracle: the prompt written in plain Python, on 160 random banks; over the budget the last of the ranking go, all else stays."""
    rng = np.random.default_rng(1)
    memories = [tiny.random_memories(rng) for _ in range(NUM_CASES)]
    texts = [tiny.random_question(rng) for _ in range(NUM_CASES)]
    config = replace(CONFIG.answerer, prompt_length=32, **changes)
    tasks = tiny.answer_tasks(memories, [(text, "tea") for text in texts])
    observe = jax.jit(jax.vmap(lambda task: answerer.observe(task.bank, task.question, task.dates, LANGUAGE, config)))
    view, dropped = jax.device_get(observe(tasks)), 0
    for index in range(NUM_CASES):
        text, slots = answerer_prompt(memories[index], texts[index], config)
        assert_shows(view, index, text, slots)
        dropped += len(slots) < min(len(memories[index]), 4)
    assert 20 < dropped < NUM_CASES - 20


def test_a_marker_is_encoded_without_the_space_in_front():
    """Oracle: by hand. The lone space goes; the space that a word carries stays, for the token is another without it."""
    assert [TOKENIZER.token_bytes(token) for token in TOKENIZER.encode_exactly("Fact:")] == [b"Fact:"]
    assert [TOKENIZER.token_bytes(token) for token in TOKENIZER.encode_exactly("|")] == [b" |"]


def test_counts_of_operations():
    """Oracle: by hand, one row a decision of two operations."""
    kind = jnp.array([[0, 1], [3, 1], [0, 0], [3, 0], [0, 2]])
    status = jnp.array([[0, 0], [0, 0], [0, 0], [1, 0], [2, 0]])
    expected = {
        "add": [1, 1, 0, 0, 0],
        "update": [0, 0, 0, 0, 1],
        "delete": [0, 1, 0, 0, 0],
        "noop": [0, 0, 1, 0, 0],
        "refused": [0, 0, 0, 1, 1],
    }
    assert {name: count.tolist() for name, count in count_operations(kind, status).items()} == expected


# ------------------------------------------------------------------------------------------------------------------------- rewards


def random_answer(rng, gold):
    """Quotes and an answer that is often the gold one in another spelling; the gold stands in quotes too, where it earns nothing."""
    spelt = [gold, f"the {gold}.", f"The {gold}", f"{gold}?", f"{gold}, {gold}", "Mia", f"**Answer:** {gold}", f"{gold} **Answer:** {gold}"]
    quotes = [str(rng.choice([f" Mia likes {gold}", f" {gold}", f" Ben **Answer:** {gold}"])) for _ in range(rng.choice([0, 0, 1, 2]))]
    return "\n".join([*quotes, f"**Answer:** {rng.choice(spelt)}"])


def test_reward_is_exact_match_of_what_follows_the_marker():
    """Oracle: `re` and the host's exact match, on 400 responses: markers twice, quotes that tell the answer, ends cut off by the budget."""
    rng = np.random.default_rng(2)
    golds = [str(gold) for gold in rng.choice([*tiny.OBJECTS, "Mia likes"], 400)]
    width = CONFIG.answerer.response_length
    written = [tiny.response(random_answer(rng, gold), width, finished=rng.random() > 0.1) for gold in golds]
    questions = tiny.stack([tiny.question("What", gold) for gold in golds])
    reward = jax.jit(jax.vmap(functools.partial(answerer.reward, language=LANGUAGE)))
    got = reward(*map(np.stack, zip(*written, strict=True)), questions)
    said = [answer_in(tokens[:length].tolist()) for tokens, length in written]
    assert got.tolist() == [exact_match(text, gold) for text, gold in zip(said, golds, strict=True)]
    assert 100 < np.sum(got) < 300
    assert any(length == width and tokens[-1] != TOKENIZER.eos_id for tokens, length in written)


@pytest.mark.parametrize("kind", ["f1", "judge_like"])
def test_other_rewards(kind):
    """Oracle: the host's F1, and word counts in Python, of 200 answers that say less, the same, or more than the gold one."""
    rng = np.random.default_rng(3)
    golds = [" ".join(rng.choice(tiny.OBJECTS, 2)) for _ in range(200)]
    made = [[*rng.choice(tiny.OBJECTS, rng.integers(0, 3)), *rng.permutation(gold.split())[rng.integers(0, 2) :]] for gold in golds]
    said = [" ".join(words) for words in made]
    written = [tiny.response(f"**Answer:** {text}", CONFIG.answerer.response_length) for text in said]
    questions = tiny.stack([tiny.question("What", gold) for gold in golds])
    got = jax.vmap(functools.partial(answerer.reward, language=LANGUAGE, kind=kind))(*map(np.stack, zip(*written, strict=True)), questions)
    has_all = [not Counter(gold.split()) - Counter(text.split()) for text, gold in zip(said, golds, strict=True)]
    f1 = [token_f1(text, gold) for text, gold in zip(said, golds, strict=True)]
    np.testing.assert_allclose(got, f1 if kind == "f1" else has_all, rtol=1e-6)
    assert 20 < np.sum(has_all) < 180


# ------------------------------------------------------------------------------------------------------------------ whole rollouts


SHARP = tiny.params(1, scale=3.0)  # random, but what is said depends on what is read


@pytest.fixture(scope="module")
def params():
    """A Manager that writes anything, and an Answer Agent that minds what it reads."""
    return {"manager": tiny.params(0), "answerer": SHARP}


@pytest.fixture(scope="module")
def answer_greedily(params):
    """(banks, questions, dates) of P tasks to their responses and rewards."""

    @jax.jit
    def run(tasks):
        return answer(params["answerer"], tasks, KEY, LANGUAGE, CONFIG, group_size=1, sampling=GREEDY)[0]

    return run


@pytest.fixture(scope="module")
def rollout(params):
    @jax.jit
    def run(tasks):
        return manager_rollout(params, tasks, KEY, LANGUAGE, CONFIG)

    return lambda tasks: jax.device_get(run(tasks))


@pytest.fixture(scope="module")
def groups(params):
    """P random states and what G responses to each made of their banks, with the randomness of `rollout`."""
    rng = np.random.default_rng(4)
    memories, facts = [tiny.random_memories(rng) for _ in range(P)], [tiny.random_said(rng) for _ in range(P)]
    asked = [[(tiny.random_question(rng), "tea") for _ in range(1 + p % Q)] for p in range(P)]
    tasks = tiny.manager_tasks(memories, facts, asked)

    @jax.jit
    def run(tasks):
        sampled = jax.random.split(KEY)[0]
        return manage(params["manager"], tasks, sampled, LANGUAGE, CONFIG, group_size=G, sampling=SamplingConfig())

    return memories, facts, tasks, jax.device_get(run(tasks))


def response_of(trajectory, p, g):
    generation = trajectory.generation
    return generation.tokens[p, g, : generation.length[p, g]].tolist()


def ask_one(answer_greedily, bank, tasks, p, q):
    """Asks one bank one question, and reads the answer off the response as text."""
    task = AnswerTask(bank, tiny.at(tasks.questions, p, q), tiny.at(tasks.dates, p))
    trajectory = jax.device_get(answer_greedily(tiny.stack([task] * P)))
    return answer_in(response_of(trajectory, 0, 0)), trajectory.reward[0, 0]


def as_text(memories):
    """Without the words of what is not UTF-8: random parameters write such bytes too, and no reader of text knows their words."""

    def words_or_none(memory):
        spelt = b"".join(map(TOKENIZER.token_bytes, memory.tokens[: memory.length]))
        return memory.terms if spelt.decode(errors="ignore").encode() == spelt else None

    return {slot: memory._replace(terms=words_or_none(memory)) for slot, memory in memories.items()}


def test_all_members_of_a_group_start_from_the_same_bank(groups):
    """Oracle: a dict bank a member, to which its own response is applied and no other."""
    memories, facts, _, (trajectory, bank_PG, counts_PG) = groups
    told = set()
    for p in range(P):
        _, shown = manager_prompt(memories[p], facts[p])
        for g, got in enumerate(plain_memories(tiny.at(bank_PG, p))):
            reference = reference_of(memories[p])
            statuses = carry_out(reference, response_of(trajectory, p, g), facts[p], shown)
            assert as_text(got) == as_text(reference.memories)
            assert bank_PG.clock[p, g] == reference.clock
            assert counts_PG["refused"][p, g] == sum(status != "APPLIED" for status in statuses)
            told.add(TOKENIZER.decode(response_of(trajectory, p, g))[:3])
    assert told == {"NOO", "ADD", "UPD", "DEL"}


@pytest.fixture(scope="module")
def graded(groups, answer_greedily):
    """The same states, with gold answers that one member of the group earns; and what is answered to each question at each bank."""
    _, _, tasks, (_, bank_PG, _) = groups
    said = {
        (p, g, q): ask_one(answer_greedily, tiny.at(bank_PG, p, g), tasks, p, q)[0]
        for p in range(P)
        for g in range(G)
        for q in range(Q)
        if tasks.asked[p, q]
    }
    answers, length = np.array(tasks.questions.answer), np.array(tasks.questions.answer_length)
    width = tiny.ANSWER_WIDTH
    for (p, g, q), text in said.items():
        if g == (p + q) % G:
            gold = text.encode()[:width]
            answers[p, q], length[p, q] = np.frombuffer(gold.ljust(width, b"\0"), np.uint8), len(gold)
    return tasks.replace(questions=tasks.questions.replace(answer=answers, answer_length=length)), said


def has_word(text):
    """Whether anything of an answer is compared: nothing is paid where not."""
    return normalize_answer(text) != ""


def test_manager_is_paid_the_share_of_questions_answered(rollout, graded, groups):
    """Oracle: each bank asked each question alone, the answer read as text and scored on the host; different prompts counted in a set."""
    tasks, said = graded
    trajectory, metrics = rollout(tasks)
    tiny.assert_equal(trajectory.generation, groups[3][0].generation)
    for p in range(P):
        golds = [bytes(tasks.questions.answer[p, q, : tasks.questions.answer_length[p, q]]).decode() for q in range(Q)]
        asked = np.flatnonzero(tasks.asked[p])
        expected = [np.mean([exact_match(said[p, g, q], golds[q]) * has_word(said[p, g, q]) for q in asked]) for g in range(G)]
        np.testing.assert_array_equal(trajectory.reward[p], np.array(expected, np.float32))
    assert any(np.ptp(trajectory.reward[p]) > 0 for p in range(P))
    assert metrics["reward"] == np.mean(trajectory.reward, dtype=np.float32)
    observe = jax.jit(lambda bank, question, dates: answerer.observe(bank, question, dates, LANGUAGE, CONFIG.answerer))
    distinct = set()
    for p, g, q in said:
        view = observe(tiny.at(groups[3][1], p, g), tiny.at(tasks.questions, p, q), tiny.at(tasks.dates, p))
        distinct.add((p, q, *np.asarray(view.prompt)[: view.length].tolist()))
    assert 1 < len(distinct) < len(said)  # some members are paid for what another was asked
    assert metrics["prompts_read"] == np.float32(len(distinct) / len(said))
    shares = {name: metrics[f"share_{name}"] for name in ("add", "update", "delete", "noop", "refused")}
    assert shares == {name: np.mean(count, dtype=np.float32) for name, count in groups[3][2].items()}


def test_junk_in_empty_slots_changes_nothing(rollout, graded):
    """Oracle: the same rollout on clean banks: prompts, responses, log-probabilities and rewards, bit for bit."""
    tasks, _ = graded
    rng = np.random.default_rng(5)
    banks = [
        with_junk(tiny.at(tasks.bank, p).replace(embedding=np.zeros((NUM_SLOTS, 0), np.float32)), rng).replace(embedding=None)
        for p in range(P)
    ]
    spoilt = tasks.replace(bank=tiny.stack(banks))
    assert not np.array_equal(spoilt.bank.tokens, tasks.bank.tokens)
    tiny.assert_equal(rollout(spoilt), rollout(tasks))


def test_reward_sees_the_response_only(answer_greedily):
    """Oracle: exact match of the answer in the response. Every memory and every question holds the gold answer; that earns nothing."""
    golds = [*tiny.OBJECTS, *tiny.OBJECTS]
    memories = [{slot: Said(f"{gold} {gold} {gold}") for slot in range(NUM_SLOTS)} for gold in golds]
    tasks = tiny.answer_tasks(memories, [(f"What {gold}?", gold) for gold in golds])
    trajectory = jax.device_get(answer_greedily(tasks))
    said = [answer_in(response_of(trajectory, p, 0)) for p in range(P)]
    assert trajectory.reward[:, 0].tolist() == [exact_match(text, gold) for text, gold in zip(said, golds, strict=True)]
    assert 0.0 in trajectory.reward


# ------------------------------------------------------------------------------------------------------------- whole conversations


@pytest.fixture(scope="module")
def conversations():
    """Of seven facts, so that the bank overflows; and of five, three and none, padded."""
    rng = np.random.default_rng(6)
    return [[tiny.random_said(rng) for _ in range(count)] for count in (7, 5, 0, 3)]


@pytest.fixture(scope="module")
def replay_all():
    @jax.jit
    def run(stacked):
        return replay(SHARP, stacked, KEY, LANGUAGE, CONFIG)

    return lambda conversations: jax.device_get(run(tiny.stack([tiny.conversation(facts, 7) for facts in conversations])))


def test_replay_is_one_fact_after_the_other(conversations, replay_all):
    """Oracle: a loop on the host that gives the Manager one fact of one conversation at a time; nobody says the padding."""

    @jax.jit
    def manage_one(bank, fact):
        task = ManagerTask(bank, fact, None, None, tiny.dates())
        one = jax.tree.map(lambda x: jnp.asarray(x)[None], task)
        _, after, counts = manage(SHARP, one, KEY, LANGUAGE, CONFIG, group_size=1, sampling=GREEDY)
        return jax.tree.map(lambda x: x[0, 0], (after, counts))

    banks, counts = replay_all(conversations)
    total = dict.fromkeys(counts, 0.0)
    for index, facts in enumerate(conversations):
        bank = tiny.bank({})
        for said in facts:
            bank, done = manage_one(bank, tiny.fact(said))
            total = {name: total[name] + float(done[name]) for name in total}
        assert plain_memories(tiny.at(banks, index, None)) == plain_memories(jax.tree.map(lambda x: np.asarray(x)[None], bank))
        assert banks.clock[index] == bank.clock == 2 * len(facts)
    assert counts == total
    assert sum(count > 0 for count in total.values()) >= 2


def test_what_happens_to_one_does_not_depend_on_the_others(conversations, replay_all, answer_greedily):
    """Oracle: the same batch in another order: banks, prompts and responses are those of before, in that order."""
    order = [2, 0, 3, 1]
    banks, counts = replay_all(conversations)
    reordered, same_counts = replay_all([conversations[index] for index in order])
    tiny.assert_equal(reordered, tiny.at(banks, order))
    assert counts == same_counts

    rng = np.random.default_rng(7)
    tasks = tiny.answer_tasks([tiny.random_memories(rng) for _ in range(P)], [(tiny.random_question(rng), "tea") for _ in range(P)])
    order = rng.permutation(P)
    before, after = answer_greedily(tasks), answer_greedily(tiny.at(tasks, order))
    names = ("tokens", "length", "state")
    tiny.assert_equal([getattr(after.generation, name) for name in names], [getattr(before.generation, name)[order] for name in names])
    tiny.assert_equal((after.prompt, after.reward), (before.prompt[order], before.reward[order]))
    assert len({tuple(row) for row in np.asarray(before.generation.tokens[:, 0]).tolist()}) > 1
