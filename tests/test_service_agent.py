"""`MemoryAgent` with a Manager that is scripted: what comes back, in which order things are done, and what is refused."""

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from service_world import postgresql, scripted_agent, store_url  # noqa: F401

import mr1jax
from mr1jax.service.async_agent import AsyncMemoryAgent
from mr1jax.service.facts import read_messages, whole_sentences
from mr1jax.service.filters import check_filters, fits
from mr1jax.service.records import Conflict, Memory, NotFound
from mr1jax.service.sql_store import SqlStore
from mr1jax.service.texts import date_text, read_time

ROOT = Path(__file__).parents[1]


@pytest.fixture
def agent(tmp_path):
    with scripted_agent(SqlStore(f"sqlite:///{tmp_path}/m.db")) as opened:
        yield opened


def texts(agent, **scope):
    return sorted(each["memory"] for each in agent.get_all(**scope)["results"])


def test_add_answers_as_mem0_does(agent):
    """Oracle: the shapes of mem0, by hand: an ADD, an UPDATE with what was before, a DELETE, and NONE."""
    first = agent.add("set tea 1", user_id="ann", metadata={"a": 1}, timestamp="2024-05-08")
    (added,) = first["results"]
    assert added == {"id": added["id"], "memory": "set tea 1", "event": "ADD"}
    second = agent.add("set tea 2", user_id="ann", metadata={"b": 2}, timestamp="2024-05-09T01:00:00+02:00")
    updated = {"id": added["id"], "memory": "set tea 2", "event": "UPDATE", "previous_memory": "set tea 1"}
    assert second == {"results": [updated], "idempotent_replay": False}
    there = agent.get(added["id"], user_id="ann")
    assert there["metadata"] == {"a": 1, "b": 2}
    assert (there["created_at"][:10], there["updated_at"]) == ("2024-05-08", "2024-05-08T23:00:00.000000+00:00")
    assert agent.add("hello", user_id="ann")["results"] == [{"id": "", "memory": "hello", "event": "NONE"}]
    assert agent.add("drop tea", user_id="ann")["results"] == [{"id": added["id"], "memory": "set tea 2", "event": "DELETE"}]
    history = agent.history(added["id"], user_id="ann")
    told = [(each["event"], each["old_memory"], each["new_memory"], each["actor"]) for each in history]
    assert told == [
        ("ADD", None, "set tea 1", "manager"),
        ("UPDATE", "set tea 1", "set tea 2", "manager"),
        ("DELETE", "set tea 2", None, "manager"),
    ]
    assert json.loads(json.dumps(history)) == history


def test_facts_of_one_add_see_what_those_before_left(agent):
    """Oracle: a dict, filled in order, for one add of all kinds."""
    result = agent.add("set a 1. set b 1. set a 2. drop b. set b 3. drop a", user_id="ann")
    assert [each["event"] for each in result["results"]] == ["ADD", "ADD", "UPDATE", "DELETE", "ADD", "DELETE"]
    assert texts(agent, user_id="ann") == ["set b 3"]
    assert [event.event for event in agent.events(user_id="ann")] == ["ADD", "ADD", "UPDATE", "DELETE", "ADD", "DELETE"]


def test_every_state_of_the_log_comes_back(agent):
    """Oracle: the texts after each of several adds, kept as they were."""
    kept = []
    for said in ("set a 1", "set b 1", "set a 2", "drop b", "set c 1"):
        agent.add(said, user_id="ann")
        kept.append((agent.events(user_id="ann")[-1].id, texts(agent, user_id="ann")))
    for event_id, then in kept:
        assert sorted(memory.memory for memory in agent.state_at(event_id, user_id="ann")) == then
    assert [event.id for event in agent.events(user_id="ann", after=kept[1][0], limit=2)] == [kept[2][0], kept[3][0]]


