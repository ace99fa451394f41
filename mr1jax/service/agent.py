"""`MemoryAgent`: what a program calls. The names and the shapes of what comes back are mem0's."""

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mr1jax.config import AGENTS, AgentConfig, BankConfig, Config, MeshConfig, replace, require
from mr1jax.experiment import read_run
from mr1jax.prepare import load_start
from mr1jax.service import extract, jsonl, programs
from mr1jax.service.chat_server import ChatServer
from mr1jax.service.draft import Draft, Said, as_line
from mr1jax.service.engine import Engine, Line, Reply, Request
from mr1jax.service.extract import BackboneExtractor, Extractor, WholeSentences
from mr1jax.service.facts import read_messages
from mr1jax.service.memories import Memories
from mr1jax.service.records import Json, Memory, Receipt, Scope
from mr1jax.service.remote import RemoteExtractor, RemoteModel, remote_start
from mr1jax.service.sql_store import IN_MEMORY, SqlStore
from mr1jax.service.store import Store
from mr1jax.service.texts import check_metadata, check_name, check_text, date_text, now, read_time
from mr1jax.text.huggingface_tokenizer import HuggingFaceTokenizer

# Budgets of a backbone, in tokens of its own; a run has those that it was trained with.
_BACKBONE_BANK = BankConfig(num_slots=64, slot_width=64, num_terms=64)
_BACKBONE_MANAGER = AgentConfig(num_retrieved=10, prompt_length=1024, response_length=96)
_BACKBONE_ANSWERER = AgentConfig(num_retrieved=30, prompt_length=2560, response_length=320)


