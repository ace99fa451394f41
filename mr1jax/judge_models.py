"""The models that judge: any server that speaks OpenAI's chat completions, or a backbone on this machine."""

import functools
import http.client
import json
import os
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np

from mr1jax.config import GREEDY, ModelConfig, replace, require
from mr1jax.identity import fingerprint
from mr1jax.judge import Judge
from mr1jax.model.backbones import read_config
from mr1jax.model.hub import find_backbone
from mr1jax.model.huggingface import load_backbone
from mr1jax.model.transformer import prefill
from mr1jax.rl.sampling import generate
from mr1jax.structs import PAD, Array, PyTree
from mr1jax.text.grammar import Grammar, compile_grammar
from mr1jax.text.huggingface_tokenizer import HuggingFaceTokenizer

KEY_VARIABLE = "OPENAI_API_KEY"

_CONCURRENCY = 4  # requests at a time
_TIMEOUT = 60.0  # seconds for one request
_WAITS = (1.0, 2.0, 4.0, 8.0)  # seconds before each further attempt
_LONGEST_WAIT = 60.0  # seconds, whatever a server asks for
_MAX_BYTES = 1 << 20  # of a response
_MAX_TOKENS = 512  # of a reply: one word is asked for, but some models think first
_QUOTED = 200  # characters of what a server says
_FAILURES = (OSError, http.client.HTTPException)  # all that a request may end with; an error status and a timeout are an OSError
_TOO_BUSY = (408, 425, 429)  # with every 5xx, what may go otherwise a moment later

_BATCH = 8  # prompts that a backbone reads at once
_ROUNDED = 128  # tokens: prompts of one call are padded to a multiple, so that few lengths are compiled
_VERDICT_TOKENS = 16  # enough to spell CORRECT byte by byte


def open_judge(url: str, model: str) -> Judge | None:
    """Returns the judge that is asked for: `model` of the server at `url`, a backbone where url is empty, None where both are."""
    if url:
        return UrlJudge(url, model)
    return BackboneJudge(model) if model else None


