"""`mr1jax report`: runs written out by hand, read back, set side by side, and laid out as a page that is taken apart again."""

import dataclasses
import html.parser
import json
import math
import re

import numpy as np
import pytest
from test_report import make_answer, make_row

from mr1jax import report, run_page
from mr1jax.config import Config, LossConfig, replace
from mr1jax.run_chart import LARGE, draw
from mr1jax.run_examples import compare_runs, own_row
from mr1jax.run_log import RunLog
from mr1jax.run_report import curves, differences, group_seeds, read_runs, score_rows, seed_scores

STUDENT = {1: 12.7062, 2: 4.3027}  # 97.5 % quantiles by degrees of freedom, as printed in tables
HOSTILE = "<script>alert(\"1\")</script> & 'x' \x00\x1b[31m \u202eback {{ 7 * 7 }}"
SHOWN = "<script>alert(\"1\")</script> & 'x' ␀␛[31m \ufffdback {{ 7 * 7 }}"
BANK = ("Mia lives in Oslo | 4 May 2031", "Bo sings | 5 May 2031")


def write_run(folder, config, rewards, **others):
    """A run as `mr1jax train` leaves it: one record a step, with further metrics as lists."""
    log = RunLog(folder)
    for step, reward in enumerate(rewards, 1):
        log.append({"step": step, "reward": reward} | {name: values[step - 1] for name, values in others.items()})
    log.close()
    (folder / "config.json").write_text(json.dumps(dataclasses.asdict(config)))
    return folder


def write_evaluation(run, rows, source="memdial", keep=True):
    """An evaluation as `mr1jax eval` leaves it; keep: answers and banks too."""
    folder = run / f"eval_{source}"
    if keep:
        report.write_answers(folder, rows, ("c0", "c1"))
    values = {"questions": 4, "p_value": 0.25, "rows": {name: report.row_as_json(row) for name, row in rows.items()}}
    report.write_whole(folder / "report.json", json.dumps(values))


