"""LoCoMo from its file to records: a hand-made file with every kind of dirt, and the real one where LOCOMO_JSON names it."""

import collections
import copy
import hashlib
import json
import os
import pathlib

import pytest

from mr1jax.data import datasets
from mr1jax.data.locomo import mend, paper, reader, source
from mr1jax.data.records import FEATURES, Fact, Question, Record, from_example, to_example

FIXTURE = pathlib.Path(__file__).parent / "fixtures" / "locomo_tiny.json"  # invented people, the format and the dirt of the real file
REAL = os.environ.get("LOCOMO_JSON")
needs_real_file = pytest.mark.skipif(not REAL, reason="LOCOMO_JSON does not name a copy of locomo10.json")

# Questions of each conversation in categories 1, 2, 3, 4: counted in the published file by an independent script.
QUESTIONS = {
    "conv-26": (32, 37, 13, 70),
    "conv-30": (11, 26, 0, 44),
    "conv-41": (31, 27, 8, 86),
    "conv-42": (37, 40, 11, 111),
    "conv-43": (31, 26, 14, 107),
    "conv-44": (30, 24, 7, 62),
    "conv-47": (20, 34, 13, 83),
    "conv-48": (21, 42, 10, 118),
    "conv-49": (37, 33, 13, 73),
    "conv-50": (32, 32, 7, 87),
}
TEST_QUESTIONS = {1: 239, 2: 258, 3: 83, 4: 727}


@pytest.fixture(scope="module")
def samples():
    return json.loads(FIXTURE.read_text())


@pytest.fixture(scope="module")
def real_samples():
    return source.load(pathlib.Path())


@pytest.fixture
def fixture_is_published(monkeypatch):
    """Pins the hash of the hand-made file instead of the real one's, and names the file in LOCOMO_JSON."""
    monkeypatch.setattr(source, "SHA256", hashlib.sha256(FIXTURE.read_bytes()).hexdigest())
    monkeypatch.setenv("LOCOMO_JSON", str(FIXTURE))


def category_counts(records):
    return dict(collections.Counter(question.category for record in records for question in record.questions))


# The hand-made file -------------------------------------------------------------------------------------------------------------


def test_observations_become_facts_in_the_order_they_were_said(samples):
    """Oracle: by hand. Session 10 follows session 2, and within a session the first cited turn decides."""
    ottilie, bram = 0, 1
    assert reader.to_record(samples[0]).facts == (
        Fact("Ottilie planted a quince tree.", ottilie, "8 April 2031", "D1:1"),
        Fact("Bram keeps seven hives.", bram, "8 April 2031", "D1:2"),
        Fact("Ottilie painted her shed after Bram sold honey.", ottilie, "4 May 2031", "D2:1 D2:2"),
        Fact("Bram sold honey on 3 May.", bram, "4 May 2031", "D2:1"),
        Fact("The two agreed on the harbour market.", ottilie, "20 June 2031", "D10:1 D10:2"),
    )


def test_turns_become_facts_with_and_without_captions(samples):
    """Oracle: by hand."""
    with_captions = reader.to_record(samples[0], "turns").facts
    without = reader.to_record(samples[0], "turns", captions=False).facts
    assert [fact.source for fact in with_captions] == ["D1:1", "D1:2", "D2:1", "D2:2", "D10:1", "D10:2"]
    assert with_captions[0] == Fact("Ottilie: I planted a quince tree by the gate.", 0, "8 April 2031", "D1:1")
    assert with_captions[3].text == "Ottilie: And I painted the shed. [shares a picture: a photo of a blue shed by a lake]"
    assert without[3].text == "Ottilie: And I painted the shed."
    assert [a == b for a, b in zip(with_captions, without, strict=True)] == [True, True, True, False, True, True]


