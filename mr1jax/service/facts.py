"""From messages to the facts that the Manager decides on, one by one."""

from collections.abc import Callable, Sequence
from typing import Any

from mr1jax.config import require
from mr1jax.data.chat import split_sentences, split_turn
from mr1jax.service.texts import MAX_TEXT, check_name, check_text

MAX_MESSAGES = 1000
ROLES = ("user", "assistant", "system", "developer", "tool")
_SPEAKERS = {"user": 0, "assistant": 1}  # nobody's words are not remembered: instructions and the output of tools


class Message:
    """One turn: on one line, and who said it. prefix: "Mia: " where the speaker has a name."""

    def __init__(self, text: str, speaker: int = 0, name: str = ""):
        self.text, self.speaker, self.prefix = text, speaker, f"{name}: " if name else ""


def read_messages(messages: Any) -> list[Message]:
    """Reads a text, or a list of {"role", "content"} with a "name" or without, as the turns that are to be remembered.

    Raises ValueError where it is neither, where a text is blank or too long, or where all are too long together.
    """
    if isinstance(messages, str):
        return [Message(check_text("the text", messages))]
    fits = isinstance(messages, Sequence) and all(isinstance(each, dict) for each in messages)
    require(fits, f"messages is {messages!r:.60}; give a text, or a list of messages with role and content")
    require(0 < len(messages) <= MAX_MESSAGES, f"there are {len(messages)} messages; give 1 to {MAX_MESSAGES}")
    turns = []
    for number, message in enumerate(messages):
        role = message.get("role")
        require(role in ROLES, f"the role of message {number} is {role!r:.60}; choose one of {', '.join(ROLES)}")
        if role in _SPEAKERS:
            name = message.get("name") or ""
            check_name(f"the name of message {number}", name)
            turns.append(Message(check_text(f"the content of message {number}", message.get("content")), _SPEAKERS[role], name.strip()))
    total = sum(len(turn.text) for turn in turns)
    require(total <= MAX_TEXT, f"the messages have {total} characters together; give them in parts of at most {MAX_TEXT}")
    return turns


def whole_sentences(message: Message, count_tokens: Callable[[str], int], slot_width: int) -> list[str]:
    """Splits a turn into its sentences, each a fact that a slot of the bank holds; only one longer than that is cut, between words.

    This is all the extraction that the tiny agent has: it was trained on one sentence at a time, without its full stop.
    """
    facts = []
    for sentence in split_sentences(message.text):
        facts += _fitting(sentence.rstrip(".") or sentence, message.prefix, count_tokens, slot_width)
    return facts


def _fitting(text: str, prefix: str, count_tokens: Callable[[str], int], slot_width: int) -> list[str]:
    words = text.split()
    if len(words) == 1 or count_tokens(prefix + text) <= slot_width:
        return [prefix + text]  # a single word that is wider than a slot has no better place to be cut
    parts = split_turn(text, max_words=-(-len(words) // 2))
    return [fact for part in parts for fact in _fitting(part, prefix, count_tokens, slot_width)]
