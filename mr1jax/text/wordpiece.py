"""The tokenizer of a sentence encoder: WordPiece, from the `tokenizer.json` of its folder. What it makes is read, never written."""

from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer as FastTokenizer

from mr1jax.config import require


class WordPiece:
    """Turns texts into ids with the model's first and last special token around them."""

    def __init__(self, folder: str | Path, max_length: int):
        """max_length: tokens of a text at most, special ones included; the end of a longer text is cut off."""
        path = Path(folder) / "tokenizer.json"
        require(path.is_file(), f"{folder} has no tokenizer.json; give the folder of a sentence encoder, such as all-MiniLM-L6-v2")
        self._model = FastTokenizer.from_file(str(path))
        self._model.encode_special_tokens = True  # "[SEP]" that somebody writes is text
        self._model.no_padding()  # published files pad every text to 128 tokens
        self._model.enable_truncation(max_length)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Returns the ids of each text."""
        return [encoding.ids for encoding in self._model.encode_batch(list(texts))]
