"""Who finds the facts in a message: a backbone that is told to, or nobody, and then the sentences themselves are the facts."""

import functools
from collections.abc import Sequence
from typing import Protocol

import jax
import numpy as np

from mr1jax.config import GREEDY, ModelConfig
from mr1jax.model.lora import BASE
from mr1jax.model.transformer import prefill
from mr1jax.prepare import Start
from mr1jax.rl.sampling import generate
from mr1jax.service.batcher import Batcher
from mr1jax.service.facts import Message, fit_slots, whole_sentences
from mr1jax.service.texts import Speller
from mr1jax.structs import PAD, Array, PyTree
from mr1jax.text.grammar import Grammar, compile_grammar
from mr1jax.text.huggingface_tokenizer import HuggingFaceTokenizer

FACTS_PATTERN = r"NONE|- [^ \n][^\n]*(\n- [^ \n][^\n]*){0,15}"
"""What an extractor writes: up to sixteen lines of one fact each, or that there is none."""

INSTRUCTIONS = """You are shown what {who} wrote in a conversation. List what it says that is worth remembering about people, things, \
plans and preferences: one fact a line, each a whole sentence that names whom it is about and can be understood alone, each line \
beginning with "- ". Small talk, questions and wishes are not facts. If there is no fact, write NONE.

"""
_WORDS_AT_ONCE = 300  # of a message; a longer one is read in parts of whole sentences
_PROMPT, _RESPONSE = 1024, 256  # tokens
_BATCHES = (1, 8)


class Extractor(Protocol):
    """Finds the facts of one turn, in order, each short enough for a slot."""

    def facts(self, message: Message) -> list[str]: ...

    def close(self) -> None: ...


class WholeSentences:
    """Takes every sentence for a fact."""

    def __init__(self, speller: Speller, slot_width: int):
        self._speller, self._width = speller, slot_width

    def facts(self, message: Message) -> list[str]:
        return whole_sentences(message, self._speller.count, self._width)

    def close(self) -> None:
        """Holds nothing."""


class BackboneExtractor:
    """A backbone as it was before it was trained to manage, under `FACTS_PATTERN`, greedily."""

    def __init__(self, start: Start, tokenizer: HuggingFaceTokenizer, speller: Speller):
        self._params, self._model = start.params.get(BASE, start.params["manager"]), start.config.model
        self._tokenizer, self._speller, self._width = tokenizer, speller, start.config.bank.slot_width
        self._frame = tokenizer.chat_frame()
        self._grammar = compile_grammar(FACTS_PATTERN, tokenizer, {})
        self._batcher = Batcher(self._run, _BATCHES[-1], "mr1jax-extractor")

    def facts(self, message: Message) -> list[str]:
        facts: list[str] = []
        for part in parts_of(message):
            written = self._batcher.ask(self._prompt(message, part))
            facts += fit_slots(read_facts(written), self._speller.count, self._width)
        return facts

    def close(self) -> None:
        self._batcher.close()

    def _prompt(self, message: Message, part: str) -> list[int]:
        told = self._tokenizer.encode_exactly(INSTRUCTIONS.format(who=message.who))
        room = _PROMPT - len(self._frame.before) - len(told) - len(self._frame.after)
        return [*self._frame.before, *told, *self._speller.encode(part)[:room], *self._frame.after]

    def _run(self, prompts: Sequence[list[int]]) -> list[str]:
        P = next(size for size in _BATCHES if size >= len(prompts))
        prompt_PL, length_P = np.full((P, _PROMPT), PAD, np.int32), np.ones(P, np.int32)
        for k, prompt in enumerate(prompts):
            prompt_PL[k, : len(prompt)], length_P[k] = prompt, len(prompt)
        asked_P = np.arange(P) < len(prompts)
        tokens_PR = jax.device_get(_write(self._params, prompt_PL, length_P, asked_P, self._grammar, self._model, self._tokenizer.eos_id))
        return [self._tokenizer.decode(tokens_R.tolist()) for tokens_R in tokens_PR[: len(prompts)]]


def parts_of(message: Message) -> list[str]:
    """Splits a turn into parts that one prompt holds."""
    return fit_slots([message.text.replace("\n", " ")], lambda text: len(text.split()), _WORDS_AT_ONCE)


def read_facts(written: str) -> list[str]:
    """Reads what was written under `FACTS_PATTERN`."""
    return [line[2:].strip() for line in written.splitlines() if line.startswith("- ")]


def compilations() -> int:
    """Counts how often the extractor's program has been compiled in this process."""
    return _write._cache_size()  # type: ignore[attr-defined]


@functools.partial(jax.jit, static_argnames=("model", "eos_id"))
def _write(params: PyTree, prompt_PL: Array, length_P: Array, asked_P: Array, grammar: Grammar, model: ModelConfig, eos_id: int) -> Array:
    """Returns the likeliest response to each prompt that is asked, int32[P, R]."""
    cache, key = prefill(model, params, prompt_PL, length_P), jax.random.key(0)  # greedy decoding draws nothing
    written = generate(
        model,
        params,
        cache,
        key,
        group_size=1,
        num_tokens=_RESPONSE,
        grammar=grammar,
        eos_id=eos_id,
        sampling=GREEDY,
        asked=asked_P,
    )
    return written.tokens[:, 0]