def test_restore_goes_back_to_any_event_and_undoes_itself(agent):
    """Oracle: by hand."""
    (added,) = agent.add("set a 1", user_id="ann", metadata={"k": 1})["results"]
    agent.add("set a 2", user_id="ann", metadata={"k": 2})
    agent.add("drop a", user_id="ann")
    mine = {"memory_id": added["id"], "user_id": "ann"}
    assert (agent.restore(**mine)["memory"], agent.get(**mine)["metadata"]) == ("set a 2", {"k": 2})
    assert agent.restore(**mine)["deleted"]
    first = agent.history(**mine)[0]["id"]
    assert (agent.restore(**mine, to_event=first)["memory"], agent.get(**mine)["metadata"]) == ("set a 1", {"k": 1})
    assert [each["event"] for each in agent.history(**mine)] == ["ADD", "UPDATE", "DELETE", "RESTORE", "DELETE", "RESTORE"]
    with pytest.raises(ValueError, match=r"^event 999 is none of memory"):
        agent.restore(**mine, to_event=999)


def test_dry_run_says_what_would_be_done(agent):
    """Oracle: the events of the real run after it, and an empty store before."""
    would = agent.add("set a 1. set a 2. drop a", user_id="ann", dry_run=True, idempotency_key="k")
    assert agent.events(user_id="ann") == []
    assert agent.get_all(user_id="ann", include_deleted=True) == {"results": []}
    done = agent.add("set a 1. set a 2. drop a", user_id="ann", idempotency_key="k")
    assert [(each["event"], each["memory"]) for each in would["results"]] == [(each["event"], each["memory"]) for each in done["results"]]
    assert would["results"][0]["id"] == ""


def test_a_repeated_key_is_done_once(agent):
    """Oracle: the first result; another body is refused in one sentence, and another user's key is another key."""
    first = agent.add("set a 1", user_id="ann", idempotency_key="k")
    assert agent.add("set a 1", user_id="ann", idempotency_key="k") == first | {"idempotent_replay": True}
    assert len(agent.events(user_id="ann")) == 1
    with pytest.raises(ValueError, match=r"^idempotency_key 'k' was used for another request; give each request its own$"):
        agent.add("set a 2", user_id="ann", idempotency_key="k")
    assert not agent.add("set a 2", user_id="bob", idempotency_key="k")["idempotent_replay"]
    nothing = agent.add("hello", user_id="ann", idempotency_key="n")
    assert agent.add("hello", user_id="ann", idempotency_key="n") == nothing | {"idempotent_replay": True}


def test_a_key_used_at_once_is_done_once(agent):
    """Oracle: eight threads with one key: one ADD, one result that is no replay, and one id."""
    results = []

    def add():
        results.append(agent.add("set a 1", user_id="ann", idempotency_key="k"))

    run_at_once([add] * 8)
    assert sorted(each["idempotent_replay"] for each in results) == [False] + [True] * 7
    assert len({each["results"][0]["id"] for each in results}) == 1
    assert len(agent.events(user_id="ann")) == 1


def test_adds_of_one_user_at_once_see_each_other(agent):
    """Oracle: eight threads write one key: one ADD, and seven UPDATEs that each name the text before."""
    run_at_once([lambda k=k: agent.add(f"set a {k}", user_id="ann") for k in range(8)])
    events = agent.events(user_id="ann")
    assert [event.event for event in events] == ["ADD"] + ["UPDATE"] * 7
    assert [event.old_memory for event in events[1:]] == [event.new_memory for event in events[:-1]]


def test_another_process_between_reading_and_writing(agent, tmp_path):
    """Oracle: somebody else adds the same memory while the Manager decides: it decides again, and it is an UPDATE."""
    other = scripted_agent(SqlStore(f"sqlite:///{tmp_path}/m.db"))
    decide, calls = agent.engine.decide, []

    def slow(request):
        if not calls:
            other.add("set a 1", user_id="ann")
        calls.append(request)
        return decide(request)

    agent.engine.decide = slow
    assert [each["event"] for each in agent.add("set a 2", user_id="ann")["results"]] == ["UPDATE"]
    assert len(calls) == 2
    assert texts(agent, user_id="ann") == ["set a 2"]
    other.close()


def test_a_store_that_is_never_free_is_said_so(agent, monkeypatch):
    """Oracle: a commit that always conflicts: a sentence, not a loop."""

    def never(*_args, **_kwargs):
        raise Conflict

    monkeypatch.setattr(agent.store, "commit", never)
    monkeypatch.setattr("mr1jax.service.memories._PATIENCE", 0.01)
    with pytest.raises(ValueError, match="^other processes keep writing to user:ann; try again later$"):
        agent.add("set a 1", user_id="ann")


