"""The store: it says what a dict would say, its log comes to its table, owners see nothing of each other, and versions are kept."""

import contextlib
import dataclasses
import sqlite3
import threading
import uuid

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from service_world import postgresql, store_url  # noqa: F401

from mr1jax.service import sql_tables
from mr1jax.service.memories import Memories
from mr1jax.service.records import Conflict, Event, NotFound, Receipt, Scope, replay
from mr1jax.service.sql_store import SqlStore
from mr1jax.service.texts import now

LONG_AGO, FAR_OFF = "2001-01-01T00:00:00.000000+00:00", "2999-01-01T00:00:00.000000+00:00"
ANN, BOB = Scope("ann"), Scope("bob")
EVERYTHING = 10**6


def added(scope, text, memory_id="", **fields):
    ids = dataclasses.asdict(scope)
    fields = {"said_at": LONG_AGO, "created_at": now()} | fields
    return Event(memory_id or str(uuid.uuid4()), "ADD", None, text, **ids, **fields)


def put(store, scope, *texts, **fields):
    return [event.memory_id for event in store.commit(scope, [added(scope, text, **fields) for text in texts], version=None, receipt=None)]


@pytest.fixture
def store(store_url):  # noqa: F811
    opened = SqlStore(store_url)
    yield opened
    opened.close()


class TwoOwners(RuleBasedStateMachine):
    """Oracle: for each owner a dict {id: the list of all texts it had, None where deleted}, which only that owner's calls change."""

    store: SqlStore

    def __init__(self):
        super().__init__()
        self.memories = Memories(self.store)
        run = uuid.uuid4().hex  # examples share one database, each with owners of its own
        self.owners = {name: f"{name}-{run}" for name in ("ann", "bob")}
        self.told = {name: {} for name in self.owners}

    owner = st.sampled_from(["ann", "bob"])
    text = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=5)
    choice = st.integers(0, 5)

    def pick(self, choice):
        """One of all ids there are, whosever it is."""
        ids = sorted(set(self.told["ann"]) | set(self.told["bob"]))
        return ids[choice % len(ids)] if ids else "none"

    def attempt(self, owner, memory_id, call, allowed):
        """Calls as `owner`; what is not allowed must be refused, in the words for what is not there."""
        if allowed:
            return call()
        with pytest.raises(NotFound, match=f"^there is no memory '{memory_id}'$"):
            call()
        return None

    @rule(owner=owner, text=text)
    def add(self, owner, text):
        (memory_id,) = put(self.store, Scope(self.owners[owner]), text)
        self.told[owner][memory_id] = [text]

    @rule(owner=owner, choice=choice, text=text)
    def update(self, owner, choice, text):
        memory_id, mine = self.pick(choice), self.told[owner]
        alive = memory_id in mine and mine[memory_id][-1] is not None
        self.attempt(owner, memory_id, lambda: self.memories.update(memory_id, text, user_id=self.owners[owner]), alive)
        if alive:
            mine[memory_id].append(text)

    @rule(owner=owner, choice=choice)
    def delete(self, owner, choice):
        memory_id, mine = self.pick(choice), self.told[owner]
        alive = memory_id in mine and mine[memory_id][-1] is not None
        self.attempt(owner, memory_id, lambda: self.memories.delete(memory_id, user_id=self.owners[owner]), alive)
        if alive:
            mine[memory_id].append(None)

    @rule(owner=owner, choice=choice)
    def restore(self, owner, choice):
        memory_id, mine = self.pick(choice), self.told[owner]
        self.attempt(owner, memory_id, lambda: self.memories.restore(memory_id, user_id=self.owners[owner]), memory_id in mine)
        if memory_id in mine:
            states = [None, *mine[memory_id]]
            if states[-2] is not None or states[-1] is not None:  # nothing is to be done where it is deleted and was
                mine[memory_id].append(states[-2])

    @rule(owner=owner)
    def delete_all(self, owner):
        self.memories.delete_all(user_id=self.owners[owner])
        for states in self.told[owner].values():
            states += [None] * (states[-1] is not None)

    @invariant()
    def table_is_the_dict(self):
        for name, told in self.told.items():
            there = self.memories.get_all(user_id=self.owners[name], limit=1000)["results"]
            assert {each["id"]: each["memory"] for each in there} == {key: states[-1] for key, states in told.items() if states[-1]}

    @invariant()
    def log_comes_to_the_table(self):
        for name in self.owners:
            scope = Scope(self.owners[name])
            table = self.store.get_all(scope, now(), EVERYTHING, True)
            log = self.store.events(scope, 0, EVERYTHING)
            assert replay(log) == {memory.id: memory for memory in table}
            if log:
                last = {memory.id: memory for memory in table if not memory.deleted}
                assert {memory.id: memory for memory in self.memories.state_at(log[-1].id, user_id=scope.user_id)} == last


