"""Writes tests/fixtures/: small models as transformers saves them, with what transformers computes of them, for tests without torch.

.venv-parity/bin/python -m parity.make_golden
"""

import shutil
from pathlib import Path

import numpy as np
import torch
from transformers import AutoTokenizer, BertModel

from parity import small_encoders
from parity.small_models import VOCABULARY, Case, logits, make

FIXTURES = Path(__file__).parents[1] / "tests/fixtures"
# Each family tied and untied, each ratio twice.
GOLDEN = [
    Case("qwen2", True, 7),
    Case("qwen2", False, 2),
    Case("qwen3", True, 2),
    Case("qwen3", False, 1),
    Case("llama", True, 1),
    Case("llama", False, 7),
]
PROMPT_LENGTHS = (5, 12, 9)
LENGTH = 18


def write_decoder(case: Case) -> None:
    """Weights in bfloat16, which takes half the room; logits of float32 arithmetic on them."""
    folder = FIXTURES / "decoders" / str(case)
    shutil.rmtree(folder, ignore_errors=True)
    model = make(case, folder, torch.bfloat16, shard="1GB")
    (folder / "generation_config.json").unlink()
    tokens_PX = np.random.default_rng(0).integers(0, VOCABULARY, (len(PROMPT_LENGTHS), LENGTH))
    logits_PXV = np.stack([logits(model, tokens.tolist()).numpy() for tokens in tokens_PX])
    np.savez_compressed(folder / "golden.npz", tokens=tokens_PX, prompt_length=np.array(PROMPT_LENGTHS), logits=logits_PXV)


def write_encoders() -> None:
    """A small random encoder with embeddings of random tokens; and embeddings of sentences by the published one, whose weights stay out."""
    folder = FIXTURES / "encoder"
    shutil.rmtree(folder, ignore_errors=True)
    model = small_encoders.make(folder)
    tokens_TL = np.random.default_rng(0).integers(0, small_encoders.VOCABULARY, (6, 20))
    length_T = np.array([1, 3, 7, 12, 19, 20])
    embedding_TE = [small_encoders.embed(model, tokens[:length].tolist()) for tokens, length in zip(tokens_TL, length_T, strict=True)]
    np.savez_compressed(folder / "golden.npz", tokens=tokens_TL, length=length_T, embedding=np.stack(embedding_TE))

    published = small_encoders.published()
    model, tokenizer = BertModel.from_pretrained(published).eval(), AutoTokenizer.from_pretrained(published)
    sentences = [text for text in small_encoders.SENTENCES if "[" not in text]  # transformers reads "[SEP]" in a text as the token
    ids = tokenizer(sentences, truncation=True, max_length=256)["input_ids"]
    embedding_TE = [small_encoders.embed(model, row) for row in ids]
    np.savez_compressed(FIXTURES / "minilm.npz", sentences=sentences, embedding=np.stack(embedding_TE))


def main() -> None:
    """Writes every fixture anew."""
    for case in GOLDEN:
        write_decoder(case)
    write_encoders()
    print(f"written: {FIXTURES}")


if __name__ == "__main__":
    main()
