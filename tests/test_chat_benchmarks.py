"""LongMemEval and MSC-Self-Instruct from hand-made files to records, and where such files come from."""

import hashlib
import json

import chat_data
import pytest
from huggingface_hub import constants
from test_hub import serve

from mr1jax.data import chat, datasets
from mr1jax.data.longmemeval import longmemeval_dataset_builder as longmemeval_builder
from mr1jax.data.longmemeval import paper
from mr1jax.data.longmemeval import reader as longmemeval
from mr1jax.data.msc import msc_dataset_builder as msc_builder
from mr1jax.data.msc import reader as msc
from mr1jax.data.records import Fact, Question

ASKED = "(asked on 30 June 2031)"
TYPE_COUNTS = {1: 70, 2: 56, 3: 30, 4: 133, 5: 78, 6: 133}  # of the 500 questions, in the order of TYPES, as the paper's table has them


@pytest.fixture
def longmemeval_file(tmp_path, monkeypatch):
    path = chat_data.longmemeval_file(tmp_path / "longmemeval_oracle.json")
    monkeypatch.setenv("LONGMEMEVAL_JSON", str(path))
    return path


@pytest.fixture
def msc_file(tmp_path, monkeypatch):
    path = chat_data.msc_file(tmp_path / "msc.jsonl")
    monkeypatch.setenv("MSC_JSONL", str(path))
    return path


# LongMemEval --------------------------------------------------------------------------------------------------------------------


def test_sessions_become_facts_in_the_order_of_their_dates():
    """Oracle: by hand. Both sessions are of one day and the file has the later one first; a turn without a word is no fact."""
    assert longmemeval.to_record(chat_data.ORACLE[0]).facts == (
        Fact("user: I bought a green kayak. It cost 300 crowns.", 0, "20 May 2031", "early:1"),
        Fact("assistant: Lovely!", 1, "20 May 2031", "early:2"),
        Fact("user: My second kayak is red.", 0, "20 May 2031", "late:1"),
    )


def test_questions_of_longmemeval_survive_every_kind_of_dirt():
    """Oracle: by hand: type numbers, 6 more where there is no answer; evidence of marked turns, else of sessions, never of what was not
    said."""
    questions = [longmemeval.to_record(entry).questions for entry in chat_data.ORACLE]
    assert questions == [
        (Question(f"How many kayaks do I own? {ASKED}", "2", 4, (0, 2), 3),),
        (Question(f"Which knot did you name? {ASKED}", "the sheet bend", 2, (1,), 2),),
        (Question(f"What is my canoe called? {ASKED}", "You never spoke of a canoe.", 7, (), 2),),
        (Question(f"When did I move? {ASKED}", "3 March", 6, (0,), 1),),
        (Question(f"Where do I row now? {ASKED}", "on the Elbe", 5, (1,), 2),),
        (Question(f"Suggest a trip. {ASKED}", "Something on a river", 3, (0,), 2),),
    ]
    assert [longmemeval.to_record(entry).id for entry in chat_data.ORACLE] == ["q1", "q2", "q3_abs", "q4", "q5", "q6"]
    assert longmemeval.to_record(chat_data.ORACLE[2]).facts[0].date == "2 April 2031"


