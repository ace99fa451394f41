"""What a run says of its data, and what it refuses: hashes, counts, leaks and near-duplicates. `make reliability` plants more of them."""

import collections
import json
import os
from dataclasses import asdict, replace

import pytest

from mr1jax import demo, experiment
from mr1jax.config import Config, ProcessConfig
from mr1jax.data import datasets, honesty
from mr1jax.data.memdial.world import conversations
from reliability.honesty import leaks, near

REAL = os.environ.get("LOCOMO_JSON")


@pytest.fixture(scope="module")
def by_split():
    return {split: list(conversations(split, 0, count)) for split, count in {"train": 20, "validation": 8, "test": 12}.items()}


def test_planted_leaks_are_refused():
    """Oracle: the leak that was put in by hand, of seven kinds; the same draws without one."""
    outcome = leaks(points=2, seed=0)
    assert outcome.is_clean, outcome.failures
    assert outcome.tried == 2 * 15


def test_near_duplicates_are_those_of_every_pair():
    """Oracle: the Jaccard index of all 15,000 pairs of sentences a point, in sets."""
    outcome = near(points=10, seed=0)
    assert outcome.is_clean, outcome.failures


def test_near_duplicates_by_hand():
    """Oracle: by hand. Of "a b c d e f" and "a b c d e g" three runs of five are shared; a text of two words has itself for a run."""
    long, other, short = (tuple(text.split()) for text in ("a b c d e f", "a b c d e g", "a b"))
    assert honesty.near_duplicates([long, short], [other, short], near=0.6) == [(1.0, "a b", "a b"), (0.6, "a b c d e f", "a b c d e g")]
    assert honesty.near_duplicates([long], [other], near=0.61) == []
    assert honesty.near_duplicates([], [other]) == honesty.near_duplicates([()], [()]) == []


def test_nearly_the_same_sentence_is_refused_in_memdial_alone(by_split):
    """Oracle: the sentence. It has no name, no answer and no wording in common with the other: only the runs of three words tell."""
    text, almost = (f"this morning they all went down together to the old mill by the {what}" for what in ("river", "water"))

    def saying(split, text):
        first, *others = by_split[split]
        return [replace(first, facts=(*first.facts, replace(first.facts[0], text=text))), *others]

    leaking = by_split | {"train": saying("train", text), "test": saying("test", almost)}
    with pytest.raises(ValueError, match=r"^splits train and test have 1 sentences nearly in common, such as 'this .*'; draw others$"):
        honesty.describe_data("memdial", leaking)
    shared = honesty.describe_data("locomo", leaking)["shared"]["train and test"]
    assert shared["near_duplicates"] == 1
    assert [text.split()[-1] for text in shared["examples"][0]] == ["river", "water"]


def test_a_split_is_described_by_its_counts_and_its_hash(by_split):
    """Oracle: counters over the records; a hash that one changed letter changes, and another order, and nothing else."""
    records = by_split["test"]
    said = honesty.describe_split(records)
    questions = [question for record in records for question in record.questions]
    assert (said["conversations"], said["facts"], said["questions"]) == (12, 12 * 42, len(questions))
    assert said["categories"] == {str(n): count for n, count in sorted(collections.Counter(q.category for q in questions).items())}
    assert honesty.describe_split(list(conversations("test", 0, 12))) == said
    letter = replace(records[3], facts=(replace(records[3].facts[0], text=records[3].facts[0].text + "."), *records[3].facts[1:]))
    for other in ([*records[:3], letter, *records[4:]], records[::-1], records[:-1]):
        assert honesty.describe_split(other)["sha256"] != said["sha256"]


def test_the_hash_is_of_all_that_a_record_says(by_split):
    """Oracle: every field of a record, a fact and a question, changed one at a time."""
    record = by_split["train"][0]
    hashes = [honesty.describe_split([record])["sha256"]]
    for name, value in {"id": "x", "speakers": ("x", "y")}.items():
        hashes.append(honesty.describe_split([replace(record, **{name: value})])["sha256"])
    for part in ("facts", "questions"):
        first, *others = getattr(record, part)
        for name, value in asdict(first).items():
            changed = (9,) if name == "evidence" else value + ("x" if isinstance(value, str) else -1 if value else 1)
            hashes.append(honesty.describe_split([replace(record, **{part: (replace(first, **{name: changed}), *others)})])["sha256"])
    assert len(set(hashes)) == len(hashes) == 1 + 2 + 5 + 6


