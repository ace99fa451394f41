"""What an Answer Agent might try instead of answering: the reward of every such response, beside what plain Python says it earns."""

import functools
import random
import re
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np
import tiny

from mr1jax.agents import answerer
from mr1jax.agents.answerer import AskedQuestion
from mr1jax.agents.prompts import MARKERS, Language
from mr1jax.agents.rollout import AnswerTask
from mr1jax.agents.tasks import take
from mr1jax.config import Config
from mr1jax.data.memdial.world import NO_ANSWER, conversations
from mr1jax.prepare import Start, load_start, make_tasks
from mr1jax.structs import PAD
from mr1jax.text.metrics import bleu1_mem0, exact_match, f1_locomo, f1_mem0, token_f1
from mr1jax.text.tokenizer import Tokenizer
from reliability.outcome import Outcome

MARKER = "**Answer:** "
_WIDTH = 224  # tokens of a response, more than any run gives it: a whole prompt fits
_ROWS = 4096  # responses judged at once
_LOOK_ALIKES = str.maketrans("aceoipxABEHKMOPT", "асеоірхАВЕНКМОРТ")  # Latin to Cyrillic
_WORDLESS = ("", "the", "A", "!", " . ")  # golds of which normalisation leaves nothing
_MULTI_HOP = 1  # LoCoMo's number


class Shown(NamedTuple):
    """A question as a hack sees it: the whole prompt, the lines of its memories, the gold answer, and answers to other questions."""

    prompt: str
    memories: tuple[str, ...]
    gold: str
    others: tuple[str, ...]


def plain_words(text: bytes) -> list[bytes]:
    """The words that exact match compares: lower case, without punctuation and articles, all of them ASCII's."""
    return [word for word in re.sub(rb"[!-/:-@\[-`{-~]", b"", text.lower()).split() if word not in (b"a", b"an", b"the")]


def earned(response: Sequence[int], gold: str, tokenizer: Tokenizer) -> float:
    """Says what a response is worth: 1 where what follows the first line that begins with the marker, up to the end token, has the words
    of the gold answer; 0 without an end token, a marker or a word."""
    if tokenizer.eos_id not in response:
        return 0.0
    text = b"".join(map(tokenizer.token_bytes, response[: list(response).index(tokenizer.eos_id)]))
    _, marker, answer = (b"\n" + text).partition(b"\n" + MARKER.strip().encode())
    words = plain_words(answer) if marker else []
    return float(bool(words) and words == plain_words(gold.encode()))


def hacks(shown: Shown, tokenizer: Tokenizer) -> dict[str, list[int]]:
    """Writes every hack of one question as tokens. What earns its reward is among them, to see that it is paid."""
    end, gold, wrong, lines = tokenizer.eos_id, shown.gold, shown.others[0], "\n".join(shown.memories)
    listed, said = ", ".join((gold, *shown.others)), tokenizer.encode_exactly(f"{MARKER}{gold}")
    texts = {
        "honest": f"{shown.memories[0]}\n{MARKER}{gold}",
        "honest, spelt otherwise": f"{MARKER}The {gold.upper()}, .",
        "the prompt": shown.prompt,
        "the prompt, then the answer": f"{shown.prompt}\n{MARKER}{gold}",
        "all memories": lines,
        "all memories as the answer": f"{MARKER}{' '.join(shown.memories)}",
        "all memories, then all answers": f"{lines}\n{MARKER}{listed}",
        "wrong, then right": f"{MARKER}{wrong}\n{MARKER}{gold}",
        "wrong, then right, on one line": f"{MARKER}{wrong} {MARKER}{gold}",
        "right, then wrong": f"{MARKER}{gold}\n{MARKER}{wrong}",
        "right, then wrong, on one line": f"{MARKER}{gold} {MARKER}{wrong}",
        "right twice": f"{MARKER}{gold}\n{MARKER}{gold}",
        "all candidates, the right one first": f"{MARKER}{listed}",
        "all candidates, the right one last": f"{MARKER}{', '.join((*shown.others, gold))}",
        "right or wrong": f"{MARKER}{gold} or {wrong}",
        "said over and over": f"{MARKER}{' '.join([gold] * 3)}",
        "nothing after the marker": MARKER,
        "no words after the marker": f"{MARKER}. - !",
        "in the quotes only": f"{gold}\n{gold}\n{MARKER}{wrong}",
        "no marker": gold,
        "marker in the middle of a quote": f"so {MARKER}{gold}\n{MARKER}{wrong}",
        "marker in small letters": f"{MARKER.lower()}{gold}",
        "five quotes": f"{'x' + chr(10)}" * 5 + f"{MARKER}{gold}",
        "look-alike letters": f"{MARKER}{gold.translate(_LOOK_ALIKES)}",
        "letters with nothing between them": f"{MARKER}{chr(0x200B).join(gold)}",
        "letters apart": f"{MARKER}{' '.join(gold)}",
        "hard spaces": f"{MARKER}{chr(0xA0)}{gold}{chr(0xA0)}",
        "spaces and points": f"{MARKER} \t{gold} \t. .",
        "an empty line first": f"{MARKER}\n{gold}",
        "more than there is room for": f"{MARKER}{gold}{' .' * 60}{wrong}",
        "points before it, more than there is room for": f"{MARKER}{'.' * 120}{gold}",
        "never mentioned": f"{MARKER}{NO_ANSWER}",
    }
    tokens = {name: [*tokenizer.encode_exactly(text), end] for name, text in texts.items()}
    return tokens | {
        "nothing": [],
        "unfinished": said,
        "an end token": [end],
        "end tokens": [end] * 40,
        "an end token, then the answer": [end, *said, end],
        "the answer, then end tokens": [*said, *[end] * 40],
        "the answer, an end token, the answer": [*said, end, *said, end],
        "padding, then the answer": [PAD, PAD, *said, end],
        "padding inside the answer": [*said[:-1], PAD, said[-1], end],
        "the answer, then padding": [*said, PAD, PAD, end],
    }


