"""Random and adversarial token sequences through the parsers of both grammars and through the bank, in two vocabularies.

Oracle: the bytes of the tokens, read by Python's `re` and string methods, and a bank that is a Python dict. What is legal does what its
text says. Anything else leaves the bank as it was, save its clock, with a status that says so, and earns nothing.
"""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tiny
from reference_bank import WIDTH, Memory, ReferenceBank, memories_of
from reference_grammar import ANSWER_BORDERS, MANAGER_BORDERS, legal_text, read_operation

from mr1jax.agents import answerer, manager
from mr1jax.agents.manager import ManagerView
from mr1jax.agents.prompts import Language, make_language
from mr1jax.memory.bank import apply_operations
from mr1jax.structs import NO_KIND, NO_SLOT, PAD, MemoryBank, OperationStatus, Retrieval
from mr1jax.text.grammar import Grammar
from mr1jax.text.metrics import exact_match, normalize_answer
from mr1jax.text.parsing import ANSWER_PATTERN, MANAGER_PATTERN, parse_answer
from mr1jax.text.tokenizer import SentencePieceTokenizer
from reliability.outcome import Outcome

SHIPPED = Path(__file__).parents[1] / "assets" / "tokenizer.model"
LENGTH = 24  # tokens of a response
BATCH = 500  # sequences that are parsed at once
SHOWN = 4  # memories that a Manager is shown at most
POLICIES = ("evict_oldest", "reject")
GOLDS = ("tea", "Mia", "blue", "the", "", "2 May")

MANAGER_TEXTS = (
    *("NOOP", " NOOP", "NOOP ", "noop", "NOOPNOOP", "", "\n", "tea", "**Answer:** tea"),
    *("DELETE 1", "DELETE 01", "DELETE 0", "DELETE 99", "DELETE 100", "DELETE -1", "DELETE", "DELETE 1 ", "DELETE 1\n", "DELETE 1\nNOOP"),
    *("DELETE 1\nADD:", "DELETE 1\nADD: tea", "DELETE 99\nADD: tea", "DELETE 1\nUPDATE 2: tea", "DELETE 1\nDELETE 2"),
    *("DELETE 1\n\nADD: tea", "ADD:", "ADD: ", "ADD:  tea", "ADD:tea", "ADD: tea\n", "ADD: tea\nADD: tea", "ADD: Mia likes tea."),
    *("ADD: " + "tea " * 40, "ADD: \0", "ADD: \ttea", "ADD: \rtea", "ADD: \u2028tea", "ADD: é中😀\U0010ffff", "ADD: UPDATE 1: tea"),
    *("ADD: **Answer:** tea", "ADD: 12", "UPDATE 1: tea", "UPDATE 2: Mia likes jazz", "UPDATE 04: tea", "UPDATE 0: tea", "UPDATE 5: tea"),
    *("UPDATE 99: tea", "UPDATE 1: ", "UPDATE 1:tea", "UPDATE 1 : tea", "UPDATE: tea", "UPDATE  1: tea", "UPDATE 999999999999: tea"),
    *("UPDATE 2147483648: tea", "UPDATE x: tea"),
)
ANSWER_TEXTS = (
    *("**Answer:** tea", "**Answer:** the tea.", "**Answer:** Tea", "**Answer:** 2 May", "**Answer:** the", "**Answer:** .", "tea", ""),
    *("**Answer:**", "**Answer:** ", "**Answer:**  tea", "**Answer:**tea", "**Answer:** tea\n", "**Answer:** tea\n**Answer:** tea"),
    *("Mia\n**Answer:** Mia", " Mia\n" * 4 + "**Answer:** Mia", "Mia\n" * 5 + "**Answer:** Mia", "\n**Answer:** Mia", "NOOP", "\0"),
    *("* Mia\n**Answer:** Mia", "**Answer:** **Answer:** tea", "**Answer: tea", "*Answer:** tea", "  Mia\n**Answer:** Mia", "ADD: tea"),
    *("**Answer:** \0", "**Answer:** é中😀\U0010ffff", "**Answer:** " + "tea " * 40, "**Answer:** " + "." * 14 + " tea"),
    *("Mia likes\ntea\n**Answer:** blue", "**Answer:** " + "." * 60 + " tea"),
)


