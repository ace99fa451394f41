"""What the grammar tests compare with: Python's `re` on text, and two vocabularies to write it in."""

import re

from mr1jax.structs import PAD

MERGED = [
    *(b"ADD:", b"UPDATE", b"DELETE", b"NOOP", b"\n", b"**Answer:**", b"**", b"Answer", b": ", b"\nADD:", b"\n**"),
    *(b" Mia", b"Mia", b" ", b"  ", b" 3", b"12", b" 07", b" *", b" NOOP", b" ADD:", b"a,", b"123456789012"),
    *("é".encode(), " 中".encode(), b"\xe4\xb8", b" \xf0\x9f", b"\x98\x80", "é\n".encode()),  # the halves of a character are tokens too
    *(b"3:", b"UPDATE 3", b" 3: Mia", b"ADD: Mia", b"3\n", b": M", b" Mia\n**Answer", b"Answer:** M"),  # across a border, somewhere
    b"",  # a token without bytes, such as "unknown"
]

# What the labels of our two grammars say of the text so far: a token stands on one side of where one of them begins or ends.
MANAGER_BORDERS = [r"DELETE [0-9]{1,2}", r"UPDATE [0-9]{1,2}", r"(DELETE [0-9]{1,2}\n)?ADD: ([^ \n].*)?", r"UPDATE [0-9]{1,2}: ([^ \n].*)?"]
ANSWER_BORDERS = [r"(.+\n)*\*\*Answer:\*\* ([^ \n].*)?"]


class FakeTokenizer:
    """PAD, the merged tokens, every single byte, and the end token last: not where the library's own tokenizer has it."""

    pad_id = PAD

    def __init__(self, merged):
        self.pieces = [b"", *merged, *(bytes([byte]) for byte in range(256)), b""]
        self.vocab_size = len(self.pieces)
        self.eos_id = self.vocab_size - 1
        self.starting_with = [[] for _ in range(256)]
        for token, piece in enumerate(self.pieces):
            if piece:
                self.starting_with[piece[0]].append(token)

    def token_bytes(self, token):
        return self.pieces[token]


def crosses_border(start, piece, text, labels):
    """Whether the bytes start .. start + len(piece) of the text, but for one leading space, have different labels.

    A label holds of a byte where its regex matches the text up to and including the character that the byte belongs to.
    """
    if len(piece) == 1:
        return False
    regions = set()
    for end in range(start + 1 + piece.startswith(b" "), start + len(piece) + 1):
        while end < len(text) and 0x80 <= text[end] < 0xC0:
            end += 1
        prefix = text[:end].decode()
        regions.add(tuple(re.fullmatch(label, prefix) is not None for label in labels))
    return len(regions) > 1


def legal_text(tokenizer, tokens, length, pattern, labels):
    """Returns the text of a response that is legal in full, the end token included, and None for any other."""
    tokens = [int(token) for token in tokens[:length]]
    while tokens and tokens[-1] == PAD:
        tokens.pop()
    if not tokens or tokens.pop() != tokenizer.eos_id:
        return None
    pieces = [tokenizer.token_bytes(token) for token in tokens]
    if b"" in pieces:
        return None
    text, start = b"".join(pieces), 0
    try:
        if not re.fullmatch(pattern, text.decode()):
            return None
    except UnicodeDecodeError:
        return None
    for piece in pieces:
        if crosses_border(start, piece, text, labels):
            return None
        start += len(piece)
    return text.decode()


def tokenize_at_random(rng, tokenizer, text):
    """Splits text into tokens, at each place a random one of those that go on with it."""
    data, tokens = text.encode(), []
    while data:
        fitting = [token for token in tokenizer.starting_with[data[0]] if data.startswith(tokenizer.pieces[token])]
        tokens.append(int(rng.choice(fitting)))
        data = data[len(tokenizer.pieces[tokens[-1]]) :]
    return tokens


def random_line(rng, most=3):
    """A few words that look like anything the patterns use."""
    words = ["Mia", "a", "é", "中", "😀", "*", "**Answer:**", "ADD:", "12", "NOOP", "3: x", "", "\u00a0"]
    return " ".join(rng.choice(words, rng.integers(1, most + 1)))


def random_manager_text(rng):
    """Mostly a legal operation; a line that starts with a space or is empty makes some of them illegal."""
    slot = str(rng.choice(["3", "07", "12", "123", ""], p=[0.4, 0.2, 0.3, 0.05, 0.05]))
    line = random_line(rng)
    forms = ["NOOP", f"ADD: {line}", f"UPDATE {slot}: {line}", f"DELETE {slot}", f"DELETE {slot}\nADD: {line}", line]
    return str(rng.choice(forms, p=[0.1, 0.2, 0.25, 0.1, 0.25, 0.1]))


def random_answer_text(rng):
    """Mostly a legal answer; too many quotes, or a quote that begins with a star, make some of them illegal."""
    quotes = [" " * rng.integers(0, 2) + random_line(rng, 2) for _ in range(rng.choice([0, 1, 2, 4, 5]))]
    return "\n".join([*quotes, f"**Answer:** {random_line(rng)}"])


def read_operation(text):
    """Returns (delete, kind, slot, text) of a legal operation, by string methods."""
    if text == "NOOP":
        return False, 0, None, ""
    if text.startswith("UPDATE "):
        slot, _, line = text[len("UPDATE ") :].partition(": ")
        return False, 2, int(slot), line
    head, _, added = text.partition("ADD: ")
    slot = int(head.split()[1]) if head else None
    return slot is not None, int(bool(added)), slot, added
