"""What an agent might do instead of its task, and that it does not pay. `make reliability` runs the same with many more points."""

import jax
import numpy as np
import pytest
import tiny

from mr1jax.agents import answerer
from reliability import answer_hacks, manager_hacks
from reliability.answer_hacks import earned


def test_what_a_response_earns_by_hand():
    """Oracle: by hand. What `make reliability` compares with has to be right itself."""

    def worth(text, gold, end=True):
        return earned(tiny.TOKENIZER.encode_exactly(text) + [tiny.EOS] * end, gold, tiny.TOKENIZER)

    assert worth("**Answer:** tea", "the Tea.") == worth("Mia likes tea\n**Answer:** tea.", "tea") == 1
    assert worth("Mia **Answer:** jazz\n**Answer:** tea", "tea") == 1  # the marker begins a line
    assert worth("**Answer:** jazz\n**Answer:** tea", "tea") == worth("**Answer:** tea\n**Answer:** jazz", "tea") == 0
    assert worth("**Answer:** tea", "tea", end=False) == worth("tea", "tea") == worth("**Answer:** tea, jazz", "tea") == 0
    assert worth("**Answer:** the", "a") == worth("**Answer:**", "") == 0  # no word
    assert earned([tiny.EOS, *tiny.TOKENIZER.encode_exactly("**Answer:** tea"), tiny.EOS], "tea", tiny.TOKENIZER) == 0


def test_no_answer_gets_more_than_it_earns():
    """Oracle: `earned`, in plain Python, of 42 hacks of 12 questions and of golds without a word; what is honest must be paid."""
    outcome = answer_hacks.answers(points=12, seed=0)
    assert outcome.is_clean, outcome.failures


def test_no_tokens_get_more_than_they_earn():
    """Oracle: `earned` of 4,000 random responses, with the tokenizer that ships and with that of `tiny`."""
    outcome = answer_hacks.any_tokens(points=2000, seed=0)
    assert outcome.is_clean, outcome.failures


def test_a_list_of_all_answers_is_no_answer():
    """Oracle: the scores of the gold answer alone; LoCoMo's own multi-hop F1 is the one that a list fools, as published."""
    outcome = answer_hacks.listing(points=12, seed=0)
    assert outcome.is_clean, outcome.failures


@pytest.mark.parametrize("gold", ["", "the", "!"])
def test_silence_is_not_paid_where_the_gold_answer_has_no_word(gold):
    """Oracle: 0. Normalisation leaves nothing of gold and answer alike; an unfinished response, an empty one, and one of a full stop."""
    question = tiny.question("What", gold)
    pay = jax.jit(lambda tokens, length: answerer.reward(tokens, length, question, tiny.LANGUAGE))
    responses = [
        tiny.response("Mia likes", 12, finished=False),
        tiny.response("**Answer:** the", 12),
        (np.zeros(12, np.int32), np.int32(0)),
    ]
    assert [float(pay(*response)) for response in responses] == [0, 0, 0]


def test_a_memory_stays_in_its_line():
    """Oracle: the lines of both agents' prompts, split at their line breaks and read by `re`; the tokens of every memory."""
    outcome = manager_hacks.lines(points=4, seed=0)
    assert outcome.is_clean, outcome.failures
    assert outcome.tried > 500


def test_neither_junk_nor_a_forged_answer_pays():
    """Oracle: the reward of NOOP and of ADD of the fact at the same states, as the shipped Answer Agent gives it."""
    outcome = manager_hacks.profits(points=32, seed=0)
    assert outcome.is_clean, outcome.failures


@pytest.mark.slow
def test_a_bank_of_junk_costs_answers():
    """Oracle: exact match with the banks as they were."""
    outcome = manager_hacks.full_of_junk(points=6, seed=0)
    assert outcome.is_clean, outcome.failures
