"""The supervised start of both agents: one small model learns the two formats, copying, and the teacher's habits, good and bad.

Look-up in context appears suddenly after a plateau. What shortens it here: the heads of the first layer start out looking back (see
`look_back`); an answer first quotes a memory from the word on that it shares with the question, so that look-up becomes "copy what
followed the same word"; the number of memories grows in stages; Muon.
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
from mr1jax.data import nonsense
from mr1jax.data.memdial import lessons
from mr1jax.lesson_arrays import OPENINGS, LessonBatch, LessonEncoder
from mr1jax.manifest import MANIFEST, write_manifest
from mr1jax.model import transformer
from mr1jax.model.look_back import look_back
from mr1jax.model.weights import save_params
from mr1jax.rl.masked import masked_mean
from mr1jax.structs import PAD, Array, PyTree
from mr1jax.text.tokenizer import SentencePieceTokenizer, Tokenizer, train_sentencepiece

# The room of a lesson; the few that need more are skipped.
ANSWERER = AgentConfig(num_retrieved=3, prompt_length=160, response_length=72)
MANAGER = AgentConfig(num_retrieved=3, prompt_length=160, response_length=72)
# Prompts and responses of a batch are cut to the first of these sizes that holds them: most lessons need less than half of the room.
SIZES = ((56, 20), (72, 28), (88, 40), (120, 48), (160, 72))
BATCH_TOKENS = 6000  # with padding
QUESTIONS = 4  # to each context of the Answer Agent
NONSENSE_SHARE = 0.25  # of the Answer Agent's lessons
DECISION_SHARES = {"plain": 0.6, "disguised": 0.25, "nonsense": 0.15}  # of the Manager's: what kind of fact it is, only the words tell
NUM_WORLDS = 4000  # training conversations that the other lessons are drawn from
VOCAB_SIZE = 1536


@dataclass(frozen=True)
class Stage:
    """Lessons of one size. memories: shown to the Answer Agent, or one fewer, which half of the lessons have; decisions: of the Manager,
    for each context of the Answer Agent."""

    steps: int
    memories: int
    decisions: int


@dataclass(frozen=True)
class Phase:
    """Stages under one warm-up and one cosine of the learning rate, which ends at `final` times its peak.

    choice_weight: of the token that says what is to be done: one of a dozen, and the others copy. While copying is not learnt it must not
    drown what teaches it.
    """

    stages: tuple[Stage, ...]
    final: float
    choice_weight: float
    learning_rate: float = 0.02  # of Muon, for the matrices of the layers
    adam_learning_rate: float = 0.004  # for embedding, norms and biases

    @property
    def steps(self) -> int:
        return sum(stage.steps for stage in self.stages)


PHASES = (
    Phase((Stage(300, memories=2, decisions=1), Stage(1500, memories=3, decisions=1)), final=0.6, choice_weight=1.0),
    Phase((Stage(2400, memories=3, decisions=2),), final=0.0, choice_weight=40.0, learning_rate=0.012, adam_learning_rate=0.0024),
)


def imitation_loss(
    params: PyTree, batch: LessonBatch, config: ModelConfig, openings: tuple[int, ...], choice_weight: float
) -> tuple[Array, dict[str, Array]]:
    """Cross-entropy of the tokens of the responses, -1/n sum log p(token).

    The first token of a decision counts `choice_weight` times, and it is compared with all that the teacher might have done,
    -sum_k odds_k log p(openings_k), instead of with the one it drew: by what it drew once, a kind of fact that it ignores more often than
    another is hardly told from it. openings: the tokens that OPENINGS stands for.

    Returns the loss and metrics: `choice`, what the model adds to the entropy of the odds; by agent its loss, every token counting the
    same, and the share of responses that greedy decoding would write.
    """
    hidden_PGRD = transformer.response_hidden(config, params, batch.prompt, batch.prompt_length, batch.response[:, None])
    logits_PRV = transformer.logits(config, params, hidden_PGRD)[:, 0]
    graded_PR = batch.response != PAD
    decision_P = jnp.any(batch.odds > 0, axis=-1)
    chosen_PR = decision_P[:, None] & (jnp.arange(graded_PR.shape[1]) == 0)[None]
    weight_PR = graded_PR * jnp.where(chosen_PR, choice_weight, 1.0)
    loss_PR = optax.softmax_cross_entropy_with_integer_labels(logits_PRV, batch.response)
    choice_P = -jnp.sum(batch.odds * jax.nn.log_softmax(logits_PRV[:, 0])[:, jnp.asarray(openings)], axis=-1)
    right_P = jnp.all((jnp.argmax(logits_PRV, axis=-1) == batch.response) | ~graded_PR, axis=-1)
    metrics = {"choice": masked_mean(choice_P - jnp.sum(jax.scipy.special.entr(batch.odds), axis=-1), decision_P)}
    for agent, of_P in (("answerer", ~decision_P), ("manager", decision_P)):
        metrics[agent] = masked_mean(loss_PR, graded_PR & of_P[:, None])
        metrics[f"{agent}_right"] = masked_mean(right_P.astype(jnp.float32), of_P)
    loss_PR = jnp.where(chosen_PR, choice_P[:, None], loss_PR)
    return jnp.sum(loss_PR * weight_PR) / jnp.sum(weight_PR), metrics


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


def make_update(config: ModelConfig, tx: optax.GradientTransformation, openings: tuple[int, ...], choice_weight: float) -> Callable:
    """Builds the jitted step: (params, opt_state, lessons) -> (params, opt_state, metrics)."""

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def update(params, opt_state, batch):
        gradient, metrics = jax.grad(imitation_loss, has_aux=True)(params, batch, config, openings, choice_weight)
        updates, opt_state = tx.update(gradient, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, metrics

    return update


def _first(draw: Callable[[], LessonBatch | None]) -> LessonBatch:
    return next(batch for batch in iter(draw, object()) if batch is not None)


def lesson_rows(tokenizer: Tokenizer, num_slots: int, stage: Stage, number: int) -> Iterator[LessonBatch]:
    """Yields the lessons of a stage without end, P of them at a time: the questions to one context, then its decisions, and so on.

    Each depends on its own number and that of the stage alone.
    """
    encoder = LessonEncoder(tokenizer, ANSWERER, MANAGER)

    def answer(rng: random.Random) -> LessonBatch | None:
        num_shown = rng.randint(max(1, stage.memories - 1), stage.memories)
        if rng.random() < NONSENSE_SHARE:
            return _dressed(encoder, rng).answer(nonsense.answer_lesson(rng, num_shown, QUESTIONS))
        return encoder.disguised(rng).answer(lessons.answer_lesson(rng, NUM_WORLDS, num_shown, QUESTIONS, num_slots))

    def decision(rng: random.Random) -> LessonBatch | None:
        (form,) = rng.choices(list(DECISION_SHARES), list(DECISION_SHARES.values()))
        if form == "nonsense":
            return _dressed(encoder, rng).decision(nonsense.manager_lesson(rng, MANAGER.num_retrieved))
        own = encoder if form == "plain" else encoder.disguised(rng)
        return own.decision(lessons.manager_lesson(rng, NUM_WORLDS, MANAGER.num_retrieved, num_slots))

    for index in itertools.count():
        yield _first(functools.partial(answer, random.Random(f"answer/0/{number}/{index}")))
        for nth in range(stage.decisions):
            yield _first(functools.partial(decision, random.Random(f"decision/0/{number}/{index}/{nth}")))


def _dressed(encoder: LessonEncoder, rng: random.Random) -> LessonEncoder:
    """Half of the lessons in made-up words have their own pieces, as unknown words will, and half those of a disguise."""
    return encoder if rng.random() < 0.5 else encoder.disguised(rng)


def batches_by_size(rows: Iterator[LessonBatch], sizes: Sequence[tuple[int, int]] = SIZES) -> Iterator[LessonBatch]:
    """Collects lessons in batches of few sizes, about BATCH_TOKENS tokens each, in the order in which they fill up. The last of the sizes
    must hold every lesson."""
    waiting: dict[tuple[int, int], list[LessonBatch]] = {size: [] for size in sizes}
    for lesson in rows:
        for place in range(len(lesson.prompt_length)):
            row = jax.tree.map(lambda x, place=place: x[place], lesson)
            fitting = (size for size in sizes if row.prompt_length <= size[0] and row.response_length <= size[1])
            prompt_size, response_size = size = next(fitting)
            waiting[size].append(replace(row, prompt=row.prompt[:prompt_size], response=row.response[:response_size]))
            if len(waiting[size]) == BATCH_TOKENS // sum(size):
                yield jax.tree.map(lambda *leaves: np.stack(leaves), *waiting[size])
                waiting[size] = []


def train_tokenizer(path: Path) -> SentencePieceTokenizer:
    """Trains the tokenizer of `tiny` on what people in memdial's training split say."""
    return train_sentencepiece(lessons.corpus(3000), path, VOCAB_SIZE, MARKERS)


