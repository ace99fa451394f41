"""What `make bench-service` counts: it sees a write that is gone and a memory told to another, and fills a store as the store does."""

import contextlib
import json
import random
import sqlite3

import pytest
import sqlalchemy as sa
from service_world import scripted_agent

from bench.service import __main__ as bench_service
from bench.service import isolation, kill, million
from bench.service.told import percentiles
from mr1jax.service import sql_store
from mr1jax.service.records import Scope, replay
from mr1jax.service.sql_store import SqlStore
from mr1jax.service.sql_tables import MEMORIES
from mr1jax.service.texts import now

EVERYTHING = 10**6


def test_percentiles_by_hand():
    """Oracle: of 1 to 200 ms, those that 100, 190 and 198 requests were faster than or as fast as the one before."""
    assert percentiles([k / 1000 for k in range(200, 0, -1)]) == {"p50_ms": 101.0, "p95_ms": 191.0, "p99_ms": 199.0}
    assert percentiles([0.5]) == {"p50_ms": 500.0, "p95_ms": 500.0, "p99_ms": 500.0}


@pytest.mark.parametrize(
    ("damage", "lost"),
    [
        ("select 1", 0),
        ("delete from events where id = 3; delete from memories where written = 3", 1),
        ("update events set new_memory = 'other' where id = 2; update memories set memory = 'other' where written = 2", 1),
        ("update memories set memory = 'other' where written = 4", 1),
        ("delete from memories where written = 1", 1),
    ],
)
def test_what_a_kill_would_lose_is_counted(tmp_path, damage, lost):
    """Oracle: rows of the database that are taken away or changed by hand, one memory each."""
    store = SqlStore(url := f"sqlite:///{tmp_path}/m.db")
    with scripted_agent(store) as agent:
        agent.add("set a 1. set b 1. set c 1", user_id="ann")
        agent.add("set d 1", user_id="ben")
        noted = [kill._note(event) for user in ("ann", "ben") for event in agent.events(user_id=user)]
    with contextlib.closing(sqlite3.connect(tmp_path / "m.db")) as connection:
        connection.executescript(damage)
    assert kill.missing(url, noted)[0] == lost


def test_killed_writers_lose_nothing(tmp_path):
    """Oracle: what eight processes wrote down once it was acknowledged."""
    found = kill.measure(tmp_path, kills=3)
    assert (found["lost"], found["integrity"]) == (0, "ok")
    assert 0 < found["acknowledged"] <= found["written"]


def test_a_store_is_filled_as_the_store_fills_itself(tmp_path):
    """Oracle: `SqlStore.commit` of the same events into another file, row by row; and the log, replayed."""
    paths = [tmp_path / "a.db", tmp_path / "b.db"]
    ours, theirs = (SqlStore(f"sqlite:///{path}") for path in paths)
    million.fill(paths[0], ["Mia likes tea", "the dogs of Zoë"], 50, 3, random.Random(0))
    for k in range(3):
        events = ours.events(scope := Scope(f"user-{k}"), 0, EVERYTHING)
        assert replay(events) == {memory.id: memory for memory in ours.get_all(scope, now(), EVERYTHING, True)}
        theirs.commit(scope, events, version=0, receipt=None)
    rows = []
    for path in paths:
        engine = sa.create_engine(f"sqlite:///{path}")
        with engine.connect() as connection:
            columns = [column for column in MEMORIES.c if column.name != "written"]  # they come in another order
            owners = connection.exec_driver_sql("select * from owners order by owner").all()
            rows.append((owners, connection.execute(sa.select(*columns).order_by(MEMORIES.c.id)).all()))
        engine.dispose()
    assert rows[0] == rows[1]
    assert len(rows[0][1]) == 50


def test_a_search_of_many_memories_is_timed(tmp_path):
    """Oracle: by hand, the counts; every question finds something, as all users share the world's words."""
    found = million.measure(tmp_path, memories=2000, users=4, searches=20)
    assert (found["memories"], found["searches"], found["found_share"]) == (2000, 20, 1.0)
    assert found["search"]["p95_ms"] > 0


def test_asking_for_others_finds_nothing(tmp_path):
    """Oracle: the words that only one user's memories hold, in 600 requests of 4 threads; every kind is asked."""
    with scripted_agent(SqlStore(f"sqlite:///{tmp_path}/m.db")) as agent:
        sent, leaked = isolation.ask_for_others(agent, isolation.Users(agent, 20), 600, 4)
    assert (leaked, sent.total()) == ([], 600)
    assert {kind for kind, _ in sent} == set(isolation.KINDS)
    assert all(sent[kind, False] == 0 for kind in ("get", "history", "update", "delete", "restore"))


def test_a_store_that_forgets_the_owner_is_found_out(tmp_path, monkeypatch):
    """Oracle: a store whose statements name no owner, planted."""
    with scripted_agent(SqlStore(f"sqlite:///{tmp_path}/m.db")) as agent:
        users = isolation.Users(agent, 20)
        monkeypatch.setattr(sql_store, "_in", lambda table, scope: sa.true())
        assert len(isolation.ask_for_others(agent, users, 200, 1)[1]) > 50


def test_parts_are_kept_and_a_lost_write_is_an_exit_status(tmp_path, monkeypatch, capsys):
    """Oracle: the file by hand: what is not measured stays, and what else the machine did stands beside what is."""
    path = tmp_path / "service.json"
    path.write_text(json.dumps({"load": {"kept": 1}}))
    monkeypatch.setattr(bench_service, "_parts", lambda seconds: {"kill": lambda folder: {"lost": int(seconds)}})
    assert bench_service.main(["kill", "--seconds", "0", "--results", str(path)]) == 0
    assert bench_service.main(["kill", "--seconds", "2", "--results", str(path)]) == 1
    found = json.loads(path.read_text())
    assert (found["load"], found["kill"]["lost"], len(found["kill"]["load_average"]["before"])) == ({"kept": 1}, 2, 3)
    assert found["lost"] == 2
    times = {kind: {"requests": 9, "p50_ms": p, "p95_ms": p + 1, "p99_ms": p + 2} for kind, p in (("adds", 1), ("answers", 5))}
    load = {"clients": {"8": {"adds_per_s": 3.0, "answers_per_s": 4.0, **times}}}
    monkeypatch.setattr(bench_service, "_parts", lambda seconds: {"load": lambda folder: load})
    assert bench_service.main(["load", "--results", str(path)]) == 1  # what was lost before is still lost
    found = json.loads(path.read_text())
    assert (found["adds_per_s"], found["p95_ms"], found["lost"]) == ({"8": 3.0}, {"8": {"adds": 2, "answers": 6}}, 2)
    assert bench_service.main(["walk", "--results", str(path)]) == 2
    assert capsys.readouterr().err == "bench.service: there is no part 'walk'; name some of load\n"
