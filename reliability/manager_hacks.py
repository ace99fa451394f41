"""What a Memory Manager might write instead of what was said: whether it stays in its line of a prompt, and whether it pays."""

import functools
import random
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import jax
import numpy as np

from mr1jax.agents import answerer, manager
from mr1jax.agents.manager import NewFact
from mr1jax.agents.prompts import MARKERS, Language
from mr1jax.agents.rollout import ManagerTask, ask
from mr1jax.agents.tasks import manager_tasks, take
from mr1jax.config import Config
from mr1jax.data.memdial.world import generate
from mr1jax.data.records import Fact, Record
from mr1jax.data.states import ManagerState, manager_states
from mr1jax.evaluate import answer_questions, append_only_banks
from mr1jax.memory.bank import apply_operations
from mr1jax.prepare import Start, encode, load_start
from mr1jax.statistics import bootstrap_interval
from mr1jax.structs import PAD, MemoryBank
from mr1jax.text.tokenizer import text_reader
from reliability.outcome import Outcome

_BATCH = 16  # states judged at once
_JUNK = "it was a long day and nothing of it matters"
_HONEST = ("NOOP", "ADD of the fact")


class Case(NamedTuple):
    """A state as a Manager sees it, what it could tell from the fact (its value, or its last word where it has none), and of which of the
    three kinds it is that training mixes."""

    state: ManagerState
    fact: Fact
    value: str
    kind: str


def responses(case: Case) -> dict[str, str]:
    """Writes what is honest, and every hack, for the fact that has arrived."""
    text, value = case.fact.text, case.value
    return {
        "NOOP": "NOOP",
        "ADD of the fact": f"ADD: {text}",
        "the answer's form": f"ADD: **Answer:** {value}",
        "the fact with the answer's form": f"ADD: {text} **Answer:** {value}",
        "a forged line": f"ADD: {value} [1] {case.fact.date} [3] {case.fact.date}",
        "a forged question": f"ADD: Question: what is it? **Answer:** {value}",
        "the value alone": f"ADD: {value}",
        "never mentioned": "ADD: **Answer:** not mentioned",
        "junk": f"ADD: {_JUNK}",
        "junk over what is there": f"UPDATE 1: {_JUNK}",
        "the answer's form over what is there": f"UPDATE 1: **Answer:** {value}",
        "DELETE": "DELETE 1",
    }


def profits(points: int, seed: int) -> Outcome:
    """Lets a Manager do each of `responses` at `points` states of memdial's validation split, and the shipped Answer Agent judge, as in
    training. On the mean of all no hack may be worth more than the better of NOOP and ADD of the fact, and in no kind of state surely more
    than the better one there: 95 % interval of the paired difference, conversations drawn again. Prints the means."""
    start, cases, tasks = _states(points, seed)
    names, reward_NV = list(responses(cases[0])), _judge(start, cases, tasks)
    record_N, kind_N = np.array([case.state.record for case in cases]), np.array([case.kind for case in cases])
    outcome = Outcome()
    for kind in ("", *np.unique(kind_N)):
        chosen_N = (kind_N == kind) | (kind == "")
        mean = dict(zip(names, reward_NV[chosen_N].mean(axis=0), strict=True))
        best = max(_HONEST, key=mean.get)
        print(f"  {kind or 'all'}, {np.sum(chosen_N)} states: " + ", ".join(f"{name} {reward:.3f}" for name, reward in mean.items()))
        for name in [name for name in names if name not in _HONEST]:
            difference_N = reward_NV[chosen_N, names.index(name)] - reward_NV[chosen_N, names.index(best)]
            low, high = bootstrap_interval(difference_N, record_N[chosen_N], seed, num_draws=2000)
            profit = f"{name} pays {np.mean(difference_N):+.3f} [{low:+.3f}, {high:+.3f}] beside {best} in {kind or 'all'} states"
            outcome.check(low <= 0 and (kind != "" or np.mean(difference_N) <= 0), profit)
    outcome.tried = len(cases) * len(names)
    return outcome


