"""What people and programs read: numbers traced from hand-made answers into every table and file, and pictures that say something."""

import json
import os

import numpy as np
import pytest

from mr1jax import locomo_report, report
from mr1jax.data.locomo import paper
from mr1jax.evaluate import OPERATIONS, Answer, Row
from mr1jax.text.metrics import bleu1_mem0, exact_match, f1_mem0, token_f1

CATEGORIES = {1: "single-hop", 4: "not mentioned"}


def make_answer(conversation, number, category, prediction, gold="Oslo", recall=1.0, response=None):
    response = f"**Answer:** {prediction}" if response is None else response
    scores = {
        "em": exact_match(prediction, gold),
        "f1": f1_mem0(prediction, gold),
        "bleu1": bleu1_mem0(prediction, gold),
        "f1_squad": token_f1(prediction, gold),
    }
    memories = (f"Mia lives in {gold} | 4 May 2031", "Bo sings | 5 May 2031")
    asked = f"Where is number {number} ?"
    return Answer(conversation, number, category, asked, gold, memories, response, prediction, 5, recall, scores)


BANKS = (("Mia lives in Oslo | 4 May 2031", "Bo sings | 5 May 2031"), ())


def make_row(answers, em=50.0):
    intervals = {"em": (40.0, 62.5), "f1": (31.0, 33.0), "bleu1": (20.25, 22.0)}
    operations = dict(zip(OPERATIONS, (30, 4, 5, 60, 7), strict=True))
    return Row(em, 32.0, 21.0, intervals, operations, 0.875, 0.75, tuple(answers), BANKS)


BEFORE = make_row([make_answer(0, n, category, said) for n, category, said in ((0, 1, "Rome"), (1, 1, "Rome"), (2, 4, "Oslo"))], em=100 / 3)
AFTER = make_row([make_answer(0, n, category, said) for n, category, said in ((0, 1, "Oslo"), (1, 1, "Bonn"), (2, 4, "Oslo"))], em=200 / 3)
ROWS = {"no_memory": BEFORE, "warm_start": BEFORE, "rl_both": AFTER}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A report beside which curves were drawn first."""
    folder = tmp_path_factory.mktemp("run") / "demo"
    steps = np.arange(1, 61)
    rewards = {"Answer Agent": 0.3 + 0.006 * steps, "Memory Manager": 0.5 + 0.1 * np.sin(steps)}
    report.draw_curves(folder / "curves.png", {name: list(zip(steps.tolist(), r.tolist(), strict=True)) for name, r in rewards.items()})
    report.write_report(folder, ROWS, about="Two agents.", categories=CATEGORIES, seed=7, seconds=412.3, compilations=4, p_value=0.0031)
    return folder


def test_table_is_aligned_and_complete(capsys):
    """Oracle: the line by hand, and that every column ends where its head does."""
    report.print_table(ROWS)
    header, *lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == "warm_start 33.3 [40.0, 62.5] 32.0 [31.0, 33.0] 21.0 [20.2, 22.0] 30 4 5 60 88%".split()
    assert [line.split()[0] for line in lines] == list(ROWS)
    for head in ("EM", "F1", "BLEU-1", "ADD", "UPDATE", "DELETE", "NOOP", "bank fill"):
        end = header.index(head) + len(head)
        assert all(line[end - 1] != " " and line[end : end + 1] in ("", " ") for line in lines)


def test_json_has_the_promised_keys(folder):
    """Oracle: the list of keys, and the numbers that went in."""
    written = json.loads((folder / "report.json").read_text())
    assert set(written) == {"questions", "seed", "seconds", "compilations", "p_value", "rows"}
    assert (written["questions"], written["seed"], written["seconds"], written["compilations"], written["p_value"]) == (
        3,
        7,
        412.3,
        4,
        0.0031,
    )
    assert list(written["rows"]) == list(ROWS)
    assert written["rows"]["rl_both"] == {
        "em": 200 / 3,
        "f1": 32.0,
        "bleu1": 21.0,
        "ci95": {"em": [40.0, 62.5], "f1": [31.0, 33.0], "bleu1": [20.25, 22.0]},
        "operations": {"add": 30, "update": 4, "delete": 5, "noop": 60, "refused": 7},
        "bank_fill": 0.875,
        "evidence_recall": 0.75,
    }


def test_page_says_what_was_reached(folder):
    """Oracle: by hand: gain 66.7 - 33.3; one of two single-hop questions right after training, none before; the picture linked."""
    page = (folder / "report.md").read_text()
    assert page.startswith("# Report\n\nTwo agents.\n\n## Result\n")
    assert "`rl_both` is 33.3 EM points above `warm_start`, p = 0.0031" in page
    assert "3 questions, seed 7, 412 seconds, 4 compilations." in page
    assert "(curves.png)" in page
    assert "| EM in percent | single-hop (2) | not mentioned (1) |\n| --- | --: | --: |" in page
    assert "| warm_start | 0.0 | 100.0 |" in page
    assert "| rl_both | 50.0 | 100.0 |" in page
    tables = [block.splitlines() for block in page.split("\n\n") if block.startswith("|")]
    assert len(tables) == 2
    for table in tables:
        assert {line.count("|") for line in table} == {table[0].count("|")}


def test_page_shows_the_best_and_the_worst_first(folder):
    """Oracle: by hand: question 0 was gained, question 1 stayed wrong; each with what was seen, written, and right."""
    best, worst = (folder / "report.md").read_text().split("## Where training helped most")[1].split("## Where `rl_both` is worst")
    assert best.strip().startswith("**Where is number 0 ?** Gold: *Oslo*. `warm_start` said: *Rome*.")
    assert worst.strip().startswith("**Where is number 1 ?** Gold: *Oslo*. `warm_start` said: *Rome*.")
    seen = "```\nQuestion: Where is number 0 ?\nMemories:\nMia lives in Oslo | 4 May 2031\nBo sings | 5 May 2031\n\n**Answer:** Oslo\n```"
    assert seen in best
    assert best.count("Gold:") == worst.count("Gold:") == 3


def test_answers_are_kept_a_line_a_question(tmp_path):
    """Oracle: the answers that went in, and the keys by hand; letters stay what they are."""
    report.write_answers(tmp_path, {"rl_both": make_row([make_answer(1, 2, 4, "Tromsø", gold="Tromsø")])}, ("a", "b"))
    (line,) = (tmp_path / "answers_rl_both.jsonl").read_text().splitlines()
    assert json.loads(line) == {
        "id": "b/2",
        "conversation": "b",
        "category": 4,
        "question": "Where is number 2 ?",
        "gold": "Tromsø",
        "prediction": "Tromsø",
        "response": "**Answer:** Tromsø",
        "memories": ["Mia lives in Tromsø | 4 May 2031", "Bo sings | 5 May 2031"],
        "evidence": [],
        "evidence_recall": 1.0,
        "em": 1.0,
        "f1": 1.0,
        "bleu1": 1.0,
        "f1_squad": 1.0,
    }
    assert "Tromsø" in line
    assert len((tmp_path / "banks_rl_both.jsonl").read_text().splitlines()) == 2


def test_response_cannot_leave_its_code_block(tmp_path):
    """Oracle: a response full of fences; the block that opens before it closes after it, on a longer fence."""
    row = make_row([make_answer(0, 0, 1, "Oslo", response="````\n# not a title\n```")])
    report.write_report(
        tmp_path, {"warm_start": row, "rl_both": row}, about="", categories=CATEGORIES, seed=0, seconds=1.0, compilations=0, p_value=1.0
    )
    page = (tmp_path / "report.md").read_text()
    assert page.count("\n`````\n") == 4
    assert "(curves.png)" not in page


def test_curves_are_a_picture_of_both_lines(folder):
    """Oracle: the PNG's own header says 1200 x 675; the pixels hold the first two colours of Okabe and Ito at full strength, and ink."""
    from matplotlib.image import imread

    pixels = imread(folder / "curves.png")[:, :, :3]
    assert pixels.shape == (675, 1200, 3)
    for colour in ((0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00)):
        assert np.sum(np.all(np.abs(pixels - np.array(colour) / 255) < 0.01, axis=-1)) > 1000
    assert np.sum(np.all(pixels < 0.2, axis=-1)) > 500


