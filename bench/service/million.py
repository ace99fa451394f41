"""Search among 10^6 memories of 10^3 users in one SQLite file.

Rows go in through the store's own tables, as its own operations would leave them: an ADD in the log, the memory, its words hashed as the
service hashes them. They come in random order of users, so that the memories of one lie all over the file.
"""

import random
import time
import uuid
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import sqlite

from bench.service.told import percentiles, told
from mr1jax.service.memories import Memories
from mr1jax.service.ranking import terms_of
from mr1jax.service.records import Event, Scope, after
from mr1jax.service.sql_store import SqlStore
from mr1jax.service.sql_tables import EVENTS, MEMORIES, OWNERS
from mr1jax.service.texts import now

MEMORIES_IN_ALL, USERS, SEARCHES = 1_000_000, 1_000, 2_000
GOAL_MS = 50.0  # of the 95th percentile
_AT_ONCE = 20_000  # rows of one insertion


def measure(folder: Path, memories: int = MEMORIES_IN_ALL, users: int = USERS, searches: int = SEARCHES) -> dict[str, Any]:
    """Fills a store and searches it: {"search": {"p95_ms"}, "search_cpu", "insert_s", "file_mb"}. search: by the clock;
    search_cpu: what the processor worked for it, which does not grow with what else runs on the machine."""
    path, rng = folder / "million.db", random.Random(0)
    conversations = told(200)
    SqlStore(f"sqlite:///{path}").close()  # makes the tables
    began = time.perf_counter()
    fill(path, [text for each in conversations for text in each.facts], memories, users, rng)
    result: dict[str, Any] = {"memories": memories, "users": users, "insert_s": round(time.perf_counter() - began, 1)}
    store = SqlStore(f"sqlite:///{path}")
    reader, taken, busy, found = Memories(store), [], [], 0
    questions = [text for each in conversations for text in each.questions]
    for _ in range(searches):
        user, question = f"user-{rng.randrange(users)}", rng.choice(questions)
        sent, worked = time.perf_counter(), time.process_time()
        results = reader.search(question, user_id=user)["results"]
        taken.append(time.perf_counter() - sent)
        busy.append(time.process_time() - worked)
        if any(each["user_id"] != user for each in results):
            raise RuntimeError(f"a search of {user} came to a memory of another")
        found += bool(results)
    store.close()
    search = percentiles(taken)
    result |= {
        "search": search,
        "search_cpu": percentiles(busy),
        "searches": searches,
        "found_share": found / searches,
        "file_mb": round(path.stat().st_size / 1e6),
    }
    print(
        f"{memories} memories of {users} users, {result['file_mb']} MB: {search}, the goal is a p95 of {GOAL_MS:.0f} ms",
        flush=True,
    )
    return result


def fill(path: Path, texts: list[str], memories: int, users: int, rng: random.Random) -> None:
    """Writes so many memories in the form of `SqlStore`, without waiting for the disk: what is measured comes after."""
    engine, kinds = sa.create_engine(f"sqlite:///{path}"), list(map(_rows_of, dict.fromkeys(texts)))
    with engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA synchronous=OFF")
        connection.exec_driver_sql("PRAGMA cache_size=-1000000")  # KiB: the rows of an index come in no order
        for start in range(1, memories + 1, _AT_ONCE):
            ids = range(start, min(start + _AT_ONCE, memories + 1))
            rows = [(rng.choice(kinds), _whose(number, rng.randrange(users), rng)) for number in ids]
            for k, (table, own) in enumerate(((EVENTS, ("id", "memory_id")), (MEMORIES, ("written", "id")))):
                _insert(connection, table, [_row(kind[k], whose, own) for kind, whose in rows])
            connection.commit()
        counted = sa.select(MEMORIES.c.owner, sa.func.count()).group_by(MEMORIES.c.owner)
        connection.execute(sa.insert(OWNERS).from_select(["owner", "version"], counted))
        connection.commit()
    engine.dispose()


def _rows_of(text: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """What an ADD of a text leaves in the log and in the table, by the one definition of what an operation does; but for whose it is."""
    scope, said = Scope("x"), now()
    event = Event("", "ADD", None, text, scope.user_id, said_at=said, created_at=said, actor="manager")
    event_row, memory_row = vars(event) | {"metadata": "{}"}, vars(after(None, event)) | {"metadata": "{}"}
    return event_row, memory_row | {"terms": terms_of(text).tobytes()}


def _whose(number: int, user: int, rng: random.Random) -> tuple[int, str, str]:
    return number, str(uuid.UUID(int=rng.getrandbits(128), version=4)), f"user-{user}"


def _row(kind: dict[str, Any], whose: tuple[int, str, str], own: tuple[str, str]) -> dict[str, Any]:
    number, memory_id, user = whose
    return {**kind, own[0]: number, own[1]: memory_id, "user_id": user, "owner": f"user:{user}"}


def _insert(connection: sa.Connection, table: sa.Table, rows: list[dict[str, Any]]) -> None:
    """Lets the driver bind the rows itself: two millions of them take a minute that way."""
    statement = sa.insert(table).compile(dialect=sqlite.dialect(paramstyle="named"))
    connection.exec_driver_sql(str(statement), rows)
