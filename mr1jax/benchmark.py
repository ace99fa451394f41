"""Evaluates what an experiment trained, beside the warm start: on memdial's test split, or on LoCoMo as the paper does."""

import time
from pathlib import Path
from typing import Any

from mr1jax import evaluate, locomo_report, report
from mr1jax.config import AgentConfig, BankConfig, Config, replace, require
from mr1jax.data.datasets import read_split
from mr1jax.data.memdial.world import CATEGORIES
from mr1jax.evaluate import Row
from mr1jax.prepare import Start, encode, load_start
from mr1jax.structs import Conversation

LOCOMO_BANK = BankConfig(num_slots=768, slot_width=64)
LOCOMO_ANSWERER = AgentConfig(num_retrieved=30, prompt_length=512, response_length=96, per_speaker=True)  # the paper's 30 + 30
LOCOMO_MANAGER = AgentConfig(num_retrieved=3, prompt_length=320, response_length=72)


def for_locomo(config: Config) -> Config:
    """Gives a configuration the bank, the budgets and the 30 + 30 retrieval that LoCoMo's long conversations need.

    A bank holds every memory of a conversation, so what is lost is lost by the Manager. What of the 60 does not fit the prompt of a small
    model is dropped from the lowest rank up.
    """
    return replace(config, bank=LOCOMO_BANK, manager=LOCOMO_MANAGER, answerer=LOCOMO_ANSWERER)


def run_benchmark(config: Config, folder: Path, source: str, data_dir: Path, seed: int) -> dict[str, Row]:
    """Evaluates the agent trained in `folder`, prints the table and writes `folder/eval_<source>/`.

    source: "memdial", "locomo", "locomo/turns" or "locomo/turns_no_captions". The rows are warm_start, which is what the run started from,
    and rl_both, with the trained agent in its place.
    """
    weights = folder / f"{config.agent}.safetensors"
    require(weights.is_file(), f"there is no trained {config.agent} at {weights}; run: make train EXP={folder.name}")
    started = time.monotonic()
    config = for_locomo(config) if source.startswith("locomo") else config
    records = read_split(source, "test", data_dir)
    start = load_start(config)
    trained = load_start(replace(config, **{f"{config.agent}_from": str(folder)}))
    conversations = encode(records, start)
    rows = {report.BASELINE: _row(start, conversations, seed), report.TRAINED: _row(trained, conversations, seed)}
    p_value = evaluate.p_value(rows[report.TRAINED], rows[report.BASELINE], seed)
    common: Any = dict(seed=seed, seconds=time.monotonic() - started, compilations=evaluate.compilations(), p_value=p_value)
    out = folder / f"eval_{source.replace('/', '_')}"
    if source == "memdial":
        report.print_table(rows)
        report.write_report(
            out, rows, about=f"The {config.agent} of `{folder.name}` on the test split of memdial.", categories=CATEGORIES, **common
        )
    else:
        locomo_report.print_locomo(rows)
        facts = "turns" if "turns" in source else "observations"
        ids = [record.id for record in records]
        locomo_report.write_locomo_report(out, rows, ids, facts=facts, captions=source == "locomo/turns", **common)
    print(f"report: {out}")
    return rows


def _row(start: Start, conversations: Conversation, seed: int) -> Row:
    memories = evaluate.build_banks(start.params["manager"], conversations, start.language, start.config)
    return evaluate.evaluate(start.params["answerer"], memories, conversations, start.language, start.config, seed=seed)