class UrlJudge:
    """A model of a server that speaks OpenAI's chat completions, asked at temperature 0. Its key is in OPENAI_API_KEY, if it needs one."""

    def __init__(self, url: str, model: str):
        """url: without /chat/completions, such as http://localhost:8000/v1. Raises ValueError where url, model or key cannot be meant."""
        parts = urllib.parse.urlsplit(url)
        require(
            parts.scheme in ("http", "https") and bool(parts.hostname) and not parts.query,
            f"--judge-url is {_without_user(parts)!r}; give the address of a server, such as http://localhost:8000/v1",
        )
        require("@" not in parts.netloc, f"--judge-url holds a name or a key; set {KEY_VARIABLE} instead, which is never shown")
        require(bool(model), f"--judge-url is {url} without a model; give --judge-model the name it has there")
        self._key = os.environ.get(KEY_VARIABLE, "")
        require(self._key.isascii() and self._key.isprintable(), f"{KEY_VARIABLE} holds a character that no key has; set it again")
        self._url, self._model = f"{url.rstrip('/')}/chat/completions", model
        self._opener = urllib.request.build_opener(_NoRedirects)
        self.name = f"{model} at {url.rstrip('/')}"

    def replies(self, prompts: Sequence[str]) -> Iterator[str]:
        """Yields the replies in the order of the prompts. What is no chat completion is a reply too, and no verdict."""
        with ThreadPoolExecutor(_CONCURRENCY) as pool:
            yield from pool.map(self._ask, prompts)

    def _ask(self, prompt: str) -> str:
        for wait in _WAITS:
            try:
                return self._post(prompt)
            except _FAILURES as error:
                _, asked_for = self._explain(error)
                time.sleep(min(max(wait, asked_for), _LONGEST_WAIT))
        try:
            return self._post(prompt)
        except _FAILURES as error:
            reason, _ = self._explain(error)
            tried = f"tried {len(_WAITS) + 1} times; verdicts so far are kept"
            raise ValueError(f"the judge {self.name} does not answer ({reason}, {tried}); check --judge-url, or try again later") from error

    def _post(self, prompt: str) -> str:
        body = {"model": self._model, "temperature": 0, "max_tokens": _MAX_TOKENS, "messages": [{"role": "user", "content": prompt}]}
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {self._key}"} if self._key else {})
        request = urllib.request.Request(self._url, json.dumps(body).encode(), headers)
        with self._opener.open(request, timeout=_TIMEOUT) as response:
            content = response.read(_MAX_BYTES)
        try:
            return str(json.loads(content)["choices"][0]["message"]["content"])
        except (ValueError, KeyError, IndexError, TypeError):
            return f"no chat completion: {' '.join(content.decode(errors='replace').split())[:_QUOTED]}"

    def _explain(self, error: Exception) -> tuple[str, float]:
        """Returns why a request failed and how many seconds the server asks to wait; raises ValueError where waiting is no help."""
        if not isinstance(error, urllib.error.HTTPError):
            reason = getattr(error, "reason", error)
            return str(getattr(reason, "strerror", None) or reason or type(error).__name__), 0.0
        with error:
            said = " ".join(error.read(_MAX_BYTES).decode(errors="replace").split())[:_QUOTED]
        if error.code < 500 and error.code not in _TOO_BUSY:
            hides = error.code in (401, 403) or (self._key and self._key in said)  # such a response may repeat the key
            remedy = f"set {KEY_VARIABLE}" if error.code in (401, 403) else "check --judge-url and --judge-model"
            raise ValueError(f"the judge {self.name} refuses with status {error.code}{'' if hides else f' ({said})'}; {remedy}") from error
        after = error.headers.get("Retry-After", "")
        return f"status {error.code}", float(after) if after.isdecimal() else 0.0


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Follows nobody elsewhere: the key is for the address that was given."""

    def redirect_request(self, *_args, **_kwargs) -> None:
        return None


class BackboneJudge:
    """A backbone on this machine, which can write nothing but one of the two words, greedily. Its weights stay on the device beside the
    agents', in bfloat16."""

    def __init__(self, backbone: str):
        """backbone: as in `find_backbone`. Raises ValueError where it is not there or cannot be read."""
        pinned, folder = find_backbone(backbone)
        self._model = replace(read_config(folder), dtype="bfloat16", remat=False)
        self._tokenizer = HuggingFaceTokenizer(folder, self._model.vocab_size)
        self._frame = self._tokenizer.chat_frame()
        self._grammar = compile_grammar("CORRECT|WRONG", self._tokenizer, {})
        self._params = load_backbone(folder, self._model, None, "bfloat16", self._tokenizer.swap)
        self.name = f"{pinned} ({fingerprint(self._params)})"

    def replies(self, prompts: Sequence[str]) -> Iterator[str]:
        """Yields the replies in the order of the prompts."""
        rows = [[*self._frame.before, *self._tokenizer.encode_exactly(prompt), *self._frame.after] for prompt in prompts]
        width = -(-max(map(len, rows)) // _ROUNDED) * _ROUNDED
        for start in range(0, len(rows), _BATCH):
            part = rows[start : start + _BATCH]
            prompt_PL, length_P = np.full((_BATCH, width), PAD, np.int32), np.ones(_BATCH, np.int32)
            for place, row in enumerate(part):
                prompt_PL[place, : len(row)], length_P[place] = row, len(row)
            tokens_PR = jax.device_get(
                _write_verdicts(self._params, prompt_PL, length_P, self._grammar, self._model, self._tokenizer.eos_id)
            )
            for tokens_R in tokens_PR[: len(part)]:
                yield self._tokenizer.decode(tokens_R.tolist())  # the end token and what pads it stand for no bytes


@functools.partial(jax.jit, static_argnames=("model", "eos_id"))
def _write_verdicts(params: PyTree, prompt_PL: Array, length_P: Array, grammar: Grammar, model: ModelConfig, eos_id: int) -> Array:
    """Returns the likeliest verdict after each prompt, int32[P, R]."""
    cache = prefill(model, params, prompt_PL, length_P)
    key = jax.random.key(0)  # greedy decoding draws nothing
    written = generate(model, params, cache, key, group_size=1, num_tokens=_VERDICT_TOKENS, grammar=grammar, eos_id=eos_id, sampling=GREEDY)
    return written.tokens[:, 0]


def _without_user(parts: urllib.parse.SplitResult) -> str:
    """The address without what may be a key in it: the name before an @ and what follows a question mark."""
    return urllib.parse.urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment=""))
