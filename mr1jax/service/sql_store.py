"""The store on SQLAlchemy Core: SQLite in memory or in a file, and PostgreSQL, by the same statements.

What `commit` has acknowledged survives the end of the process at any moment, and a loss of power as far as the disk keeps its word:
SQLite writes ahead and waits for the disk (synchronous=FULL), PostgreSQL does by default. Several processes may share a store.
"""

import contextlib
import dataclasses
import json
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.pool import StaticPool

from mr1jax.config import require
from mr1jax.service.ranking import TermIndex, terms_of
from mr1jax.service.records import Conflict, Event, Memory, NotFound, Receipt, Scope, after
from mr1jax.service.sql_tables import EVENTS, MEMORIES, OWNERS, RECEIPTS, migrate
from mr1jax.service.texts import now

IN_MEMORY = "memory"
_FORMS = 'give "memory", "sqlite:///file.db" or "postgresql+psycopg://user@host/database"'
_BUSY_SECONDS = 30  # that a writer waits for another process
_MANY = 500  # ids in one statement at most: a statement may have so many variables


class SqlStore:
    """See `store.Store`. Safe for many threads; every statement carries the owner."""

    def __init__(self, url: str):
        """url: "memory", "sqlite:///file.db" or "postgresql+psycopg://...". Raises ValueError where it is none, or cannot be opened."""
        self._in_memory = url == IN_MEMORY
        self._lock = threading.RLock() if self._in_memory else contextlib.nullcontext()
        self._engine = _open("sqlite://" if self._in_memory else url)
        try:
            with self._transaction(write=True) as connection:
                migrate(connection)
        except sa.exc.SQLAlchemyError as error:
            self._engine.dispose()
            reason = str(getattr(error, "orig", error)).splitlines()[0]
            raise ValueError(f"the store {self._engine.url!r} cannot be opened ({reason}); {_FORMS}") from error

    def index(self, scope: Scope, now: str) -> TermIndex:
        columns = sa.select(MEMORIES.c.id, MEMORIES.c.terms)
        with self._transaction() as connection:
            version = self._version(connection, scope)
            rows = connection.execute(columns.where(_in(MEMORIES, scope), _alive(now)).order_by(MEMORIES.c.written)).all()
        return TermIndex.of([row.id for row in rows], [row.terms for row in rows], version)

    def version(self, scope: Scope) -> int:
        with self._transaction() as connection:
            return self._version(connection, scope)

    def fetch(self, scope: Scope, ids: Sequence[str]) -> dict[str, Memory]:
        found: dict[str, Memory] = {}
        with self._transaction() as connection:
            for start in range(0, len(ids), _MANY):
                found |= self._fetch(connection, scope, ids[start : start + _MANY])
        return found

    def get_all(self, scope: Scope, now: str, limit: int, include_deleted: bool) -> list[Memory]:
        wanted = sa.select(MEMORIES).where(_in(MEMORIES, scope)).order_by(MEMORIES.c.written.desc()).limit(limit)
        with self._transaction() as connection:
            rows = connection.execute(wanted if include_deleted else wanted.where(_alive(now))).mappings().all()
        return [_memory(row) for row in rows]

    def commit(self, scope: Scope, events: Sequence[Event], *, version: int | None, receipt: Receipt | None) -> list[Event]:
        with self._transaction(write=True) as connection:
            self._advance(connection, scope, version, len(events))
            if receipt is not None:
                row = {"owner": scope.owner, "key": receipt.key, "body": receipt.body, "result": json.dumps(receipt.result)}
                mine = self._insert(RECEIPTS).values(**row, created_at=now()).on_conflict_do_nothing().returning(RECEIPTS.c.key)
                if connection.execute(mine).first() is None:
                    raise Conflict("another request with this key was first")
            touched = list({event.memory_id for event in events})
            state: dict[str, Memory] = {}
            for start in range(0, len(touched), _MANY):
                state |= self._fetch(connection, scope, touched[start : start + _MANY])
            written_events = []
            for event in events:
                event = self._append(connection, scope, event)
                state[event.memory_id] = self._apply(connection, scope, state.get(event.memory_id), event)
                written_events.append(event)
        return written_events

    def receipt(self, scope: Scope, key: str) -> Receipt | None:
        wanted = sa.select(RECEIPTS).where(RECEIPTS.c.owner == scope.owner, RECEIPTS.c.key == key)
        with self._transaction() as connection:
            row = connection.execute(wanted).first()
        return None if row is None else Receipt(row.key, row.body, json.loads(row.result))

    def events(self, scope: Scope, after: int, limit: int, memory_id: str = "") -> list[Event]:
        wanted = sa.select(EVENTS).where(_in(EVENTS, scope), EVENTS.c.id > after).order_by(EVENTS.c.id).limit(limit)
        if memory_id:
            wanted = wanted.where(EVENTS.c.memory_id == memory_id)
        with self._transaction() as connection:
            rows = connection.execute(wanted).mappings().all()
        return [Event(**_fields(row, Event)) for row in rows]

    def close(self) -> None:
        self._engine.dispose()

    @contextlib.contextmanager
    def _transaction(self, write: bool = False) -> Iterator[sa.Connection]:
        # The one connection of a store in memory is every thread's, one at a time.
        with self._lock, self._engine.connect() as connection:
            connection = connection.execution_options(begin_immediate=write)
            with connection.begin():
                yield connection

    def _version(self, connection: sa.Connection, scope: Scope) -> int:
        return connection.scalar(sa.select(OWNERS.c.version).where(OWNERS.c.owner == scope.owner)) or 0

    def _advance(self, connection: sa.Connection, scope: Scope, version: int | None, count: int) -> None:
        """Counts the owner's operations up, which holds its row until the end. Raises `Conflict` unless it was at `version`."""
        connection.execute(self._insert(OWNERS).values(owner=scope.owner, version=0).on_conflict_do_nothing())
        mine = sa.update(OWNERS).where(OWNERS.c.owner == scope.owner)
        mine = mine if version is None else mine.where(OWNERS.c.version == version)
        if not connection.execute(mine.values(version=OWNERS.c.version + count)).rowcount:
            raise Conflict(f"{scope.owner} is not at version {version} any more")

    def _insert(self, table: sa.Table) -> Any:
        return (postgresql if self._engine.dialect.name == "postgresql" else sqlite).insert(table)

    def _fetch(self, connection: sa.Connection, scope: Scope, ids: Sequence[str]) -> dict[str, Memory]:
        rows = connection.execute(sa.select(MEMORIES).where(_in(MEMORIES, scope), MEMORIES.c.id.in_(ids))).mappings()
        return {row["id"]: _memory(row) for row in rows}

    def _append(self, connection: sa.Connection, scope: Scope, event: Event) -> Event:
        fields = dataclasses.asdict(event) | {"metadata": json.dumps(event.metadata), "owner": scope.owner}
        del fields["id"]
        number = connection.execute(sa.insert(EVENTS).values(**fields)).inserted_primary_key[0]
        return dataclasses.replace(event, id=number)

    def _apply(self, connection: sa.Connection, scope: Scope, before: Memory | None, event: Event) -> Memory:
        require(scope.sees(event), f"event of memory {event.memory_id} is of another scope than the call; give one scope")
        if before is None and event.event != "ADD":
            raise NotFound(f"there is no memory {event.memory_id}")
        memory = after(before, event)
        fields = dataclasses.asdict(memory) | {"metadata": json.dumps(memory.metadata), "terms": terms_of(memory.memory).tobytes()}
        if before is None:
            connection.execute(sa.insert(MEMORIES).values(**fields, owner=scope.owner))
        else:
            connection.execute(sa.update(MEMORIES).where(_in(MEMORIES, scope), MEMORIES.c.id == memory.id).values(**fields))
        return memory


