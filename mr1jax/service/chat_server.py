"""A server of OpenAI's chat completions, such as vLLM's, as what it says: a reply at once, or piece by piece as it is written."""

import json
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import httpx2

from mr1jax.config import require
from mr1jax.judge_models import KEY_VARIABLE

_TIMEOUT, _WAITS = 60.0, (0.5, 1.0, 2.0)  # seconds for one request, and before each further attempt
_TOO_BUSY = (408, 425, 429)
_CONCURRENCY = 32
_EVENTS = "text/event-stream"
_THOUGHT = re.compile(r"^.*</think>", re.DOTALL)
_THINKING = "<think>"
_NO_COMPLETION = (KeyError, IndexError, TypeError, ValueError)  # what reading a reply of another form raises

T = TypeVar("T")
Messages = Sequence[dict[str, str]]


class Unavailable(Exception):
    """The model's server does not answer, or refuses; nothing was written."""


class _Refused(Exception):
    """An answer that is no success. args: its status."""


class ChatServer:
    """Asks one model of one server at temperature 0. The key is in OPENAI_API_KEY, if it needs one.

    pattern: a regex that the reply is held to, where the server can hold one; "" where it may say anything. What a model thinks aloud
    before it replies is no part of a reply.
    """

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
        self.pool = ThreadPoolExecutor(_CONCURRENCY)  # of whoever asks about several things at once

    def reply(self, messages: Messages, max_tokens: int, pattern: str = "") -> str:
        """Returns the reply to a conversation. Raises `Unavailable`."""
        return self._persist(lambda: _content(self._post(messages, pattern, max_tokens)))

    def replies(self, prompts: Sequence[str], max_tokens: int, pattern: str = "") -> list[str]:
        """Returns the reply to each prompt. Raises `Unavailable`."""
        return list(self.pool.map(lambda prompt: self.reply(as_messages(prompt), max_tokens, pattern), prompts))

    def stream(self, messages: Messages, max_tokens: int, pattern: str = "") -> Iterator[str]:
        """Yields the reply so far, again and again as it is written, and the whole of it last. Raises `Unavailable`, also midway."""
        response = self._persist(lambda: self._post(messages, pattern, max_tokens, stream=True))
        try:
            if not response.headers.get("content-type", "").startswith(_EVENTS):  # a server that says all at once
                response.read()
                yield _content(response)
                return
            written = ""
            for piece in _pieces(response.iter_lines()):
                written += piece
                yield _without_thought(written)
        except (*_NO_COMPLETION, httpx2.HTTPError) as error:
            raise self._unavailable(type(error).__name__) from error
        finally:
            response.close()

    def close(self) -> None:
        """Ends all connections."""
        self.pool.shutdown()
        self._client.close()

    def _persist(self, attempt: Callable[[], T]) -> T:
        """Tries again where the server may only be busy."""
        reason = "it cannot be reached"
        for wait in (*_WAITS, None):
            try:
                return attempt()
            except _Refused as refused:
                (status,) = refused.args
                reason = f"status {status}"
                if status < 500 and status not in _TOO_BUSY:
                    break
            except _NO_COMPLETION:
                reason = "its reply is no chat completion"
            except httpx2.HTTPError as error:
                reason = type(error).__name__
            if wait is not None:
                time.sleep(wait)
        raise self._unavailable(reason)

    def _unavailable(self, reason: str) -> Unavailable:
        return Unavailable(f"the model {self._model} at {self._url} does not answer ({reason}); see that it runs, and try again")

    def _post(self, messages: Messages, pattern: str, max_tokens: int, stream: bool = False) -> httpx2.Response:
        """Sends one request; raises `_Refused` where it has no success. With stream the caller has to close the response."""
        body: dict[str, Any] = {"model": self._model, "temperature": 0, "max_tokens": max_tokens, "messages": list(messages)}
        if stream:
            body["stream"] = True
        if pattern and self._guides:
            # Two names of one thing, of vLLM's older and newer versions.
            response = self._send(body | {"guided_regex": pattern, "structured_outputs": {"regex": pattern}}, stream)
            if response.status_code not in (400, 422):
                return _checked(response)
            response.close()
            self._guides = False  # a server that knows no such field
        return _checked(self._send(body, stream))

    def _send(self, body: dict[str, Any], stream: bool) -> httpx2.Response:
        return self._client.send(self._client.build_request("POST", self._url, json=body), stream=stream)


def as_messages(prompt: str) -> Messages:
    """Makes a conversation of one prompt."""
    return [{"role": "user", "content": prompt}]


def _checked(response: httpx2.Response) -> httpx2.Response:
    if response.status_code != 200:
        response.close()
        raise _Refused(response.status_code)
    return response


def _content(response: httpx2.Response) -> str:
    return _without_thought(str(response.json()["choices"][0]["message"]["content"]))


def _pieces(lines: Iterator[str]) -> Iterator[str]:
    """Reads what is added to a reply out of the lines of server-sent events."""
    for line in lines:
        data = line.removeprefix("data:").strip() if line.startswith("data:") else ""
        if data == "[DONE]":
            return
        choices = json.loads(data)["choices"] if data else []  # the last event may be of usage alone
        yield from (str(choice["delta"].get("content") or "") for choice in choices[:1])


def _without_thought(written: str) -> str:
    """Cuts off what was thought aloud, all of it while it is still being thought."""
    spoken = _THOUGHT.sub("", written).strip()
    return "" if _THINKING.startswith(spoken[: len(_THINKING)]) else spoken