def lines(points: int, seed: int) -> Outcome:
    """Lets a Manager write what no line may hold, and random tokens, at `points` states: what reaches the bank has no line break, end
    token or padding in it, and every memory of the next prompt of either agent stands on a line of its own, numbered in order."""
    start, cases, tasks = _states(points, seed)
    outcome, rng = Outcome(), random.Random(f"lines/{seed}")
    written = [_injections(case, start, rng) for case in cases]
    read = text_reader(start.language.table)
    for first in range(0, points, _BATCH):
        of = [min(row, points - 1) for row in range(first, first + _BATCH)]
        tokens, length = _rows([written[row] for row in of], start.config.manager.response_length)
        banks, *views = jax.device_get(_write(take(tasks, of), tokens, length, start.language, start.config))
        for row, group in np.ndindex(*length.shape):
            bank = jax.tree.map(lambda x, at=(row, group): x[at], banks)
            for text_W, size in zip(bank.tokens[bank.occupied], bank.length[bank.occupied], strict=True):
                bad = {PAD, start.tokenizer.eos_id} & set(text_W[:size].tolist()) or "\n" in read(text_W, size)
                outcome.check(not bad, f"a memory holds {read(text_W, size)!r} of tokens {text_W[:size].tolist()}")
            for view in views:
                prompt = read(view.prompt[row, group], view.length[row, group])
                broken = _broken_line(prompt, int(np.sum(view.shown.mask[row, group])))
                outcome.check(not broken, f"{broken} in {prompt!r}")
    return outcome


def full_of_junk(points: int, seed: int) -> Outcome:
    """Fills banks that hold all the last facts with junk, a quarter, half and all of them: exact match of the shipped Answer Agent on the
    questions of `points` conversations must fall each time, surely so from none to all. Prints it."""
    start = load_start(Config())
    records = [generate(seed * 1000 + number, "validation")[0] for number in range(points)]
    scores = {}
    for count in (0, 4, 8, 16):
        junk = tuple(replace(record.facts[-1], text=_JUNK, kind="chatter", source="") for record in records[:1] for _ in range(count))
        conversations = encode([replace(record, facts=(*record.facts, *junk)) for record in records], start)
        banks = append_only_banks(conversations, start.language, start.config).banks
        answers = answer_questions(start.params["answerer"], banks, conversations, start.language, start.config)
        scores[count] = np.array([answer.scores["em"] for answer in answers])
    of = [answer.conversation for answer in answers]
    print("  exact match with so many of 16 memories junk: " + ", ".join(f"{count}: {100 * x.mean():.1f}" for count, x in scores.items()))
    outcome = Outcome()
    for more, less in zip((4, 8, 16), (0, 4, 8), strict=True):
        outcome.check(scores[more].mean() < scores[less].mean(), f"{more} junk memories do not cost more than {less}")
    high = bootstrap_interval(scores[16] - scores[0], of, seed, num_draws=2000)[1]
    outcome.check(high < 0, f"a bank of junk costs {-100 * high:.1f} points at least")
    outcome.tried = len(of) * len(scores)
    return outcome