def _open(url: str) -> sa.Engine:
    """Makes an engine that begins its transactions itself: Python's driver for SQLite would begin some of them late."""
    try:
        parsed = sa.make_url(url)
    except sa.exc.ArgumentError:
        parsed = None  # the address may hold a password: nothing of it is shown, here or by the exception before
    known = parsed is not None and (parsed.drivername in ("sqlite", "postgresql+psycopg"))
    if not known:
        raise ValueError(f"the store's address is none that is known; {_FORMS}")
    if parsed.drivername != "sqlite":
        return sa.create_engine(parsed, pool_pre_ping=True, isolation_level="READ COMMITTED")
    one = {"poolclass": StaticPool} if not parsed.database else {}
    engine = sa.create_engine(parsed, connect_args={"check_same_thread": False, "timeout": _BUSY_SECONDS}, **one)
    sa.event.listen(engine, "connect", _prepare_sqlite)
    sa.event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")


def _begin_sqlite(connection: sa.Connection) -> None:
    # A writer takes its turn at once: one that first reads and then writes could find that another was faster, and fail.
    connection.exec_driver_sql("BEGIN IMMEDIATE" if connection.get_execution_options().get("begin_immediate") else "BEGIN")


def _in(table: sa.Table, scope: Scope) -> sa.ColumnElement[bool]:
    narrower = {name: value for name, value in dataclasses.asdict(scope).items() if value}
    return sa.and_(table.c.owner == scope.owner, *(table.c[name] == value for name, value in narrower.items()))


def _alive(now: str) -> sa.ColumnElement[bool]:
    return sa.and_(MEMORIES.c.deleted == sa.false(), sa.or_(MEMORIES.c.expires_at.is_(None), MEMORIES.c.expires_at > now))


def _memory(row: sa.RowMapping) -> Memory:
    return Memory(**_fields(row, Memory))


def _fields(row: sa.RowMapping, kind: Any) -> dict[str, Any]:
    fields = {each.name: row[each.name] for each in dataclasses.fields(kind)}
    return fields | {"metadata": json.loads(fields["metadata"])}
