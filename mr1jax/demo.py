"""The whole paper in miniature: from the warm start, train the Answer Agent, then the Manager, and see what each is worth.

Both learn by GRPO from nothing but exact match. What is evaluated are conversations of the test split: other people, other values, other
wordings than any that trained the tokenizer, the warm start or the agents.
"""

import json
import time
from pathlib import Path

from mr1jax import evaluate, report
from mr1jax.benchmark import compare
from mr1jax.config import Config, replace, require
from mr1jax.data.honesty import DATA_FILE, describe_data, summarise
from mr1jax.data.memdial.world import CATEGORIES, conversations
from mr1jax.evaluate import Row
from mr1jax.model.weights import save_params
from mr1jax.prepare import Start, encode, load_start, make_tasks
from mr1jax.run_log import Record
from mr1jax.structs import PyTree
from mr1jax.train import train

NUM_TEST_CONVERSATIONS = 40  # about 700 questions
MIN_QUESTIONS = 500
TRAIN_SEED = 1  # of the draw of training conversations; the warm start's are draw 0


def run_demo(answerer: Config, manager: Config, folder: Path, eval_seed: int) -> dict[str, Row]:
    """Trains both agents, evaluates the six rows of the table and writes the report, weights and curves into `folder`."""
    started = time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)
    start = load_start(answerer)
    warm = start.params
    told = list(conversations("test", eval_seed, NUM_TEST_CONVERSATIONS))
    known = list(conversations("train", TRAIN_SEED, max(answerer.conversations, manager.conversations)))
    data = describe_data("memdial", {"train": known, "test": told})  # refuses a leak
    report.write_whole(folder / DATA_FILE, json.dumps(data, indent=2) + "\n")
    print(summarise(data))
    test = encode(told, start)
    asked = len(evaluate.ask_at_end(test))
    require(asked >= MIN_QUESTIONS, f"draw {eval_seed} has {asked} questions, fewer than {MIN_QUESTIONS}; choose another --eval-seed")

    answerer_params, answerer_log, num_compiled = _train_agent(start, warm, answerer, folder)
    half_trained = warm | {"answerer": answerer_params}
    manager_params, manager_log, num_compiled_too = _train_agent(start, half_trained, manager, folder)

    rows = compare(start, {"answerer": answerer_params, "manager": manager_params}, test, eval_seed)
    report.draw_curves(folder / "curves.png", {"Answer Agent": _curve(answerer_log), "Memory Manager": _curve(manager_log)})
    p_value = evaluate.p_value(rows[report.most_trained(rows)], rows[report.BASELINE], eval_seed)
    report.print_table(rows)
    report.write_report(
        folder,
        rows,
        about=__doc__,
        categories=CATEGORIES,
        seed=eval_seed,
        seconds=time.monotonic() - started,
        compilations=num_compiled + num_compiled_too + evaluate.compilations(),
        p_value=p_value,
    )
    gain = rows[report.most_trained(rows)].em - rows[report.BASELINE].em
    print(f"\nboth trained against warm start: {gain:+.1f} EM points on {asked} questions, p = {p_value:.4f}")
    print(f"report: {folder / 'report.md'}, {folder / 'report.json'}, {folder / 'curves.png'}")
    return rows


def _train_agent(start: Start, params: dict[str, PyTree], config: Config, folder: Path) -> tuple[PyTree, list[Record], int]:
    """Trains the agent that `config` names, the other frozen, and keeps its weights."""
    start = Start(replace(config, model=start.config.model), params, start.tokenizer, start.language)
    records = list(conversations("train", TRAIN_SEED, config.conversations))
    tasks = make_tasks(records, start)
    state, log, compiled = train(start.config, params, tasks, start.language, description=f"train the {config.agent}")
    trained = state.params[config.agent]
    save_params(folder / f"{config.agent}.safetensors", trained, {"agent": config.agent})
    return trained, log, compiled


def _curve(log: list[Record]) -> list[tuple[int, float]]:
    return [(int(record["step"]), record["reward"]) for record in log]