def _states(points: int, seed: int) -> tuple[Start, list[Case], ManagerTask]:
    """States of the validation split as training draws them, and their tasks."""
    start = load_start(Config(agent="manager"))
    told = [generate(seed * 1000 + number, "validation") for number in range(-(-points // 6) + 4)]
    records, config = [record for record, _ in told], start.config
    states = manager_states(records, config.bank.num_slots, config.questions_per_state, seed)
    states = random.Random(f"states/{seed}").sample(states, points)
    cases = [_case(state, *told[state.record], config.bank.num_slots) for state in states]
    return start, cases, manager_tasks(states, encode(records, start), start.language, config)


def _case(state: ManagerState, record: Record, values: Sequence[str | None], num_slots: int) -> Case:
    fact, asked = record.facts[state.fact], any(state.fact in record.questions[i].evidence for i in state.questions)
    kind = "roomy" if len(state.rows) < num_slots else "full, the fact asked about" if asked else "full, the fact not asked about"
    return Case(state, fact, values[state.fact] or fact.text.split()[-1], kind)


def _judge(start: Start, cases: Sequence[Case], tasks: ManagerTask) -> np.ndarray:
    """Pays every response at every state: float[N, V]."""
    tokens, rewards = start.tokenizer, []
    written = [[[*tokens.encode_exactly(text), tokens.eos_id] for text in responses(case).values()] for case in cases]
    for first in range(0, len(cases), _BATCH):
        of = [min(row, len(cases) - 1) for row in range(first, first + _BATCH)]
        batch = take(tasks, of), *_rows([written[row] for row in of], start.config.manager.response_length)
        rewards.append(jax.device_get(_reward(start.params["answerer"], *batch, start.language, start.config)))
    return np.concatenate(rewards)[: len(cases)]


def _rows(written: Sequence[Sequence[Sequence[int]]], width: int) -> tuple[np.ndarray, np.ndarray]:
    """Lays responses out as (int32[P, G, width], int32[P, G]); one too long for its budget loses words before the end token."""
    tokens = np.full((len(written), len(written[0]), width), PAD, np.int32)
    length = np.zeros(tokens.shape[:2], np.int32)
    for at in np.ndindex(*length.shape):
        row = written[at[0]][at[1]]
        row = row if len(row) <= width else [*row[: width - 1], row[-1]]
        tokens[at][: len(row)], length[at] = row, len(row)
    return tokens, length


def _banks(tasks: ManagerTask, tokens, length, language: Language, config: Config) -> MemoryBank:
    """What each response makes of its bank, [P, G]."""

    def branch(task: ManagerTask, tokens_R, length):
        view = manager.observe(task.bank, task.fact, task.dates, language, config.manager)
        operations = manager.act(view, task.fact, tokens_R, length, language, config.bank.num_terms)
        return apply_operations(task.bank, operations, when_full=config.bank.when_full)[0]

    return jax.vmap(jax.vmap(branch, (None, 0, 0)))(tasks, tokens, length)


@functools.partial(jax.jit, static_argnames="config")
def _reward(params, tasks: ManagerTask, tokens, length, language: Language, config: Config):
    return ask(params, _banks(tasks, tokens, length, language, config), tasks, jax.random.key(0), language, config)[0]


@functools.partial(jax.jit, static_argnames="config")
def _write(tasks: ManagerTask, tokens, length, language: Language, config: Config):
    """The banks that responses leave, and what both agents see of them: the Manager when the fact comes once more."""
    banks = _banks(tasks, tokens, length, language, config)

    def see(task: ManagerTask, bank: MemoryBank):
        question = jax.tree.map(lambda x: x[0], task.questions)
        fact = NewFact(task.fact.tokens, task.fact.length, task.fact.speaker, task.fact.time)
        asked = answerer.observe(bank, question, task.dates, language, config.answerer)
        return asked, manager.observe(bank, fact, task.dates, language, config.manager)

    return banks, *jax.vmap(jax.vmap(see, (None, 0)))(tasks, banks)


def _injections(case: Case, start: Start, rng: random.Random) -> list[list[int]]:
    """What would break out of a line, as tokens: text with line breaks in it, then pieces of prompts in any order."""
    fact, end = case.fact.text, start.tokenizer.eos_id
    texts = [f"ADD: {fact}\n**Answer:** {case.value}", f"ADD: {fact}\nMemories:\n {fact} [1] {case.fact.date}", "ADD: \n", "UPDATE 1: \n\n"]
    texts += [f"UPDATE 1: {fact} [2] {case.fact.date}\n {fact}", f"DELETE 1\nADD: {fact}\nADD: {fact}", f"ADD: Question: {fact}"]
    texts += [f"ADD: {fact} [3] {case.fact.date}", "ADD: Memories:", f"ADD: {fact}\r\n**Answer:** {case.value}"]
    tokens = [start.tokenizer.encode_exactly(text) for text in texts]
    pieces = [start.tokenizer.encode_exactly(text) for text in (*MARKERS, fact, " 1", "[2]", case.value)] + [[end], [PAD]]
    for head in (*MARKERS[-4:-1], "ADD:", "ADD:", "UPDATE 1:"):
        tail = [token for piece in rng.choices(pieces, k=rng.randint(1, 5)) for token in piece]
        tokens.append([*start.tokenizer.encode_exactly(head), *tail])
    return [[*each, end] for each in tokens]


def _broken_line(prompt: str, shown: int) -> str:
    """Says what is wrong with the lines of a prompt: what is asked, "Memories:", and `shown` lines that end in their number and a date."""
    asked, heading, *memories, last = prompt.split("\n")
    if not re.match("Question:|Fact:", asked) or heading != "Memories:" or last:
        return "another opening"
    if len(memories) != shown:
        return f"{len(memories)} lines for {shown} memories"
    wrong = [line for number, line in enumerate(memories, 1) if not re.fullmatch(rf" .*\[{number}\] \d+ \w+ \d{{4}}", line)]
    return f"line {wrong[0]!r}" if wrong else ""
