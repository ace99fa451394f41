"""Short versions of what `make reliability` tries for long: bad input of every kind, and what comes of it."""

import importlib.util

import pytest
from tiny import unoptimised  # noqa: F401

from reliability.fuzz import NAMES, fuzz, try_at_random
from reliability.records import try_records
from reliability.sequences import try_sequences
from reliability.settings import try_command_line, try_settings
from reliability.targets import TARGETS


def test_every_field_out_of_range_is_refused():
    """Oracle: a table of what is legal, written apart from the checks; all else is a ValueError that names field and value."""
    outcome = try_settings(5)
    assert outcome.is_clean, outcome.failures[:5]
    assert outcome.tried > 5_000


def test_the_command_line_refuses_before_anything_compiles():
    """Oracle: exit status 2 and one line of standard error, where JAX would report what it compiles."""
    outcome = try_command_line([("--optimizer.b2", "1.0")])
    assert outcome.is_clean, outcome.failures


def test_every_sequence_of_tokens_is_a_legal_operation_or_refused_with_a_reason():
    """Oracle: `re` and string methods on the bytes, and a bank that is a dict, in two vocabularies."""
    outcome = try_sequences(2_000, policies=("reject",))
    assert outcome.is_clean, outcome.failures[:5]


def test_malformed_conversations_are_read_with_a_count_or_refused_in_one_sentence():
    """Oracle: the faults that were planted, counted, and the conversation without them; the laws of a record."""
    outcome = try_records(1_000)
    assert outcome.is_clean, outcome.failures[:5]


def test_inputs_damaged_at_random_are_read_or_refused():
    """Oracle: the laws in reliability/targets.py; list concatenation for the packer."""
    assert tuple(TARGETS) == NAMES
    outcome = try_at_random(150)
    assert outcome.is_clean, outcome.failures[:5]
    assert outcome.tried == 150 * len(NAMES)


@pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="atheris is installed by make reliability")
def test_fuzzing_counts_what_it_tried():
    """Oracle: the laws in reliability/targets.py, in a process of its own that atheris guides for a second."""
    outcome = fuzz(1, ("examples",))
    assert outcome.is_clean, outcome.failures
    assert outcome.tried > 100


def test_without_atheris_inputs_are_damaged_at_random(monkeypatch, capsys):
    """Oracle: the count, 200 a second, and the sentence that says so."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    outcome = fuzz(1, ("examples",))
    assert outcome.is_clean, outcome.failures
    assert outcome.tried == 200
    assert "there is no atheris for Python 3." in capsys.readouterr().out
