"""What the automata and byte tables of a large vocabulary cost: a made-up byte-level BPE of 150,000 tokens, as long as published ones are.

python -m bench.grammar
"""

import json
import random
import string
import tempfile
import time
from pathlib import Path

import jax
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from mr1jax.structs import PyTree
from mr1jax.text.huggingface_tokenizer import HuggingFaceTokenizer
from mr1jax.text.parsing import answer_grammar, manager_grammar
from mr1jax.text.tokenizer import byte_table

VOCABULARY = 150_000
SPACE = "\u0120"  # how byte-level BPE spells a space
MIB = 2**20


def measure(vocab_size: int = VOCABULARY) -> dict[str, float]:
    """Times the tokenizer, its byte table and the automata of both agents; sizes are of the tables on the device, in MiB."""
    with tempfile.TemporaryDirectory() as folder:
        write_tokenizer(Path(folder), vocab_size)
        started = time.perf_counter()
        tokenizer = HuggingFaceTokenizer(folder)
        read_s = time.perf_counter() - started
    started = time.perf_counter()
    table = jax.block_until_ready(byte_table(tokenizer))
    table_s = time.perf_counter() - started
    started = time.perf_counter()
    grammars = jax.block_until_ready((manager_grammar(tokenizer), answer_grammar(tokenizer)))
    result = {
        "tokens": tokenizer.vocab_size,
        "mean_bytes": table.data.size / tokenizer.vocab_size,
        "read_s": read_s,
        "byte_table_s": table_s,
        "automata_s": time.perf_counter() - started,
        "byte_table_mib": _mib(table),
        "automata_mib": _mib(grammars),
    }
    print(
        f"grammar: {result['tokens']:,} tokens of {result['mean_bytes']:.1f} bytes; tokenizer read in {read_s:.1f} s, byte table in "
        f"{table_s:.1f} s ({result['byte_table_mib']:.1f} MiB), automata of both agents in {result['automata_s']:.1f} s "
        f"({result['automata_mib']:.1f} MiB: {' and '.join(str(tuple(each.transition.shape)) for each in grammars)} states x classes)"
    )
    return result


def write_tokenizer(folder: Path, vocab_size: int) -> None:
    """Writes the files of a byte-level BPE whose pieces join two earlier ones: words, most with a space before them, up to 16 bytes.

    Pieces over all 256 bytes, digits, marks and parts of characters of several bytes are among them, as among published ones.
    """
    rng = random.Random(0)
    alphabet, letters = sorted(pre_tokenizers.ByteLevel.alphabet()), string.ascii_lowercase
    merges = [(SPACE, letter) for letter in letters]
    pieces = dict.fromkeys([*alphabet, *map("".join, merges)])
    inner, spaced = [*alphabet, *letters * 20], list(map("".join, merges))  # letters are what most pieces are made of
    while len(pieces) < vocab_size - 3:
        grown = spaced if rng.random() < 0.6 else inner
        left, right = rng.choice(grown), rng.choice(inner)
        if left + right not in pieces and len(left + right) <= rng.randint(3, 14):
            pieces[left + right] = None
            merges.append((left, right))
            grown.append(left + right)
    model = models.BPE({piece: number for number, piece in enumerate(pieces)}, merges)
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in ("<|im_start|>", "<|endoftext|>", "<|im_end|>")])
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}))


def _mib(tree: PyTree) -> float:
    return sum(leaf.nbytes for leaf in jax.tree.leaves(tree)) / MIB


if __name__ == "__main__":
    measure()
