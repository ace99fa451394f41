"""Whether a folder that mr1jax writes is one that transformers reads: the same logits there, and the same bits back here.

make parity
"""

import tempfile
from pathlib import Path

import jax
import numpy as np
import torch
from transformers import AutoModelForCausalLM

from mr1jax.model.backbones import read_config
from mr1jax.model.export import export_backbone
from mr1jax.model.huggingface import load_backbone
from parity.small_models import CASES, VOCABULARY, Case, logits, make

SWAP = (0, 31)


def check(case: Case, folder: Path, dtype: str) -> None:
    """Reads, exports in shards, and compares both readers; raises where one differs in one bit."""
    source, target = folder / "source", folder / "target"
    model = make(case, source, getattr(torch, dtype))
    config = read_config(source)
    params = load_backbone(source, config, dtype=dtype, swap=SWAP)
    export_backbone(params, config, source, target, swap=SWAP, shard_bytes=20_000)
    again = load_backbone(target, read_config(target), dtype=dtype, swap=SWAP)
    jax.tree.map(np.testing.assert_array_equal, params, again)

    loaded, about = AutoModelForCausalLM.from_pretrained(target, dtype=torch.float32, output_loading_info=True)
    assert not any(about.values()), f"{case}: transformers says {about}"
    assert AutoModelForCausalLM.from_pretrained(target, dtype="auto").dtype == getattr(torch, dtype)
    tokens = np.random.default_rng(1).integers(0, VOCABULARY, 18).tolist()
    assert torch.equal(logits(loaded.eval(), tokens), logits(model, tokens)), f"{case}: logits differ after the export"


def main() -> None:
    """Checks all cases in both dtypes."""
    for case in CASES:
        for dtype in ("float32", "bfloat16"):
            with tempfile.TemporaryDirectory() as folder:
                check(case, Path(folder), dtype)
        print(f"{str(case):16} exported, read by transformers with equal logits, read back with equal bits")


if __name__ == "__main__":
    main()
