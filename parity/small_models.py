"""Small random models as transformers builds, runs and saves them: every family, tied and untied, three ratios of grouped heads."""

import copy
from pathlib import Path
from typing import NamedTuple

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM
from transformers.utils.logging import disable_progress_bar

disable_progress_bar()

VOCABULARY = 48
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,  # so that 18 tokens have rotations that are slow, between and fast
}
DEFAULT = {"rope_type": "default", "rope_theta": 1e6}
FAMILIES = {
    "qwen2": (Qwen2Config, Qwen2ForCausalLM, {"rope_parameters": DEFAULT}),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM, {"rope_parameters": DEFAULT, "head_dim": 10}),
    "llama": (LlamaConfig, LlamaForCausalLM, {"rope_parameters": LLAMA3}),
}


class Case(NamedTuple):
    """One model. ratio: query heads to a key-value head."""

    family: str
    tied: bool
    ratio: int

    def __str__(self) -> str:
        return f"{self.family}-{'tied' if self.tied else 'untied'}-{self.ratio}"


CASES = [Case(family, tied, ratio) for family in FAMILIES for tied in (True, False) for ratio in (1, 2, 7)]


def make(case: Case, folder: Path, dtype: torch.dtype = torch.float32, shard: str = "20KB") -> PreTrainedModel:
    """Draws a model, saves it as a folder of shards with weights of `dtype`, and returns it in float32 with the same weights."""
    config_class, model_class, settings = FAMILIES[case.family]
    heads = 7 if case.ratio == 7 else 4
    config = config_class(
        vocab_size=VOCABULARY,
        hidden_size=heads * (4 if case.ratio == 7 else 6),
        intermediate_size=20,
        num_hidden_layers=2,
        num_attention_heads=heads,
        num_key_value_heads=heads // case.ratio,
        tie_word_embeddings=case.tied,
        max_position_embeddings=64,
        **settings,
    )
    torch.manual_seed(CASES.index(case))
    model = model_class(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            # Their own start is so small that a wrong bias or rotation would hardly move a logit.
            drawn = torch.randn(parameter.shape) * parameter.shape[-1] ** -0.5 + (1.0 if "norm" in name else 0.0)
            parameter.copy_(drawn.to(dtype).float())
    # A copy, since the rotary frequencies of a model that was once in bfloat16 stay rounded.
    copy.deepcopy(model).to(dtype).save_pretrained(folder, max_shard_size=shard)
    return model


@torch.no_grad()
def logits(model: PreTrainedModel, tokens: list[int]) -> torch.Tensor:
    """Scores one sequence alone, without padding or a cache: float32[X, V]."""
    return model(torch.tensor([tokens]), use_cache=False).logits[0]
