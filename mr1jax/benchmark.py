"""Compares what was trained with what it started from, on memdial's test split, or on LoCoMo, LongMemEval and MSC as the paper does.

The rows of a table are pairings of banks and readers: a Manager, or none, that built the banks, and an Answer Agent that reads them.
"""

import dataclasses
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mr1jax import chat_report, evaluate, locomo_report, report
from mr1jax.config import AGENTS, AgentConfig, BankConfig, Config, replace, require
from mr1jax.data.datasets import build_dataset, read_split
from mr1jax.data.episodes import count_cut_facts
from mr1jax.data.memdial.world import CATEGORIES
from mr1jax.data.records import Record
from mr1jax.evaluate import Memories, Row
from mr1jax.judge import Judge, Verdicts, check_judge, judge_row, signature
from mr1jax.model.lora import BASE, agent_params
from mr1jax.prepare import Start, encode, load_agent, load_start
from mr1jax.structs import Conversation, PyTree
from mr1jax.text.tokenizer import Tokenizer

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


def for_chats(config: Config, records: Sequence[Record], tokenizer: Tokenizer) -> Config:
    """Gives a configuration made for LoCoMo what LongMemEval and MSC need besides: a slot for every fact of the longest conversation.

    The tiny model's prompt grows by its longest question, so that as much of the memories fits as on LoCoMo.
    """
    bank = replace(config.bank, num_slots=max(len(record.facts) for record in records))
    if config.backbone:
        return replace(config, bank=bank)
    longest = max(len(tokenizer.encode(question.question)) for record in records for question in record.questions)
    answerer = replace(config.answerer, prompt_length=config.answerer.prompt_length + longest)
    return replace(config, bank=bank, answerer=answerer)


def load_start_for(source: str, config: Config, records: Sequence[Record]) -> Start:
    """Reads tokenizer and parameters for an evaluation, with the configuration that the data set needs."""
    if source == "memdial":
        return load_start(config)
    start = load_start(for_locomo(config))
    return start if source.startswith("locomo") else dataclasses.replace(start, config=for_chats(start.config, records, start.tokenizer))


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


def run_benchmark(
    config: Config, folder: Path, partner: Path, source: str, data_dir: Path, seed: int, judge: Judge | None = None
) -> dict[str, Row]:
    """Evaluates the agent trained in `folder`, prints the table and writes `folder/eval_<source>/`, by dense retrieval `.._dense/`.

    partner: the folder of a run that trained the other agent; where there is none, that agent is the warm start's throughout.
    source: "memdial", "locomo", "locomo/turns", "locomo/turns_no_captions", "msc", "longmemeval" or "longmemeval/s".
    judge: asked about every answer, its verdicts kept beside the runs; of memdial's answers nobody has to judge.
    """
    weights = folder / f"{config.agent}.safetensors"
    require(weights.is_file(), f"there is no trained {config.agent} at {weights}; run: make train EXP={folder.name}")
    started, retrieval = time.monotonic(), config.answerer.retrieval
    out = folder / "_".join(["eval", *source.split("/"), *([] if retrieval == "lexical" else [retrieval])])
    verdicts = open_verdicts(folder.parent, out, source, judge) if judge else None
    records = read_split(source, "test", data_dir)
    start = load_start_for(source, replace(config, manager_from="", answerer_from=""), records)
    trained = load_trained(start, [folder, partner])
    rows = compare(start, trained, encode(records, start), seed)
    if judge:
        rows = {name: judge_row(row, judge, verdicts, seed) for name, row in rows.items()}
    p_value = evaluate.p_value(rows[report.most_trained(rows)], rows[report.BASELINE], seed)
    common: Any = dict(seed=seed, seconds=time.monotonic() - started, compilations=evaluate.compilations(), p_value=p_value)
    ids = [record.id for record in records]
    if source == "memdial":
        about = f"The test split of memdial; trained: {' and '.join(f'the {agent}' for agent in trained)}; retrieval: {retrieval}."
        report.print_table(rows)
        report.write_answers(out, rows, ids)
        report.write_report(out, rows, about=about, categories=CATEGORIES, **common)
    elif source.startswith("locomo"):
        locomo_report.print_locomo(rows)
        facts = "turns" if "turns" in source else "observations"
        locomo_report.write_locomo_report(out, rows, ids, facts=facts, captions=source == "locomo/turns", retrieval=retrieval, **common)
    else:
        metadata = build_dataset(source, data_dir).info.metadata
        report_chats(out, source, rows, records, start, common | {"retrieval": retrieval, "dataset": dict(metadata)})
    print(f"report: {out}")
    return rows


def open_verdicts(runs: Path, out: Path, source: str, judge: Judge) -> Verdicts:
    """Opens the verdicts that all runs share and asks the judge one thing, so that what can go wrong does so before anything is computed.

    Raises ValueError where the judge does not answer, where the report in `out` is another judge's, and for memdial.
    """
    require(source != "memdial", "memdial's answers are exact and need no judge; leave --judge-url and --judge-model out")
    before = _judge_before(out / report.REPORT)
    require(
        before in (None, signature(judge)), f"{out} was judged by {before}, and this judge is {signature(judge)}; move that folder away"
    )
    verdicts = Verdicts(runs / "verdicts.sqlite")
    check_judge(judge, verdicts)
    return verdicts


def _judge_before(path: Path) -> str | None:
    """Returns the judge that a report names, None where there is neither."""
    try:
        return json.loads(path.read_text()).get("judge") if path.is_file() else None
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{path} is damaged ({error}); move {path.parent} away") from error


def report_chats(out: Path, source: str, rows: Mapping[str, Row], records: Sequence[Record], start: Start, about: dict[str, Any]) -> None:
    """Prints and writes the report of LongMemEval or MSC, with the number of facts that lose their end in a slot."""
    kinds = chat_report.MSC if source == "msc" else chat_report.LONGMEMEVAL
    print(chat_report.format_chat(rows, kinds))
    cut = count_cut_facts(records, start.tokenizer, start.config.bank.slot_width)
    chat_report.write_chat_report(out, rows, kinds, [record.id for record in records], about | {"facts_cut": cut})


def load_trained(start: Start, folders: list[Path]) -> dict[str, PyTree]:
    """Reads the agents that were trained in any of the folders, the first that has one."""
    found = {agent: next((folder for folder in folders if (folder / f"{agent}.safetensors").is_file()), None) for agent in AGENTS}
    base = start.params.get(BASE)
    return {agent: load_agent(start.config, agent, folder, base) for agent, folder in found.items() if folder is not None}