class MemoryAgent(Memories):
    """Remembers by a trained Manager and answers from memory; the rest is that of `Memories`."""

    def __init__(self, engine: Engine, store: Store, extractor: Extractor):
        super().__init__(store)
        self.engine, self.extractor = engine, extractor
        self.server: ChatServer | None = None  # where both agents are a model behind a URL

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path = "",
        *,
        store: str = IN_MEMORY,
        manager_from: str = "",
        answerer_from: str = "",
        base_url: str = "",
        model: str = "",
    ) -> "MemoryAgent":
        """Opens an agent and its store.

        path: empty for the tiny agent that ships, the folder of a run, or a backbone as in `Config.backbone`; store: "memory",
        "sqlite:///file.db" or "postgresql+psycopg://..."; manager_from, answerer_from: runs whose trained agents to use;
        base_url, model: of a server of OpenAI's chat completions, which then is both agents, and no weights are read.
        Raises ValueError where something is not there or does not fit.
        """
        opened = SqlStore(store)
        try:
            if base_url or model:
                require(not (path or manager_from or answerer_from), "base_url is given beside a path; give the one or the other")
                return cls._remote(opened, base_url, model)
            start = load_start(_read_config(str(path), manager_from, answerer_from))
            engine, tokenizer = Engine(start), start.tokenizer
            if isinstance(tokenizer, HuggingFaceTokenizer):
                return cls(engine, opened, BackboneExtractor(start, tokenizer, engine.speller))
            return cls(engine, opened, WholeSentences(engine.speller, engine.slot_width))
        except BaseException:
            opened.close()
            raise

    @classmethod
    def _remote(cls, store: Store, base_url: str, model: str) -> "MemoryAgent":
        server, start = ChatServer(base_url, model), remote_start()  # a wrong address is refused before anything is read
        engine = Engine(start, RemoteModel(start, server))
        agent = cls(engine, store, RemoteExtractor(server, engine.speller, engine.slot_width))
        agent.server = server
        return agent

    def add(
        self,
        messages: str | Sequence[Mapping[str, Any]],
        *,
        user_id: str = "",
        agent_id: str = "",
        run_id: str = "",
        metadata: Mapping[str, Any] | None = None,
        timestamp: str | None = None,
        expires_at: str | None = None,
        dry_run: bool = False,
        idempotency_key: str = "",
    ) -> Json:
        """Remembers what was said: {"results": [{"id", "memory", "event"}], "idempotent_replay": bool}, one result an operation.

        All of it is written in one transaction, or nothing is. timestamp: when it was said; expires_at: from when on it is forgotten;
        dry_run: say what would be done, and do nothing; idempotency_key: a second call with it gets what the first one got.
        """
        scope, key = Scope(user_id, agent_id, run_id), check_name("idempotency_key", idempotency_key)
        turns, about = read_messages(messages), check_metadata(metadata)
        expires = None if expires_at is None else read_time("expires_at", expires_at)
        asked = [dataclasses.asdict(scope), [vars(turn) for turn in turns], about, timestamp, expires]
        body = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()
        when = read_time("timestamp", timestamp)
        if (known := self._recorded(scope, key, body, dry_run)) is not None:
            return known
        facts = [Said(text, when, turn.speaker, about, expires) for turn in turns for text in self.extractor.facts(turn)]
        return self.in_turn(scope, lambda: self._add_once(scope, facts, dry_run, key, body))

    def _recorded(self, scope: Scope, key: str, body: str, dry_run: bool) -> Json | None:
        known = self.store.receipt(scope, key) if key and not dry_run else None
        if known is None:
            return None
        require(known.body == body, f"idempotency_key {key!r:.60} was used for another request; give each request its own")
        return known.result | {"idempotent_replay": True}

    def _add_once(self, scope: Scope, facts: Sequence[Said], dry_run: bool, key: str, body: str) -> Json:
        if (known := self._recorded(scope, key, body, dry_run)) is not None:  # another call with the key may just have been done
            return known
        draft = Draft(self.store, scope, now())
        for said in facts:
            shown = draft.candidates(said.text, self.engine.num_slots)
            asked = Line(said.text, date_text(said.time), said.speaker)
            draft.apply(self.engine.decide(Request(tuple(map(as_line, shown)), asked)), said, shown)
        if dry_run:
            added = {event.memory_id for event in draft.events if event.event == "ADD"}  # it has no id before it is there
            results = [each | {"id": "" if each["id"] in added else each["id"]} for each in draft.results]
            return {"results": results, "idempotent_replay": False}
        result = {"results": draft.results, "idempotent_replay": False}
        if draft.events or key:
            self.store.commit(scope, draft.events, version=draft.version, receipt=Receipt(key, body, result) if key else None)
        return result

    def answer(self, question: str, *, user_id: str = "", agent_id: str = "", run_id: str = "", timestamp: str | None = None) -> Json:
        """Answers from memory: {"answer", "response", "memories": [{"id", "memory", "selected", "score"}]}.

        memories: what the Answer Agent was shown, in its order; selected: it quotes this one. timestamp: of the question; memories that
        have expired by then are not shown.
        """
        request, memories, score_of = self._asked(Scope(user_id, agent_id, run_id), question, timestamp)
        return _answered(self.engine.reply(request), memories, score_of)

    def stream_answer(
        self, question: str, *, user_id: str = "", agent_id: str = "", run_id: str = "", timestamp: str | None = None
    ) -> Iterator[Json]:
        """Answers as `answer` does: {"piece"} for each further piece of the answer as it is written, and last what `answer` returns.

        Asked at once, and what is wrong with a question is said at once.
        """
        request, memories, score_of = self._asked(Scope(user_id, agent_id, run_id), question, timestamp)
        coming = self.engine.stream(request)
        return ({"piece": each} if isinstance(each, str) else _answered(each, memories, score_of) for each in coming)

    def _asked(self, scope: Scope, question: str, timestamp: str | None) -> tuple[Request, list[Memory], dict[str, float]]:
        """Finds what the Answer Agent may be shown: the request, the memories in its order, and how well each fits, by its id."""
        text, when = check_text("the question", question), read_time("timestamp", timestamp)
        index = self.store.index(scope, max(when, now()))
        score_of = dict(index.best(text, self.engine.num_slots))
        found = self.store.fetch(scope, list(score_of))
        memories = [found[memory_id] for memory_id in index.ids if memory_id in score_of and memory_id in found]
        return Request(tuple(map(as_line, memories)), Line(text, date_text(when))), memories, score_of

    def export_jsonl(self, path: str | Path, *, user_id: str = "", agent_id: str = "", run_id: str = "") -> int:
        """Writes what a scope remembers, one JSON object a line; returns how many memories."""
        return jsonl.export_jsonl(self, path, Scope(user_id, agent_id, run_id))

    def import_jsonl(self, path: str | Path, *, user_id: str = "", agent_id: str = "", run_id: str = "") -> int:
        """Adds the memories of an export to a scope, each as it is; returns how many were new."""
        return jsonl.import_jsonl(self, path, Scope(user_id, agent_id, run_id))

    def compilations(self) -> int:
        """Counts how often the agents' programs have been compiled in this process."""
        return programs.compilations() + extract.compilations()

    def close(self) -> None:
        """Serves what waits, then lets go of the store."""
        self.engine.close()
        self.extractor.close()
        self.store.close()

    def __enter__(self) -> "MemoryAgent":
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()


def _answered(reply: Reply, memories: Sequence[Memory], score_of: Mapping[str, float]) -> Json:
    shown = [
        {"id": memories[k].id, "memory": memories[k].memory, "selected": k in reply.quoted, "score": score_of[memories[k].id]}
        for k in reply.shown
    ]
    return {"answer": reply.answer, "response": reply.response, "memories": shown}


def _read_config(path: str, manager_from: str, answerer_from: str) -> Config:
    """Says what to load: a run's own configuration with the agent that it trained, a backbone, or what ships."""
    config = Config()
    if path and any((Path(path) / f"{agent}.safetensors").is_file() for agent in AGENTS):  # a backbone has a config.json too
        config = read_run(Path(path))
        config = replace(config, mesh=MeshConfig(), **{f"{config.agent}_from": path})
    elif path:
        config = replace(config, backbone=path, bank=_BACKBONE_BANK, manager=_BACKBONE_MANAGER, answerer=_BACKBONE_ANSWERER)
    named = {"manager_from": manager_from, "answerer_from": answerer_from}
    return replace(config, **{name: run for name, run in named.items() if run})
