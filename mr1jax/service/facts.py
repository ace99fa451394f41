"""From messages to the facts that the Manager decides on, one by one."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from mr1jax.config import require
from mr1jax.data.chat import split_sentences, split_turn
from mr1jax.service.texts import MAX_TEXT, check_name, check_text, one_line

MAX_MESSAGES = 1000
ROLES = ("user", "assistant", "system", "developer", "tool")
_SPEAKERS = {"user": 0, "assistant": 1}  # nobody's words are not remembered: instructions and the output of tools


class Message:
    """One turn, and who said it. text: its lines; prefix: "Mia: " where the speaker has a name."""

    def __init__(self, text: str, speaker: int = 0, name: str = ""):
        lines = map(one_line, text.splitlines())
        self.text, self.speaker, self.prefix = "\n".join(filter(None, lines)), speaker, f"{name}: " if name else ""
        self.who = name or ("the assistant" if speaker else "the user")


def read_messages(messages: Any) -> list[Message]:
    """Reads a text, or a list of {"role", "content"} with a "name" or without, as the turns that are to be remembered.

    Raises ValueError where it is neither, where a text is blank or too long, or where all are too long together.
    """
    if isinstance(messages, str):
        check_text("the text", messages)
        return [Message(messages)]
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
            check_text(f"the content of message {number}", message.get("content"))
            turns.append(Message(message["content"], _SPEAKERS[role], one_line(name)))
    total = sum(len(turn.text) for turn in turns)
    require(total <= MAX_TEXT, f"the messages have {total} characters together; give them in parts of at most {MAX_TEXT}")
    return turns


def whole_sentences(message: Message, count_tokens: Callable[[str], int], slot_width: int) -> list[str]:
    """Splits a turn into its sentences, each a fact that a slot of the bank holds; only one longer than that is cut, between words.

    This is all the extraction that the tiny agent has: it was trained on one sentence at a time, without its full stop.
    """
    sentences = (sentence.rstrip(".") or sentence for sentence in split_sentences(message.text))
    return fit_slots(sentences, count_tokens, slot_width, message.prefix)


def fit_slots(texts: Iterable[str], count_tokens: Callable[[str], int], slot_width: int, prefix: str = "") -> list[str]:
    """Halves texts, at the ends of sentences where there are some, until each has at most `slot_width` tokens; a word is never cut."""
    facts: list[str] = []
    for text in texts:
        words = text.split()
        if len(words) <= 1 or count_tokens(prefix + text) <= slot_width:
            facts.append(prefix + text)
        else:
            facts += fit_slots(split_turn(text, max_words=-(-len(words) // 2)), count_tokens, slot_width, prefix)
    return facts