def test_questions_survive_every_kind_of_dirt(samples):
    """Oracle: by hand, evidence as indices of the six turns. The adversarial question is gone and the repeated one is kept."""
    assert reader.to_record(samples[0], "turns").questions == (
        Question("What did Ottilie plant?", "a quince tree", 4, (0,), 6),
        Question("How many hives does Bram keep?", "7", 1, (1, 2), 6),  # number; two ids in one string
        Question("When did Bram sell honey?", "3 May, 2031", 2, (2,), 6),  # "D:2:1"
        Question("Where did the quinces and the honey go?", "the harbour market", 1, (0, 2, 5), 6),  # ids joined by spaces
        Question("When did Ottilie paint the shed?", "May 2031", 2, (3,), 6),  # "D02:02"
        Question("Would Bram enjoy a beekeeping fair?", "Likely yes; he keeps bees", 3, (), 6),
        Question("What does Ottilie call her boat?", "Puffin", 4, (), 6),  # "D"
        Question("What is in the picture that Ottilie sent?", "a blue shed", 4, (3,), 6),  # and a turn that does not exist
        Question("What did Ottilie plant?", "a quince tree", 4, (0,), 6),
        Question("What did the two agree on?", "to meet on Sundays", 4, (4,), 6),
    )


def test_evidence_among_observations_is_every_one_that_cites_the_turn(samples):
    """Oracle: by hand, indices of the five observations."""
    evidence = [question.evidence for question in reader.to_record(samples[0]).questions]
    assert evidence == [(0,), (1, 2, 3), (2, 3), (0, 2, 3, 4), (2,), (), (), (2,), (0,), (4,)]


def test_census_counts_the_dirt_of_the_hand_made_file(samples):
    """Oracle: by hand."""
    assert reader.census(samples) == {
        "conversations": 4,
        "sessions": 6,
        "dates_without_session": 2,
        "turns": 12,
        "turns_with_caption": 4,
        "observations": 11,
        "observations_citing_a_list": 1,
        "observations_citing_several_in_a_string": 1,
        "questions": 16,
        "adversarial_questions": 1,
        "repeated_questions": 1,
        "integer_answers": 1,
        "malformed_evidence": 5,
        "unknown_turns_cited": 1,
        "questions_without_evidence": 2,
        "questions_without_observation": 2,
    }


# A file of one's own ------------------------------------------------------------------------------------------------------------


def test_what_is_sound_passes_through_mending(samples):
    """Oracle: the records of the hand-made file unmended, from both kinds of facts; of its dirt only what cites nothing is a fault."""
    mended, faults = mend.mend(copy.deepcopy(samples))
    for arguments in (("observations",), ("turns",), ("turns", False)):
        assert [reader.to_record(sample, *arguments) for sample in mended] == [reader.to_record(sample, *arguments) for sample in samples]
    assert faults == {"pieces of evidence that cite no turn there is, without effect": 2}  # "D", and D9:9