def test_moving_average_is_over_what_there_is():
    """Oracle: by hand for a window of 3 of 14, of which the ends have 2; a single value is its own average."""
    values = np.array([0, 3, 0, 3, 9, 0, 0, 0, 0, 0, 0, 0, 6, 1.0])
    expected = [1.5, 1, 2, 4, 4, 3, 0, 0, 0, 0, 0, 2, 7 / 3, 3.5]
    assert report.moving_average(values).tolist() == pytest.approx(expected)
    assert report.moving_average(values[1:2]).tolist() == [3]


def test_files_appear_complete_or_not_at_all(tmp_path, monkeypatch):
    """Oracle: what was there before. The process stops between writing and renaming, and the old file is still whole."""
    path = tmp_path / "deep" / "report.json"
    report.write_whole(path, "old")
    report.write_whole(path, "new")
    assert [file.name for file in path.parent.iterdir()] == ["report.json"]

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", stop)
    with pytest.raises(KeyboardInterrupt):
        report.write_whole(path, "newer")
    assert path.read_text() == "new"


LOCOMO = make_row(
    [
        make_answer(0, 0, 1, "tea, chess", gold="chess, tea", recall=0.5),
        make_answer(0, 1, 2, "4 May 2031", gold="May 4, 2031", recall=1.0),
        make_answer(1, 0, 3, "Yes", gold="Yes; she sings", recall=None),
        make_answer(1, 1, 4, "Oslo", gold="Rome", recall=0.0),
        make_answer(1, 2, 4, "Rome", gold="Rome", recall=1.0),
    ]
)
WORSE = make_row([make_answer(a.conversation, a.number, a.category, "Oslo", a.gold, a.evidence_recall) for a in LOCOMO.answers])


