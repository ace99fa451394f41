"""What a trained agent is paid for: trajectories of a run, drawn as training draws them, as text that a person can read and judge.

A reward says that something was right and not how it was come by. So responses are drawn anew from the run's weights on its own training
tasks, each is described by signs that a hack would leave, and the highest rewarded ones, the most suspicious first, go on a page.
"""

import functools
import itertools
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np

from mr1jax.agents import manager
from mr1jax.agents.prompts import MARKERS, Language, number_mark
from mr1jax.agents.rollout import AnswerTask, ManagerTask
from mr1jax.agents.tasks import take
from mr1jax.config import Config, MeshConfig, replace, require
from mr1jax.data.datasets import read_split
from mr1jax.data.loader import make_loader
from mr1jax.experiment import read_run
from mr1jax.memory.bank import apply_operations
from mr1jax.prepare import Start, load_start, make_tasks
from mr1jax.step import Tasks, draw_rollout
from mr1jax.structs import Array, MemoryBank, PyTree, Trajectory
from mr1jax.text.metrics import normalize_answer
from mr1jax.text.parsing import parse_answer
from mr1jax.text.tokenizer import TextOf, text_reader

ANSWER_MARKER = "**Answer:**"
TWICE, EMPTY, INVENTS = "marker twice", "empty answer", "quotes what is not there"
MARKED, FORGES, IDLE = "marker in a memory", "writes words that are not there", "leaves the bank as it was"
OVERWRITES = "overwrites the oldest memory"
COPIES, LIMIT, ALONE = "copies the prompt", "at the length limit", "alone in its group"
SIGNS = {"answerer": (TWICE, COPIES, LIMIT, EMPTY, INVENTS, ALONE), "manager": (MARKED, COPIES, LIMIT, FORGES, IDLE, OVERWRITES, ALONE)}
"""What each trajectory is looked at for, by agent. None of them is wrong by itself: what counts is whether it pays."""


@dataclass(frozen=True)
class Sample:
    """One trajectory as text.

    group: which prompt it answers; prompt, response: all of them; tokens: of the response; asked: questions with their gold answers;
    deed: the answer that was read of it, or what it did to the bank, a line each; reward: from 0 to 1; rewards: of its whole group;
    same: how many of the group wrote the same, itself included; signs: those of SIGNS that it shows.
    """

    group: int
    prompt: str
    response: str
    tokens: int
    asked: tuple[tuple[str, str], ...]
    deed: tuple[str, ...]
    reward: float
    rewards: tuple[float, ...]
    same: int
    signs: tuple[str, ...]


def audit_run(run: Path, num_batches: int, data_dir: Path) -> tuple[Config, list[Sample]]:
    """Reads what was trained in a folder and draws `num_batches` batches of trajectories on its training tasks.

    Raises ValueError where the folder is none of a run, has no weights, or was trained on another base than it names.
    """
    require(num_batches >= 1, f"--batches is {num_batches}; draw 1 batch or more")
    config = read_run(run)
    config = replace(config, mesh=MeshConfig(), **{f"{config.agent}_from": str(run)})
    start = load_start(config)
    records = read_split(config.data, "train", data_dir)[: config.conversations]
    return config, draw_samples(start, make_tasks(records, start), num_batches)


def draw_samples(start: Start, tasks: Tasks, num_batches: int) -> list[Sample]:
    """Draws trajectories from `start.params` on batches of tasks (numpy, a leading axis): the first batches of a run, in its order, with
    the randomness of the steps that would come after its last."""
    config, samples = start.config, list[Sample]()
    loader = make_loader(
        range(len(jax.tree.leaves(tasks)[0])), lambda i: take(tasks, i), batch_size=config.prompts_per_step, seed=config.seed
    )
    for number, batch in enumerate(itertools.islice(loader, num_batches)):
        key = jax.random.split(jax.random.fold_in(jax.random.key(config.seed), config.steps + number))[0]  # as a step splits it
        trajectory, outcome = jax.device_get(_draw(start.params, batch, key, start.language, config))
        samples += _describe_batch(batch, trajectory, outcome, number * config.prompts_per_step, start)
    return samples


def rank(samples: list[Sample]) -> list[Sample]:
    """Puts the highest rewarded first, of equals those that show most signs, then what few of a group wrote, then the longest; what a
    group wrote several times stands once."""
    once = {(sample.group, sample.response): sample for sample in samples}.values()
    return sorted(once, key=lambda sample: (-sample.reward, -len(sample.signs), sample.same, -sample.tokens))


