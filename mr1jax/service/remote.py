"""Both agents as a model behind a URL that speaks OpenAI's chat completions, such as vLLM's.

It is sent the prompt that the compiled agents would read, as text, and its reply is read by the same grammar: what is not legal does
nothing and is reported. Servers that can hold a reply to a regex are asked to.
"""

import os
import re
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import jax
import numpy as np

from mr1jax.agents.answerer import AskedQuestion
from mr1jax.agents.manager import NewFact
from mr1jax.agents.prompts import Dates, make_language
from mr1jax.config import AGENTS, AgentConfig, BankConfig, Config, replace, require
from mr1jax.evaluate import Replies
from mr1jax.judge_models import KEY_VARIABLE
from mr1jax.prepare import ASSETS, Start
from mr1jax.service import programs
from mr1jax.service.extract import FACTS_PATTERN, INSTRUCTIONS, parts_of, read_facts
from mr1jax.service.facts import Message, fit_slots, whole_sentences
from mr1jax.service.programs import Decisions
from mr1jax.service.texts import Speller
from mr1jax.structs import PAD
from mr1jax.text.huggingface_tokenizer import ChatFrame
from mr1jax.text.parsing import ANSWER_PATTERN, MANAGER_PATTERN
from mr1jax.text.tokenizer import SentencePieceTokenizer, Tokenizer, text_reader

REMOTE_BANK = BankConfig(num_slots=64, slot_width=256, num_terms=96)
REMOTE_MANAGER = AgentConfig(num_retrieved=10, prompt_length=4096, response_length=288)
REMOTE_ANSWERER = AgentConfig(num_retrieved=30, prompt_length=8192, response_length=1024)
"""In pieces of the tiny model's tokenizer, of which a word of English has two or three: text is all that is sent."""

_TIMEOUT, _WAITS = 60.0, (0.5, 1.0, 2.0)  # seconds for one request, and before each further attempt
_TOO_BUSY = (408, 425, 429)
_CONCURRENCY = 32
_THOUGHT = re.compile(r"^.*</think>", re.DOTALL)


class Unavailable(Exception):
    """The model's server does not answer, or refuses; nothing was written."""


class ChatServer:
    """Asks one model of one server at temperature 0. The key is in OPENAI_API_KEY, if it needs one."""

    def __init__(self, base_url: str, model: str, transport: httpx2.BaseTransport | None = None):
        """base_url: as http://localhost:8000/v1. Raises ValueError where the address, the model or the key cannot be meant."""
        address = httpx2.URL(base_url) if base_url.isprintable() else httpx2.URL("")
        fits = address.scheme in ("http", "https") and address.host and not address.query and not address.userinfo
        require(bool(fits), "base_url is no address of a server; give one such as http://localhost:8000/v1, and the key in OPENAI_API_KEY")
        require(bool(model), "base_url is given without a model; give model the name that it has there")
        key = os.environ.get(KEY_VARIABLE, "")
        require(key.isascii() and key.isprintable(), f"{KEY_VARIABLE} holds a character that no key has; set it again")
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._client = httpx2.Client(timeout=_TIMEOUT, headers=headers, follow_redirects=False, transport=transport)
        self._url, self._model, self._guides = f"{base_url.rstrip('/')}/chat/completions", model, True
        self._pool = ThreadPoolExecutor(_CONCURRENCY)

    def replies(self, prompts: Sequence[str], pattern: str, max_tokens: int) -> list[str]:
        """Returns the reply to each prompt, held to the pattern where the server can. Raises `Unavailable`."""
        return list(self._pool.map(lambda prompt: self._ask([{"role": "user", "content": prompt}], pattern, max_tokens), prompts))

    def chat(self, messages: Sequence[dict[str, str]], max_tokens: int) -> str:
        """Returns the reply to a conversation, in whatever form. Raises `Unavailable`."""
        return self._ask(list(messages), "", max_tokens)

    def close(self) -> None:
        """Ends all connections."""
        self._pool.shutdown()
        self._client.close()

    def _ask(self, messages: list[dict[str, str]], pattern: str, max_tokens: int) -> str:
        for wait in (*_WAITS, None):
            reason = "it cannot be reached"
            try:
                response = self._post(messages, pattern, max_tokens)
                if response.status_code == 200:
                    return _THOUGHT.sub("", str(response.json()["choices"][0]["message"]["content"])).strip()
                reason = f"status {response.status_code}"
                if response.status_code < 500 and response.status_code not in _TOO_BUSY:
                    break
            except (KeyError, IndexError, TypeError, ValueError):
                reason = "its reply is no chat completion"
            except httpx2.HTTPError as error:
                reason = type(error).__name__
            if wait is not None:
                time.sleep(wait)
        raise Unavailable(f"the model {self._model} at {self._url} does not answer ({reason}); see that it runs, and try again")

    def _post(self, messages: list[dict[str, str]], pattern: str, max_tokens: int) -> httpx2.Response:
        """pattern: what the reply is held to, where the server can hold one; "" where it may say anything."""
        body: dict[str, Any] = {"model": self._model, "temperature": 0, "max_tokens": max_tokens, "messages": messages}
        if pattern and self._guides:
            # Two names of one thing, of vLLM's older and newer versions.
            response = self._client.post(self._url, json=body | {"guided_regex": pattern, "structured_outputs": {"regex": pattern}})
            if response.status_code not in (400, 422):
                return response
            self._guides = False  # a server that knows no such field
        return self._client.post(self._url, json=body)