def test_answer_says_what_it_rests_on(agent):
    """Oracle: the scripted reader, which quotes all and answers with the last written."""
    ids = [agent.add(f"set {key} 1", user_id="ann")["results"][0]["id"] for key in "ab"]
    answer = agent.answer("what is a", user_id="ann")
    assert answer["answer"] == "set b 1"
    assert [(each["id"], each["memory"], each["selected"]) for each in answer["memories"]] == [
        (ids[0], "set a 1", True),
        (ids[1], "set b 1", True),
    ]
    assert agent.answer("what is a", user_id="bob")["memories"] == []


def test_more_memories_than_the_bank_has_slots(agent):
    """Oracle: the one of 40 memories that shares the word is among the 8 that are shown, which are in the order they were written."""
    for k in range(40):
        agent.add(f"set key{k} thing{k}", user_id="ann")
    agent.add("set key7 again", user_id="ann")
    shown = agent.engine.decided[-1].lines
    assert len(shown) == 8
    assert "set key7 thing7" in [line.text for line in shown]
    assert [int(line.text.split("thing")[1]) for line in shown] == sorted(int(line.text.split("thing")[1]) for line in shown)
    assert "set key7 again" in texts(agent, user_id="ann")


def test_export_and_import(agent, tmp_path):
    """Oracle: what was exported, field by field; to import twice is to import once, and what comes home is left as it is."""
    agent.add("set a 1", user_id="ann", metadata={"k": [1, "é"]}, timestamp="2024-05-08", expires_at="2999-01-01")
    agent.add("set b 1", user_id="ann")
    assert agent.export_jsonl(tmp_path / "out.jsonl", user_id="ann") == 2
    assert agent.import_jsonl(tmp_path / "out.jsonl", user_id="bob") == 2
    assert agent.import_jsonl(tmp_path / "out.jsonl", user_id="bob") == 0
    assert agent.import_jsonl(tmp_path / "out.jsonl", user_id="ann") == 0

    def content(user):
        kept = ("memory", "metadata", "updated_at", "expires_at", "speaker")
        return [{name: each[name] for name in kept} for each in agent.get_all(user_id=user)["results"]]

    assert content("bob") == content("ann")
    assert {event.actor for event in agent.events(user_id="bob")} == {"import"}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b"{", "is no memory"),
        (b"[]", "is no memory"),
        (b'{"memory": "x"}', "a field is missing"),
        (b'{"id": "1", "memory": "x", "colour": 1}', "is no memory"),
        (b'{"id": "1", "memory": ""}', "is blank"),
        (b'{"id": "1", "memory": "x", "speaker": 7}', "speaker"),
        (b'{"id": "1", "memory": "x", "expires_at": "soon"}', "ISO 8601"),
        (b'{"id": "1", "memory": "\\ud800"}', "half a character"),
        (b"\xff\xfe", "is no memory"),
        (b"[" * 100_000, "is no memory"),
    ],
)
def test_a_wrong_line_is_named_and_nothing_is_imported(agent, tmp_path, line, said):
    """Oracle: one sentence with the number of the line; the good line before it is not there either."""
    (tmp_path / "in.jsonl").write_bytes(b'{"id": "0", "memory": "good"}\n' + line + b"\n")
    with pytest.raises(ValueError, match="line 2 of") as refused:
        agent.import_jsonl(tmp_path / "in.jsonl", user_id="ann")
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)
    assert agent.get_all(user_id="ann") == {"results": []}


