"""What one turn costs: calls of a model and tokens, of an add of one sentence and of an answer."""

import dataclasses
import statistics
from collections.abc import Mapping
from typing import Any

import jax

from bench.service.told import told
from mr1jax.agents.answerer import AskedQuestion
from mr1jax.agents.manager import NewFact
from mr1jax.agents.prompts import Dates
from mr1jax.config import Config
from mr1jax.evaluate import Replies, what_matters
from mr1jax.prepare import Start, load_start
from mr1jax.service import programs
from mr1jax.service.agent import MemoryAgent
from mr1jax.service.engine import CompiledModel, Engine
from mr1jax.service.extract import WholeSentences
from mr1jax.service.programs import Decisions
from mr1jax.service.sql_store import IN_MEMORY, SqlStore
from mr1jax.service.streaming import Hear

MEM0_CALLS = {"add": 2, "search": 0}
"""Calls of a language model that mem0 makes: one finds the facts in what was said, one decides what they do to memories like them (arXiv
2504.19413, section 2.1). Answering is left to the caller. Its tokens are not measured here."""


class Counting:
    """The compiled agents, and how long the prompts and responses of each call were."""

    def __init__(self, start: Start):
        self._model, self._language, self._config = CompiledModel(start), start.language, what_matters(start.config)
        self.tokens: dict[str, list[tuple[int, int]]] = {"add": [], "answer": []}

    def decide(self, rows: NewFact, fact: NewFact, dates: Dates) -> Decisions:
        view, decided = programs.show_fact(rows, fact, dates, self._language, self._config), self._model.decide(rows, fact, dates)
        self.tokens["add"].append((int(view.length[0]), int(decided.response_length[0])))
        return decided

    def reply(self, rows: NewFact, question: AskedQuestion, dates: Dates, heard: Mapping[int, Hear]) -> Replies:
        view = programs.show_question(rows, question, dates, self._language, self._config)
        reply = self._model.reply(rows, question, dates, heard)
        self.tokens["answer"].append((int(view.length[0]), int(reply.response_length[0])))
        return reply


def measure(conversations: int = 2) -> dict[str, Any]:
    """Tells the tiny agent some conversations, then asks about them: {"mr1jax": {"add": {"calls", "prompt_tokens", ...}}, "mem0"}."""
    start = load_start(Config())
    counting = Counting(start)
    engine, turns = Engine(start, counting), {"add": 0, "answer": 0}
    with MemoryAgent(engine, SqlStore(IN_MEMORY), WholeSentences(engine.speller, engine.slot_width)) as agent:
        for number, each in enumerate(told(conversations)):
            for text in each.facts:
                agent.add(text, user_id=f"user-{number}")
            for text in each.questions:
                agent.answer(text, user_id=f"user-{number}")
            turns = {"add": turns["add"] + len(each.facts), "answer": turns["answer"] + len(each.questions)}
    ours = {kind: _summary(counting.tokens[kind], turns[kind]) for kind in turns}
    print(f"a turn, mr1jax: {ours}; mem0: {MEM0_CALLS['add']} calls of a language model an add", flush=True)
    return {"mr1jax": ours, "mem0": {"calls": MEM0_CALLS}, "parameters": _parameters(start), **_budgets(start)}


def _summary(tokens: list[tuple[int, int]], turns: int) -> dict[str, float]:
    prompt, response = ([pair[k] for pair in tokens] for k in (0, 1))
    means = {"prompt_tokens": round(statistics.fmean(prompt), 1), "response_tokens": round(statistics.fmean(response), 1)}
    return {"calls": len(tokens) / turns, **means}


def _parameters(start: Start) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(start.params["manager"]))


def _budgets(start: Start) -> dict[str, Any]:
    agents = {"manager": start.config.manager, "answerer": start.config.answerer}
    return {"budgets": {name: dataclasses.asdict(agent) for name, agent in agents.items()}}
