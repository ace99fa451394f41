"""The tokenizer and the chat template of a Hugging Face folder, behind the same protocol as sentencepiece's.

What people say stays text: a special token that somebody writes in a conversation, "<|im_end|>", is spelled in letters. Only the chat
template, which is the model's own, writes special tokens.
"""

import datetime
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer as FastTokenizer

from mr1jax.config import require
from mr1jax.structs import PAD

_MESSAGE = "\x00message\x00"  # stands for what the user says while the template is rendered


@dataclass(frozen=True)
class ChatFrame:
    """What a chat template writes before and after the one message of a user, as tokens; the model's reply follows."""

    before: tuple[int, ...]
    after: tuple[int, ...]


class HuggingFaceTokenizer:
    """Reads `tokenizer.json` of a folder, a byte-level BPE as Qwen and Llama 3 have it.

    `encode` puts a space before the text, and `decode` drops one, so that a word has the same tokens wherever it stands. Token `PAD` is
    never text here: the model's own padding token and its token 0 change places, and `swap` says so to whoever reads its embedding.
    """

    def __init__(self, folder: str | Path, vocab_size: int | None = None):
        """vocab_size: of the model, where its embedding has more rows than the tokenizer has tokens; these stand for no bytes."""
        path = Path(folder) / "tokenizer.json"
        require(path.is_file(), f"{folder} has no tokenizer.json; give a folder as Hugging Face has it")
        raw = json.loads(path.read_text())
        kind = raw.get("model", {}).get("type")
        byte_level = "ByteLevel" in json.dumps([raw.get("pre_tokenizer"), raw.get("decoder")])
        require(kind == "BPE" and byte_level, f"{path} is a tokenizer of type {kind}; only byte-level BPE is supported")
        self._model = FastTokenizer.from_file(str(path))
        self._settings = _read_json(Path(folder) / "tokenizer_config.json")
        self._folder = Path(folder)
        size = self._model.get_vocab_size(with_added_tokens=True)
        self.vocab_size: int = max(size, vocab_size or 0)
        added = raw.get("added_tokens", [])
        self._special = {token["id"] for token in added if token["special"]}
        self._plain = {token["id"]: token["content"].encode() for token in added if not token["special"]}
        self.pad_id = PAD
        self.swap: tuple[int, int] = (PAD, self._padding_token())
        self.eos_id: int = self._end_token()
        self._bytes = [self._token_bytes(self._theirs(token)) for token in range(self.vocab_size)]

    def encode(self, text: str) -> list[int]:
        """Returns the ids of a text, a space before it; special tokens in it are spelled out."""
        return self.encode_exactly(f" {text}")

    def encode_exactly(self, text: str) -> list[int]:
        """Returns the ids of a text as it stands."""
        self._model.encode_special_tokens = True
        return self._ours(self._model.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: Sequence[int]) -> str:
        """Returns the text of ids: their bytes, less one leading space. Bytes that are not UTF-8 become U+FFFD."""
        return b"".join(self._bytes[token] for token in ids).decode(errors="replace").removeprefix(" ")

    def token_bytes(self, token: int) -> bytes:
        """Returns the exact bytes a token stands for: none for special tokens."""
        return self._bytes[token]

    def added_tokens(self) -> frozenset[int]:
        """Returns the ids of what the model has beside pieces of text, "<|im_end|>" and, not special to the tokenizer, "<tool_call>"."""
        return frozenset(self._ours([*self._special, *self._plain]))

    def chat_frame(self) -> ChatFrame:
        """Renders the folder's chat template around one message of a user, in jinja2's sandbox.

        Raises ValueError where there is none, or where it does not write the message exactly once.
        """
        template = _chat_template(self._folder, self._settings)
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"])
        environment.globals |= {"raise_exception": _refuse, "strftime_now": lambda form: datetime.date(2024, 7, 26).strftime(form)}
        settings = {name: _content(self._settings.get(name)) for name in ("bos_token", "eos_token")}
        try:
            text = environment.from_string(template).render(
                messages=[{"role": "user", "content": _MESSAGE}], add_generation_prompt=True, enable_thinking=False, **settings
            )
        except Exception as error:  # a template is somebody else's program: it may raise anything
            reason = " ".join(str(error).split())
            raise ValueError(f"the chat template of {self._folder} cannot be rendered ({reason}); download it again") from error
        parts = text.split(_MESSAGE)
        require(len(parts) == 2, f"the chat template of {self._folder} writes a user's message {len(parts) - 1} times; it has to be once")
        self._model.encode_special_tokens = False
        before, after = (tuple(self._ours(self._model.encode(part, add_special_tokens=False).ids)) for part in parts)
        return ChatFrame(before, after)

    def _padding_token(self) -> int:
        named = _content(self._settings.get("pad_token"))
        if named is not None:
            return self._id(named)
        spare = sorted(self._special - {self._end_token()})
        require(bool(spare), f"{self._folder} has no padding token and no special token to use as one; name a pad_token in it")
        return spare[-1]

    def _end_token(self) -> int:
        """The token that ends a turn: the model's own eos_token, as its chat template writes it."""
        named = _content(self._settings.get("eos_token"))
        require(named is not None, f"{self._folder}/tokenizer_config.json names no eos_token; download it again")
        return self._id(named)

    def _id(self, token: str) -> int:
        number = self._model.token_to_id(token)
        require(number is not None, f"{self._folder} names the token {token!r}, which its tokenizer does not have; download it again")
        return number

    def _theirs(self, token: int) -> int:
        mine, other = self.swap
        return {mine: other, other: mine}.get(token, token)

    def _ours(self, ids: Sequence[int]) -> list[int]:
        return [self._theirs(token) for token in ids]  # to change places twice is to stay

    def _token_bytes(self, token: int) -> bytes:
        if token in self._plain:
            return self._plain[token]
        piece = None if token in self._special else self._model.id_to_token(token)
        return b"" if piece is None else bytes(_BYTE_OF[character] for character in piece)


def _byte_of_character() -> dict[str, int]:
    """Byte-level BPE spells each byte as one printable character: itself where it is one, else the next free one from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in set(printable)]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + k): byte for k, byte in enumerate(hidden)}


_BYTE_OF = _byte_of_character()


def _read_json(path: Path) -> dict[str, Any]:
    require(path.is_file(), f"{path.parent} has no {path.name}; give a folder as Hugging Face has it")
    return json.loads(path.read_text())


def _content(token: str | dict[str, Any] | None) -> str | None:
    """Reads a token of tokenizer_config.json, which is a string or an object."""
    return token["content"] if isinstance(token, dict) else token


def _chat_template(folder: Path, settings: dict[str, Any]) -> str:
    if (folder / "chat_template.jinja").is_file():
        return (folder / "chat_template.jinja").read_text()
    template = settings.get("chat_template")
    if isinstance(template, list):  # several, by name
        template = next((each["template"] for each in template if each["name"] == "default"), None)
    require(bool(template), f"{folder} has no chat template; give the instruct model's folder")
    return template


def _refuse(message: str):
    raise jinja2.TemplateError(message)