def test_what_memdial_trains_and_tests_on_is_clean():
    """Oracle: no leak between what the experiments read; the three pairs of wordings that are nearly alike, counted by every pair."""
    by_split = {split: list(conversations(split, 0, count)) for split, count in {"train": 256, "validation": 100, "test": 100}.items()}
    said = honesty.describe_data("memdial", by_split)
    assert {pair: each["near_duplicates"] for pair, each in said["shared"].items()} == {
        "train and validation": 0,
        "train and test": 3,
        "validation and test": 0,
    }
    assert all(each[what] == 0 for each in said["shared"].values() for what in ("speakers", "answers", "questions"))
    line = honesty.summarise(said)
    assert line.startswith(f"memdial: train 256 conversations, {said['splits']['train']['questions']} questions (")
    assert line.endswith("; no leak between them, 3 near-duplicates")


def test_a_run_refuses_a_leak_before_it_trains_and_keeps_what_it_read(by_split, monkeypatch, tmp_path, capsys):
    """Oracle: the sentence, a trainer that must not be reached, an empty folder; then the description, in data.json and as one line."""
    leaking = by_split | {"test": [*by_split["test"], by_split["train"][0]]}
    reached = []

    def trained(config, params, *_, **__):
        reached.append(config)
        return type("State", (), {"params": params}), [{"step": 1, "reward": 0.0}], 1

    monkeypatch.setattr(experiment, "train", trained)
    monkeypatch.setattr(experiment, "read_splits", lambda *_: leaking)
    with pytest.raises(ValueError, match=r"^splits train and test share \d+ names, such as .*; draw them from different ones$"):
        experiment.run_experiment(Config(), ProcessConfig(), tmp_path / "run")
    assert not reached
    assert not (tmp_path / "run").exists()
    (tmp_path / "run").mkdir()
    monkeypatch.setattr(experiment, "read_splits", lambda *_: by_split)
    experiment.run_experiment(Config(), ProcessConfig(), tmp_path / "run")
    said = json.loads((tmp_path / "run/data.json").read_text())
    assert said == honesty.describe_data("memdial", by_split)
    assert honesty.summarise(said) in capsys.readouterr().out.splitlines()


def test_the_demo_refuses_a_leak_and_keeps_what_it_reads(monkeypatch, tmp_path):
    """Oracle: the sentence where test people are training people, and no file; else what `describe_data` says, in data.json."""

    class Reached(Exception):
        pass

    def train(*_):
        raise Reached

    monkeypatch.setattr(demo, "_train_agent", train)
    configs = [replace(config, conversations=count) for config, count in ((Config(), 5), (Config(agent="manager"), 9))]
    with monkeypatch.context() as leaking:
        leaking.setattr(demo, "conversations", lambda split, seed, count: conversations("train", seed, count))
        with pytest.raises(ValueError, match="^splits train and test share .*; draw them from different ones$"):
            demo.run_demo(*configs, tmp_path, 0)
    assert not list(tmp_path.iterdir())
    with pytest.raises(Reached):
        demo.run_demo(*configs, tmp_path, 3)
    by_split = {"train": list(conversations("train", 1, 9)), "test": list(conversations("test", 3, 40))}
    assert json.loads((tmp_path / "data.json").read_text()) == honesty.describe_data("memdial", by_split)


def test_a_run_reads_what_it_trains_on_and_all_it_is_tested_on(monkeypatch):
    """Oracle: lists of numbers for records."""
    monkeypatch.setattr(datasets, "read_split", lambda name, split, folder: list(range({"train": 9, "validation": 2, "test": 3}[split])))
    assert datasets.read_splits("memdial", "data", 4) == {"train": [0, 1, 2, 3], "validation": [0, 1], "test": [0, 1, 2]}


@pytest.mark.skipif(not REAL, reason="LOCOMO_JSON does not name a copy of locomo10.json")
@pytest.mark.parametrize("facts", ["observations", "turns"])
def test_the_published_locomo_is_clean(facts, tmp_path):
    """Oracle: the paper's 152, 81 and 1,307 questions and the test split's categories."""
    by_split = datasets.read_splits(f"locomo/{facts}", tmp_path, 128)
    said = honesty.describe_data("locomo", by_split)
    assert {split: each["questions"] for split, each in said["splits"].items()} == {"train": 152, "validation": 81, "test": 1307}
    assert said["splits"]["test"]["categories"] == {"1": 239, "2": 258, "3": 83, "4": 727}
    for each in said["shared"].values():
        assert (each["speakers"], each["questions"], each["near_duplicates"]) == (0, 0, 0)
        assert each["answers"] < 10  # "Yes", "July 2023" and the like
