"""Memory-SFT: both agents imitate a teacher's trajectories instead of learning from rewards (arXiv 2508.19828, section 4.1).

Kept of the original: the same architecture, the same start, the same two agents and prompts as the trained ones, and a far better teacher,
whose every operation and answer is imitated by cross-entropy. Another one: the teacher is GPT-5 there and memdial's oracle here, which
makes no mistake; its conversations are of the training split. Left out: the teacher's reasoning, since neither agent writes any. As there,
an agent sees only banks that the teacher kept, never those that its own mistakes leave.
"""

import itertools
import random
from collections.abc import Iterator
from pathlib import Path

import jax

from mr1jax.config import AGENTS, AgentConfig, Config, require
from mr1jax.data.memdial.lessons import oracle_answer_lesson, oracle_manager_lesson
from mr1jax.identity import fingerprint
from mr1jax.lesson_arrays import LessonBatch, LessonEncoder
from mr1jax.model.weights import load_metadata, load_params
from mr1jax.prepare import Start
from mr1jax.structs import PyTree
from mr1jax.text.tokenizer import Tokenizer
from mr1jax.warm_start import NUM_WORLDS, QUESTIONS, Phase, Stage, batches_by_size, imitate

DISGUISED_SHARE = 0.3  # of the lessons, whose names stand for other tokens: copying is not to be forgotten
# Each agent learns apart, in steps of the warm start's size at a fraction of its rates.
PHASES = {
    "manager": Phase((Stage(150, memories=3, decisions=1),), final=0.0, choice_weight=5.0, learning_rate=4e-3, adam_learning_rate=8e-4),
    "answerer": Phase((Stage(150, memories=3, decisions=0),), final=0.0, choice_weight=1.0, learning_rate=4e-3, adam_learning_rate=8e-4),
}


def train_memory_sft(start: Start, folder: Path, phases: dict[str, Phase] = PHASES) -> dict[str, PyTree]:
    """Trains both agents into `folder`, one after the other, and returns their parameters.

    An agent that the folder already has, finished, from this start and by this phase, is read instead: so a stopped training goes on with
    the agent that is not finished. Raises ValueError where the start is of a backbone, whose chat no lesson has, or of adapters.
    """
    config = start.config
    require(not config.backbone, f"Memory-SFT writes lessons for the tiny model, and the start is {config.backbone}; leave backbone empty")
    require(not config.lora.rank, f"Memory-SFT trains all parameters, and lora.rank is {config.lora.rank}; set it to 0")
    folder.mkdir(parents=True, exist_ok=True)
    return {agent: _train(start, agent, phases[agent], folder / f"{agent}.safetensors") for agent in AGENTS}


def _train(start: Start, agent: str, phase: Phase, path: Path) -> PyTree:
    config, params = start.config, jax.device_get(start.params[agent])
    about = {"agent": agent, "start": fingerprint(params), "phase": repr(phase)}
    wanted = about | {"steps": str(phase.steps)}
    if path.is_file() and wanted.items() <= load_metadata(path).items():
        return load_params(path, params)
    room: AgentConfig = getattr(config, agent)
    batches = batches_by_size(oracle_lessons(agent, start.tokenizer, config), [(room.prompt_length, room.response_length)])
    return jax.device_get(imitate(phase, batches, params, config.model, start.tokenizer, path, about, f"Memory-SFT of the {agent}"))


def oracle_lessons(agent: str, tokenizer: Tokenizer, config: Config) -> Iterator[LessonBatch]:
    """Yields lessons of the oracle's trajectories for one agent without end, in the room that it will have; the few that need more are
    skipped. Each depends on its own number alone."""
    encoder, num_slots = LessonEncoder(tokenizer, config.answerer, config.manager), config.bank.num_slots
    for index in itertools.count():
        rng = random.Random(f"oracle/{agent}/{index}")
        own = encoder.disguised(rng) if rng.random() < DISGUISED_SHARE else encoder
        if agent == "manager":
            batch = own.decision(oracle_manager_lesson(rng, NUM_WORLDS, config.manager.num_shown, num_slots))
        else:
            num_shown = config.answerer.num_shown
            batch = own.answer(oracle_answer_lesson(rng, NUM_WORLDS, num_shown, QUESTIONS, num_slots))
        if batch is not None:
            yield batch
