"""An adapter of ours in PEFT, and the same merged in transformers: their logits are ours.

    PYTHONPATH=.:tests python -m parity.peft_adapter

For a small random model of each family, and a random adapter on some of its projections: `export_adapter` laid over the published folder by
PEFT, and `export_backbone` of the merged parameters read by transformers, against our own decoder with the adapter beside its base. Needs
torch, transformers and peft beside what mr1jax needs. Prints the largest difference of each; exits with status 1 if one is above TOLERANCE.
"""

import sys
import tempfile
from pathlib import Path

import jax
import numpy as np
import torch
from peft import PeftModel
from test_huggingface import FAMILIES, random_checkpoint, write_folder
from transformers import AutoModelForCausalLM

from mr1jax.config import PROJECTIONS, LoraConfig
from mr1jax.model import transformer
from mr1jax.model.backbones import read_config
from mr1jax.model.export import export_adapter, export_backbone
from mr1jax.model.huggingface import load_backbone
from mr1jax.model.lora import BASE, agent_params, init_adapter, merge_adapter

TOLERANCE = 1e-4
NUM_TOKENS = 12
SWAP = (0, 7)  # two tokens that change places when a folder is read, as padding and token 0 do
MODEL_TYPES = {"Qwen2ForCausalLM": "qwen2", "Qwen3ForCausalLM": "qwen3", "LlamaForCausalLM": "llama"}
LORAS = {
    "all projections": LoraConfig(rank=3, alpha=4.5, targets=PROJECTIONS),
    "query and down": LoraConfig(rank=2, alpha=16.0, targets=("query", "down")),
}


def compare(raw: dict, lora: LoraConfig, folder: Path) -> dict[str, float]:
    """Returns the largest absolute difference of logits by name, and how far the adapter moves them at all."""
    raw = raw | {"model_type": MODEL_TYPES[raw["architectures"][0]]}
    published = write_folder(folder / "published", raw, random_checkpoint(raw))
    config = read_config(published)
    base = load_backbone(published, config, swap=SWAP)
    rng = np.random.default_rng(0)
    adapter = jax.tree.map(lambda x: (0.3 * rng.standard_normal(x.shape)).astype(np.float32), init_adapter(lora, base, jax.random.key(0)))
    export_adapter(adapter, lora, config, published, folder / "adapter")
    export_backbone(merge_adapter(base, adapter, lora), config, published, folder / "merged", swap=SWAP)
    tokens = rng.integers(0, config.vocab_size, NUM_TOKENS)
    expected = our_logits(config, agent_params({BASE: base, "answerer": adapter}, "answerer", lora), tokens)
    backbone = AutoModelForCausalLM.from_pretrained(published, dtype=torch.float32)
    plain = their_logits(backbone, tokens)
    return {
        "peft": np.max(np.abs(their_logits(PeftModel.from_pretrained(backbone, folder / "adapter"), tokens) - expected)),
        "merged": np.max(np.abs(their_logits(AutoModelForCausalLM.from_pretrained(folder / "merged"), tokens) - expected)),
        "moved": np.max(np.abs(plain - expected)),
    }


def our_logits(config, params, tokens: np.ndarray) -> np.ndarray:
    """Computes float32[X - 1, V], which predict all tokens but the first, in the published order of the vocabulary."""
    ours = np.arange(config.vocab_size)
    ours[[*SWAP]] = ours[[*reversed(SWAP)]]
    row = ours[tokens].astype(np.int32)
    hidden = transformer.response_hidden(config, params, row[None, :1], np.array([1], np.int32), row[None, None, 1:])
    return np.asarray(transformer.logits(config, params, hidden))[0, 0][:, ours]


def their_logits(model, tokens: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return model.eval()(torch.tensor(tokens)[None]).logits[0, :-1].float().numpy()


def main() -> None:
    worst = 0.0
    for family, raw in FAMILIES.items():
        for name, lora in LORAS.items():
            with tempfile.TemporaryDirectory() as folder:
                gap = compare(raw, lora, Path(folder))
            print(f"{family:26} {name:16} " + "  ".join(f"{what} {value:.1e}" for what, value in gap.items()))
            worst = max(worst, gap["peft"], gap["merged"])
            if gap["moved"] < 100 * TOLERANCE:
                sys.exit(f"{family}: the adapter moves the logits by {gap['moved']:.1e} only, which proves nothing")
    if worst > TOLERANCE:
        sys.exit(f"the largest difference is {worst:.1e}, above {TOLERANCE}")
    print(f"the largest difference is {worst:.1e}, of {TOLERANCE} allowed")


if __name__ == "__main__":
    main()
