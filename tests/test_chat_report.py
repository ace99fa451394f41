"""The reports of LongMemEval and MSC, and J in all of them: numbers traced from hand-made answers into tables and files."""

import json

import pytest
from test_report import LOCOMO, make_answer, make_row

from mr1jax import chat_report, locomo_report
from mr1jax.config import replace
from mr1jax.evaluate import Judged

NAME = "wise-1 at http://host/v1, prompts 1"


def judged(row, marks, garbage=(0, 0), judge=NAME):
    """The row as if a judge had given each answer these (generous, strict) marks."""
    answers = tuple(
        replace(answer, scores=answer.scores | {"j_generous": float(g), "j_strict": float(s)})
        for answer, (g, s) in zip(row.answers, marks, strict=True)
    )
    means = {name: 100 * sum(mark[k] for mark in marks) / len(marks) for k, name in enumerate(("j_generous", "j_strict"))}
    intervals = {"j_generous": (12.5, 87.5), "j_strict": (0.0, 62.5)}
    return replace(
        row,
        answers=answers,
        ci95=row.ci95 | intervals,
        judged=Judged(judge, means, dict(zip(("generous", "strict"), garbage, strict=True))),
    )


# Types 1, 1, 4 and 6; of the second and the last nothing was ever said.
CHATS = judged(
    make_row(
        [
            make_answer(0, 0, 1, "Oslo"),
            make_answer(1, 0, 7, "Rome", gold="You never said", recall=None),
            make_answer(2, 0, 4, "Rome", recall=0.0),
            make_answer(3, 0, 12, "never said", gold="You never said", recall=None),
        ]
    ),
    [(1, 1), (0, 0), (0, 0), (1, 0)],
    garbage=(1, 2),
)


def cells(page, title):
    """{name of a line: its cells} of the table under a title."""
    table = page.split(title)[1].split("\n\n")[1].splitlines()
    lines = ([cell.strip() for cell in line.split("  ") if cell.strip()] for line in table)
    return {name: rest for name, *rest in lines}


def test_unanswerable_questions_count_in_their_type_and_apart():
    """Oracle: by hand. F1 of "never said" against "You never said": 2 of 2 and 3 words."""
    table = chat_report.by_kind(CHATS, chat_report.LONGMEMEVAL)
    counts = {name: entry["questions"] for name, entry in table.items()}
    assert counts == {
        "single-session-user": 2,
        "single-session-assistant": 0,
        "single-session-preference": 0,
        "multi-session": 1,
        "knowledge-update": 0,
        "temporal-reasoning": 1,
        "never said": 2,
        "all": 4,
    }
    assert {name: table[name]["f1"] for name in ("single-session-user", "multi-session", "never said", "all")} == pytest.approx(
        {"single-session-user": 50, "multi-session": 0, "never said": 40, "all": 45}
    )
    assert table["never said"]["j_generous"] == 50
    assert "evidence_recall" not in table["never said"]
    assert table["all"]["evidence_recall"] == 50


def test_longmemeval_stands_beside_the_paper():
    """Oracle: by hand, ours; the paper's GRPO row, in the order of our columns; a dash where there is no question or no figure."""
    page = chat_report.format_chat({"warm_start": CHATS, "rl_both": CHATS}, chat_report.LONGMEMEVAL)
    f1 = cells(page, "F1 in percent")
    assert f1["questions"] == ["2", "0", "0", "1", "0", "1", "2", "4"]
    assert f1["rl_both"] == ["50.0", "-", "-", "0.0", "-", "80.0", "40.0", "45.0", "[31.0, 33.0]"]
    assert f1["paper: Memory-R1-GRPO, Qwen2.5-7B-Instruct"] == ["80.9", "26.8", "12.6", "51.7", "54.4", "35.1", "-", "46.7"]
    assert f1["paper: Mem0, Llama-3.1-8B-Instruct"] == ["-"] * 7 + ["31.4"]
    assert "paper" not in page.split("Exact match in percent")[1].split("J in percent")[0].lower()
    generous, strict = cells(page, "J, generous prompt"), cells(page, "J, strict prompt")
    assert generous["rl_both"] == ["50.0", "-", "-", "0.0", "-", "100.0", "50.0", "50.0", "[12.5, 87.5]"]
    assert generous["paper: base, Llama-3.1-8B-Instruct"][-1] == "44.2"
    assert strict["rl_both"][-2:] == ["25.0", "[0.0, 62.5]"]
    assert not any(name.startswith("paper") for name in strict)
    assert f"judged by {NAME}. Replies that were no verdict, and count as wrong: warm_start: 1 generous, 2 strict; rl_both: 1" in page
    assert max(map(len, page.splitlines())) < 200