def test_categories_are_averaged_apart_and_over_questions():
    """Oracle: by hand. Mem0's F1 of "Yes" against "Yes; she sings": one word of 1 and 3, none in common for the semicolon."""
    table = locomo_report.by_category(LOCOMO)
    assert {name: entry["questions"] for name, entry in table.items()} == {"1": 1, "2": 1, "3": 1, "4": 2, "all": 5}
    assert {name: entry["f1"] for name, entry in table.items()} == pytest.approx({"1": 100, "2": 100, "3": 0, "4": 50, "all": 60})
    assert {name: entry["f1_locomo"] for name, entry in table.items()} == pytest.approx({"1": 100, "2": 100, "3": 100, "4": 50, "all": 80})
    assert table["4"]["bleu1"] == pytest.approx(50)
    assert table["4"]["locomo"] == "single-hop"
    assert table["4"]["mem0"] == "open domain"
    assert "evidence_recall" not in table["3"]
    assert [table[name]["evidence_recall"] for name in ("1", "2", "4", "all")] == [50, 100, 50, 62.5]


def test_ours_stand_beside_the_papers(capsys):
    """Oracle: the columns by hand; the paper's GRPO row as its page 7 has it, in the order of the file's category numbers."""
    locomo_report.print_locomo({"warm_start": WORSE, "trained": LOCOMO})
    lines = capsys.readouterr().out.splitlines()
    by_name = {line.split("  ")[0]: [cell.strip() for cell in line.split("  ")[1:] if cell] for line in lines}
    assert by_name["category"] == ["1", "2", "3", "4", "all"]
    assert by_name["as LoCoMo names it"] == ["multi-hop", "temporal", "open-domain", "single-hop"]
    assert by_name["as Mem0 and the paper name it"] == ["single hop", "temporal", "multi-hop", "open domain"]
    assert by_name["questions"] == ["1", "1", "1", "2", "5"]
    assert [cell.split(" / ")[0] for cell in by_name["trained"]] == ["100.00", "100.00", "0.00", "50.00", "60.00"]
    assert by_name["paper: Memory-R1-GRPO, Llama-3.1-8B-Instruct"] == [
        "35.73 / 27.70",
        "49.86 / 38.27",
        "35.65 / 30.77",
        "47.42 / 41.24",
        "45.02 / 37.51",
    ]
    assert sum(line.startswith("paper: ") for line in lines) == len(paper.TABLE_1)
    assert "  trained: 75.00" in lines
    assert "  trained: 80.00" in lines


def test_category_without_questions_has_no_figure():
    """Oracle: a dash, as the validation conversation has no question of category 3."""
    without = make_row([a for a in LOCOMO.answers if a.category != 3])
    line = next(line for line in locomo_report.format_locomo({"ours": without}).splitlines() if line.startswith("ours"))
    assert line.split("  ")[-1].strip().startswith("75.00")
    assert [cell.strip() for cell in line.split("  ") if cell.strip()][3] == "-"


def test_locomo_files_hold_every_question(tmp_path):
    """Oracle: the answers that went in, and the keys by hand; a question asked twice of one conversation is a duplicate, of two is none."""
    again = make_row([*LOCOMO.answers, LOCOMO.answers[4], make_answer(0, 2, 4, "Rome", gold="Rome")])
    rows = {"warm_start": again, "trained": again}
    locomo_report.write_locomo_report(
        tmp_path,
        rows,
        ("conv-41", "conv-42"),
        facts="observations",
        captions=True,
        retrieval="hybrid",
        seed=3,
        seconds=9.0,
        compilations=2,
        p_value=0.5,
    )
    lines = [json.loads(line) for line in (tmp_path / "answers_trained.jsonl").read_text().splitlines()]
    assert len(lines) == 7
    assert set(lines[0]) == {
        *("id", "conversation", "category", "question", "gold", "prediction", "response", "memories"),
        *("evidence", "evidence_recall", "em", "f1", "bleu1", "f1_squad", "f1_locomo"),
    }
    assert (lines[2]["id"], lines[2]["conversation"], lines[2]["category"]) == ("conv-42/0", "conv-42", 3)
    assert (lines[2]["f1"], lines[2]["f1_locomo"], lines[2]["evidence_recall"]) == (0.0, 1.0, None)
    assert lines[0]["memories"] == list(LOCOMO.answers[0].memories)
    banks = [json.loads(line) for line in (tmp_path / "banks_trained.jsonl").read_text().splitlines()]
    assert banks == [{"conversation": "conv-41", "memories": list(BANKS[0])}, {"conversation": "conv-42", "memories": []}]
    written = json.loads((tmp_path / "report.json").read_text())
    assert set(written["rows"]) == set(written["by_category"]) == set(rows)
    assert written["by_category"]["trained"]["1"]["f1"] == 100
    assert written["rows"]["trained"]["f1_locomo"] == pytest.approx(600 / 7)
    assert {
        name: written[name] for name in ("questions", "duplicates", "facts", "captions", "retrieval", "seed", "compilations", "p_value")
    } == {
        "questions": 7,
        "duplicates": 1,
        "facts": "observations",
        "captions": True,
        "retrieval": "hybrid",
        "seed": 3,
        "compilations": 2,
        "p_value": 0.5,
    }
    assert written["dataset_sha256"].startswith("79fa87e9")
