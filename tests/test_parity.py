"""What transformers computes of small random models, stored by parity/make_golden.py; `make parity` asks transformers itself."""

from pathlib import Path

import numpy as np
import pytest
from parity_check import CACHE, LOGITS, compare

from mr1jax.model.backbones import read_config
from mr1jax.model.huggingface import load_backbone

DECODERS = sorted((Path(__file__).parent / "fixtures/decoders").iterdir())


@pytest.mark.parametrize("folder", DECODERS, ids=lambda folder: folder.name)
def test_logits_are_those_of_transformers(folder):
    """Oracle: transformers 5.24, each sequence alone; here ragged prompts padded with junk. The cached decoding against one pass."""
    golden, config = np.load(folder / "golden.npz"), read_config(folder)
    assert np.ptp(golden["logits"]) > 3  # a model that says something
    apart, cached = compare(config, load_backbone(folder, config), golden["tokens"], golden["prompt_length"], golden["logits"])
    assert apart <= LOGITS
    assert cached <= CACHE