def test_msc_has_no_rows_of_the_paper():
    """Oracle: by hand; the paper gives MSC in a picture alone. Without a judge nothing is said of J."""
    row = make_row([make_answer(0, 0, 1, "Oslo"), make_answer(1, 0, 1, "Rome")])
    page = chat_report.format_chat({"warm_start": row}, chat_report.MSC)
    assert cells(page, "F1 in percent")["warm_start"] == ["50.0", "50.0", "[31.0, 33.0]"]
    assert "paper:" not in page
    assert "J" not in page


def test_files_name_the_judge(tmp_path):
    """Oracle: the answers and marks that went in."""
    ids = [f"q{n}" for n in range(4)]
    row = replace(CHATS, banks=(("a | b",), (), (), ()))
    chat_report.write_chat_report(tmp_path, {"rl_both": row}, chat_report.LONGMEMEVAL, ids, {"seed": 3, "dataset": {"sha256": "ab"}})
    written = json.loads((tmp_path / "report.json").read_text())
    assert (written["judge"], written["seed"], written["dataset"], written["questions"]) == (NAME, 3, {"sha256": "ab"}, 4)
    row = written["rows"]["rl_both"]
    assert (row["j_generous"], row["j_strict"], row["garbage"]) == (50, 25, {"generous": 1, "strict": 2})
    assert row["ci95"]["j_strict"] == [0.0, 62.5]
    assert row["evidence_recall"] == CHATS.evidence_recall
    assert written["by_category"]["rl_both"]["never said"]["j_generous"] == 50
    lines = [json.loads(line) for line in (tmp_path / "answers_rl_both.jsonl").read_text().splitlines()]
    assert [(line["id"], line["j_generous"], line["j_strict"]) for line in lines] == [
        ("q0/0", 1, 1),
        ("q1/0", 0, 0),
        ("q2/0", 0, 0),
        ("q3/0", 1, 0),
    ]
    assert json.loads((tmp_path / "banks_rl_both.jsonl").read_text().splitlines()[0]) == {"conversation": "q0", "memories": ["a | b"]}
    unjudged = replace(make_row([make_answer(0, 0, 1, "Oslo")]), banks=((),))
    chat_report.write_chat_report(tmp_path, {"rl_both": unjudged}, chat_report.MSC, ids[:1], {})
    assert json.loads((tmp_path / "report.json").read_text())["judge"] is None


def test_rows_of_two_judges_are_refused(tmp_path):
    """Oracle: the sentence; nothing is written."""
    rows = {"warm_start": CHATS, "rl_both": judged(CHATS, [(0, 0)] * 4, judge="wise-2")}
    with pytest.raises(ValueError, match="^the rows of one report were judged by wise-1 .* and wise-2; have all of them judged by one$"):
        chat_report.write_chat_report(tmp_path, rows, chat_report.LONGMEMEVAL, ["q"] * 4, {})
    with pytest.raises(ValueError, match="^the rows of one report were judged by"):
        chat_report.format_chat(rows, chat_report.LONGMEMEVAL)
    assert not list(tmp_path.iterdir())


def test_locomo_has_both_js_beside_the_papers():
    """Oracle: by hand, by category 1 to 4; the paper's GRPO row in the order of the file's numbers."""
    row = judged(LOCOMO, [(1, 1), (1, 0), (0, 0), (0, 0), (1, 0)])
    page = locomo_report.format_locomo({"trained": row})
    generous = cells(page, "J, generous prompt")
    assert generous["trained"] == ["100.0", "100.0", "0.0", "50.0", "60.0", "[12.5, 87.5]"]
    assert generous["paper: Memory-R1-GRPO, Llama-3.1-8B-Instruct"] == ["59.8", "51.5", "53.0", "68.8", "62.7"]
    assert cells(page, "J, strict prompt")["trained"][-2] == "20.0"
    assert "J, " not in locomo_report.format_locomo({"trained": LOCOMO})
