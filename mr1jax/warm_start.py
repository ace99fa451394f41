"""The supervised start of both agents: one small model learns the two formats, copying, and the teacher's habits, good and bad.

Look-up in context appears suddenly after a plateau. What shortens it here: an answer first quotes a memory from the word on that
it shares with the question, so that look-up becomes "copy what followed the same word"; the number of memories grows in stages; Muon.
"""

import functools
import itertools
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from optax.contrib import MuonDimensionNumbers
from tqdm import tqdm

from mr1jax.agents.prompts import MARKERS
from mr1jax.config import AgentConfig, Config, ModelConfig, replace
from mr1jax.data.loader import make_loader
from mr1jax.data.memdial import lessons
from mr1jax.lesson_arrays import LessonBatch, LessonEncoder
from mr1jax.model import transformer
from mr1jax.model.weights import save_params
from mr1jax.rl.masked import masked_mean
from mr1jax.structs import PAD, Array, PyTree
from mr1jax.text.tokenizer import SentencePieceTokenizer, Tokenizer, train_sentencepiece

# The room of a lesson; the few that need more are skipped.
ANSWERER = AgentConfig(num_retrieved=3, prompt_length=88, response_length=40)
MANAGER = AgentConfig(num_retrieved=3, prompt_length=88, response_length=32)
CONTEXTS, QUESTIONS = 16, 4  # of the Answer Agent in a step, and to each of them
DECISIONS = 16  # of the Manager in a step
NUM_WORLDS = 4000  # training conversations that lessons are drawn from
VOCAB_SIZE = 1536


@dataclass(frozen=True)
class Stage:
    """Lessons of one size. memories: shown to the Answer Agent, or one fewer, which half of the lessons have."""

    steps: int
    memories: int


@dataclass(frozen=True)
class Phase:
    """Stages under one warm-up and one cosine of the learning rate, which ends at `final` times its peak."""

    stages: tuple[Stage, ...]
    final: float
    learning_rate: float = 0.02  # of Muon, for the matrices of the layers
    adam_learning_rate: float = 0.004  # for embedding, norms and biases

    @property
    def steps(self) -> int:
        return sum(stage.steps for stage in self.stages)


PHASES = (
    Phase((Stage(300, memories=1), Stage(300, memories=2)), final=1.0),
    Phase((Stage(2200, memories=3),), final=0.0),
)


def imitation_loss(params: PyTree, batch: LessonBatch, config: ModelConfig) -> tuple[Array, Array]:
    """Cross-entropy of the tokens of the responses, -1/n sum log p(token), and the share of responses that greedy decoding would write."""
    hidden_PGRD = transformer.response_hidden(config, params, batch.prompt, batch.prompt_length, batch.response[:, None])
    logits_PRV = transformer.logits(config, params, hidden_PGRD)[:, 0]
    graded_PR = batch.response != PAD
    loss_PR = optax.softmax_cross_entropy_with_integer_labels(logits_PRV, batch.response)
    right_PR = (jnp.argmax(logits_PRV, axis=-1) == batch.response) | ~graded_PR
    return masked_mean(loss_PR, graded_PR), jnp.mean(jnp.all(right_PR, axis=-1), dtype=jnp.float32)


def make_optimizer(phase: Phase) -> optax.GradientTransformation:
    """Muon for the matrices of the layers, which are stacked along their first axis, and Adam for all else; warmed up, then a cosine."""
    as_matrix = {name: MuonDimensionNumbers(1, 2) for name in ("gate", "up", "down")}
    as_matrix |= {name: MuonDimensionNumbers(1, (2, 3)) for name in ("query", "key", "value")}
    as_matrix |= {"output": MuonDimensionNumbers((1, 2), 3)}

    def dimension_numbers(params: PyTree) -> PyTree:
        return jax.tree_util.tree_map_with_path(lambda path, _: as_matrix.get(path[-1].key), params)

    def schedule(rate: float) -> optax.Schedule:
        return optax.warmup_cosine_decay_schedule(0.0, rate, 60, phase.steps, phase.final * rate)

    muon = optax.contrib.muon(
        schedule(phase.learning_rate),
        adam_learning_rate=schedule(phase.adam_learning_rate),
        adam_b2=0.98,
        muon_weight_dimension_numbers=dimension_numbers,
    )
    return optax.chain(optax.clip_by_global_norm(1.0), muon)