class Vocabulary(NamedTuple):
    """A tokenizer, all that a program reads of it, and the token that `_spell` takes for the next bytes, the longest first."""

    tokenizer: Any
    language: Language
    by_length: list[tuple[bytes, int]]


class Pool(NamedTuple):
    """Random banks: stacked, and as the dicts they stand for."""

    banks: MemoryBank
    memories: list[dict[int, Memory]]


def try_sequences(count: int, seed: int = 0, policies: tuple[str, ...] = POLICIES) -> Outcome:
    """Sends `count` sequences through the Manager's parser and the bank, and as many through the Answer Agent's and its reward.

    A point is one sequence. `count` is rounded up to full batches of each vocabulary and policy.
    """
    rng, outcome, legal = np.random.default_rng(seed), Outcome(), 0
    memories = [tiny.random_memories(rng) for _ in range(BATCH)]
    banks = tiny.stack([tiny.bank(each) for each in memories])
    pool = Pool(banks, plain_memories(banks))
    for tokenizer in (tiny.TOKENIZER, SentencePieceTokenizer(SHIPPED)):
        pieces = [(tokenizer.token_bytes(token), token) for token in range(tokenizer.vocab_size)]
        by_length = sorted((piece for piece in pieces if piece[0]), key=lambda piece: -len(piece[0]))
        vocabulary = Vocabulary(tokenizer, make_language(tokenizer, SHOWN), by_length)
        for policy in policies:
            program = jax.jit(partial(_carry_out, when_full=policy))
            for tokens_BR, length_B in _batches(rng, vocabulary, vocabulary.language.manager, MANAGER_TEXTS, count // 2 // len(policies)):
                legal += _check_operations(outcome, rng, vocabulary, pool, program, policy, tokens_BR, length_B)
        program = jax.jit(_read_answers)
        for tokens_BR, length_B in _batches(rng, vocabulary, vocabulary.language.answerer, ANSWER_TEXTS, count // 2):
            legal += _check_answers(outcome, rng, vocabulary, program, tokens_BR, length_B)
    outcome.check(
        0.2 < legal / outcome.tried < 0.8, f"{legal} of {outcome.tried} sequences are legal, too few of one sort to show anything"
    )
    return outcome


def plain_memories(banks: MemoryBank) -> list[dict[int, Memory]]:
    """Reads stacked banks without embeddings as dicts."""
    return memories_of(banks.replace(embedding=np.zeros((*banks.length.shape, 0), np.float32)))


# What the program does --------------------------------------------------------------------------------------------------------------


def _carry_out(language, banks, shown, facts, tokens_BR, length_B, *, when_full):
    """Carries out each response on a bank of its own: (banks after, statuses [B, 2], operations)."""

    def one(bank, slot_K, fact, tokens_R, length):
        view = ManagerView(
            prompt=jnp.zeros(1, jnp.int32), length=jnp.int32(1), shown=Retrieval(slot_K, jnp.zeros(SHOWN), slot_K != NO_SLOT)
        )
        operations = manager.act(view, fact, tokens_R, length, language, tiny.NUM_TERMS)
        return *apply_operations(bank, operations, when_full=when_full), operations

    return jax.vmap(one)(banks, shown, facts, tokens_BR, length_B)


def _read_answers(language, questions, tokens_BR, length_B):
    """Reads each answer, a `Segment`, and pays for it: (answers, float32[B])."""
    answers = jax.vmap(parse_answer, in_axes=(None, 0, 0))(language.answerer, tokens_BR, length_B)
    return answers, jax.vmap(partial(answerer.reward, language=language))(tokens_BR, length_B, questions)


# What Python says of it -------------------------------------------------------------------------------------------------------------


def _check_operations(
    outcome: Outcome,
    rng: np.random.Generator,
    vocabulary: Vocabulary,
    pool: Pool,
    program: Callable,
    policy: str,
    tokens_BR: np.ndarray,
    length_B: np.ndarray,
) -> int:
    """Compares what a batch of responses does to the banks of the pool with what their texts ask for; returns how many are legal."""
    legal = 0
    shown_BK = np.stack([(*rng.permutation(list(held))[:SHOWN], *[NO_SLOT] * SHOWN)[:SHOWN] for held in pool.memories]).astype(np.int32)
    facts = tiny.stack([tiny.fact(tiny.random_said(rng)) for _ in range(BATCH)])
    after, status_B2, operations = jax.device_get(program(vocabulary.language, pool.banks, shown_BK, facts, tokens_BR, length_B))
    memories = plain_memories(after)
    for row, (tokens_R, length) in enumerate(zip(tokens_BR.tolist(), length_B.tolist(), strict=True)):
        said_R = tokens_R[: max(length, 0)]
        text = legal_text(vocabulary.tokenizer, said_R, LENGTH, MANAGER_PATTERN, MANAGER_BORDERS)
        before, clock = pool.memories[row], int(pool.banks.clock[row])
        expected = ReferenceBank(policy, dict(before), clock)
        wanted = _operations(vocabulary, text, said_R, shown_BK[row].tolist())
        rest = (operations.terms[row, 0].tolist(), int(facts.speaker[row]), int(facts.time[row]), ())
        statuses = [expected.apply(kind, slot, written, len(written), *rest) for kind, slot, written in wanted]
        found = [OperationStatus(each).name for each in status_B2[row].tolist()]
        same = found == statuses and memories[row] == expected.memories and after.clock[row] == expected.clock == clock + 2
        refused = memories[row] == before and found == ["APPLIED", "BAD_KIND"]
        outcome.check(same and (refused or text is not None), f"{text!r} from {said_R}: {found}, and not {statuses}")
        legal += text is not None
    return legal


def _operations(vocabulary: Vocabulary, text: str | None, tokens_R: list[int], shown: list[int]) -> list[tuple[int, int, list[int]]]:
    """Says what a response asks for: (kind, slot, tokens of the text) of its two operations."""
    delete, kind, number, line = (False, NO_KIND, None, "") if text is None else read_operation(text)
    slot = shown[number - 1] if number is not None and 1 <= number <= SHOWN else NO_SLOT
    written: list[int] = []
    start, head = 0, len((text or "").encode()) - len(f" {line}".encode())
    for token in tokens_R if line else []:
        written += [token] if start >= head and token not in (PAD, vocabulary.tokenizer.eos_id) else []
        start += len(vocabulary.tokenizer.token_bytes(token))
    return [(3 * delete, slot, written[:WIDTH]), (kind, slot, written[:WIDTH])]


def _check_answers(
    outcome: Outcome, rng: np.random.Generator, vocabulary: Vocabulary, program: Callable, tokens_BR: np.ndarray, length_B: np.ndarray
) -> int:
    """Compares the answers that are read out of a batch of responses, and what they earn, with their texts; returns how many are legal."""
    legal = 0
    golds = [str(gold) for gold in rng.choice(GOLDS, BATCH)]
    questions = tiny.stack([tiny.question("What", gold) for gold in golds])
    answers, reward_B = jax.device_get(program(vocabulary.language, questions, tokens_BR, length_B))
    spell = vocabulary.tokenizer.token_bytes
    for row, (tokens_R, length) in enumerate(zip(tokens_BR.tolist(), length_B.tolist(), strict=True)):
        said_R = tokens_R[: max(length, 0)]
        text = legal_text(vocabulary.tokenizer, said_R, LENGTH, ANSWER_PATTERN, ANSWER_BORDERS)
        said = None if text is None else text.split("\n")[-1].removeprefix("**Answer:** ")
        found = b"".join(map(spell, answers.tokens[row, : answers.length[row]].tolist()))
        fits = said is not None and len(f" {said}".encode()) <= 2 * tiny.ANSWER_WIDTH
        earned = exact_match(said, golds[row]) if fits and normalize_answer(said) else 0.0  # no word, no reward
        right = found == (b"" if said is None else f" {said}".encode()) and reward_B[row] == earned
        outcome.check(right, f"{text!r} from {said_R} is read as {found!r} and earns {reward_B[row]}, not {earned}")
        legal += text is not None
    return legal


# What is tried ----------------------------------------------------------------------------------------------------------------------


def _batches(
    rng: np.random.Generator, vocabulary: Vocabulary, grammar: Grammar, texts: tuple[str, ...], count: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields (tokens [BATCH, LENGTH], length [BATCH]): a third legal walks, a third of the texts, the others noise; most are damaged."""
    end = vocabulary.tokenizer.eos_id
    spelt = [[*_spell(vocabulary.by_length, text.encode()), end] for text in texts]
    for _ in range(max(1, -(-count // BATCH))):
        walks = _walk(rng, grammar, rng.integers(2, LENGTH + 1, BATCH))
        tokens_BR, length_B = np.zeros((BATCH, LENGTH), np.int32), np.zeros(BATCH, np.int32)
        for row, choice in enumerate(rng.integers(0, 9, BATCH)):
            if choice < 4:
                tokens = np.trim_zeros(walks[row]).tolist()
            elif choice < 8:
                tokens = spelt[rng.integers(len(spelt))]
            else:
                tokens = rng.integers(0, vocabulary.tokenizer.vocab_size, rng.integers(0, LENGTH + 1)).tolist()
            tokens, length_B[row] = _damage(rng, vocabulary.tokenizer, tokens)
            tokens_BR[row, : len(tokens)] = tokens
        yield tokens_BR, length_B


def _damage(rng: np.random.Generator, tokenizer: Any, tokens: list[int]) -> tuple[list[int], int]:
    """Does one thing to a sequence, or nothing: (tokens, at most LENGTH; how many of them count, which may be none or too many)."""
    place, some = int(rng.integers(len(tokens) + 1)), int(rng.integers(tokenizer.vocab_size))
    before, after = tokens[:place], tokens[place:]
    kinds = (
        *[tokens] * 4,
        [*before, some, *after[1:]],  # another token
        [*before, some, *after],
        [*before, *after[1:]],
        [*before, PAD, *after],
        [*before, tokenizer.eos_id, *after],  # the end token twice
        [*before, *before, *after],
        before,  # cut off
        tokens * 2,
        after,
    )
    damaged = kinds[rng.integers(len(kinds))][:LENGTH]
    length = len(damaged)
    if rng.random() < 0.1:  # what lies past the length is no part of the response
        damaged = [*damaged, *rng.integers(0, tokenizer.vocab_size, LENGTH - length).tolist()]
        length = int(rng.choice([length, length, -1, 0, LENGTH, LENGTH + 3]))
    return damaged, length


def _walk(rng: np.random.Generator, grammar: Grammar, budget_B: np.ndarray) -> np.ndarray:
    """Writes legal responses within their budgets, [B, LENGTH]: a class of tokens at random, then one of its tokens, so that all occur."""
    transition, distance, token_class = (np.asarray(x) for x in (grammar.transition, grammar.distance, grammar.token_class))
    by_class, size_C = np.argsort(token_class, kind="stable"), np.bincount(token_class)
    first_C, state_B = np.cumsum(size_C) - size_C, np.full(len(budget_B), grammar.initial)
    tokens_BR = np.full((len(budget_B), LENGTH), PAD, np.int32)
    for position in range(LENGTH):
        legal_BC = distance[transition[state_B]] < (budget_B - position)[:, None]
        class_B = np.where(legal_BC, rng.random(legal_BC.shape), -1.0).argmax(axis=1)
        token_B = by_class[first_C[class_B] + rng.integers(0, size_C[class_B])]
        tokens_BR[:, position] = np.where(legal_BC.any(axis=1), token_B, PAD)
        state_B = transition[state_B, token_class[tokens_BR[:, position]]]
    return tokens_BR


def _spell(by_length: list[tuple[bytes, int]], data: bytes) -> list[int]:
    """Writes bytes in the longest tokens there are; a byte that no token begins with is left out."""
    tokens = []
    while data:
        piece, token = next((each for each in by_length if data.startswith(each[0])), (data[:1], None))
        tokens += [] if token is None else [token]
        data = data[len(piece) :]
    return tokens