def test_a_file_of_ones_own_is_read_with_one_warning_a_kind(samples, tmp_path, caplog):
    """Oracle: by hand. Of six turns two lose their text and one is a stranger's; a session has no date."""
    samples = copy.deepcopy(samples)
    samples[0]["conversation"]["session_2"] = [{"speaker": "Bram", "dia_id": "D2:1"}, "And I painted the shed."]
    samples[0]["conversation"]["session_10"][0]["speaker"] = "Nobody"
    del samples[0]["conversation"]["session_1_date_time"]
    (tmp_path / "own.json").write_text(json.dumps(samples[:1]))
    (record,) = mend.read_conversations(tmp_path / "own.json", "turns")
    assert record.facts == (
        Fact("Ottilie: I planted a quince tree by the gate.", 0, "unknown day", "D1:1"),
        Fact("Bram: Nice! I have seven hives now.", 1, "unknown day", "D1:2"),
        Fact("Bram: Yes, at the harbour market.", 1, "20 June 2031", "D10:2"),
    )
    assert [question.evidence for question in record.questions] == [(0,), (1,), (), (0, 2), (), (), (), (), (0,), ()]
    assert [message.removeprefix(f"{tmp_path}/own.json: ") for message in caplog.messages] == [
        "8 pieces of evidence that cite no turn there is, without effect",
        "1 sessions without a date, now of an unknown day",
        "1 turns of nobody who takes part, left out",
        "2 turns without text, left out",
    ]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"[", "own.json is no JSON \\(.*\\); give a file in the form of locomo10.json"),
        (b"\xff\xfe[", "own.json is no JSON \\(.*\\); give a file"),
        (b"[" * 100_000, "own.json is no JSON \\(.*\\); give a file"),
        (b"{}", "the conversations are a dict; give a list of them, each with sample_id, conversation and qa"),
        (b"[]", "the conversations are an empty list; give a list"),
        (b'["x"]', "conversation 1 is 'x' without a conversation; give a dict with sample_id, conversation and qa"),
        (b'[{"conversation": {}}]', "conversation 1 has the sample_id a NoneType; give it a text of its own"),
        (
            b'[{"sample_id": "a", "conversation": {"speaker_a": "Bram"}}]',
            "has the speakers 'Bram' and ''; give speaker_a and",
        ),
        (b'[{"sample_id": "a", "conversation": {"speaker_a": "B", "speaker_b": "B "}}]', "has the speakers 'B' and 'B'; give"),
        (
            b'[{"sample_id": "a", "conversation": {"speaker_a": "B", "speaker_b": "C"}}]',
            "'a' has no turns that can be read; give it some",
        ),
    ],
)
def test_what_is_no_conversation_is_refused_in_one_sentence(content, sentence, tmp_path):
    """Oracle: each sentence by hand."""
    (tmp_path / "own.json").write_bytes(content)
    with pytest.raises(ValueError, match=sentence) as refusal:
        mend.read_conversations(tmp_path / "own.json", "turns")
    assert "\n" not in str(refusal.value)


def test_two_conversations_of_one_name_are_refused(samples, tmp_path):
    """Oracle: the sentence, and the one for a file that is not there."""
    with pytest.raises(ValueError, match="2 conversations have the sample_id 'conv-.*'; give each its own"):
        mend.mend([samples[0], samples[1], samples[0]])
    with pytest.raises(ValueError, match=r"gone.json cannot be read \(No such file or directory\); give a JSON file"):
        mend.read_conversations(tmp_path / "gone.json")


# Source -------------------------------------------------------------------------------------------------------------------------


def test_altered_file_is_refused_in_one_sentence(monkeypatch, tmp_path):
    """Oracle: sha256 of the altered bytes, computed here. The sentence names file, both hashes and the way out."""
    altered = tmp_path / "altered.json"
    altered.write_bytes(b"[]")
    monkeypatch.setenv("LOCOMO_JSON", str(altered))
    with pytest.raises(ValueError, match="altered.json is not the published LoCoMo file") as error:
        datasets.read_split("locomo", "train", tmp_path / "data")
    message = str(error.value)
    for part in (hashlib.sha256(b"[]").hexdigest(), source.SHA256, "set LOCOMO_JSON"):
        assert part in message
    assert "\n" not in message


def test_altered_file_is_refused_after_the_data_set_was_prepared(fixture_is_published, monkeypatch, tmp_path):
    """Oracle: a ValueError although the prepared copy is intact: the named file is the one the user asked for."""
    datasets.build_dataset("locomo", tmp_path)
    altered = tmp_path / "altered.json"
    altered.write_bytes(FIXTURE.read_bytes() + b" ")
    monkeypatch.setenv("LOCOMO_JSON", str(altered))
    with pytest.raises(ValueError, match="not the published LoCoMo file"):
        datasets.build_dataset("locomo", tmp_path)


def test_missing_file_is_reported_with_the_way_out(monkeypatch, tmp_path):
    """Oracle: the sentence names the path, the reason and the variable; nothing is downloaded in its place."""
    monkeypatch.setenv("LOCOMO_JSON", str(tmp_path / "nowhere.json"))
    with pytest.raises(ValueError, match=r"nowhere.json cannot be read \(No such file or directory\); set LOCOMO_JSON to"):
        source.load(tmp_path)


