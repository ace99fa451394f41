"""Poisoned memories, by every entrance, in the short form of what `make reliability` does with all cases."""

import random

import pytest
from service_world import scripted_agent, small_start

from mr1jax.service.sql_store import SqlStore
from reliability import poison
from reliability.poison_payloads import PAYLOADS


def test_poison_stays_what_it_is():
    """Oracle: the rows of everybody else as sqlite3 reads them, prompts joined in Python, `re`, the log replayed; every kind by every
    entrance, with a Manager of random weights, which adds, updates and deletes as it comes."""
    outcome = poison.poisoned(points=470, seed=0, start=small_start())
    assert outcome.failures == []
    assert outcome.tried > 470


def test_no_payload_is_spelled_with_tokens_of_the_library():
    """Oracle: the bytes of every token, of the tokenizer that ships and of a backbone's with special tokens."""
    outcome = poison.spelled()
    assert outcome.failures == []
    assert outcome.tried > 200


def test_every_kind_meets_every_entrance():
    """Oracle: the tables, multiplied: the cases of the short form hold every pair, and there are some thousands in all."""
    pairs = {(entrance, kind) for entrance, kind, _ in poison.draw(470, random.Random(0))}
    assert pairs == {(entrance, kind) for entrance in poison.ENTRANCES for kind in PAYLOADS}
    assert len(set(poison.draw(10**6, random.Random(0)))) == len(poison.cases()) > 2000


@pytest.mark.slow
def test_the_shipped_agents_meet_poison():
    """Oracle: as above; the agents that ship, and other cases."""
    outcome = poison.poisoned(points=60, seed=1)
    assert outcome.failures == []


def test_an_import_names_the_line_whose_id_is_no_text(tmp_path):
    """Oracle: the sentence; found by the long form, where the id of a memory was half a character."""
    path = tmp_path / "m.jsonl"
    path.write_text('{"id": "a", "memory": "Mia likes tea"}\n{"id": "\\udc00", "memory": "Ben likes jazz"}\n')
    with scripted_agent(SqlStore("memory")) as agent:
        with pytest.raises(ValueError, match=r"^line 2 of .* is no memory \(its id is .* give it without control characters\)"):
            agent.import_jsonl(path, user_id="ann")
        assert agent.get_all(user_id="ann") == {"results": []}
