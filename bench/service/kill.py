"""Eight processes that write to one SQLite file, killed at random moments and replaced: whatever was acknowledged must be there.

A writer adds memories, updates and deletes them, for a user of its own and for one that all share, and writes down every event that the
store acknowledged. One process imports what all need and divides (`python -m bench.service.kill STORE FOLDER KILLS`).
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from mr1jax.service.memories import Memories
from mr1jax.service.records import Event, Memory, Scope, replay
from mr1jax.service.sql_store import SqlStore
from mr1jax.service.texts import now

PROCESSES, KILLS = 8, 100
_LONGEST_LIFE = 1.0  # seconds between two kills, at most
_SHARED = "everybody"
_EVERYTHING = 2**31 - 1


def measure(folder: Path, kills: int = KILLS) -> dict[str, Any]:
    """Runs the writers until so many were killed, then reads what they left: {"acknowledged", "lost", ...}. lost: acknowledged events
    that are not in the log as they were, and memories that are not what the log comes to."""
    url, notes = f"sqlite:///{folder}/kill.db", folder / "acknowledged"
    notes.mkdir()
    SqlStore(url).close()
    began = time.perf_counter()
    subprocess.run([sys.executable, "-m", "bench.service.kill", url, str(notes), str(kills)], check=True)
    seconds = time.perf_counter() - began
    acknowledged = [json.loads(line) for path in notes.iterdir() for line in path.read_bytes().split(b"\n")[:-1]]
    lost, written = missing(url, acknowledged)
    result = {"processes": PROCESSES, "kills": kills, "acknowledged": len(acknowledged), "written": written, "lost": lost}
    print(f"kill -9, {kills} times: {len(acknowledged)} writes acknowledged, {lost} lost", flush=True)
    return result | {"writes_per_s": round(written / seconds, 1), "integrity": _integrity(url)}


def missing(url: str, acknowledged: list[dict[str, Any]]) -> tuple[int, int]:
    """Counts what is missing of what was acknowledged, memories that differ from their log included, and the events of the log."""
    store, lost, log = SqlStore(url), 0, {}
    for user in {each["user_id"] for each in acknowledged}:
        events = store.events(Scope(user), 0, _EVERYTHING)
        log |= {event.id: _note(event) for event in events}
        table = {memory.id: memory for memory in store.get_all(Scope(user), now(), _EVERYTHING, True)}
        lost += _differing(replay(events), table)
    store.close()
    return lost + sum(log.get(each["id"]) != each for each in acknowledged), len(log)


def _differing(told: dict[str, Memory], table: dict[str, Memory]) -> int:
    return sum(told.get(memory_id) != table.get(memory_id) for memory_id in told.keys() | table.keys())


def _note(event: Event) -> dict[str, Any]:
    return {"id": event.id, "user_id": event.user_id, "memory_id": event.memory_id, "event": event.event, "text": event.new_memory}


def _integrity(url: str) -> str:
    engine = sa.create_engine(url)
    with engine.connect() as connection:
        said = connection.exec_driver_sql("PRAGMA integrity_check").scalar()
    engine.dispose()
    return str(said)


def _write(url: str, number: int, notes: Path) -> None:
    """Writes until it is killed."""
    rng, store = random.Random(), SqlStore(url)
    memories = Memories(store)
    mine: dict[str, list[str]] = {f"writer-{number}": [], _SHARED: []}
    with notes.open("w") as told:
        for count in range(_EVERYTHING):
            user = rng.choice(list(mine))
            for event in _act(memories, user, mine[user], f"writer {number} said {count}", rng):
                print(json.dumps(_note(event)), file=told, flush=True)


def _act(memories: Memories, user: str, mine: list[str], text: str, rng: random.Random) -> list[Event]:
    """Adds a memory, or changes one of its own, and returns the events that were acknowledged."""
    store, scope = memories.store, Scope(user)
    if mine and rng.random() < 0.4:
        memory_id = rng.choice(mine)
        if rng.random() < 0.7:
            memories.update(memory_id, text, user_id=user)
        else:
            mine.remove(memory_id)
            memories.delete(memory_id, user_id=user)
        return store.events(scope, 0, _EVERYTHING, memory_id)[-1:]
    mine.append(str(uuid.uuid4()))
    event = Event(mine[-1], "ADD", None, text, user, said_at=now(), created_at=now())
    return memories.in_turn(scope, lambda: store.commit(scope, [event], version=store.version(scope), receipt=None))


def _kill(url: str, notes: Path, kills: int) -> None:
    """Keeps the writers at work, one new process for each that is killed."""
    rng, running, started = random.Random(0), {}, 0
    for kill in range(kills + 1):
        while len(running) < PROCESSES:
            child = os.fork()
            if child == 0:
                _write(url, started, notes / str(started))
            running[child], started = started, started + 1
        time.sleep(rng.uniform(0, _LONGEST_LIFE))
        for child in list(running) if kill == kills else [rng.choice(list(running))]:
            os.kill(child, signal.SIGKILL)
            if os.WTERMSIG(os.waitpid(child, 0)[1]) != signal.SIGKILL:
                raise RuntimeError("a writer ended by itself")
            del running[child]


if __name__ == "__main__":
    _kill(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
    sys.exit()
