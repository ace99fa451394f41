"""Whether every family computes what transformers computes: logits to 1e-4, and the cached decoding like the full pass to 1e-5, float32.

make parity
"""

import tempfile
from pathlib import Path

import numpy as np
from parity_check import CACHE, LOGITS, compare

from mr1jax.model.backbones import read_config
from mr1jax.model.huggingface import load_backbone
from parity.small_models import CASES, VOCABULARY, Case, logits, make

PROMPT_LENGTHS = (5, 12, 9)
LENGTH = 18


def check(case: Case, folder: Path) -> tuple[float, float]:
    """Returns the two largest differences, or raises if one is over its limit."""
    model = make(case, folder)
    tokens_PX = np.random.default_rng(0).integers(0, VOCABULARY, (len(PROMPT_LENGTHS), LENGTH))
    expected_PXV = np.stack([logits(model, tokens.tolist()).numpy() for tokens in tokens_PX])
    config = read_config(folder)
    apart, cached = compare(config, load_backbone(folder, config), tokens_PX, np.array(PROMPT_LENGTHS), expected_PXV)
    assert apart <= LOGITS, f"{case}: logits are {apart:.1e} from those of transformers"
    assert cached <= CACHE, f"{case}: cached decoding is {cached:.1e} from the full pass"
    return apart, cached


def main() -> None:
    """Checks all cases and prints the largest differences."""
    for case in CASES:
        with tempfile.TemporaryDirectory() as folder:
            apart, cached = check(case, Path(folder))
        print(f"{str(case):16} logits {apart:.1e}   cache {cached:.1e}")


if __name__ == "__main__":
    main()