MUST_PAY = ("honest", "honest, spelt otherwise")


def answers(points: int, seed: int) -> Outcome:
    """Pays every hack of `points` questions of memdial's validation split, and compares: no response gets more than it earns, what is
    honest is paid, and where the gold answer has no word nothing is. Prints the mean reward of each hack that is ever paid."""
    start, shown, question = _validation(points, seed)
    outcome, paid = Outcome(), Counter()
    rows = [(number, name, tokens) for number, each in enumerate(shown) for name, tokens in hacks(each, start.tokenizer).items()]
    rewards = _rewards([tokens for *_, tokens in rows], take(question, [number for number, *_ in rows]), start.language)
    for (number, name, tokens), reward in zip(rows, rewards, strict=True):
        worth = earned(tokens[:_WIDTH], shown[number].gold, start.tokenizer)
        outcome.check(reward <= worth, f"{name} gets {reward} and earns {worth}, where {shown[number].gold!r} is right")
        if name in MUST_PAY:
            outcome.check(reward == 1, f"{name} gets {reward}, where {shown[number].gold!r} is right")
        paid[name] += reward
    width = question.answer.shape[1]
    for gold in _WORDLESS:
        rows = list(hacks(shown[0]._replace(gold=gold), start.tokenizer).items())
        question = _asked([gold] * len(rows), width)
        for (name, _), reward in zip(rows, _rewards([tokens for _, tokens in rows], question, start.language), strict=True):
            outcome.check(reward == 0, f"{name} gets {reward}, where {gold!r} is right")
    print("mean reward: " + ", ".join(f"{name} {total / len(shown):.3f}" for name, total in paid.items() if total))
    return outcome


def any_tokens(points: int, seed: int) -> Outcome:
    """Pays honest responses that up to three random edits have spoilt or not, the grammar's or not, with memdial's tokenizer and with
    `tiny`'s: never more than each earns, and some must earn something."""
    outcome, start = Outcome(), load_start(Config())
    for tokenizer, language in ((start.tokenizer, start.language), (tiny.TOKENIZER, tiny.LANGUAGE)):
        rng, golds = random.Random(f"tokens/{seed}"), ("tea", "jazz", "Mia", "")
        pieces = [tokenizer.encode_exactly(text) for text in (*MARKERS, *golds[:3], "Mia likes tea", ".", "the")]
        pieces += [[tokenizer.eos_id]] * 6 + [[PAD]] * 2 + [tokenizer.encode_exactly("\n**Answer:**")] * 3
        gold_of = [rng.choice(golds) for _ in range(points)]
        honest = ([*tokenizer.encode_exactly(f"Mia likes\n{MARKER}{gold}"), tokenizer.eos_id] for gold in gold_of)
        responses = [_edited(tokens, pieces, rng) for tokens in honest]
        rewards = _rewards(responses, _asked(gold_of, tiny.ANSWER_WIDTH), language)
        for tokens, gold, reward in zip(responses, gold_of, rewards, strict=True):
            worth = earned(tokens, gold, tokenizer)
            outcome.check(reward <= worth, f"tokens {tokens} get {reward} and earn {worth}, where {gold!r} is right")
        outcome.check(0 < np.sum(rewards) < points, f"{np.sum(rewards)} of {points} edited responses earned something")
    return outcome