def warm_start(config: Config, phases: Sequence[Phase], assets: Path) -> PyTree:
    """Trains tokenizer and model, and writes `tokenizer.model`, `warm_start.safetensors` and the sha256 of both into `assets`.

    Returns the parameters.
    """
    assets.mkdir(parents=True, exist_ok=True)
    (assets / MANIFEST).unlink(missing_ok=True)  # of other files; without one, these are not finished
    tokenizer = train_tokenizer(assets / "tokenizer.model")
    model = replace(config.model, vocab_size=tokenizer.vocab_size)
    params, num_stages = look_back(transformer.init_params(model, jax.random.key(0)), model), 0
    for phase in phases:
        params = train_phase(phase, num_stages, params, model, tokenizer, config.bank.num_slots, assets / "warm_start.safetensors")
        num_stages += len(phase.stages)
    write_manifest(assets)
    return params


def train_phase(
    phase: Phase, first_stage: int, params: PyTree, model: ModelConfig, tokenizer: Tokenizer, num_slots: int, path: Path
) -> PyTree:
    """Trains through one phase, whose first stage has the number `first_stage`, and saves to `path` every 200 steps and at the end."""
    batches = itertools.chain.from_iterable(
        itertools.islice(batches_by_size(lesson_rows(tokenizer, num_slots, stage, first_stage + i)), stage.steps)
        for i, stage in enumerate(phase.stages)
    )
    return imitate(phase, batches, params, model, tokenizer, path, {"stage": str(first_stage)}, f"warm start, stage {first_stage} on")