def make_update(config: ModelConfig, tx: optax.GradientTransformation) -> Callable:
    """Builds the jitted step over both agents' lessons: (params, opt_state, answers, decisions) -> (params, opt_state, metrics)."""

    def total_loss(params, answers, decisions):
        answer_loss, answer_right = imitation_loss(params, answers, config)
        manager_loss, manager_right = imitation_loss(params, decisions, config)
        metrics = {"answerer": answer_loss, "answerer_right": answer_right, "manager": manager_loss, "manager_right": manager_right}
        return answer_loss + 0.5 * manager_loss, metrics

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def update(params, opt_state, answers, decisions):
        gradient, metrics = jax.grad(total_loss, has_aux=True)(params, answers, decisions)
        updates, opt_state = tx.update(gradient, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, metrics

    return update


def _first(draw: Callable[[], LessonBatch | None]) -> LessonBatch:
    return next(batch for batch in iter(draw, object()) if batch is not None)


def lesson_batches(tokenizer: Tokenizer, num_slots: int, stage: Stage, number: int) -> Iterator[tuple[LessonBatch, LessonBatch]]:
    """Yields (answers, decisions) for every step of a stage. Each lesson depends on its own number and that of the stage alone."""
    encoder = LessonEncoder(tokenizer, ANSWERER, MANAGER)

    def answer(index: int) -> LessonBatch:
        rng = random.Random(f"answer/0/{number}/{index}")
        size = (rng.randint(max(1, stage.memories - 1), stage.memories), QUESTIONS, num_slots)
        return _first(lambda: encoder.disguised(rng).answer(lessons.answer_lesson(rng, NUM_WORLDS, *size)))

    def decision(index: int) -> LessonBatch:
        rng = random.Random(f"decision/0/{number}/{index}")
        return _first(lambda: encoder.disguised(rng).decision(lessons.manager_lesson(rng, NUM_WORLDS, MANAGER.num_retrieved, num_slots)))

    answers = make_loader(range(stage.steps * CONTEXTS), answer, batch_size=CONTEXTS, seed=0)
    decisions = make_loader(range(stage.steps * DECISIONS), decision, batch_size=DECISIONS, seed=0)
    for _ in range(stage.steps):
        yield _flat(next(answers)), _flat(next(decisions))


def _flat(lessons_of: LessonBatch) -> LessonBatch:
    """Joins the axis of lessons and the axis of the questions in a lesson."""
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), lessons_of)


def train_tokenizer(path: Path) -> SentencePieceTokenizer:
    """Trains the tokenizer of `tiny` on what people in memdial's training split say."""
    return train_sentencepiece(lessons.corpus(3000), path, VOCAB_SIZE, MARKERS)


def warm_start(config: Config, phases: Sequence[Phase], assets: Path) -> PyTree:
    """Trains tokenizer and model, and writes `tokenizer.model` and `warm_start.safetensors` into `assets`. Returns the parameters."""
    assets.mkdir(parents=True, exist_ok=True)
    tokenizer = train_tokenizer(assets / "tokenizer.model")
    model = replace(config.model, vocab_size=tokenizer.vocab_size)
    params, num_stages = transformer.init_params(model, jax.random.key(0)), 0
    for phase in phases:
        params = train_phase(phase, num_stages, params, model, tokenizer, config.bank.num_slots, assets / "warm_start.safetensors")
        num_stages += len(phase.stages)
    return params


def train_phase(
    phase: Phase, first_stage: int, params: PyTree, model: ModelConfig, tokenizer: Tokenizer, num_slots: int, path: Path
) -> PyTree:
    """Trains through one phase, whose first stage has the number `first_stage`, and saves to `path` every 200 steps and at the end."""
    tx = make_optimizer(phase)
    opt_state, update = tx.init(params), make_update(model, tx)
    batches = itertools.chain.from_iterable(
        lesson_batches(tokenizer, num_slots, stage, first_stage + i) for i, stage in enumerate(phase.stages)
    )
    started, log = time.monotonic(), []
    progress = tqdm(batches, total=phase.steps, desc=f"warm start, stage {first_stage} on", mininterval=5)
    for step, (answers, decisions) in enumerate(progress, 1):
        params, opt_state, metrics = update(params, opt_state, answers, decisions)
        log.append(metrics)
        if step % 50 == 0:
            mean = {name: float(np.mean([m[name] for m in log])) for name in metrics}
            tqdm.write(f"step {step:5d}  " + "  ".join(f"{name} {value:.3f}" for name, value in mean.items()))
            log = []
        if step % 200 == 0 or step == phase.steps:
            save_params(path, params, {"stage": str(first_stage), "steps": str(step), "seconds": f"{time.monotonic() - started:.0f}"})
    return params
