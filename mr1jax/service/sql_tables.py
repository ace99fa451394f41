"""The tables of a store, in SQLite and PostgreSQL alike, and how a database of an earlier version becomes one of this version."""

from collections.abc import Callable

import sqlalchemy as sa
from sqlalchemy import BigInteger, Boolean, Column, Index, Integer, LargeBinary, MetaData, Table, Text

TABLES = MetaData()
_ROW_ID = BigInteger().with_variant(Integer, "sqlite")  # only INTEGER counts up by itself there


def _scope_columns() -> list[Column]:
    return [Column("owner", Text, nullable=False), *(Column(name, Text, nullable=False) for name in ("user_id", "agent_id", "run_id"))]


SCHEMA_VERSION = Table("schema_version", TABLES, Column("version", Integer, nullable=False))

OWNERS = Table(
    "owners",
    TABLES,
    Column("owner", Text, primary_key=True),
    Column("version", BigInteger, nullable=False),  # operations so far: who read another version decides again
)

MEMORIES = Table(
    "memories",
    TABLES,
    Column("id", Text, primary_key=True),
    *_scope_columns(),
    Column("memory", Text, nullable=False),
    Column("terms", LargeBinary, nullable=False),  # hashed words, int32, little-endian
    Column("metadata", Text, nullable=False),
    Column("created_at", Text, nullable=False),
    Column("updated_at", Text, nullable=False),
    Column("expires_at", Text),
    Column("speaker", Integer, nullable=False),
    Column("deleted", Boolean, nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("written", BigInteger, nullable=False),
    Index("memories_of_owner", "owner", "deleted", "written"),
)

EVENTS = Table(
    "events",
    TABLES,
    Column("id", _ROW_ID, primary_key=True, autoincrement=True),
    Column("memory_id", Text, nullable=False),
    Column("event", Text, nullable=False),
    *_scope_columns(),
    Column("old_memory", Text),
    Column("new_memory", Text),
    Column("metadata", Text, nullable=False),
    Column("expires_at", Text),
    Column("speaker", Integer, nullable=False),
    Column("said_at", Text, nullable=False),
    Column("created_at", Text, nullable=False),
    Column("actor", Text, nullable=False),
    Index("events_of_owner", "owner", "id"),
    Index("events_of_memory", "memory_id", "id"),
    sqlite_autoincrement=True,  # the id of an event is never given again
)

RECEIPTS = Table(
    "receipts",
    TABLES,
    Column("owner", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("body", Text, nullable=False),
    Column("result", Text, nullable=False),
    Column("created_at", Text, nullable=False),
)


def _make_tables(connection: sa.Connection) -> None:
    TABLES.create_all(connection)


MIGRATIONS: list[Callable[[sa.Connection], None]] = [_make_tables]
"""Entry k takes a database of version k to version k + 1; version 0 is an empty one. Entries are only ever appended."""

_LOCK = 7_263_001  # of PostgreSQL: one process migrates, the others wait


def migrate(connection: sa.Connection) -> None:
    """Brings a database to the newest version in the transaction of `connection`. Raises ValueError where it is of a newer one still."""
    if connection.dialect.name == "postgresql":
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))
    known = sa.inspect(connection).has_table(SCHEMA_VERSION.name)
    found = connection.scalar(sa.select(SCHEMA_VERSION.c.version)) if known else 0
    newest = len(MIGRATIONS)
    if found > newest:
        raise ValueError(f"the store has schema version {found}, and this mr1jax knows {newest}; install a newer mr1jax")
    if found == newest:
        return
    for step in MIGRATIONS[found:]:
        step(connection)
    connection.execute(sa.delete(SCHEMA_VERSION))
    connection.execute(sa.insert(SCHEMA_VERSION).values(version=newest))