def imitate(
    phase: Phase,
    batches: Iterator[LessonBatch],
    params: PyTree,
    model: ModelConfig,
    tokenizer: Tokenizer,
    path: Path,
    about: dict[str, str],
    description: str,
) -> PyTree:
    """Trains on as many batches of lessons as the phase has steps; saves to `path` every 200 steps and at the end, with `about` and the
    steps done as metadata. Returns the parameters; those given are used up where they are on a device."""
    tx = make_optimizer(phase)
    openings = tuple(tokenizer.encode_exactly(opening)[0] for opening in OPENINGS)
    opt_state, update = tx.init(params), make_update(model, tx, openings, phase.choice_weight)
    started, log = time.monotonic(), []
    progress = tqdm(itertools.islice(batches, phase.steps), total=phase.steps, desc=description, mininterval=5)
    for step, batch in enumerate(progress, 1):
        params, opt_state, metrics = update(params, opt_state, batch)
        log.append(metrics)
        if step % 50 == 0:
            mean = {name: float(np.mean([m[name] for m in log])) for name in metrics}
            tqdm.write(f"step {step:5d}  " + "  ".join(f"{name} {value:.3f}" for name, value in mean.items()))
            log = []
        if step % 200 == 0 or step == phase.steps:
            save_params(path, params, about | {"steps": str(step), "seconds": f"{time.monotonic() - started:.0f}"})
    return params