def test_download_is_verified_and_made_once(fixture_is_published, monkeypatch, tmp_path, samples):
    """Oracle: a file URL in place of the network. The second load does not touch the URL, which is gone by then."""
    monkeypatch.delenv("LOCOMO_JSON")
    monkeypatch.setattr(source, "URL", FIXTURE.as_uri())
    assert source.load(tmp_path / "downloads") == samples
    monkeypatch.setattr(source, "URL", (tmp_path / "gone.json").as_uri())
    assert source.load(tmp_path / "downloads") == samples
    assert [path.name for path in (tmp_path / "downloads").iterdir()] == ["locomo10.json"]


def test_altered_download_leaves_nothing_behind(monkeypatch, tmp_path):
    """Oracle: the hand-made file is not the published one, so the folder stays empty."""
    monkeypatch.delenv("LOCOMO_JSON", raising=False)
    monkeypatch.setattr(source, "URL", FIXTURE.as_uri())
    with pytest.raises(ValueError, match="not the published LoCoMo file"):
        source.load(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_no_network_is_one_sentence_that_names_the_variable(monkeypatch, tmp_path):
    """Oracle: a port of this machine where nobody listens."""
    monkeypatch.delenv("LOCOMO_JSON", raising=False)
    monkeypatch.setattr(source, "URL", "http://127.0.0.1:9/locomo10.json")
    with pytest.raises(ValueError, match=r"cannot be downloaded \(.*\); set LOCOMO_JSON to"):
        source.load(tmp_path)


# Builder ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "record",
    [
        Record(
            "é-1",
            ("Zoë", "Bjørn"),
            (Fact("Zoë läuft.", 0, "8 May 2023", "D1:1"), Fact("So does Bjørn.", 1, "9 May 2023", kind="new")),
            (Question("Who runs?", "Zoë", 1, (0, 1), 2), Question("Who naps?", "", 2, (), 1, valid_until=2)),
        ),
        Record("empty", ("Zoë", "Bjørn"), (), ()),
    ],
    ids=lambda record: record.id,
)
def test_record_survives_features(record):
    """Oracle: the record itself, through the bytes that TFDS stores, with letters beyond ASCII and with empty columns."""
    assert from_example(FEATURES.deserialize_example_np(FEATURES.serialize_example(to_example(record)))) == record


@pytest.mark.parametrize(
    "changes",
    [
        {"id": 7.5},
        {"evidence": {"question": [0], "fact": [0.5]}},
        {"facts": {"text": [b"x"], "speaker": [0.5], "date": [b""], "source": [b""], "kind": [b""]}},
        {"speakers": [b"A"]},
        {"facts": {"text": [b"x"]}},
        {"facts": None},
        {"evidence": {"question": [0], "fact": []}},
        {"evidence": {"question": [5], "fact": [0]}},
        {"evidence": {"question": [0], "fact": [9]}},
        {"id": b"\xff"},
    ],
)
def test_what_is_no_example_is_refused(changes):
    """Oracle: one sentence for each way in which columns can be wrong; the columns unchanged are a record."""
    record = Record("r", ("A", "B"), (Fact("A runs", 0, "1 May"),), (Question("Who?", "A", 1, (0,), 1),))
    example = FEATURES.deserialize_example_np(FEATURES.serialize_example(to_example(record)))
    assert from_example(example) == record
    with pytest.raises(ValueError, match=r"^this is no example of a conversation \(.*\); delete the data set and build it again$"):
        from_example(example | changes)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [("locomo", ("observations",)), ("locomo/turns", ("turns",)), ("locomo/turns_no_captions", ("turns", False))],
)
def test_builder_round_trip(fixture_is_published, tmp_path, samples, name, arguments):
    """Oracle: `to_record` of the parsed file, without TFDS. The file's order is kept: conv-41 before conv-42 in test."""
    expected = [reader.to_record(sample, *arguments) for sample in samples]
    builder = datasets.build_dataset(name, tmp_path)
    assert builder.info.metadata == reader.census(samples)
    assert datasets.read_split(name, "train", tmp_path) == expected[:1]
    assert datasets.read_split(name, "validation", tmp_path) == expected[1:2]
    assert datasets.read_split(name, "test", tmp_path) == expected[2:]