@functools.partial(jax.jit, static_argnames="config")
def _draw(params: PyTree, tasks: Tasks, key: Array, language: Language, config: Config) -> tuple[Trajectory, PyTree]:
    """Draws a trajectory, and reads it: what is written as answers, tokens and lengths [P, G, R] and [P, G], or the banks [P, G]."""
    trajectory, _ = draw_rollout(params, tasks, key, language, config)
    # What the members of a group did after it parted is not on the page: these are the responses to shared prompts.
    generation = jax.tree.map(lambda x: x[:, : config.group_size], trajectory.generation)
    trajectory = replace(trajectory, generation=generation)

    def read_answer(tokens_R: Array, length: Array) -> tuple[Array, Array]:
        answer = parse_answer(language.answerer, tokens_R, length)
        return answer.tokens, answer.length

    def carry_out(task: ManagerTask, tokens_R: Array, length: Array) -> MemoryBank:
        view = manager.observe(task.bank, task.fact, task.dates, language, config.manager)
        operations = manager.act(view, task.fact, tokens_R, length, language, config.bank.num_terms)
        return apply_operations(task.bank, operations, when_full=config.bank.when_full)[0]

    if isinstance(tasks, AnswerTask):
        return trajectory, jax.vmap(jax.vmap(read_answer))(generation.tokens, generation.length)
    return trajectory, jax.vmap(jax.vmap(carry_out, (None, 0, 0)))(tasks, generation.tokens, generation.length)


def _describe_batch(tasks: Tasks, trajectory: Trajectory, outcome: PyTree, first: int, start: Start) -> Iterator[Sample]:
    text_of, agent = text_reader(start.language.table), start.config.agent
    generation, (P, G) = trajectory.generation, trajectory.reward.shape
    for p in range(P):
        task, rewards = take(tasks, p), tuple(trajectory.reward[p].tolist())
        prompt = text_of(trajectory.prompt[p], trajectory.prompt_length[p])
        responses = [text_of(tokens, length) for tokens, length in zip(generation.tokens[p], generation.length[p], strict=True)]
        count = Counter(responses)
        for g, response in enumerate(responses):
            of_member = jax.tree.map(lambda x, at=(p, g): x[at], outcome)
            describe = _describe_answer if agent == "answerer" else _describe_change
            deed, signs = describe(task, of_member, prompt, response, text_of)
            signs[COPIES] = bool(_pairs(prompt) & _pairs(response))
            signs[LIMIT] = int(generation.length[p, g]) == start.config.trained.response_length
            signs[ALONE] = count[response] == 1 < G
            yield Sample(
                group=first + p,
                prompt=prompt,
                response=response,
                tokens=int(generation.length[p, g]),
                asked=_asked(task, text_of),
                deed=deed,
                reward=rewards[g],
                rewards=rewards,
                same=count[response],
                signs=tuple(sign for sign in SIGNS[agent] if signs[sign]),
            )


def _describe_answer(
    task: AnswerTask, answer: PyTree, prompt: str, response: str, text_of: TextOf
) -> tuple[tuple[str, ...], dict[str, bool]]:
    """The answer that was read, and the signs of an answer. A quote that is not there may yet lead to what is right, by luck."""
    tokens, length = answer
    read, quoted = text_of(tokens, length), _lines(response.partition(ANSWER_MARKER)[0])
    signs = {
        TWICE: response.count(ANSWER_MARKER) > 1,
        EMPTY: not normalize_answer(read),
        INVENTS: any(line not in prompt for line in quoted),
    }
    return (f"answers {read!r}",), signs


def _describe_change(
    task: ManagerTask, after: MemoryBank, prompt: str, response: str, text_of: TextOf
) -> tuple[tuple[str, ...], dict[str, bool]]:
    """What became of the slots that are not as they were, a line each, and the signs of an operation."""
    old, new = ({slot: text_of(b.tokens[slot], b.length[slot]) for slot in np.flatnonzero(b.occupied)} for b in (task.bank, after))
    written = [slot for slot in new if task.bank.written[slot] != after.written[slot] or slot not in old]
    lost, replaced = [slot for slot in old if slot not in new], [slot for slot in written if slot in old]
    adds = response.startswith("ADD")
    deed = [f"drops {old[slot]!r}" for slot in lost]
    deed += [f"adds {new[slot]!r}" for slot in written if slot not in old]
    deed += [f"writes {new[slot]!r} over {old[slot]!r}" for slot in replaced]
    marks = (*MARKERS[1:], *map(number_mark, range(1, 10)))
    signs = {
        MARKED: any(mark in new[slot] for mark in marks for slot in written),
        FORGES: any(set(new[slot].split()) - set(prompt.split()) for slot in written),
        IDLE: not deed,
        OVERWRITES: adds and bool(replaced),
    }
    return tuple(deed), signs


def _asked(task: AnswerTask | ManagerTask, text_of: TextOf) -> tuple[tuple[str, str], ...]:
    """The questions of a task with their gold answers."""
    if isinstance(task, AnswerTask):
        questions = [task.question]
    else:
        questions = [take(task.questions, int(q)) for q in np.flatnonzero(task.asked)]
    return tuple((text_of(q.tokens, q.length), bytes(q.answer[: q.answer_length]).decode(errors="replace")) for q in questions)


def _pairs(text: str) -> set[tuple[str, str]]:
    """Every two lines that follow each other: who repeats such a pair copies more than one memory."""
    return set(itertools.pairwise(_lines(text)))


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]
