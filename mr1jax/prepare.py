"""What a run needs before its first step: the tokenizer and what it implies, parameters to start from, conversations, tasks.

Host only. Everything a user can get wrong is checked here, before anything compiles.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jax

from mr1jax.agents.prompts import Language, make_language
from mr1jax.agents.tasks import answer_tasks, ask_at_end, manager_tasks
from mr1jax.config import AGENTS, Config, replace, require
from mr1jax.data.episodes import EpisodeShape, encode_record, stack
from mr1jax.data.records import Record
from mr1jax.data.states import manager_states
from mr1jax.embeddings import embed_banks, embed_questions, load_encoder
from mr1jax.evaluate import append_only_banks
from mr1jax.model.backbones import read_config
from mr1jax.model.hub import find_backbone
from mr1jax.model.huggingface import load_backbone
from mr1jax.model.transformer import init_params
from mr1jax.model.weights import load_params
from mr1jax.step import Tasks
from mr1jax.structs import Conversation, PyTree
from mr1jax.text.grammar import check_response_budget
from mr1jax.text.huggingface_tokenizer import HuggingFaceTokenizer
from mr1jax.text.packing import check_budget
from mr1jax.text.tokenizer import SentencePieceTokenizer, Tokenizer

ASSETS = Path(__file__).resolve().parents[1] / "assets"


@dataclass(frozen=True)
class Start:
    """The configuration with what was found filled in, the model and the backbone's commit; both agents' parameters; all of text."""

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
    language = make_language(tokenizer, max(getattr(config, agent).num_shown for agent in AGENTS), frame)
    for agent in AGENTS:
        check_response_budget(f"{agent}.response_length", getattr(config, agent).response_length, getattr(language, agent))
    return Start(config, {agent: _load_agent(config, agent, swap, folder) for agent in AGENTS}, tokenizer, language)


def _load_agent(config: Config, agent: str, swap: tuple[int, int] | None, folder: Path) -> PyTree:
    """Reads one agent from the run it is to start from, else from the folder of the backbone or of the model that ships."""
    run = {"manager": config.manager_from, "answerer": config.answerer_from}[agent]
    if swap and not run:
        return load_backbone(folder, config.model, swap=swap)
    shapes = jax.eval_shape(lambda: init_params(config.model, jax.random.key(0)))
    return load_params(_weights(folder, agent, run), shapes)


def _weights(assets: Path, agent: str, run: str) -> Path:
    path = Path(run) / f"{agent}.safetensors" if run else assets / "warm_start.safetensors"
    require(path.is_file(), f"there are no weights at {path}; " + (f"train a run with agent {agent} there" if run else "make warm-start"))
    return path


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
    over it has to find the last. So it also learns for banks that a better Manager will keep.
    """
    config = start.config
    conversations = encode(records, start)
    if config.agent == "manager":
        require(
            config.answerer.retrieval == "lexical",
            f"answerer.retrieval is {config.answerer.retrieval!r}, and what a Manager writes in training has no embedding; use 'lexical'",
        )
        states = manager_states(records, config.bank.num_slots, config.questions_per_state, config.seed)
        require(bool(states), f"{len(records)} conversations hold no fact that is asked about; give Config.conversations more")
        return manager_tasks(states, conversations, start.language, config)
    everything = replace(config, bank=replace(config.bank, num_slots=conversations.fact_length.shape[1]))
    memories = append_only_banks(conversations, start.language, everything)
    banks = memories.banks
    if config.answerer.retrieval != "lexical":
        banks = embed_banks(banks, start.language.table, load_encoder(config.encoder))
    return answer_tasks(banks, conversations, ask_at_end(conversations))