def row(*said, em=50.0, bank=BANK):
    """A row of four questions, two to each of two conversations, all with the gold answer Oslo."""
    answers = [make_answer(n // 2, n % 2, 1, prediction) for n, prediction in enumerate(said)]
    return dataclasses.replace(make_row(answers, em=em), banks=(bank, ("Ann sails | 6 May 2031",)))


WARM = row("Rome", "Rome", "Oslo", "Oslo")


@pytest.fixture
def runs(tmp_path):
    """Two seeds of the Answer Agent, evaluated, and a Manager that is not, with an update that was not finite."""
    config = Config(steps=4)
    first = write_run(tmp_path / "seed0", config, [0.1, 0.2, 0.3, 0.4], entropy=[1.0] * 4, validation=[math.nan, 0.25, math.nan, 0.5])
    second = write_run(tmp_path / "seed1", replace(config, seed=1), [0.3, 0.4, 0.1, math.nan], entropy=[2.0] * 4)
    manager = replace(config, agent="manager", loss=LossConfig(kl_coef=0.5))
    third = write_run(tmp_path / "keeper", manager, [0.5, math.nan, 0.7, 0.9], kl=[0.0, 0.1, 0.2, 0.3], skipped=[0.0, 1.0, 0.0, 0.0])
    write_evaluation(first, {"warm_start": WARM, "rl_answer": row("Oslo", "Bonn", "Oslo", "Bonn", em=50.0)})
    write_evaluation(second, {"warm_start": WARM, "rl_answer": row("Oslo", "Oslo", "Oslo", "Oslo", em=60.0)})
    return [first, second, third]


def test_runs_that_differ_in_the_seed_alone_are_one_group(runs, tmp_path):
    """Oracle: the groups by hand; a seed that is there twice is no second draw of a group."""
    again = write_run(tmp_path / "again", Config(steps=4), [0.1] * 4)
    groups = group_seeds(read_runs([*runs, again]))
    assert [[run.name for run in group.runs] for group in groups] == [["seed0", "seed1"], ["keeper"], ["again"]]
    assert [group.name for group in groups] == ["seed0, seed1 (2 seeds)", "keeper", "again"]


def test_only_what_differs_is_listed(runs):
    """Oracle: the fields that were changed above, under dotted names."""
    assert differences(read_runs(runs)) == {
        "agent": ["answerer", "answerer", "manager"],
        "seed": [0, 1, 0],
        "loss.kl_coef": [0.0, 0.0, 0.5],
    }


def test_curve_over_seeds_has_the_interval_of_student(runs):
    """Oracle: by hand: mean and half a difference times the printed t quantile, at the three steps at which both seeds are finite."""
    ((place, curve),) = curves(group_seeds(read_runs(runs))[:1], "reward")
    assert (place, curve.step_N.tolist(), curve.points) == (0, [1, 2, 3], None)
    assert curve.mean_N == pytest.approx([0.2, 0.3, 0.2])
    assert curve.interval_2N[1] - curve.mean_N == pytest.approx(np.array([0.1, 0.1, 0.1]) * STUDENT[1], rel=1e-4)
    assert curve.mean_N - curve.interval_2N[0] == pytest.approx(np.array([0.1, 0.1, 0.1]) * STUDENT[1], rel=1e-4)
    assert curve.validation == ((2, 0.25), (4, 0.5))


def test_curve_of_a_run_alone_has_its_finite_steps(runs):
    """Oracle: the records above; a metric that a group has not logged gives it no curve, and the others keep their places."""
    groups = group_seeds(read_runs(runs))
    ((place, curve),) = curves(groups, "kl")
    assert (place, curve.name, curve.interval_2N) == (1, "keeper", None)
    (_, reward) = curves(groups, "reward")[1]
    assert [values.tolist() for values in reward.points] == [[1, 3, 4], [0.5, 0.7, 0.9]]
    assert curves(groups, "share_add") == []


def test_scores_are_listed_once_and_averaged_over_seeds(runs):
    """Oracle: by hand: the warm start is that of both; 50 and 60 are 55 +- 5 t; what no seed changed has no interval."""
    read = read_runs(runs)
    assert [(names, name, each.em) for names, name, each in score_rows(read, "memdial")] == [
        (["seed0", "seed1"], "warm_start", 50.0),
        (["seed0"], "rl_answer", 50.0),
        (["seed1"], "rl_answer", 60.0),
    ]
    pair, alone = group_seeds(read)
    scores = seed_scores(pair, "memdial")
    assert list(scores) == ["rl_answer"]
    mean, interval = scores["rl_answer"]["em"]
    assert (mean, *interval) == pytest.approx((55.0, 55 - 5 * STUDENT[1], 55 + 5 * STUDENT[1]), rel=1e-4)
    assert seed_scores(alone, "memdial") == {}


def test_rows_come_back_from_json():
    """Oracle: the row that was written, less its answers and banks."""
    assert report.row_from_json(json.loads(json.dumps(report.row_as_json(WARM)))) == dataclasses.replace(WARM, answers=(), banks=())


def test_questions_gained_and_lost_are_told_apart(runs):
    """Oracle: by hand. Of Rome Rome Oslo Oslo, Oslo Bonn Oslo Bonn gains the first and loses the last; against the first run, the second
    run's Oslo Oslo Oslo Oslo gains two, one of each conversation."""
    first, second, _ = read_runs(runs)
    (alone,) = compare_runs([first], "memdial")
    assert (alone.before, alone.after) == ("seed0, warm_start", "seed0, rl_answer")
    assert (alone.questions, alone.em, alone.won, alone.gone) == (4, (50.0, 50.0), 1, 1)
    assert [(before.id, before.prediction, after.prediction) for before, after in alone.gained] == [("c0/0", "Rome", "Oslo")]
    assert [(before.id, before.prediction, after.prediction) for before, after in alone.lost] == [("c1/1", "Oslo", "Bonn")]
    _, between = compare_runs([first, second], "memdial")
    assert (between.before, between.after) == ("seed0, rl_answer", "seed1, rl_answer")
    assert [(after.id, after.bank) for _, after in between.gained] == [("c0/1", BANK), ("c1/1", ("Ann sails | 6 May 2031",))]
    assert between.lost == ()


def test_examples_are_the_largest_changes_of_different_conversations(tmp_path):
    """Oracle: by hand. Three whole answers were gained, two of them in one conversation, and half of one: the other conversation's comes
    second, the half not at all."""
    run = write_run(tmp_path / "run", Config(steps=1), [0.5])
    before = row("Rome", "Rome", "Rome", "Rome")
    write_evaluation(run, {"warm_start": before, "rl_answer": row("Oslo", "Oslo", "Oslo", "Oslo Bonn")})
    (comparison,) = compare_runs(read_runs([run]), "memdial")
    assert [after.id for _, after in comparison.gained] == ["c0/0", "c1/0", "c0/1"]


def test_what_cannot_be_compared_says_why(runs, tmp_path):
    """Oracle: the sentences: an evaluation without answers, other questions, no evaluation."""
    first, _, keeper = read_runs(runs)
    bare = write_run(tmp_path / "bare", Config(steps=1), [0.5])
    write_evaluation(bare, {"warm_start": WARM, "rl_answer": WARM}, keep=False)
    other = write_run(tmp_path / "other", Config(steps=1), [0.5])
    asked = dataclasses.replace(WARM, answers=tuple(dataclasses.replace(answer, question="Why ?") for answer in WARM.answers))
    write_evaluation(other, {"warm_start": asked, "rl_answer": asked})
    bare, other = read_runs([bare, other])
    assert compare_runs([bare], "memdial")[0].missing == "The evaluation of bare has kept no answers; mr1jax eval on memdial writes them."
    assert compare_runs([first, other], "memdial")[1].missing == "The two were not asked the same questions."
    assert compare_runs([first, keeper], "memdial")[0].missing == "keeper was not evaluated on memdial."
    assert own_row(first, "memdial") == "rl_answer"


class Page(html.parser.HTMLParser):
    """Takes a page apart, and counts what is closed in another order than it was opened."""

    VOID = frozenset(("meta", "br"))

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.tags, self.open, self.crossed, self.text, self.style = [], [], 0, "", ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.open += [tag] * (tag not in self.VOID)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        self.crossed += self.open.pop() != tag
        self.text += " " * (tag in ("td", "th", "li"))

    def handle_data(self, data):
        if self.open[-1:] == ["style"]:
            self.style += data
        else:
            self.text += data

    def all(self, tag):
        return [attrs for each, attrs in self.tags if each == tag]


def test_page_is_whole_alone_and_can_be_read_aloud(runs):
    """Oracle: a parser. Every element closed where it stands, nothing asked of a server, no script, no id twice; headings without a gap,
    every head of a table with its scope, every picture with its words."""
    text = run_page.render(read_runs([runs[2], *runs[:2]]))  # the last has examples
    page = Page(text)
    assert (page.crossed, page.open) == (0, [])
    assert text.count("<article>") == 2
    names = {tag for tag, _ in page.tags}
    assert not names & {"script", "link", "img", "iframe", "object", "base", "form"}
    assert not any(name in ("src", "href", "id") or name.startswith("on") for _, attrs in page.tags for name in attrs)
    assert not re.search(r"url\(|@import|http", page.style)
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in zip(levels, levels[1:], strict=False))
    assert {attrs["scope"] for attrs in page.all("th")} == {"col", "row"}
    charts = [attrs for attrs in page.all("svg") if "aria-hidden" not in attrs]
    assert len(charts) == 4  # reward, entropy, kl, skipped
    assert all(attrs["role"] == "img" and "against training step: " in attrs["aria-label"] for attrs in charts)
    lines = charts[0]["aria-label"].split(": ")[1].split("; ")
    assert lines == ["keeper from 0.5 at step 1 to 0.9 at step 4", "seed0, seed1 (2 seeds) from 0.2 at step 1 to 0.2 at step 3"]


def test_page_has_the_scores_and_says_what_is_missing(runs):
    """Oracle: the figures that went in, and the sentence about the run without an evaluation; alone it has curves and nothing else."""
    words = " ".join(Page(run_page.render(read_runs(runs))).text.split())
    assert "all warm_start 50.0 [40.0, 62.5] 32.0 [31.0, 33.0] 21.0 [20.2, 22.0] 30 / 4 / 5 / 60 88% 75%" in words
    assert "seed1 rl_answer 60.0 [40.0, 62.5]" in words
    assert "rl_answer 55.0 [-8.5, 118.5]" in words
    assert "Not evaluated, so that it has curves only: keeper." in words
    assert "seed0: 4 questions; rl_answer against warm_start, p = 0.25" in words
    alone = " ".join(Page(run_page.render(read_runs(runs[2:]))).text.split())
    assert "Not evaluated, so that it has curves only: keeper." in alone
    assert "Where it gained" not in alone
    assert "What differs" not in alone


def test_page_marks_what_only_one_bank_holds(tmp_path):
    """Oracle: by hand: Bo's song is gone, Bo's golf is new; what the answer rests on and what was shown are marked in either bank."""
    run = write_run(tmp_path / "run", Config(steps=1), [0.5])
    after = row("Oslo", "Rome", "Oslo", "Oslo", bank=("Mia lives in Oslo | 4 May 2031", "Bo golfs | 6 May 2031"))
    answers = tuple(dataclasses.replace(answer, evidence=("Mia lives in Oslo",)) for answer in after.answers)
    write_evaluation(run, {"warm_start": WARM, "rl_answer": dataclasses.replace(after, answers=answers)})
    text = run_page.render(read_runs([run]))
    items = re.findall(r'<ul class="bank">(.*?)</ul>', text, re.DOTALL)
    plain = [[" ".join(Page(item).text.split()) for item in re.findall("<li.*?</li>", each)] for each in items]
    assert plain[0] == ["Mia lives in Oslo | 4 May 2031 shown", "Bo sings | 5 May 2031 only here shown"]
    assert plain[1] == ["Mia lives in Oslo | 4 May 2031 needed shown", "Bo golfs | 6 May 2031 only here"]


def test_what_runs_say_is_text(tmp_path):
    """Oracle: the page is taken apart. Hostile words stand in its text, their control characters as signs, and no element is theirs."""
    run = write_run(tmp_path / "<b>&'\"", Config(steps=2, backbone=HOSTILE), [0.5, 0.6])
    rows = {"warm_start": hostile(WARM, "Rome"), "rl_answer": hostile(WARM, "Oslo")}
    write_evaluation(run, rows, source="<i>")
    write_evaluation(run, rows | {HOSTILE: WARM}, source="<i>", keep=False)
    for path in (run / "eval_<i>").glob("*.jsonl"):
        path.write_text(path.read_text().replace("\u202eback", "\\ud800back"))  # half a character, which no file can hold
    run_page.write_page([run], tmp_path / "page.html")
    page = Page((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert (page.crossed, page.open) == (0, [])
    assert not {tag for tag, _ in page.tags} & {"script", "b", "i"}
    assert page.text.count(SHOWN) > 10
    assert "<b>&'\"" in page.text
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e\ud800]", page.text)


def hostile(row, prediction):
    """The row, all of whose texts are hostile, and whose scores are those of this prediction."""
    scores = make_answer(0, 0, 1, prediction).scores
    texts = dict(question=HOSTILE, gold=HOSTILE, response=HOSTILE, prediction=HOSTILE, memories=(HOSTILE,), evidence=(HOSTILE,))
    answers = tuple(dataclasses.replace(answer, **texts, scores=scores) for answer in row.answers)
    return dataclasses.replace(row, answers=answers, banks=((HOSTILE,), (HOSTILE, prediction)))


def test_chart_puts_values_where_its_figures_are(runs):
    """Oracle: the chart's own axis, which counts upwards: the line, read off the figures beside and below it, is what was logged."""
    ((place, curve),) = curves(group_seeds(read_runs(runs[2:])), "reward")
    chart = str(draw([(place, curve)], "Reward", LARGE, 1.0))
    figures = re.findall(r'<text x="([\d.]+)" y="([\d.]+)" text-anchor="(\w+)">([\d.]+)<', chart)
    height = {float(text): float(y) - LARGE.font / 3 for _, y, anchor, text in figures if anchor == "end"}
    across = {float(text): float(x) for x, _, anchor, text in figures if anchor == "middle"}
    (low, bottom), (high, top) = min(height.items()), max(height.items())
    assert top < bottom  # SVG counts downwards
    line = [tuple(map(float, point.split())) for point in re.search(r'class="line" d="M([^"]+)"', chart)[1].split("L")]
    value = [low + (high - low) * (bottom - y) / (bottom - top) for _, y in line]
    assert value == pytest.approx([0.5, 0.7, 0.9], abs=0.002)
    assert [x for x, _ in line] == pytest.approx([across[step] for step in (1, 3, 4)], abs=0.11)


def test_band_stops_where_no_reward_can_be(runs):
    """Oracle: the interval of two seeds is wider than 0 to 1; no point of the band lies outside the lines of the chart."""
    chart = str(draw(curves(group_seeds(read_runs(runs[:2])), "reward"), "Reward", LARGE, 1.0))
    band = [float(point.split()[1]) for point in re.search(r'class="band" d="M([^"]+)Z"', chart)[1].split("L")]
    lines = [float(y) for y in re.findall(r'class="grid" d="M[\d.]+ ([\d.]+)H', chart)]
    assert min(lines) == min(band)
    assert max(lines) == max(band)
    assert ">1<" in chart
    assert ">1.2<" not in chart


RECORD = b'{"step": 1, "reward": 0.5}\n'
DAMAGE = {
    "half a line": ("metrics.jsonl", RECORD + b'{"step": 2, "rew', "line 2, is no record of a step; put the file right, or remove it"),
    "a step twice": ("metrics.jsonl", RECORD * 2, "line 2, is not of a later step than the line before; put .*"),
    "no step": ("metrics.jsonl", b'{"reward": 0.5}\n', "line 1, is no record of a step; .*"),
    "a step too far": ("metrics.jsonl", b'{"step": 1e999}\n', "line 1, is no record of a step; .*"),
    "no line": ("metrics.jsonl", b"", "holds no step yet; wait for the first"),
    "no configuration": ("config.json", b"[]", "is no configuration of a run; train the experiment again"),
    "no report": ("eval_memdial/report.json", b'{"rows": {"a": {}}}', "is no report of an evaluation; run mr1jax eval again, or .*"),
    "no answer": ("eval_memdial/answers_rl_answer.jsonl", b"{}\n", "line 1, is not what mr1jax eval writes; run it again"),
    "no bank": ("eval_memdial/banks_warm_start.jsonl", b"\xff\n", "line 1, is not what mr1jax eval writes; run it again"),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_damage_is_one_sentence(runs, tmp_path, what):
    """Oracle: the sentence with the file and the line; no page is written."""
    file, content, sentence = DAMAGE[what]
    (runs[0] / file).write_bytes(content)
    with pytest.raises(ValueError, match=f"^.*{file},? {sentence}$"):
        run_page.write_page(runs[:1], tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


def test_runs_and_file_are_checked_first(runs, tmp_path):
    """Oracle: the sentences: no run, no log, one name twice, and files that would be a folder, in a file, or one of a run."""
    (tmp_path / "deep").mkdir()
    twin = write_run(tmp_path / "deep" / "seed0", Config(), [0.5])
    wrong = [
        ([tmp_path / "gone"], "page.html", r".*gone is no folder of a run: it has no config.json; train an experiment first"),
        ([], "page.html", r"name the folder of a run or more, as in: mr1jax report runs/grpo_answer"),
        ([runs[0], twin], "page.html", r"two of the runs are named seed0; name each run once, .*"),
        (runs, "deep", r"--out .*deep is a folder; name a file that ends in .html"),
        (runs, "seed0/metrics.jsonl", r"--out .*metrics.jsonl does not end in .html; .*"),
        (runs, "seed0/metrics.jsonl/page.html", r"--out .* cannot be written, since .*metrics.jsonl is a file; name another"),
    ]
    for folders, out, sentence in wrong:
        with pytest.raises(ValueError, match=f"^{sentence}$"):
            run_page.write_page(folders, tmp_path / out)
    (runs[2] / "metrics.jsonl").unlink()
    with pytest.raises(ValueError, match=r"^.*keeper has no metrics.jsonl; name the folder of a run that has begun to train$"):
        run_page.write_page(runs, tmp_path / "page.html")
    assert not list(tmp_path.rglob("*.html"))
