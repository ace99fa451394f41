"""The tables of `make paper`: what they are made from, in which order it is done, and what is made of it. Nothing is trained here."""

import json
import subprocess
import sys

import numpy as np
import pytest

from mr1jax.baselines.rows import NOTES
from mr1jax.config import Config
from mr1jax.statistics import bootstrap_interval, interval_of_seeds
from paper import alternation, jobs, plan, pool, scores, table
from paper.ablation import ROWS, row_pairs
from paper.plan import SEEDS, Accuracy, Pair, Run, baseline_pair, pair, run, unique
from paper.tables import TABLES, everything


@pytest.fixture
def runs_in(tmp_path, monkeypatch):
    """A folder of runs of its own."""
    for module in (plan, jobs, pool, scores):
        monkeypatch.setattr(module, "RUNS", tmp_path)
    return tmp_path


# ---------------------------------------------------------------------------------------------------------------------------- plan


def test_all_that_is_waited_for_is_planned_before():
    """Oracle: a set of the names so far."""
    for name in TABLES:
        seen = set()
        for item in everything([name]):
            assert seen.issuperset(item.after)
            seen.add(item.name)


def test_every_run_of_a_table_has_every_seed():
    """Oracle: the names, taken apart."""
    runs = [item for item in everything(["ablation", "rewards"]) if isinstance(item, Run)]
    kinds = {item.name.rpartition("-seed")[0] for item in runs}
    assert sorted(item.name for item in runs) == sorted(f"{kind}-seed{seed}" for kind in kinds for seed in SEEDS)
    assert all(item.config.seed == int(item.name.rpartition("-seed")[2]) for item in runs)


def test_pair_names_the_agents_it_scores(runs_in):
    """Oracle: written out by hand."""
    manager, reader = run("grpo_manager", 2), run("ppo_answer", 3, "undistilled", distill=False)
    both = pair(manager, reader)
    assert both.name == "start+grpo_manager-seed2+ppo_answer-undistilled-seed3"
    assert (both.config.manager_from, both.config.answerer_from) == (str(runs_in / "grpo_manager-seed2"), str(reader.folder))
    assert not both.config.distill
    assert both.after == ("grpo_manager-seed2", "ppo_answer-undistilled-seed3")
    assert (pair().name, pair().config) == ("start", Config())


def test_a_phase_starts_from_the_agents_of_those_before(runs_in):
    """Oracle: written out by hand: whose Manager, whose Answer Agent, at whose banks, and what is waited for."""
    phases = alternation.phases(2)
    told = {name: (each.config.manager_from, each.config.answerer_from, each.config.banks_by, each.after) for name, each in phases.items()}
    manager, reader = "grpo_manager-seed2", "grpo_answer-managed-seed2"
    assert told == {
        "first": ("", "", "append_only", ()),
        "reader": (f"{runs_in}/{manager}", "", "manager", (manager,)),
        "again": (f"{runs_in}/{manager}", f"{runs_in}/{reader}", "append_only", (manager, reader)),
        "control": (f"{runs_in}/{manager}", "", "append_only", (manager,)),
    }


def test_two_plans_of_one_name_are_refused():
    """Oracle: the sentence."""
    one = run("grpo_answer", 1)
    assert unique([one, run("grpo_answer", 2), one]) == [one, run("grpo_answer", 2)]
    with pytest.raises(ValueError, match="two different plans are named grpo_answer-seed1"):
        unique([one, Run(one.name, run("grpo_answer", 1, steps=3).config)])


def test_run_of_another_configuration_is_refused(runs_in):
    """Oracle: the sentence; a run that has not ended is no run yet."""
    planned = run("grpo_answer", 1)
    assert not jobs.is_trained(planned)
    planned.folder.mkdir()
    (planned.folder / "config.json").write_text(json.dumps({"agent": "answerer", "steps": 3}))
    with pytest.raises(ValueError, match="holds a run of another configuration; move it away"):
        jobs.is_trained(planned)


# ---------------------------------------------------------------------------------------------------------------------------- pool


