"""What a run needs before its first step: the tokenizer and what it implies, parameters to start from, conversations, tasks.

Host only. Everything a user can get wrong is checked here, before anything compiles.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp

from mr1jax.agents.prompts import Language, make_language
from mr1jax.agents.tasks import answer_tasks, ask_at_end, manager_tasks
from mr1jax.config import AGENTS, PROJECTIONS, Config, replace, require
from mr1jax.data.episodes import EpisodeShape, encode_record, stack
from mr1jax.data.records import Record
from mr1jax.data.states import first_facts, manager_states
from mr1jax.embeddings import embed_banks, embed_questions, load_encoder
from mr1jax.evaluate import append_only_banks, build_banks
from mr1jax.identity import fingerprint
from mr1jax.model.backbones import read_config
from mr1jax.model.hub import find_backbone
from mr1jax.model.huggingface import load_backbone
from mr1jax.model.lora import BASE, agent_params, init_adapter
from mr1jax.model.transformer import init_params, logical_axes
from mr1jax.model.weights import load_metadata, load_params
from mr1jax.sharding import make_mesh, param_sharding
from mr1jax.step import Tasks
from mr1jax.structs import Conversation, MemoryBank, PyTree
from mr1jax.text.grammar import check_response_budget
from mr1jax.text.huggingface_tokenizer import HuggingFaceTokenizer
from mr1jax.text.packing import check_budget
from mr1jax.text.tokenizer import SentencePieceTokenizer, Tokenizer

ASSETS = Path(__file__).resolve().parents[1] / "assets"


@dataclass(frozen=True)
class Start:
    """The configuration with what was found filled in, the model and the backbone's commit; both agents' parameters, or their base and
    adapters; all of text."""

    config: Config
    params: dict[str, PyTree]
    tokenizer: Tokenizer
    language: Language


def load_start(config: Config, assets: Path = ASSETS) -> Start:
    """Reads tokenizer and parameters: the shipped ones, or those of `config.backbone`; and what `config.manager_from` and
    `config.answerer_from` name.

    Raises ValueError where a file is missing, damaged or of another model, and where a budget holds no response at all.
    """
    tokenizer: Tokenizer
    if config.backbone:
        backbone, folder = find_backbone(config.backbone)
        model = replace(read_config(folder), dtype=config.model.dtype, remat=config.model.remat)
        tokenizer = own = HuggingFaceTokenizer(folder, model.vocab_size)
        frame, swap = own.chat_frame(), own.swap
    else:
        tokenizer, frame, swap = SentencePieceTokenizer(assets / "tokenizer.model"), None, None
        model, backbone, folder = replace(config.model, vocab_size=tokenizer.vocab_size), "", assets
    config = replace(config, model=model, backbone=backbone)
    language = make_language(tokenizer, max(getattr(config, agent).num_shown for agent in AGENTS), frame, distill=config.distill)
    for agent in AGENTS:
        check_response_budget(f"{agent}.response_length", getattr(config, agent).response_length, getattr(language, agent))
    return Start(config, _load_agents(config, swap, folder), tokenizer, language)


def _load_agents(config: Config, swap: tuple[int, int] | None, folder: Path) -> dict[str, PyTree]:
    """Reads both agents, each from its run or from what all start from; with LoRA that is read once, as the base of both."""
    runs = {"manager": config.manager_from, "answerer": config.answerer_from}
    if not config.lora.rank:
        return {agent: load_agent(config, agent, run) if run else _load_untrained(config, swap, folder) for agent, run in runs.items()}
    base, params = _load_untrained(config, swap, folder), {}
    for number, (agent, run) in enumerate(runs.items()):
        key = jax.random.fold_in(jax.random.key(config.seed), number)
        params[agent] = load_agent(config, agent, run, base) if run else init_adapter(config.lora, base, key)
    return {BASE: base} | params


def _load_untrained(config: Config, swap: tuple[int, int] | None, folder: Path) -> PyTree:
    """Reads what an agent starts from: the backbone, straight to where the step wants it, or the tiny model that ships."""
    dtype, shapes = config.lora.base_dtype if config.lora.rank else "float32", _shapes(config)
    if swap:
        layout = param_sharding(shapes, logical_axes(shapes), make_mesh(config.mesh))
        return load_backbone(folder, config.model, layout, dtype, swap)
    path = folder / "warm_start.safetensors"
    require(path.is_file(), f"there are no weights at {path}; make warm-start")
    return jax.tree.map(lambda x: x.astype(jnp.dtype(dtype)), load_params(path, shapes))


def load_agent(config: Config, agent: str, run: str | Path, base: PyTree | None = None) -> PyTree:
    """Reads what a run has made of one agent: its parameters, or with LoRA its adapter, which must have been trained on this base.

    Raises ValueError where there is none, or where the run's model, adapter or base is another than this configuration's.
    """
    path = Path(run) / f"{agent}.safetensors"
    require(path.is_file(), f"there are no weights at {path}; train a run with agent {agent} there")
    _require_same_adapter(path, load_metadata(path), describe_agent(config, agent, base))
    shapes = _shapes(config)
    if config.lora.rank:
        shapes = jax.eval_shape(lambda base: init_adapter(config.lora, base, jax.random.key(0)), shapes)
    return load_params(path, shapes)


def _require_same_adapter(path: Path, found: dict[str, str], wanted: dict[str, str]) -> None:
    """Compares two descriptions of `describe_agent`, that of a file and that of this run."""
    holds, trains = ("an adapter" if "rank" in about else "all parameters" for about in (found, wanted))
    require(
        holds == trains, f"{path} holds {holds}, and this run has {trains}; set --lora.rank {found.get('rank', 0)}, or name another run"
    )
    for name in wanted.keys() - {"agent"}:
        remedy = "use the backbone of that run" if name == "base" else f"set --lora.{name} {found.get(name)}"
        require(
            found.get(name) == wanted[name],
            f"{path} holds an adapter with {name} {found.get(name)}, and this run has {name} {wanted[name]}; {remedy}, or name another run",
        )


def describe_agent(config: Config, agent: str, base: PyTree | None = None) -> dict[str, str]:
    """Describes the weights of an agent for the metadata of their file; what an adapter is of no use without is part of it."""
    if not config.lora.rank:
        return {"agent": agent}
    lora = config.lora
    targets = " ".join(name for name in PROJECTIONS if name in lora.targets)
    return {"agent": agent, "rank": str(lora.rank), "alpha": str(lora.alpha), "targets": targets, "base": fingerprint(base)}


def _shapes(config: Config) -> PyTree:
    return jax.eval_shape(lambda: init_params(config.model, jax.random.key(0)))


def encode(records: Sequence[Record], start: Start) -> Conversation:
    """Encodes conversations in the smallest common shape; raises ValueError if a prompt budget cannot hold its fixed parts."""
    config, language = start.config, start.language
    shape = EpisodeShape.fit(records, start.tokenizer, slot_width=config.bank.slot_width)
    phrases = language.phrases
    line = phrases.date_mark.length + phrases.line_break.length + shape.date_width + shape.slot_width
    told = {agent: int(getattr(phrases, agent).length + phrases.memories.length + phrases.closing.length) for agent in AGENTS}
    check_budget("manager.prompt_length", config.manager.prompt_length, told["manager"], int(line))
    asked = int(phrases.line_break.length) + shape.question_width
    check_budget("answerer.prompt_length", config.answerer.prompt_length, told["answerer"], asked)
    conversations = stack([encode_record(record, start.tokenizer, shape) for record in records])
    if config.answerer.retrieval == "lexical":
        return conversations
    encoder = load_encoder(config.encoder)
    return replace(conversations, question_embedding=embed_questions(conversations, language.table, encoder))


def make_tasks(records: Sequence[Record], start: Start) -> Tasks:
    """Makes what the configured agent trains on: facts at prebuilt banks, or questions to banks.

    The Answer Agent is asked about banks that forgot nothing: what one has lost no answer brings back, and of what was said several times
    over it has to find the last. So it also learns for banks that a better Manager will keep. Or with `config.banks_by` about those that
    its partner keeps.
    """
    config = start.config
    records = [first_facts(record, config.max_facts) for record in records]
    conversations = encode(records, start)
    if config.agent == "manager":
        require(
            config.answerer.retrieval == "lexical",
            f"answerer.retrieval is {config.answerer.retrieval!r}, and what a Manager writes in training has no embedding; use 'lexical'",
        )
        states = manager_states(
            records, config.bank.num_slots, config.questions_per_state, config.seed, horizon=config.horizon, lead=config.lead
        )
        require(bool(states), f"{len(records)} conversations hold no fact that is asked about; give Config.conversations more")
        return manager_tasks(states, conversations, start.language, config)
    banks = _banks_asked(conversations, start)
    if config.answerer.retrieval != "lexical":
        banks = embed_banks(banks, start.language.table, load_encoder(config.encoder))
    return answer_tasks(banks, conversations, ask_at_end(conversations))


def _banks_asked(conversations: Conversation, start: Start) -> MemoryBank:
    config, language = start.config, start.language
    if config.banks_by == "manager":
        return build_banks(agent_params(start.params, "manager", config.lora), conversations, language, config).banks
    everything = replace(config, bank=replace(config.bank, num_slots=conversations.fact_length.shape[1]))
    return append_only_banks(conversations, language, everything).banks
