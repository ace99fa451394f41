"""Compares what was trained with what it started from, on memdial's test split or on LoCoMo as the paper does.

The rows of a table are pairings of banks and readers: a Manager, or none, that built the banks, and an Answer Agent that reads them.
"""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mr1jax import evaluate, locomo_report, report
from mr1jax.config import AGENTS, AgentConfig, BankConfig, Config, replace, require
from mr1jax.data.datasets import read_split
from mr1jax.data.memdial.world import CATEGORIES
from mr1jax.evaluate import Memories, Row
from mr1jax.model.lora import BASE, agent_params
from mr1jax.prepare import Start, encode, load_agent, load_start
from mr1jax.structs import Conversation, PyTree

LOCOMO_BANK = BankConfig(num_slots=768, slot_width=64, num_terms=64)  # no word of a turn is lost
LOCOMO_ANSWERER = AgentConfig(num_retrieved=30, prompt_length=112, response_length=104, per_speaker=True)  # the paper's 30 + 30
LOCOMO_MANAGER = AgentConfig(num_retrieved=3, prompt_length=160, response_length=72)


def for_locomo(config: Config) -> Config:
    """Gives a configuration the bank, the budgets and the 30 + 30 retrieval that LoCoMo's long conversations need.

    A bank holds every memory of a conversation, so what is lost is lost by the Manager. What of the 60 does not fit the prompt of a small
    model is dropped from the lowest rank up. A run with a backbone keeps its own budgets: another tokenizer and its chat need others.
    """
    if config.backbone:
        return replace(config, bank=LOCOMO_BANK, answerer=replace(config.answerer, num_retrieved=30, per_speaker=True))
    answerer = replace(LOCOMO_ANSWERER, retrieval=config.answerer.retrieval)
    return replace(config, bank=LOCOMO_BANK, manager=LOCOMO_MANAGER, answerer=answerer)


def compare(start: Start, trained: Mapping[str, PyTree], conversations: Conversation, seed: int) -> dict[str, Row]:
    """Evaluates every pairing there is, the most trained one last; banks are built once each.

    start: the warm agents; trained: parameters of "manager", "answerer" or both, or their adapters on the same base. Rows: no_memory,
    append_only, warm_start, and rl_answer, rl_manager, rl_both as far as they were trained.
    """
    language, config = start.language, start.config
    warm: dict[str, PyTree] = {agent: agent_params(start.params, agent, config.lora) for agent in AGENTS}
    trained = {agent: agent_params({**start.params, **trained}, agent, config.lora) for agent in trained}

    def row(memories: Memories, reader: Mapping[str, PyTree]) -> Row:
        return evaluate.evaluate(reader["answerer"], memories, conversations, language, config, seed=seed)

    warm_banks = evaluate.build_banks(warm["manager"], conversations, language, config)
    rows = {
        "no_memory": row(evaluate.empty_banks(conversations, config), warm),
        "append_only": row(evaluate.append_only_banks(conversations, language, config), warm),
        report.BASELINE: row(warm_banks, warm),
    }
    if "answerer" in trained:
        rows[report.OWN_ROW["answerer"]] = row(warm_banks, trained)
    if "manager" in trained:
        trained_banks = evaluate.build_banks(trained["manager"], conversations, language, config)
        rows[report.OWN_ROW["manager"]] = row(trained_banks, warm)
        if "answerer" in trained:
            rows["rl_both"] = row(trained_banks, trained)
    return rows


def run_benchmark(config: Config, folder: Path, partner: Path, source: str, data_dir: Path, seed: int) -> dict[str, Row]:
    """Evaluates the agent trained in `folder`, prints the table and writes `folder/eval_<source>/`, by dense retrieval `.._dense/`.

    partner: the folder of a run that trained the other agent; where there is none, that agent is the warm start's throughout.
    source: "memdial", "locomo", "locomo/turns" or "locomo/turns_no_captions".
    """
    weights = folder / f"{config.agent}.safetensors"
    require(weights.is_file(), f"there is no trained {config.agent} at {weights}; run: make train EXP={folder.name}")
    started = time.monotonic()
    config = replace(for_locomo(config) if source.startswith("locomo") else config, manager_from="", answerer_from="")
    records = read_split(source, "test", data_dir)
    start = load_start(config)
    trained = load_trained(start, [folder, partner])
    conversations = encode(records, start)
    rows = compare(start, trained, conversations, seed)
    p_value = evaluate.p_value(rows[report.most_trained(rows)], rows[report.BASELINE], seed)
    common: Any = dict(seed=seed, seconds=time.monotonic() - started, compilations=evaluate.compilations(), p_value=p_value)
    retrieval, ids = config.answerer.retrieval, [record.id for record in records]
    out = folder / "_".join(["eval", *source.split("/"), *([] if retrieval == "lexical" else [retrieval])])
    if source == "memdial":
        about = f"The test split of memdial; trained: {' and '.join(f'the {agent}' for agent in trained)}; retrieval: {retrieval}."
        report.print_table(rows)
        report.write_answers(out, rows, ids)
        report.write_report(out, rows, about=about, categories=CATEGORIES, **common)
    else:
        locomo_report.print_locomo(rows)
        facts = "turns" if "turns" in source else "observations"
        locomo_report.write_locomo_report(out, rows, ids, facts=facts, captions=source == "locomo/turns", retrieval=retrieval, **common)
    print(f"report: {out}")
    return rows


def load_trained(start: Start, folders: list[Path]) -> dict[str, PyTree]:
    """Reads the agents that were trained in any of the folders, the first that has one."""
    found = {agent: next((folder for folder in folders if (folder / f"{agent}.safetensors").is_file()), None) for agent in AGENTS}
    base = start.params.get(BASE)
    return {agent: load_agent(start.config, agent, folder, base) for agent, folder in found.items() if folder is not None}