class Recorder:
    """Starts processes that end at once, and remembers the order; a job whose name is in `fails` fails."""

    def __init__(self, folder, fails=()):
        self.folder, self.fails, self.started = folder, fails, []

    def start(self, item, core, workers):
        self.started.append(item.name)
        done = self.folder / f"{item.name}.done"
        body = "import sys; sys.exit(1)" if item.name in self.fails else f"open({str(done)!r}, 'w')"
        return subprocess.Popen([sys.executable, "-c", body])

    def is_done(self, item):
        return (self.folder / f"{item.name}.done").exists()


@pytest.fixture
def recorder(runs_in, monkeypatch):
    """Jobs that take no time; `runs_in` has the files that say which are done."""

    def make(fails=()):
        recorder = Recorder(runs_in, fails)
        monkeypatch.setattr(pool, "_start", recorder.start)
        monkeypatch.setattr(pool, "is_done", recorder.is_done)
        return recorder

    return make


A, B, C = (Run(name, Config(), after) for name, after in (("a", ()), ("b", ("a",)), ("c", ())))
BOTH = Pair("both", Config(), ("b", "c"))


@pytest.mark.parametrize("workers", [1, 3])
def test_jobs_wait_for_what_they_need_and_are_done_once(recorder, workers):
    """Oracle: the places in the list of what was started; started again, nothing is."""
    first = recorder()
    pool.do_all([BOTH, B, A, C], workers)
    order = first.started.index
    assert sorted(first.started) == ["a", "b", "both", "c"]
    assert order("a") < order("b") < order("both")
    assert order("c") < order("both")
    again = recorder()
    pool.do_all([BOTH, B, A, C], workers)
    assert again.started == []


def test_failed_job_stops_only_what_waits_for_it(recorder):
    """Oracle: the names in the sentence, and the list of what was started."""
    first = recorder(fails=("a",))
    with pytest.raises(RuntimeError, match="these failed or wait for one that did: a, both, b"):
        pool.do_all([BOTH, B, A, C], 2)
    assert sorted(first.started) == ["a", "c"]
    again = recorder()
    pool.do_all([BOTH, B, A, C], 2)
    assert again.started == ["a", "b", "both"]


def test_what_a_job_cost_is_added_to_what_it_cost_before(runs_in):
    """Oracle: sums by hand; two jobs of one commit and machine."""
    jobs.add_cost(A, 30.0)
    jobs.add_cost(A, 60.0)
    jobs.add_cost(BOTH, 15.0)
    found = jobs.costs([A, BOTH])
    assert found["minutes"] == 1.8  # 105 seconds, rounded
    assert (len(found["commits"]), found["machine"]) == (1, jobs.describe_machine())


# -------------------------------------------------------------------------------------------------------------------------- scores


def write_scores(made, values, conversations, categories):
    """Writes the scores file of a pair: the same values for all metrics."""
    kept = dict(scores=dict.fromkeys(("em", "f1", "bleu1"), values), conversation=conversations, category=categories)
    kept |= dict(
        operations={"add": 1, "update": 1, "delete": 0, "noop": 2},
        bank_fill=0.5,
        evidence_recall=0.5,
        response_tokens=3.0,
        answer_words=1.0,
    )
    path = scores.scores_path(made)
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(kept))


def test_summary_of_seeds(runs_in):
    """Oracle: means by hand."""
    pairs = [Pair(f"row-seed{seed}", Config()) for seed in (1, 2)]
    write_scores(pairs[0], [1.0, 0.0, 1.0, 1.0], [0, 0, 1, 1], [1, 2, 1, 2])
    write_scores(pairs[1], [0.0, 0.0, 1.0, 0.0], [0, 0, 1, 1], [1, 2, 1, 2])
    found = scores.summarise(pairs)
    assert found["em"] == 50.0
    assert found["seeds"]["f1"] == [75.0, 25.0]
    assert found["ci95"]["bleu1"] == [0.0, 100.0]  # the worst conversation of the worst seed, twice; the best twice
    assert scores.summarise(pairs, category=1)["em"] == 75.0