@pytest.mark.parametrize(
    ("name", "split", "sentence"),
    [
        ("lokomo", "train", "there is no data set 'lokomo'; choose one of memdial, locomo, msc, longmemeval"),
        ("locomo/turn", "train", "locomo has no configuration 'turn'; choose one of observations, turns, turns_no_captions"),
        ("locomo", "dev", "locomo has no split 'dev'; choose one of train, validation, test"),
    ],
)
def test_unknown_names_are_answered_with_the_choices(fixture_is_published, tmp_path, name, split, sentence):
    """Oracle: the sentence."""
    with pytest.raises(ValueError, match=f"^{sentence}$"):
        datasets.read_split(name, split, tmp_path)


# The paper's rows ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", paper.TABLE_1, ids=lambda row: f"{row.backbone}-{row.method}")
def test_overall_of_the_paper_is_the_mean_over_questions(row):
    """Oracle: the paper's own overall column. A cell under the wrong category breaks the mean that 239/258/83/727 questions weight."""
    total = sum(TEST_QUESTIONS.values())
    for by_category, overall in ((row.f1, row.overall_f1), (row.bleu1, row.overall_bleu1)):
        mean = sum(by_category[category] * count for category, count in TEST_QUESTIONS.items()) / total
        assert mean == pytest.approx(overall, abs=0.02)
    judged = sum(row.judge[category] * count for category, count in TEST_QUESTIONS.items()) / total
    misprinted = row.method == "Mem0" and row.backbone.startswith("Qwen")
    assert judged == pytest.approx(58.30 if misprinted else row.overall_judge, abs=0.02)


# The real file ------------------------------------------------------------------------------------------------------------------


@needs_real_file
def test_real_file_has_the_published_questions(real_samples):
    """Oracle: the table above, conversation by conversation, and the paper's split sizes 152/81/1307."""
    records = [reader.to_record(sample) for sample in real_samples]
    counts = {record.id: tuple(category_counts([record]).get(category, 0) for category in (1, 2, 3, 4)) for record in records}
    assert counts == QUESTIONS
    by_split = collections.defaultdict(list)
    for record in records:
        by_split[reader.split_of(record.id)].append(record)
    assert {split: sum(category_counts(members).values()) for split, members in by_split.items()} == {
        "train": 152,
        "validation": 81,
        "test": 1307,
    }
    assert category_counts(by_split["test"]) == TEST_QUESTIONS


@needs_real_file
def test_real_file_has_the_known_dirt(real_samples):
    """Oracle: counts made in the file by an independent script."""
    assert reader.census(real_samples) == {
        "conversations": 10,
        "sessions": 272,
        "dates_without_session": 16,
        "turns": 5882,
        "turns_with_caption": 1226,
        "observations": 2541,
        "observations_citing_a_list": 10,
        "observations_citing_several_in_a_string": 5,
        "questions": 1540,
        "adversarial_questions": 446,
        "repeated_questions": 11,
        "integer_answers": 6,
        "malformed_evidence": 7,
        "unknown_turns_cited": 2,
        "questions_without_evidence": 4,
        "questions_without_observation": 228,
    }


@needs_real_file
@pytest.mark.parametrize("facts", ["observations", "turns"])
def test_real_evidence_cites_the_turns_of_its_question(real_samples, facts):
    """Oracle: the raw evidence strings: a fact is evidence exactly if the digits of its source appear in them."""
    for sample in real_samples:
        record = reader.to_record(sample, facts)
        answerable = [qa for qa in sample["qa"] if qa["category"] != 5]
        for question, qa in zip(record.questions, answerable, strict=True):
            text = "; ".join(qa["evidence"]).replace("D:11:26", "D11:26").replace("D30:05", "D30:5")
            named = set(text.replace(";", " ").split())
            expected = [i for i, fact in enumerate(record.facts) if named & set(fact.source.split())]
            assert list(question.evidence) == expected