HALF = "\ud83d"
REFUSED = {
    "no scope": ("add", ["x"], {}, "no user_id, agent_id or run_id"),
    "scope that is no text": ("add", ["x"], {"user_id": 7}, "user_id is 7"),
    "scope with a line break": ("add", ["x"], {"user_id": "a\nb"}, "control characters"),
    "scope too long": ("add", ["x"], {"user_id": "a" * 257}, "257 characters"),
    "blank text": ("add", [" \n"], {"user_id": "a"}, "blank"),
    "text too long": ("add", ["x" * 100_001], {"user_id": "a"}, "100001 characters"),
    "half a character": ("add", [f"x{HALF}"], {"user_id": "a"}, "half a character"),
    "no messages": ("add", [[]], {"user_id": "a"}, "there are 0 messages"),
    "messages of another kind": ("add", [{"role": "user"}], {"user_id": "a"}, "give a text, or a list"),
    "an unknown role": ("add", [[{"role": "king", "content": "x"}]], {"user_id": "a"}, "the role of message 0"),
    "content that is no text": ("add", [[{"role": "user", "content": 7}]], {"user_id": "a"}, "the content of message 0 is 7"),
    "long together": ("add", [[{"role": "user", "content": "x " * 30_000}] * 4], {"user_id": "a"}, "together"),
    "metadata that is no dict": ("add", ["x"], {"user_id": "a", "metadata": [1]}, "metadata is no JSON object"),
    "metadata that JSON has not": ("add", ["x"], {"user_id": "a", "metadata": {"k": float("nan")}}, "JSON has not"),
    "metadata too long": ("add", ["x"], {"user_id": "a", "metadata": {"k": "x" * 20_000}}, "bytes as JSON"),
    "a time that is none": ("add", ["x"], {"user_id": "a", "timestamp": "yesterday"}, "ISO 8601"),
    "an end that is none": ("add", ["x"], {"user_id": "a", "expires_at": "never"}, "ISO 8601"),
    "a key that is none": ("add", ["x"], {"user_id": "a", "idempotency_key": "\0"}, "idempotency_key"),
    "a limit of 0": ("search", ["x"], {"user_id": "a", "limit": 0}, "limit is 0"),
    "a limit that is a bool": ("get_all", [], {"user_id": "a", "limit": True}, "limit is True"),
    "a filter that is none": ("search", ["x"], {"user_id": "a", "filters": [1]}, "give a dict of conditions"),
    "an unknown condition": ("search", ["x"], {"user_id": "a", "filters": {"k": {"like": 1}}}, "choose among"),
    "blank question": ("answer", [""], {"user_id": "a"}, "the question is blank"),
    "an id that is none": ("get", [7], {"user_id": "a"}, "memory_id is 7"),
    "an id that is not there": ("update", ["x", "y"], {"user_id": "a"}, "there is no memory 'x'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_wrong_is_said_in_one_sentence(agent, case):
    """Oracle: the table above; nothing is written."""
    call, args, kwargs, said = REFUSED[case]
    with pytest.raises(ValueError, match="^[^\n]*$") as refused:
        getattr(agent, call)(*args, **kwargs)
    assert said in str(refused.value)
    assert agent.engine.decided == []


def test_another_users_memory_is_as_absent_as_none(agent):
    """Oracle: for every call with an id, the error for an id that nobody has."""
    (mine,) = agent.add("set a 1", user_id="ann")["results"]
    for call, more in {"get": [], "update": ["x"], "delete": [], "history": [], "restore": []}.items():
        said = []
        for memory_id in (mine["id"], "0" * 36):
            with pytest.raises(NotFound) as refused:
                getattr(agent, call)(memory_id, *more, user_id="bob")
            said.append(str(refused.value).replace(memory_id, "ID"))
        assert said[0] == said[1]
    assert texts(agent, user_id="ann") == ["set a 1"]


def test_filters():
    """Oracle: by hand, one memory and conditions that it fits or does not."""
    memory = Memory("1", "tea", user_id="ann", run_id="r", metadata={"n": 3, "tags": ["a", "b"], "name": "Bramo"}, created_at="2024-05-08")
    good = [
        {"n": 3},
        {"n": {"gte": 3, "lt": 4}},
        {"run_id": "r"},
        {"tags": {"contains": "a"}},
        {"name": {"icontains": "BRA"}},
        {"n": {"in": [1, 3]}},
        {"absent": {"ne": 1}},
        {"created_at": {"gte": "2024-01-01"}},
        {"OR": [{"n": 1}, {"n": 3}]},
        {"AND": [{"n": 3}, {"NOT": [{"n": 4}]}]},
    ]
    bad = [
        {"n": 4},
        {"n": {"gt": 3}},
        {"n": {"gt": "3"}},
        {"absent": 1},
        {"NOT": [{"n": 3}]},
        {"n": {"contains": 3}},
        {"OR": []},
        {"n": {"nin": [3]}},
    ]
    for each in (*good, *bad):
        check_filters(each)
    assert [fits(memory, each) for each in good] == [True] * len(good)
    assert [fits(memory, each) for each in bad] == [False] * len(bad)


def test_messages_become_sentences():
    """Oracle: by hand: names stand before what they say, instructions and tools say nothing, and no slot is too narrow for a part."""
    messages = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "I like tea. Do you?\n- one\n- two", "name": "Mia"},
        {"role": "assistant", "content": "Yes"},
    ]
    turns = read_messages(messages)
    facts = [fact for turn in turns for fact in whole_sentences(turn, lambda text: len(text.split()), 4)]
    assert facts == ["Mia: I like tea", "Mia: Do you?", "Mia: - one", "Mia: - two", "Yes"]
    (long,) = read_messages("one two three four five six seven")
    assert whole_sentences(long, lambda text: len(text.split()), 3) == ["one two", "three four", "five six seven"]


