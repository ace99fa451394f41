"""`mr1jax eval` with a judge: what stops it before anything is computed, and a whole run from a file to its report."""

import hashlib
import json
import re

import chat_data
import pytest
from test_cli import run  # noqa: F401
from test_judge import by_answer, serve  # noqa: F401

from mr1jax import cli
from mr1jax.config import Config
from mr1jax.data.longmemeval.reader import to_record
from mr1jax.model.weights import save_params
from mr1jax.prepare import load_start


@pytest.fixture
def trained_run(tmp_path):
    """A run whose weights nobody gets to read."""
    weights = tmp_path / "runs" / "grpo_answer" / "answerer.safetensors"
    weights.parent.mkdir(parents=True)
    weights.write_bytes(b"")
    return weights.parent


def test_a_judge_that_is_not_there_stops_before_anything_is_computed(run, serve, trained_run):  # noqa: F811
    """Oracle: the sentence and the exit status; neither data nor weights are read, and both could not be."""
    server = serve(by_answer)
    judge = ("--judge-url", "http://127.0.0.1:9/v1", "--judge-model", "wise-1")
    status, said = run("eval", "grpo_answer", "--data", "msc", *judge)
    assert status == 2
    assert re.fullmatch(r"mr1jax: the judge wise-1 at http://127.0.0.1:9/v1 does not answer \(Connection refused, tried 3 .*\n", said), said
    status, said = run("eval", "grpo_answer", "--judge-url", server.url, "--judge-model", "wise-1")
    assert (status, said.startswith("mr1jax: memdial's answers are exact and need no judge;")) == (2, True)
    assert not server.seen
    status, said = run("eval", "grpo_answer", "--data", "msc", "--judge-url", server.url)
    assert (status, said) == (2, f"mr1jax: --judge-url is {server.url} without a model; give --judge-model the name it has there\n")


def test_a_report_of_another_judge_is_not_written_over(run, serve, trained_run):  # noqa: F811
    """Oracle: the sentence, with both names; that of a report that cannot be read; nobody is asked."""
    server = serve(by_answer)
    report_file = trained_run / "eval_msc" / "report.json"
    report_file.parent.mkdir()
    report_file.write_text(json.dumps({"judge": "wise-0, prompts 1"}))
    status, said = run("eval", "grpo_answer", "--data", "msc", "--judge-url", server.url, "--judge-model", "wise-1")
    assert status == 2
    assert f"eval_msc was judged by wise-0, prompts 1, and this judge is wise-1 at {server.url}, prompts 1; move that folder" in said
    for damaged in ("[]", "{"):
        report_file.write_text(damaged)
        status, said = run("eval", "grpo_answer", "--data", "msc", "--judge-url", server.url, "--judge-model", "wise-1")
        assert status == 2
        assert re.fullmatch(r"mr1jax: .*report.json is damaged \(.*\); move .*eval_msc away\n", said), said
    assert not server.seen


def test_data_sets_are_built_by_name(monkeypatch, tmp_path, capsys):
    """Oracle: how many questions the hand-made files have."""
    monkeypatch.setenv("LONGMEMEVAL_JSON", str(chat_data.longmemeval_file(tmp_path / "oracle.json")))
    monkeypatch.setenv("MSC_JSONL", str(chat_data.msc_file(tmp_path / "msc.jsonl")))
    monkeypatch.chdir(tmp_path)
    for name, count in (("msc", 2), ("longmemeval", 6)):
        cli.parse(["data", name])()
        assert capsys.readouterr().out.endswith(f"{name} test: {count} conversations\n")
    chat_data.longmemeval_file(tmp_path / "oracle.json", chat_data.S)
    cli.parse(["data", "longmemeval", "--variant", "s"])()
    assert capsys.readouterr().out.endswith("longmemeval test: 1 conversations\n")


@pytest.mark.slow
def test_longmemeval_from_file_to_judged_report(run, serve, trained_run, monkeypatch, tmp_path, capsys):  # noqa: F811
    """Oracle: the file's own hash, ids and golds; every memory that is shown where all is kept is a fact of its conversation; a second
    run asks the judge nothing and reports the same."""
    monkeypatch.setenv("LONGMEMEVAL_JSON", str(chat_data.longmemeval_file(tmp_path / "oracle.json")))
    save_params(trained_run / "answerer.safetensors", load_start(Config()).params["answerer"], {"agent": "answerer"})
    server, reports, asked = serve(by_answer), [], []
    for _ in range(2):
        command = ["eval", "grpo_answer", "--data", "longmemeval", "--judge-url", server.url, "--judge-model", "wise-1"]
        cli.parse(command)()
        asked.append(len(server.seen))
        reports.append(json.loads((trained_run / "eval_longmemeval_oracle" / "report.json").read_text()))
    assert asked[0] == asked[1] > 1
    first, second = ({**each, "seconds": 0, "compilations": 0} for each in reports)
    assert first == second
    assert first["judge"] == f"wise-1 at {server.url}, prompts 1"
    assert first["dataset"]["sha256"] == hashlib.sha256((tmp_path / "oracle.json").read_bytes()).hexdigest()
    lines = (trained_run / "eval_longmemeval_oracle" / "answers_append_only.jsonl").read_text().splitlines()
    for line, entry in zip(map(json.loads, lines), chat_data.ORACLE, strict=True):
        record = to_record(entry)
        assert (line["conversation"], line["gold"]) == (record.id, record.questions[0].answer)
        assert set(line["memories"]) <= {f"{fact.text} | {fact.date}" for fact in record.facts}
    assert any(json.loads(line)["memories"] for line in lines)
    assert "J, strict prompt" in capsys.readouterr().out
