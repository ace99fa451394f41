"""A folder of the small random sentence encoder of the fixtures, with a WordPiece of a few words that pads to 128 as published files do."""

import shutil
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers, processors

FIXTURE = Path(__file__).parent / "fixtures/encoder"
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
VOCABULARY = 40  # of its weights


def make_folder(path, words):
    """words: what a text can say; all else is unknown."""
    vocabulary = [*SPECIAL, *words]
    assert len(vocabulary) <= VOCABULARY
    shutil.copytree(FIXTURE, path)
    tokenizer = Tokenizer(models.WordPiece({word: k for k, word in enumerate(vocabulary)}, unk_token="[UNK]"))
    tokenizer.add_special_tokens(list(SPECIAL))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    tokenizer.enable_padding(length=128)
    tokenizer.save(str(path / "tokenizer.json"))
    return path