def test_times():
    """Oracle: by hand: one form in UTC, and the day as the data sets write it."""
    assert read_time("t", "2024-05-08T23:30:00-01:00") == "2024-05-09T00:30:00.000000+00:00"
    assert read_time("t", "2024-05-08") == "2024-05-08T00:00:00.000000+00:00"
    assert read_time("t", "2024-05-08T00:00:00Z") == "2024-05-08T00:00:00.000000+00:00"
    assert date_text("2024-05-08T00:00:00.000000+00:00") == "8 May 2024"


def test_async_twins_keep_the_order_of_one_user(agent):
    """Oracle: forty adds of two users, gathered: for each user the order in which they were made; every call has a twin."""

    async def run():
        twin = AsyncMemoryAgent(agent)
        await asyncio.gather(*(twin.add(f"set a {k}", user_id=user) for k in range(20) for user in ("ann", "bob")))
        found = await twin.search("a 19", user_id="ann")
        return found["results"][0]["memory"]

    assert asyncio.run(run()) == "set a 19"
    for user in ("ann", "bob"):
        assert [event.new_memory for event in agent.events(user_id=user)] == [f"set a {k}" for k in range(20)]
    calls = {name for name in dir(mr1jax.MemoryAgent) if not name.startswith("_")} - {"compilations", "in_turn", "find"}
    assert calls <= set(dir(AsyncMemoryAgent))


def test_an_async_answer_comes_in_pieces(agent):
    """Oracle: its twin's pieces and last, the answer itself; nothing waits in an event loop for them but who asked."""
    agent.add("set a 1", user_id="ann")

    async def run():
        return [each async for each in AsyncMemoryAgent(agent).stream_answer("a?", user_id="ann")]

    came = asyncio.run(run())
    assert came == list(agent.stream_answer("a?", user_id="ann"))
    assert came[-1] == agent.answer("a?", user_id="ann")
    assert "".join(each["piece"] for each in came[:-1]) == came[-1]["answer"] != ""


def test_import_stays_light():
    """Oracle: a fresh interpreter that imports mr1jax has neither SQLAlchemy nor JAX in it."""
    code = "import sys, mr1jax; sys.exit(bool({'sqlalchemy', 'jax'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_killed_processes_lose_nothing_that_was_acknowledged(store_url, tmp_path):  # noqa: F811
    """Oracle: what 8 processes printed after each add returned, each killed at a random moment: all of it is in the store, and the log
    still comes to the table."""
    if store_url == "memory":
        pytest.skip("a store in memory ends with its process")
    rng, told = random.Random(0), [tmp_path / str(k) for k in range(8)]
    SqlStore(store_url).close()
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
    command = [sys.executable, ROOT / "tests/service_writer.py", store_url, tmp_path, "8"]
    with subprocess.Popen(command, env=environment):
        deadline = time.monotonic() + 120  # of a machine that does nothing: the assertions below then fail
        for path in rng.sample(told, 8):
            wanted = rng.randint(1, 12)
            while time.monotonic() < deadline and not (path.exists() and path.read_bytes().count(b"\n") >= wanted):
                time.sleep(0.001)
            os.kill(int(path.with_suffix(".pid").read_text()), signal.SIGKILL)
    with scripted_agent(SqlStore(store_url)) as agent:
        log = {event.memory_id for event in agent.events(user_id="ann", limit=100_000)}
        there = {each["id"]: each["memory"] for each in agent.get_all(user_id="ann", limit=100_000)["results"]}
    assert set(there) == log
    for path in told:
        acknowledged = [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]
        assert acknowledged
        assert all(there[each["id"]] == each["memory"] for each in acknowledged)


def run_at_once(calls):
    threads = [threading.Thread(target=call) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