def test_census_counts_the_dirt_of_longmemeval():
    """Oracle: by hand."""
    assert longmemeval.census(chat_data.ORACLE) == {
        "questions": 6,
        "sessions": 7,
        "turns": 16,
        "unanswerable": 1,
        "answers_that_are_numbers": 1,
        "empty_turns": 4,
        "marked_turns": 6,
        "questions_without_marked_turn": 1,
        "histories_out_of_order": 1,
    }


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"question_type": "two-hop"}, "question q2 is of the type 'two-hop'; LongMemEval has single-session-user, .*"),
        ({"question_date": "soon"}, r"question q2 has the date 'soon'; LongMemEval writes 2023/05/20 \(Sat\) 02:21"),
        ({"haystack_dates": ["2031/13/40"]}, "question q2 has the date '2031/13/40'; LongMemEval writes .*"),
        ({"haystack_dates": []}, "question q2 has 1 sessions, 1 ids and 0 dates; use an unaltered copy"),
        ({"haystack_sessions": [[chat_data.turn("tool", "x")]]}, "question q2 has a turn of the role 'tool'; LongMemEval has user and .*"),
        ({"haystack_sessions": [["x"]]}, r"entry 2 of LONGMEMEVAL_JSON is not of the form of longmemeval_oracle.json \(.*\); set LONG.*"),
        ({"question_id": "q1"}, "LONGMEMEVAL_JSON has several entries with the id q1; use an unaltered copy"),
        ({"haystack_session_ids": ["b"]}, "the histories of LONGMEMEVAL_JSON are those of s, and oracle is asked for; give --variant s.*"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_longmemeval_cannot_be_is_one_sentence(longmemeval_file, tmp_path, change, sentence):
    """Oracle: the sentence, with the question and the value; no data set is left."""
    entries = [chat_data.ORACLE[0], chat_data.ORACLE[1] | change]
    chat_data.longmemeval_file(longmemeval_file, entries)
    with pytest.raises(ValueError, match=f"^{sentence}$"):
        datasets.build_dataset("longmemeval", tmp_path / "data")
    assert not list((tmp_path / "data").rglob("dataset_info.json"))


def test_a_missing_field_names_the_entry(longmemeval_file, tmp_path):
    """Oracle: the sentence, which counts from 1 and names the field."""
    broken = {name: value for name, value in chat_data.ORACLE[1].items() if name != "haystack_dates"}
    chat_data.longmemeval_file(longmemeval_file, [chat_data.ORACLE[0], broken])
    with pytest.raises(ValueError, match=r"^entry 2 of LONGMEMEVAL_JSON .*\(KeyError: 'haystack_dates'\); set LONGMEMEVAL_JSON to"):
        datasets.build_dataset("longmemeval", tmp_path / "data")
    for text, said in (("[]", "is no list of questions"), ("{", r"is no JSON \(")):
        longmemeval_file.write_text(text)
        with pytest.raises(ValueError, match=f"^LONGMEMEVAL_JSON {said}"):
            datasets.build_dataset("longmemeval", tmp_path / "data")


@pytest.mark.parametrize("row", [*paper.TABLE_4, *paper.TABLE_5], ids=lambda row: f"{row.backbone}-{row.method}")
def test_overall_of_the_papers_rows_is_the_mean_over_questions(row):
    """Oracle: the paper's own overall column, to the rounding of one decimal; rows without types are of the paper's table 5."""
    for values in (row.f1, row.bleu1, row.judge):
        assert 0 < values["all"] < 100
        if len(values) > 1:
            mean = sum(values[kind] * count for kind, count in TYPE_COUNTS.items()) / 500
            assert mean == pytest.approx(values["all"], abs=0.15)


# MSC ----------------------------------------------------------------------------------------------------------------------------


def test_five_sessions_become_facts():
    """Oracle: by hand. Where nobody is named, or nobody known, the two take turns, empty turns counted."""
    one, two = "Speaker 1", "Speaker 2"
    assert msc.to_record(chat_data.CHAT, 3).facts == (
        Fact(f"{one}: I keep bees.", 0, "14 days 7 hours ago", "1:1"),
        Fact(f"{two}: I sing in a choir. On Sundays.", 1, "14 days 7 hours ago", "1:2"),
        Fact(f"{two}: We do Bach.", 1, "14 days 7 hours ago", "1:4"),
        Fact(f"{one}: Two hives now!", 0, "", "2:1"),
        Fact(f"{two}: Hello again.", 1, "today", "3:1"),
        Fact(f"{one}: The bees swarmed.", 0, "today", "3:2"),
        Fact(f"{one}: Oh no.", 0, "today", "3:3"),
    )


def test_questions_of_msc_look_back():
    """Oracle: by hand. B asks and A answers; a line without an answer asks nothing."""
    records = [msc.to_record(chat, number) for number, chat in enumerate(chat_data.MSC, 1)]
    assert records[0].questions == (Question("Remember the hives? How many had you?", "Two hives.", 1, (), 7),)
    assert records[1].questions[0].answer == "2"
    assert records[2] is None
    assert [record.id for record in records[:2]] == ["1-valid_7", "2-valid_7"]
    assert msc.to_record(chat_data.CHAT | {"metadata": {}}, 5).id == "5"


def test_census_counts_the_dirt_of_msc():
    """Oracle: by hand, for one line and for three."""
    assert msc.census(chat_data.MSC[:1]) == {
        "lines": 1,
        "sessions": 3,
        "sessions_without_date": 1,
        "turns": 8,
        "turns_without_speaker": 6,
        "empty_turns": 1,
        "lines_without_question": 0,
        "answers_that_are_numbers": 0,
    }
    three = msc.census(chat_data.MSC)
    assert [three[name] for name in ("lines", "lines_without_question", "answers_that_are_numbers")] == [3, 1, 1]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('{"self_instruct": {}}\n{"a": \n', r"line 2 of MSC_JSONL is no JSON \(.*\); set MSC_JSONL to the path of a copy of msc_self.*"),
        ("\n", "MSC_JSONL has no line; use a copy of msc_self_instruct.jsonl"),
        ('{"dialog": []}', r"entry 1 of MSC_JSONL is not of the form of msc_self_instruct.jsonl \(KeyError: 'self_instruct'\); set .*"),
        ('["a"]', r"entry 1 of MSC_JSONL is not of the form of .*"),
    ],
)
def test_what_msc_cannot_be_is_one_sentence(msc_file, tmp_path, text, sentence):
    """Oracle: the sentence, with the line."""
    msc_file.write_text(text)
    with pytest.raises(ValueError, match=f"^{sentence}$"):
        datasets.build_dataset("msc", tmp_path / "data")