class RemoteModel:
    """`engine.Model` by a server."""

    def __init__(self, start: Start, server: ChatServer):
        self._config, self._language, self._tokenizer, self._server = start.config, start.language, start.tokenizer, server
        self._text_of = text_reader(start.language.table)

    def decide(self, rows: NewFact, fact: NewFact, dates: Dates) -> Decisions:
        view = programs.show_fact(rows, fact, dates, self._language, self._config)
        told = self._ask(view, np.asarray(fact.length) > 0, MANAGER_PATTERN, self._config.manager.response_length)
        return programs.read_decision(rows, view, fact, *told, self._language, self._config)

    def reply(self, rows: NewFact, question: AskedQuestion, dates: Dates) -> Replies:
        view = programs.show_question(rows, question, dates, self._language, self._config)
        told = self._ask(view, np.asarray(question.length) > 0, ANSWER_PATTERN, self._config.answerer.response_length)
        return programs.read_reply(view, *told, self._language)

    def _ask(self, view: Any, is_real_P: np.ndarray, pattern: str, num_tokens: int) -> tuple[np.ndarray, np.ndarray]:
        """Asks about every row of a batch that is a request, and returns the replies as tokens: int32[P, R] and int32[P]."""
        prompt_PL, length_P = jax.device_get((view.prompt, view.length))
        real = np.flatnonzero(is_real_P)
        prompts = [self._text_of(prompt_PL[k], length_P[k]) for k in real]
        tokens_PR, written_P = np.full((len(is_real_P), num_tokens), PAD, np.int32), np.zeros(len(is_real_P), np.int32)
        for k, reply in zip(real, self._server.replies(prompts, pattern, num_tokens), strict=True):
            tokens = [*_encode(self._tokenizer, reply), self._tokenizer.eos_id][:num_tokens]  # without its end it is not legal
            tokens_PR[k, : len(tokens)], written_P[k] = tokens, len(tokens)
        return tokens_PR, written_P


class RemoteExtractor:
    """`extract.Extractor` by a server. What it writes in no form is not lost: then the sentences are the facts."""

    def __init__(self, server: ChatServer, speller: Speller, slot_width: int):
        self._server, self._speller, self._width = server, speller, slot_width

    def facts(self, message: Message) -> list[str]:
        prompts = [INSTRUCTIONS.format(who=message.who) + part for part in parts_of(message)]
        replies = self._server.replies(prompts, FACTS_PATTERN, _REPLY_TOKENS)
        if not all(re.fullmatch(FACTS_PATTERN, reply) for reply in replies):
            return whole_sentences(message, self._speller.count, self._width)
        return fit_slots([fact for reply in replies for fact in read_facts(reply)], self._speller.count, self._width)

    def close(self) -> None:
        self._server.close()


_REPLY_TOKENS = 512


def open_remote(base_url: str, model: str, transport: httpx2.BaseTransport | None = None) -> tuple[Start, ChatServer]:
    """Returns what packs and reads prompts for a model elsewhere, and its server. No weights are read."""
    server = ChatServer(base_url, model, transport)
    tokenizer = SentencePieceTokenizer(ASSETS / "tokenizer.model")
    config = Config(bank=REMOTE_BANK, manager=REMOTE_MANAGER, answerer=REMOTE_ANSWERER)
    config = replace(config, model=replace(config.model, vocab_size=tokenizer.vocab_size))
    # An empty frame: the server writes the model's chat template, and the instructions are said.
    language = make_language(tokenizer, max(getattr(config, agent).num_shown for agent in AGENTS), ChatFrame((), ()))
    return Start(config, {}, tokenizer, language), server


def _encode(tokenizer: Tokenizer, reply: str) -> list[int]:
    return tokenizer.encode_exactly(reply) if reply else []