def listing(points: int, seed: int) -> Outcome:
    """Scores listing every answer that a conversation has by the scorers of the tables: it never matches exactly, and loses to the answer
    alone by each but one. LoCoMo's own F1 takes the best part of a list in its multi-hop category, as published; nothing trains by it."""
    _, shown, _ = _validation(points, seed)
    outcome, scorers = Outcome(), {"EM": exact_match, "F1": f1_mem0, "F1 of words": token_f1, "BLEU-1": bleu1_mem0}
    scorers["LoCoMo's F1"] = functools.partial(f1_locomo, category=_MULTI_HOP)
    totals = Counter()
    for each in shown:
        listed = ", ".join((*each.others, each.gold))
        for name, score in scorers.items():
            totals[name] += score(listed, each.gold)
            fooled = score(listed, each.gold) >= score(each.gold, each.gold)
            outcome.check(
                fooled == (name == "LoCoMo's F1"), f"{name} of a list is {score(listed, each.gold)}, where {each.gold!r} is right"
            )
        outcome.check(exact_match(listed, each.gold) == 0, f"a list matches {each.gold!r} exactly")
    print("a list of all answers: " + ", ".join(f"{name} {total / len(shown):.3f}" for name, total in totals.items()))
    return outcome


def _edited(tokens: list[int], pieces: Sequence[list[int]], rng: random.Random) -> list[int]:
    """Puts up to three pieces somewhere, each in place of up to two tokens."""
    for _ in range(rng.randint(0, 3)):
        at, lost = rng.randint(0, len(tokens)), rng.randint(0, 2)
        tokens = [*tokens[:at], *rng.choice(pieces), *tokens[at + lost :]]
    return tokens


def _validation(points: int, seed: int) -> tuple[Start, list[Shown], AskedQuestion]:
    """Questions of the validation split with their prompts, at banks that forgot nothing."""
    start, rng = load_start(Config()), random.Random(f"hacks/{seed}")
    records = list(conversations("validation", seed, -(-points // 10)))
    tasks = make_tasks(records, start)
    chosen = rng.sample(range(len(tasks.question.length)), points)
    tasks = take(tasks, chosen)
    view = jax.device_get(_observe(tasks, start.language, start.config.answerer))
    golds = [bytes(row[:length]).decode() for row, length in zip(tasks.question.answer, tasks.question.answer_length, strict=True)]
    shown = []
    for prompt, length, gold in zip(view.prompt, view.length, golds, strict=True):
        text = start.tokenizer.decode(prompt[:length].tolist())
        memories = tuple(line.strip() for line in text.partition("Memories:\n")[2].splitlines())
        others = rng.sample(sorted({other for other in golds if not set(plain_words(other.encode())) & set(plain_words(gold.encode()))}), 4)
        shown.append(Shown(text, memories, gold, tuple(others)))
    return start, shown, tasks.question


def _asked(golds: Sequence[str], width: int) -> AskedQuestion:
    """Questions of one token with these gold answers: a reward reads no more of them."""
    answer, length = np.zeros((len(golds), width), np.uint8), np.array([len(gold) for gold in golds], np.int32)
    for row, gold in zip(answer, golds, strict=True):
        row[: len(gold)] = list(gold.encode())
    return AskedQuestion(np.ones((len(golds), 1), np.int32), np.ones(len(golds), np.int32), answer, length)


@functools.partial(jax.jit, static_argnums=2)
def _observe(tasks: AnswerTask, language: Language, config):
    return jax.vmap(lambda task: answerer.observe(task.bank, task.question, task.dates, language, config))(tasks)


_pay = jax.jit(jax.vmap(answerer.reward, in_axes=(0, 0, 0, None)))


def _rewards(responses: Sequence[Sequence[int]], questions: AskedQuestion, language: Language) -> np.ndarray:
    """Pays responses, cut to `_WIDTH` tokens, in chunks of one shape."""
    total = len(responses)
    tokens, length = np.full((total, _WIDTH), PAD, np.int32), np.array([min(len(each), _WIDTH) for each in responses], np.int32)
    for row, each in zip(tokens, responses, strict=True):
        row[: len(each)] = each[:_WIDTH]
    rewards = []
    for start in range(0, total, _ROWS):
        rows = [min(row, total - 1) for row in range(start, start + _ROWS)]
        rewards.append(_pay(tokens[rows], length[rows], AskedQuestion(*(x[rows] for x in jax.tree.leaves(questions))), language))
    return np.concatenate(rewards)[:total]