# Turns --------------------------------------------------------------------------------------------------------------------------


def test_a_long_turn_loses_no_word():
    """Oracle: the words of the text, and by hand where it is cut: at ends of sentences and lines, within a sentence only if it is too
    long."""
    text = "One two. Three four five?\nsix\n\nseven eight nine ten eleven twelve. Thirteen"
    assert chat.split_turn(text, 5) == ["One two. Three four five?", "six", "seven eight nine ten eleven", "twelve. Thirteen"]
    assert chat.split_turn(text, 100) == [" ".join(text.split())]
    assert chat.split_turn(" \n ", 5) == []
    for size in range(1, 12):
        parts = chat.split_turn(text, size)
        assert " ".join(parts).split() == text.split()
        assert all(0 < len(part.split()) <= size for part in parts)


# Builders -----------------------------------------------------------------------------------------------------------------------


def test_longmemeval_round_trip(longmemeval_file, monkeypatch, tmp_path):
    """Oracle: `to_record` of the parsed file, without TFDS; the sha256 of its bytes, also when the data set is opened again."""
    data = tmp_path / "data"
    digest = hashlib.sha256(longmemeval_file.read_bytes()).hexdigest()
    for _ in range(2):
        builder = datasets.build_dataset("longmemeval", data)
        assert builder.info.metadata["sha256"] == digest
        assert builder.info.metadata["origin"] == "LONGMEMEVAL_JSON"
        assert builder.info.metadata["unanswerable"] == 1
        assert datasets.read_split("longmemeval", "test", data) == [longmemeval.to_record(entry) for entry in chat_data.ORACLE]
    chat_data.longmemeval_file(longmemeval_file, chat_data.S)
    assert datasets.read_split("longmemeval/s", "test", data) == [longmemeval.to_record(chat_data.S[0])]
    monkeypatch.delenv("LONGMEMEVAL_JSON")
    assert len(datasets.read_split("longmemeval/oracle", "test", data)) == 6


