"""Both agents as a model behind a URL that speaks OpenAI's chat completions, such as vLLM's.

It is sent the prompt that the compiled agents would read, as text, and its reply is read by the same grammar: what is not legal does
nothing and is reported. Servers that can hold a reply to a regex are asked to.
"""

import re
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from mr1jax.agents.answerer import AskedQuestion
from mr1jax.agents.manager import NewFact
from mr1jax.agents.prompts import Dates, make_language
from mr1jax.config import AGENTS, AgentConfig, BankConfig, Config, replace
from mr1jax.evaluate import Replies
from mr1jax.prepare import ASSETS, Start
from mr1jax.service import programs
from mr1jax.service.chat_server import ChatServer, as_messages
from mr1jax.service.extract import FACTS_PATTERN, INSTRUCTIONS, parts_of, read_facts
from mr1jax.service.facts import Message, fit_slots, whole_sentences
from mr1jax.service.programs import Decisions
from mr1jax.service.streaming import Hear
from mr1jax.service.texts import Speller
from mr1jax.structs import PAD
from mr1jax.text.huggingface_tokenizer import ChatFrame
from mr1jax.text.parsing import ANSWER_PATTERN, MANAGER_PATTERN
from mr1jax.text.tokenizer import SentencePieceTokenizer, Tokenizer, text_reader

REMOTE_BANK = BankConfig(num_slots=64, slot_width=256, num_terms=96)
REMOTE_MANAGER = AgentConfig(num_retrieved=10, prompt_length=4096, response_length=288)
REMOTE_ANSWERER = AgentConfig(num_retrieved=30, prompt_length=8192, response_length=1024)
"""In pieces of the tiny model's tokenizer, of which a word of English has two or three: text is all that is sent."""


class RemoteModel:
    """`engine.Model` by a server."""

    def __init__(self, start: Start, server: ChatServer):
        self._config, self._language, self._tokenizer, self._server = start.config, start.language, start.tokenizer, server
        self._text_of = text_reader(start.language.table)

    def decide(self, rows: NewFact, fact: NewFact, dates: Dates) -> Decisions:
        view = programs.show_fact(rows, fact, dates, self._language, self._config)
        told = self._ask(view, np.asarray(fact.length) > 0, MANAGER_PATTERN, self._config.manager.response_length, {})
        return programs.read_decision(rows, view, fact, *told, self._language, self._config)

    def reply(self, rows: NewFact, question: AskedQuestion, dates: Dates, heard: Mapping[int, Hear]) -> Replies:
        view = programs.show_question(rows, question, dates, self._language, self._config)
        told = self._ask(view, np.asarray(question.length) > 0, ANSWER_PATTERN, self._config.answerer.response_length, heard)
        return programs.read_reply(view, *told, self._language)

    def _ask(
        self, view: Any, is_real_P: np.ndarray, pattern: str, num_tokens: int, heard: Mapping[int, Hear]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Asks about every row of a batch that is a request, and returns the replies as tokens: int32[P, R] and int32[P]."""
        prompt_PL, length_P = jax.device_get((view.prompt, view.length))
        real = np.flatnonzero(is_real_P)

        def ask(k: int) -> str:
            prompt = as_messages(self._text_of(prompt_PL[k], length_P[k]))
            if k not in heard:
                return self._server.reply(prompt, num_tokens, pattern)
            written = ""
            for written in self._server.stream(prompt, num_tokens, pattern):
                heard[k](written)
            return written

        tokens_PR, written_P = np.full((len(is_real_P), num_tokens), PAD, np.int32), np.zeros(len(is_real_P), np.int32)
        for k, reply in zip(real, self._server.pool.map(ask, real), strict=True):
            tokens = [*_encode(self._tokenizer, reply), self._tokenizer.eos_id][:num_tokens]  # without its end it is not legal
            tokens_PR[k, : len(tokens)], written_P[k] = tokens, len(tokens)
        return tokens_PR, written_P


class RemoteExtractor:
    """`extract.Extractor` by a server. What it writes in no form is not lost: then the sentences are the facts."""

    def __init__(self, server: ChatServer, speller: Speller, slot_width: int):
        self._server, self._speller, self._width = server, speller, slot_width

    def facts(self, message: Message) -> list[str]:
        prompts = [INSTRUCTIONS.format(who=message.who) + part for part in parts_of(message)]
        replies = self._server.replies(prompts, _REPLY_TOKENS, FACTS_PATTERN)
        if not all(re.fullmatch(FACTS_PATTERN, reply) for reply in replies):
            return whole_sentences(message, self._speller.count, self._width)
        return fit_slots([fact for reply in replies for fact in read_facts(reply)], self._speller.count, self._width)

    def close(self) -> None:
        self._server.close()


_REPLY_TOKENS = 512


def remote_start() -> Start:
    """Makes what packs and reads prompts for a model elsewhere. No weights are read."""
    tokenizer = SentencePieceTokenizer(ASSETS / "tokenizer.model")
    config = Config(bank=REMOTE_BANK, manager=REMOTE_MANAGER, answerer=REMOTE_ANSWERER)
    config = replace(config, model=replace(config.model, vocab_size=tokenizer.vocab_size))
    # An empty frame: the server writes the model's chat template, and the instructions are said.
    language = make_language(tokenizer, max(getattr(config, agent).num_shown for agent in AGENTS), ChatFrame((), ()))
    return Start(config, {}, tokenizer, language)


def _encode(tokenizer: Tokenizer, reply: str) -> list[int]:
    return tokenizer.encode_exactly(reply) if reply else []
