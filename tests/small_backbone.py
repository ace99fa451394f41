"""A Hugging Face folder of a small random Qwen2: a byte-level BPE trained on a few lines, a chat template in Qwen's manner, weights."""

import json

from test_huggingface import BASE, random_checkpoint, write_folder
from tokenizers import AddedToken, decoders, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as FastTokenizer

from mr1jax.agents.prompts import ANSWERER_INSTRUCTIONS, MANAGER_INSTRUCTIONS

TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
LINES = [
    *(MANAGER_INSTRUCTIONS + ANSWERER_INSTRUCTIONS).splitlines(keepends=True),
    "Mia's dog is called Bramo",
    "Ben likes tea and jazz",
    "What is Mia's dog called?",
    "ADD: the home of Ben is in Oslo",
    "**Answer:** tea",
]


def train_tokenizer():
    """Its token 0 is "!" and its padding is the last but one, as in Qwen."""
    tokenizer = FastTokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(LINES * 3, trainers.BpeTrainer(vocab_size=600, initial_alphabet=alphabet, show_progress=False))
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in ("<|im_start|>", "<|endoftext|>", "<|im_end|>")])
    tokenizer.add_tokens([AddedToken("<tool_call>", special=False)])
    return tokenizer


def make_folder(path, *, extra_rows=3, **changes):
    """The folder, its embedding a few rows longer than the vocabulary, as published ones are."""
    tokenizer = train_tokenizer()
    raw = BASE | {"architectures": ["Qwen2ForCausalLM"], "num_key_value_heads": 2, "rope_theta": 1e6, "tie_word_embeddings": True}
    raw |= {"vocab_size": tokenizer.get_vocab_size() + extra_rows}
    write_folder(path, raw, random_checkpoint(raw), num_shards=2)
    tokenizer.save(str(path / "tokenizer.json"))
    settings = {"eos_token": "<|im_end|>", "pad_token": {"content": "<|endoftext|>"}, "chat_template": TEMPLATE} | changes
    (path / "tokenizer_config.json").write_text(json.dumps(settings))
    return path
