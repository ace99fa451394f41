"""Scores of an answer on the host: those the compiled program computes too, and the published ones that a table is compared by.

`exact_match`, `token_f1` and `bleu1` are what `scoring` must equal on every input. `f1_mem0`, `bleu1_mem0` and `f1_locomo` restate the
scorers behind the figures of Memory-R1 and LoCoMo, oddities included, because a number is only comparable to one made the same way.
"""

import math
import re
import string
from collections import Counter
from collections.abc import Sequence
from functools import cache

_PUNCTUATION = string.punctuation.encode()
_ARTICLES = (b"a", b"an", b"the")
_LOCOMO_PUNCTUATION = str.maketrans("", "", string.punctuation)
_REFUSALS = ("no information available", "not mentioned")
_MULTI_HOP, _OPEN_DOMAIN, _ADVERSARIAL = 1, 3, 5  # LoCoMo's numbers


def normalize_answer(text: str) -> str:
    """Lower-cases, deletes punctuation, deletes the words a, an and the, and leaves one space between words.

    ASCII only: every other character is a letter without case. Source: SQuAD (arXiv 1606.05250), official script.
    """
    words = text.encode().lower().translate(None, _PUNCTUATION).split()
    return b" ".join(word for word in words if word not in _ARTICLES).decode()


def exact_match(pred: str, gold: str) -> float:
    """Returns 1 if the two texts are equal once normalised, else 0."""
    return float(normalize_answer(pred) == normalize_answer(gold))


def token_f1(pred: str, gold: str) -> float:
    """Returns the F1 of the words of two normalised texts, 1 if neither has one. Equation at `scoring.token_f1`."""
    return _f1_of(_words(pred), _words(gold))


def bleu1(pred: str, gold: str) -> float:
    """Returns the BLEU-1 of the words of two normalised texts, 1 if neither has one. Equation at `scoring.bleu1`."""
    return _bleu1_of(_words(pred), _words(gold))


def f1_mem0(pred: str, gold: str) -> float:
    """Returns the F1 of Mem0's evaluation (and so of Memory-R1): over sets of words, lower case, only `. , ! ?` taken away.

    An empty side scores 0. Source: mem0ai/mem0 `evaluation/metrics/utils.py`.
    """
    pred_words, gold_words = (set(re.sub(r"[.,!?]", " ", text.lower()).split()) for text in (pred, gold))
    return _f1_of(list(pred_words), list(gold_words)) if pred_words and gold_words else 0.0


def bleu1_mem0(pred: str, gold: str) -> float:
    """Returns the BLEU-1 of Mem0's evaluation: over NLTK's Treebank tokens, lower case, punctuation kept.

    The original splits into sentences first, with a model that NLTK downloads; this does not, so the only difference is the
    period of a sentence that is not the last, which here stays on its word. An empty side scores 0.
    """
    pred_tokens, gold_tokens = (_word_tokenizer().tokenize(text.lower()) for text in (pred, gold))
    return _bleu1_of(pred_tokens, gold_tokens) if pred_tokens and gold_tokens else 0.0


def f1_locomo(pred: str, gold: str, category: int) -> float:
    """Returns the F1 of LoCoMo (arXiv 2402.17753, `task_eval/evaluation.py`): stemmed words, and a rule for each category.

    1 (multi-hop): both are lists at commas; the mean, over the gold parts, of the best predicted part. 3 (open-domain): the gold answer
    ends at its first semicolon. 5 (adversarial): 1 if the prediction says that there is no such information, else 0. A list of all that
    could be meant scores 1 in category 1, as published: a figure for a table, and nothing to train by.
    """
    if category == _ADVERSARIAL:
        return float(any(refusal in pred.lower() for refusal in _REFUSALS))
    if category == _MULTI_HOP:
        gold_parts = gold.split(",")
        return sum(max(_f1_stemmed(part, gold_part) for part in pred.split(",")) for gold_part in gold_parts) / len(gold_parts)
    return _f1_stemmed(pred, gold.split(";")[0] if category == _OPEN_DOMAIN else gold)


def _words(text: str) -> list[str]:
    return normalize_answer(text).split(" ")  # [""] where there is no word: two such texts match, and with any other it scores 0


def _f1_stemmed(pred: str, gold: str) -> float:
    pred_words, gold_words = _locomo_words(pred), _locomo_words(gold)
    return _f1_of(pred_words, gold_words) if pred_words and gold_words else 0.0


def _locomo_words(text: str) -> list[str]:
    words = re.sub(r"\b(a|an|the|and)\b", " ", text.lower().translate(_LOCOMO_PUNCTUATION)).split()
    return [_stemmer().stem(word) for word in words]


def _matches(pred: Sequence[str], gold: Sequence[str]) -> int:
    return (Counter(pred) & Counter(gold)).total()


def _f1_of(pred: Sequence[str], gold: Sequence[str]) -> float:
    return 2 * _matches(pred, gold) / (len(pred) + len(gold))


def _bleu1_of(pred: Sequence[str], gold: Sequence[str]) -> float:
    return math.exp(min(1 - len(gold) / len(pred), 0.0)) * _matches(pred, gold) / len(pred)


@cache
def _stemmer():
    from nltk.stem.porter import PorterStemmer  # here, because importing nltk takes seconds and only the published scores need it

    return PorterStemmer()


@cache
def _word_tokenizer():
    from nltk.tokenize.destructive import NLTKWordTokenizer

    return NLTKWordTokenizer()