def test_msc_round_trip(msc_file, tmp_path):
    """Oracle: `to_record` of the parsed lines, without TFDS; the line without an answer is left out; test is the only split."""
    expected = [msc.to_record(chat, number) for number, chat in enumerate(chat_data.MSC, 1)][:2]
    assert datasets.read_split("msc", "test", tmp_path / "data") == expected
    metadata = datasets.build_dataset("msc", tmp_path / "data").info.metadata
    assert metadata["sha256"] == hashlib.sha256(msc_file.read_bytes()).hexdigest()
    assert metadata["lines_without_question"] == 1
    with pytest.raises(ValueError, match="^msc has no split 'train'; choose one of test$"):
        datasets.read_split("msc", "train", tmp_path / "data")


def test_a_prepared_data_set_is_not_taken_for_another_file(msc_file, tmp_path):
    """Oracle: the two hashes in the sentence. The data set was prepared, and then the variable names other bytes."""
    datasets.build_dataset("msc", tmp_path / "data")
    before = hashlib.sha256(msc_file.read_bytes()).hexdigest()
    chat_data.msc_file(msc_file, chat_data.MSC[:1])
    after = hashlib.sha256(msc_file.read_bytes()).hexdigest()
    with pytest.raises(ValueError, match=f"was prepared from a file with sha256 {before}, and MSC_JSONL names one with {after}; remove"):
        datasets.build_dataset("msc", tmp_path / "data")


def test_a_missing_file_is_one_sentence(monkeypatch, tmp_path):
    """Oracle: the sentence names path, reason and variable; nothing is downloaded in its place."""
    monkeypatch.setenv("MSC_JSONL", str(tmp_path / "nowhere.jsonl"))
    with pytest.raises(ValueError, match=r"nowhere.jsonl cannot be read \(No such file or directory\); set MSC_JSONL to the path of a "):
        datasets.build_dataset("msc", tmp_path / "data")


class DataHub:
    """The part of the hub's service that one file needs: its size and its commit, then its bytes."""

    def __init__(self, files):
        self.files, self.asked, self.broken = files, [], ""

    def answer(self, path):
        self.asked.append(path.split("?")[0])
        content = self.files.get(self.asked[-1])
        if content is None:
            return 404, {"X-Error-Code": "RepoNotFound"}, b""
        return 200, {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": path.split("/")[5]}, content


@pytest.mark.parametrize(
    ("name", "module", "file_name", "content"),
    [
        ("longmemeval", longmemeval_builder, "longmemeval_oracle.json", json.dumps(chat_data.ORACLE)),
        ("longmemeval/s", longmemeval_builder, "longmemeval_s_cleaned.json", json.dumps(chat_data.S)),
        ("msc", msc_builder, "msc_self_instruct.jsonl", json.dumps(chat_data.CHAT)),
    ],
)
def test_a_file_is_fetched_at_its_commit(monkeypatch, tmp_path, name, module, file_name, content):
    """Oracle: a hub on the loopback that has one file under one path; the sentence once it is gone and nothing is cached."""
    path = f"/datasets/{module.REPOSITORY}/resolve/{module.REVISION}/{file_name}"
    hub = DataHub({path: content.encode()})
    server = serve(hub)
    monkeypatch.delenv(module.VARIABLE, raising=False)
    endpoint = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    metadata = datasets.build_dataset(name, tmp_path / "data").info.metadata
    assert metadata["sha256"] == hashlib.sha256(content.encode()).hexdigest()
    assert metadata["origin"] == f"{module.REPOSITORY}@{module.REVISION}/{file_name}"
    assert {asked for asked in hub.asked if "/resolve/" in asked} == {path}
    hub.files = {}
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "empty"))
    remedy = f"try again with a network, or set {module.VARIABLE} to the path of a copy"
    sentence = rf"^{file_name} of {module.REPOSITORY} cannot be fetched from the Hugging Face hub \(\w+\); {remedy}$"
    with pytest.raises(ValueError, match=sentence):
        datasets.build_dataset(name, tmp_path / "other")
    server.shutdown()
    server.server_close()
    with pytest.raises(ValueError, match=sentence):
        datasets.build_dataset(name, tmp_path / "other")