def test_rows_are_compared_question_by_question(runs_in):
    """Oracle: all 2^6 signs of six conversations, by hand: only the observed ones and their opposites are as far from 0."""
    rows = [[Pair(f"{row}-seed{seed}", Config()) for seed in (1, 2)] for row in "ab"]
    for a, b in zip(*rows, strict=True):
        write_scores(a, [1.0, 1.0, 1.0, 1.0, 1.0, 1.0], list(range(6)), [1] * 6)
        write_scores(b, [0.0] * 6 if b.name == "b-seed1" else [1.0] * 6, list(range(6)), [1] * 6)
    assert scores.p_value(*rows) == pytest.approx(2 / 64, rel=0.2)
    assert scores.p_value(rows[0], rows[0]) == 1.0


def test_interval_of_seeds_draws_both():
    """Oracle: a plain loop over draws of its own; and Student's formula for what seeds alone, or conversations alone, would give."""
    rng = np.random.default_rng(0)
    clusters = np.repeat(np.arange(30), 4)
    scores_nQ = rng.random((3, 120)) + np.asarray([0.0, 0.3, 0.6])[:, None] + rng.random(30)[clusters]
    means = []
    for _ in range(4000):
        seeds, drawn = rng.integers(0, 3, 3), rng.integers(0, 30, 30)
        means.append(np.mean([scores_nQ[i, clusters == c] for i in seeds for c in drawn]))
    expected = np.quantile(means, [0.025, 0.975])
    np.testing.assert_allclose(interval_of_seeds(scores_nQ, clusters, 0), expected, atol=0.03)
    alone = interval_of_seeds(scores_nQ[:1], clusters, 0)
    np.testing.assert_allclose(alone, bootstrap_interval(scores_nQ[0], clusters, 1), atol=0.02)
    assert interval_of_seeds(np.ones((3, 120)), clusters, 0) == (1.0, 1.0)


# -------------------------------------------------------------------------------------------------------------------------- tables


def scored(em, low, high):
    """Returns a cell as `summarise` makes it."""
    each = {"em": em, "f1": em, "bleu1": em}
    return each | {"ci95": dict.fromkeys(each, [low, high]), "seeds": dict.fromkeys(each, [em]), "questions": 4}


def test_table_is_read_as_it_was_written(tmp_path, monkeypatch):
    """Oracle: the table itself; the lines of the CSV by hand."""
    monkeypatch.setattr(table, "OUT", tmp_path)
    rows = {"base": {"grpo": scored(40.0, 35.0, 45.0), "words": 1.5}, "full": {"grpo": scored(60.0, 55.0, 65.0), "words": 2}}
    made = table.Table("t", "T", "Which?", rows, {"base": {"F1": "26.7"}}, "theirs", ("found",), ("note",), b"png")
    about = {"machine": "m", "commits": ["c"], "minutes": 1.0}
    table.write_table(made, about)
    assert table.read_table("t") == (made, about)
    assert table.read_table("other") is None
    assert (tmp_path / "t.csv").read_text().splitlines()[:2] == ["row,column,metric,value,low,high", "base,grpo,em,40.000,35.000,45.000"]
    header, lines = table.cells(made)
    assert header == ["", "grpo EM", "grpo F1", "grpo BLEU-1", "words", "paper: F1"]
    assert lines[0] == ["base", *["40.0 [35.0, 45.0]"] * 3, "1.50", "26.7"]
    assert lines[1][-2:] == ["2", ""]


def test_order_of_two_rows():
    """Oracle: by hand."""
    assert table.holds(scored(40.0, 35.0, 45.0), scored(60.0, 55.0, 65.0)) == "above, intervals apart"
    assert table.holds(scored(40.0, 35.0, 45.0), scored(44.0, 39.0, 49.0)) == "above, intervals overlap"
    assert table.holds(scored(40.0, 35.0, 45.0), scored(30.0, 25.0, 50.0)) == "not above"