def test_any_sequence_of_two_owners(store):
    """Oracle: `TwoOwners`, by hypothesis, on every kind of store."""
    machine = type("Machine", (TwoOwners,), {"store": store})
    quick = settings(max_examples=8, stateful_step_count=10, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    run_state_machine_as_test(machine, settings=quick)


def test_narrower_scopes(store):
    """Oracle: by hand. The first id is a wall, the others narrow; an agent without a user sees no user's memories."""
    scopes = [Scope("ann", "a", "r"), Scope("ann", "a"), Scope("ann", "b"), Scope("", "a"), Scope("", "a", "r"), Scope("", "", "r")]
    for number, scope in enumerate(scopes):
        put(store, scope, str(number))

    def seen(*ids):
        return sorted(int(memory.memory) for memory in store.get_all(Scope(*ids), now(), 100, False))

    assert seen("ann") == [0, 1, 2]
    assert seen("ann", "a") == [0, 1]
    assert seen("ann", "", "r") == [0]
    assert seen("", "a") == [3, 4]
    assert seen("", "a", "r") == [4]
    assert seen("", "", "r") == [5]
    with pytest.raises(ValueError, match="no user_id, agent_id or run_id is given"):
        Scope()


def test_expired_memories_are_found_by_nothing_but_kept(store):
    """Oracle: by hand, one memory expired, one that will."""
    memories = Memories(store)
    (gone,) = put(store, ANN, "tea is cold", expires_at=LONG_AGO)
    (there,) = put(store, ANN, "tea is hot", expires_at=FAR_OFF)
    assert [each["id"] for each in memories.search("tea", user_id="ann")["results"]] == [there]
    assert [each["id"] for each in memories.get_all(user_id="ann")["results"]] == [there]
    assert {each["id"] for each in memories.get_all(user_id="ann", include_deleted=True)["results"]} == {gone, there}
    assert memories.get(there, user_id="ann")["memory"] == "tea is hot"
    with pytest.raises(NotFound):
        memories.get(gone, user_id="ann")
    assert [event["event"] for event in memories.history(gone, user_id="ann")] == ["ADD"]


def test_commit_is_all_or_nothing(store):
    """Oracle: the table and the log before, after a commit whose second operation is of no memory."""
    put(store, ANN, "one")
    before = store.get_all(ANN, now(), 100, True), store.events(ANN, 0, 100), store.version(ANN)
    lost = dataclasses.replace(added(ANN, "x"), event="UPDATE")
    with pytest.raises(NotFound):
        store.commit(ANN, [added(ANN, "two"), lost], version=None, receipt=Receipt("key", "body", {}))
    assert (store.get_all(ANN, now(), 100, True), store.events(ANN, 0, 100), store.version(ANN)) == before
    assert store.receipt(ANN, "key") is None


def test_who_read_another_version_is_refused(store):
    """Oracle: by hand: of two that read the same version one writes, another owner's writes do not matter, and a receipt is given once."""
    version = store.version(ANN)
    put(store, BOB, "not ann's")
    store.commit(ANN, [added(ANN, "first")], version=version, receipt=Receipt("key", "body", {"a": 1}))
    with pytest.raises(Conflict):
        store.commit(ANN, [added(ANN, "second")], version=version, receipt=None)
    with pytest.raises(Conflict):
        store.commit(ANN, [added(ANN, "third")], version=None, receipt=Receipt("key", "body", {}))
    assert [memory.memory for memory in store.get_all(ANN, now(), 9, False)] == ["first"]
    assert store.receipt(ANN, "key") == Receipt("key", "body", {"a": 1})
    assert store.receipt(BOB, "key") is None


def test_an_event_of_another_scope_is_refused(store):
    """Oracle: by hand, an ADD for Bob in Ann's commit."""
    with pytest.raises(ValueError, match="another scope"):
        store.commit(ANN, [added(BOB, "x")], version=None, receipt=None)
    assert store.get_all(BOB, now(), 9, True) == []


def test_threads_that_add_one_at_a_time_lose_nothing(store):
    """Oracle: 4 threads that count one memory up 8 times each, reading the version first: the sum."""
    memories = Memories(store)
    (memory_id,) = put(store, ANN, "0")

    def count_up():
        for _ in range(8):

            def once():
                version = store.version(ANN)
                memory = store.fetch(ANN, [memory_id])[memory_id]
                event = dataclasses.replace(added(ANN, str(int(memory.memory) + 1), memory_id), event="UPDATE", old_memory=memory.memory)
                store.commit(ANN, [event], version=version, receipt=None)

            memories.in_turn(ANN, once)

    threads = [threading.Thread(target=count_up) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert memories.get(memory_id, user_id="ann")["memory"] == "32"


def test_a_database_of_an_earlier_version_is_migrated(store_url, monkeypatch):  # noqa: F811
    """Oracle: a column that a second version adds, in a database that the first one made; what it held is still there."""
    if store_url == "memory":
        pytest.skip("a store in memory is always new")
    with contextlib.closing(SqlStore(store_url)) as first:
        put(first, ANN, "old")
    engine = sa.create_engine(store_url)

    def add_colour(connection):
        connection.execute(sa.text("alter table memories add column colour text not null default 'blue'"))

    monkeypatch.setattr(sql_tables, "MIGRATIONS", [*sql_tables.MIGRATIONS, add_colour])
    for _ in range(2):  # the second time there is nothing to do
        with contextlib.closing(SqlStore(store_url)) as second:
            assert [memory.memory for memory in second.get_all(ANN, now(), 9, False)] == ["old"]
    with engine.connect() as connection:
        assert connection.execute(sa.text("select colour from memories")).scalar() == "blue"
        assert connection.execute(sa.text("select version from schema_version")).scalars().all() == [2]
    engine.dispose()
    monkeypatch.undo()
    with pytest.raises(ValueError, match=r"^the store has schema version 2, and this mr1jax knows 1; install a newer mr1jax$"):
        SqlStore(store_url)


def test_a_new_database_that_many_open_at_once(store_url):  # noqa: F811
    """Oracle: eight threads open one empty database and each adds one memory: eight memories, and nobody is refused."""
    if store_url == "memory":
        pytest.skip("a store in memory is one caller's")
    ready, failed = threading.Barrier(8), []

    def open_and_add(k):
        ready.wait()
        try:
            with contextlib.closing(SqlStore(store_url)) as opened:
                put(opened, ANN, str(k))
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=open_and_add, args=(k,)) for k in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    with contextlib.closing(SqlStore(store_url)) as opened:
        assert {memory.memory for memory in opened.get_all(ANN, now(), 99, False)} == set("01234567")


def test_a_migration_that_fails_changes_nothing(tmp_path, monkeypatch):
    """Oracle: the schema of the file before and after."""
    url, path = f"sqlite:///{tmp_path}/m.db", tmp_path / "m.db"
    SqlStore(url).close()

    def schema():
        with contextlib.closing(sqlite3.connect(path)) as connection:
            return connection.execute("select sql from sqlite_master order by name").fetchall()

    before = schema()

    def half(connection):
        connection.execute(sa.text("alter table memories add column colour text"))
        raise ValueError("no more")

    monkeypatch.setattr(sql_tables, "MIGRATIONS", [*sql_tables.MIGRATIONS, half])
    with pytest.raises(ValueError, match="no more"):
        SqlStore(url)
    assert schema() == before


@pytest.mark.parametrize(
    "url", ["", "file.db", "mysql://x", "sqlite+aiosqlite:///x", "postgresql://secret:word@host/db", "sqlite:////no/such/folder/x.db", 7]
)
def test_an_address_that_is_none_is_refused(url):
    """Oracle: one sentence, without the password."""
    with pytest.raises(ValueError, match=r"^the store.*give .memory.") as refused:
        SqlStore(url)
    assert "\n" not in str(refused.value)
    assert "word" not in str(refused.value)


def test_what_is_no_database_is_refused(tmp_path):
    """Oracle: one sentence that names the file."""
    (tmp_path / "x.db").write_text("no database at all, but some text that is long enough to be read as a header of one" * 20)
    with pytest.raises(ValueError, match="x.db.*cannot be opened"):
        SqlStore(f"sqlite:///{tmp_path}/x.db")
