"""Whether the sentence encoder computes what transformers computes, to 1e-4: a small random one, and all-MiniLM-L6-v2 if it is installed.

make parity
"""

import tempfile
from pathlib import Path

import numpy as np
from transformers import AutoTokenizer, BertModel

from mr1jax.embeddings import load_encoder
from mr1jax.model.encoder import encode, read_encoder
from parity.small_encoders import SENTENCES, VOCABULARY, embed, make, published

TOLERANCE = 1e-4


def check_small(folder: Path) -> float:
    """Compares texts of 1 to 20 random tokens, padded with junk."""
    model = make(folder)
    config, params = read_encoder(folder)
    rng = np.random.default_rng(0)
    tokens_TL, length_T = rng.integers(0, VOCABULARY, (20, 20)), np.arange(1, 21)
    expected_TE = np.stack([embed(model, tokens[:length].tolist()) for tokens, length in zip(tokens_TL, length_T, strict=True)])
    return float(np.abs(np.asarray(encode(config, params, tokens_TL, length_T)) - expected_TE).max())


def check_published(folder: Path) -> float:
    """Compares sentences, by transformers' own tokenizer and by ours."""
    model, theirs, ours = BertModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder), load_encoder(folder)
    ids = theirs([text for text in SENTENCES if "[" not in text], truncation=True, max_length=ours.config.max_length)["input_ids"]
    assert ids == ours.tokenizer.encode_batch([text for text in SENTENCES if "[" not in text]), "tokens differ"
    expected_TE = np.stack([embed(model, row) for row in ours.tokenizer.encode_batch(SENTENCES)])
    return float(np.abs(ours.embed(SENTENCES) - expected_TE).max())


def main() -> None:
    """Checks both and prints the largest differences."""
    with tempfile.TemporaryDirectory() as folder:
        apart = {"a small random encoder": check_small(Path(folder))}
    if found := published():
        apart["all-MiniLM-L6-v2"] = check_published(found)
    for name, difference in apart.items():
        assert difference <= TOLERANCE, f"{name}: embeddings are {difference:.1e} from those of transformers"
        print(f"{name}: embeddings {difference:.1e}")


if __name__ == "__main__":
    main()