def test_ablation_table_has_its_rows(runs_in):
    """Oracle: the rows and keys that programs read in paper/ablation.json."""
    from paper import ablation

    for algorithm in ablation.ALGORITHMS:
        for place, row in enumerate(ROWS):
            for each in row_pairs(algorithm, row):
                write_scores(each, [float(place > 1), 1.0, 0.0, 0.0], [0, 0, 1, 1], [1, 1, 1, 1])
    made = ablation.make()
    assert list(made.rows) == ["base", "rl_manager", "rl_answer", "no_distillation", "full"]
    for row in made.rows.values():
        assert set(row) == {"grpo", "ppo"}
        assert all({"em", "f1", "bleu1", "ci95", "seeds"} <= set(cell) for cell in row.values())
    assert made.rows["full"]["ppo"]["em"] == 50.0
    assert made.figure.startswith(b"\x89PNG")


def write_log(folder, rewards):
    """Writes the log of a run: a step a reward, a second each."""
    folder.mkdir(parents=True, exist_ok=True)
    shares = {f"share_{kind}": 0.25 for kind in ("add", "update", "delete", "noop")}
    lines = [
        {"step": step, "reward": reward, "seconds": 1.0, "dead_groups": 0.5, "reward_std": 0.25, **shares}
        for step, reward in enumerate(rewards, 1)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_every_table_is_made_of_what_its_runs_left(runs_in, monkeypatch):
    """Oracle: the names of the rows, and figures by hand, from logs and scores of one kind; JSON takes all of it."""
    monkeypatch.setattr(table, "OUT", runs_in / "out")
    for item in everything([name for name in TABLES if name != "latency"]):
        if isinstance(item, Run):
            write_log(item.folder, [0.2] * 10 + [0.6] * 30)
        elif isinstance(item, Accuracy):
            right = {"kind": 0.5, "to_the_letter": 0.25, "by_fact": {"new": 0.75}, "confusion": {}}
            scores.scores_path(item).parent.mkdir(exist_ok=True)
            scores.scores_path(item).write_text(json.dumps(right))
        elif isinstance(item, Pair):
            write_scores(item, [1.0, 0.0, 0.0, 0.0] if item.name == "start" else [1.0, 1.0, 0.0, 1.0], [0, 0, 1, 1], [1, 2, 3, 4])
        else:
            for name in NOTES:
                write_scores(baseline_pair(name), [0.0, 0.0, 0.0, 1.0], [0, 0, 1, 1], [1, 2, 3, 4])
    made = {name: module.make() for name, module in TABLES.items() if name != "latency"}
    for each in made.values():
        table.write_table(each, {"machine": "m", "commits": [], "minutes": 0.0})
        assert table.read_table(each.name)[0].rows == each.rows
    assert list(made["main"].rows) == [*NOTES, "memory_r1_ppo", "memory_r1_grpo"]
    assert made["main"].rows["rag_turns"]["EM, not mentioned"] == 100.0
    assert made["main"].rows["memory_r1_grpo"]["EM, temporal"] == 0.0
    assert made["algorithms"].rows["dapo"]["reward, last ten steps"] == pytest.approx(0.6)
    assert made["algorithms"].rows["dr_grpo"]["minutes"] == pytest.approx(40 / 60)
    assert made["credit"].rows["replay, short conversations first"]["steps"] == 80
    assert made["credit"].rows["at once"]["spread of a group's rewards at first"] == pytest.approx(0.25)
    assert made["alternation"].rows["or the Manager again, beside the start's"]["scores"]["em"] == 75.0
    assert made["rewards"].rows["judge_like"]["scores"]["em"] == 75.0
    assert made["curves"].rows["Answer Agent, PPO"]["reward, first ten steps"] == pytest.approx(0.2)
    assert made["operations"].rows["PPO, test split"]["to the letter"] == 25.0
    assert made["operations"].rows["start, test split"]["as the oracle, new"] == 75.0
    assert made["operations"].rows["GRPO, last ten steps"] == dict.fromkeys(("ADD", "UPDATE", "DELETE", "NOOP"), 25.0)
