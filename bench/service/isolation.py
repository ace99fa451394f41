"""Requests of many users with each other's ids: none may be shown, or may change, what is another's.

They go to `MemoryAgent` itself, from several threads at once: over HTTP so many would take an hour. One in fifty is a question, which the
compiled agents answer in batches of several users. Every user's memories hold a word that nobody else's do: where it turns up in what
another is told, it has leaked, wherever it came from.
"""

import json
import random
import re
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mr1jax.service.agent import MemoryAgent
from mr1jax.service.memories import Memories
from mr1jax.service.records import Event, NotFound, Scope
from mr1jax.service.texts import now

REQUESTS, USERS, THREADS = 100_000, 200, 8
_EACH = 10  # memories of a user
_QUESTIONS = 0.02  # share of the requests
_SIGN = re.compile(r"user-(\d+|another)|secret(\d+)x")
_IDS = uuid.UUID("1f0e3dad-9990-4345-a439-6e0d63ce8c11")
_WORDS = "dog harbour tea boat garden school street jazz honey bees".split()


class Users:
    """Who is who: the ids of everybody's memories, and the word that each user's memories hold."""

    def __init__(self, memories: Memories, count: int):
        self.names = [f"user-{k}" for k in range(count)]
        self.word = {name: f"secret{k}x" for k, name in enumerate(self.names)}
        self.ids = {name: _fill(memories, name, self.word[name]) for name in self.names}

    def leaks(self, user: str, told: Any) -> list[str]:
        """Says what of others there is in what a user was told: their names and words."""
        text = json.dumps(told)
        numbers = {number for pair in _SIGN.findall(text) for number in pair if number}
        return [f"{user} was told of user-{number}: {text:.200}" for number in numbers if f"user-{number}" != user]


def measure(folder: Path, num_requests: int = REQUESTS) -> dict[str, Any]:
    """Sends so many requests; {"requests", "cross_user", "by_kind", "refused"}. cross_user: those that came to something of another's."""
    with MemoryAgent.from_pretrained(store=f"sqlite:///{folder}/isolation.db") as agent:
        users = Users(agent, USERS)
        before = _everything(agent, users)
        began = time.perf_counter()
        sent, leaked = ask_for_others(agent, users, num_requests, THREADS)
        seconds = time.perf_counter() - began
        leaked += [
            f"what {name} remembers has changed" for name, now_there in _everything(agent, users).items() if now_there != before[name]
        ]
    by_kind = {kind: sum(count for (of, _), count in sent.items() if of == kind) for kind in KINDS}
    refused = sum(count for (_, was_refused), count in sent.items() if was_refused)
    print(f"{sent.total()} requests with ids of others in {seconds:.0f} s, {refused} refused: {len(leaked)} told of another", flush=True)
    result = {"requests": sent.total(), "through": "MemoryAgent", "threads": THREADS, "cross_user": len(leaked), "examples": leaked[:3]}
    return result | {"by_kind": by_kind, "refused": refused, "seconds": round(seconds, 1)}


def ask_for_others(agent: MemoryAgent, users: Users, num_requests: int, threads: int) -> tuple[Counter, list[str]]:
    """Asks from several threads; returns how many requests there were by (kind, whether refused), and what was told of others."""
    sent: Counter = Counter()
    leaked: list[str] = []
    lock = threading.Lock()

    def run(number: int) -> None:
        rng, mine, found = random.Random(number), Counter(), []
        for _ in range(len(range(number, num_requests, threads))):
            kind = "answer" if rng.random() < _QUESTIONS else rng.choice(_READING)
            user, other = rng.sample(users.names, 2)
            told, refused = _told(lambda: KINDS[kind](agent, users, user, other, rng))  # noqa: B023  called at once
            mine[kind, refused] += 1
            found += users.leaks(user, told)
        with lock:
            sent.update(mine)
            leaked.extend(found)

    running = [threading.Thread(target=run, args=(number,)) for number in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    return sent, leaked


def _told(call: Callable[[], Any]) -> tuple[Any, bool]:
    """Calls, and tells whether it was refused as every id is that nobody has; any other refusal says that the id is somebody's."""
    try:
        return call(), False
    except NotFound as error:
        return str(error), True
    except ValueError as error:
        return f"user-another: {error}", False


def _id(users: Users, name: str, rng: random.Random) -> str:
    return rng.choice(users.ids[name])


def _query(users: Users, other: str, rng: random.Random) -> str:
    return f"{users.word[other]} {rng.choice(_WORDS)}"


def _answer(agent: MemoryAgent, users: Users, user: str, other: str, rng: random.Random) -> Any:
    told = agent.answer(f"Where is the {rng.choice(_WORDS)} of {users.word[user]}?", user_id=user)
    return {"user_id": user} | told


def _filtered(agent: MemoryAgent, users: Users, user: str, other: str, rng: random.Random) -> Any:
    conditions = [{"user_id": other}, {"OR": [{"user_id": other}, {"user_id": user}]}, {"NOT": [{"user_id": user}]}]
    return agent.search(rng.choice(_WORDS), user_id=user, filters=rng.choice(conditions))


KINDS: dict[str, Callable[[MemoryAgent, Users, str, str, random.Random], Any]] = {
    "get": lambda agent, users, user, other, rng: agent.get(_id(users, other, rng), user_id=user),
    "own": lambda agent, users, user, other, rng: agent.get(_id(users, user, rng), user_id=user),
    "history": lambda agent, users, user, other, rng: agent.history(_id(users, other, rng), user_id=user),
    "search": lambda agent, users, user, other, rng: agent.search(_query(users, other, rng), user_id=user),
    "filtered": _filtered,
    "list": lambda agent, users, user, other, rng: agent.get_all(user_id=user, include_deleted=True),
    "narrowed": lambda agent, users, user, other, rng: agent.get_all(user_id=user, agent_id=other),
    "events": lambda agent, users, user, other, rng: [event.to_json() for event in agent.events(user_id=user)],
    "update": lambda agent, users, user, other, rng: agent.update(_id(users, other, rng), "not yours", user_id=user),
    "delete": lambda agent, users, user, other, rng: agent.delete(_id(users, other, rng), user_id=user),
    "restore": lambda agent, users, user, other, rng: agent.restore(_id(users, other, rng), user_id=user),
    "answer": _answer,
}
"""What is asked, by (agent, users, who asks, whose ids, draws)."""
_READING = [kind for kind in KINDS if kind != "answer"]


def _fill(memories: Memories, user: str, word: str) -> list[str]:
    scope, said = Scope(user), now()
    events = [
        Event(str(uuid.uuid5(_IDS, f"{user} {k}")), "ADD", None, f"the {_WORDS[k]} of {word}", user, said_at=said, created_at=said)
        for k in range(_EACH)
    ]
    return [event.memory_id for event in memories.store.commit(scope, events, version=None, receipt=None)]


def _everything(memories: Memories, users: Users) -> dict[str, list[dict[str, Any]]]:
    return {name: memories.get_all(user_id=name, limit=1000, include_deleted=True)["results"] for name in users.names}
