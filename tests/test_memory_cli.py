"""mr1jax memory and mr1jax chat, by main() in this process over a store in a file, beside the agent itself over the same store."""

import io
import json
import os
import re
import sys

import pytest
from served import tiny_agent

from mr1jax import cli
from mr1jax.service.agent import MemoryAgent
from mr1jax.service.chat_cli import Chat
from mr1jax.service.chat_server import Unavailable
from mr1jax.service.serve_cli import find_store
from mr1jax.service.shown import after_answer, event_line, memory_line, operation_lines
from mr1jax.service.sql_store import SqlStore

SAID = "Mia has a dog called Bramo."
QUESTION = "What is Mia's dog called?"
NOBODYS = "18d7848e-8956-4528-bf94-0b92258071a6"  # an id that no memory has


class Shared(MemoryAgent):
    """An agent whose compiled side outlives it: closing lets go of the store alone."""

    def close(self):
        self.store.close()


@pytest.fixture
def direct(tmp_path, monkeypatch):
    """The tiny agent over a store in a file, which every command finds by MR1JAX_STORE: its programs are those of `tiny_agent`."""
    url = f"sqlite:///{tmp_path / 'memory.db'}"
    monkeypatch.setenv("MR1JAX_STORE", url)
    monkeypatch.chdir(tmp_path)
    shared = tiny_agent()
    with Shared(shared.engine, SqlStore(url), shared.extractor) as agent:
        yield agent


@pytest.fixture
def run(monkeypatch, capsys, direct):
    """Runs `mr1jax` with these arguments and this standard input: (status, standard output, standard error)."""
    opened = []

    def open_agent(path="", *, store, **_):
        opened.append(store)
        return Shared(direct.engine, SqlStore(store), direct.extractor)

    monkeypatch.setattr(MemoryAgent, "from_pretrained", open_agent)

    def run(*arguments, said=None, stdin=None):
        monkeypatch.setattr(sys, "argv", ["mr1jax", *map(str, arguments)])
        monkeypatch.setattr(sys, "stdin", stdin or io.StringIO(said))
        status = 0
        try:
            cli.main()
        except SystemExit as stopped:
            status = stopped.code
        return status, *capsys.readouterr()

    run.opened = opened
    return run


def of(run, *arguments, **more):
    """Returns the JSON that a command prints."""
    status, out, err = run(*arguments, "--user-id", "ann", "--json", **more)
    assert (status, err) == (0, "")
    return json.loads(out)


def test_every_action_is_the_agents_call(run, direct, tmp_path):
    """Oracle: the agent, called directly on the same store; what a command returns is what the call returns, as JSON."""
    ann = {"user_id": "ann"}
    tried = of(run, "memory", "add", SAID, "--dry-run")
    assert [result["event"] for result in tried["results"]] == ["ADD"]
    assert direct.get_all(**ann) == {"results": []}
    added = of(run, "memory", "add", SAID, "--timestamp", "2024-05-08T12:00:00Z")
    (memory,) = direct.get_all(**ann)["results"]
    assert added == {"results": [{"id": memory["id"], "memory": memory["memory"], "event": "ADD"}], "idempotent_replay": False}
    assert memory["created_at"].startswith("2024-05-08T12:00:00")
    of(run, "memory", "add", "-", said="Leo works as a baker.\nLeo has a cat.\n")
    assert len(direct.get_all(**ann)["results"]) == 3
    assert of(run, "memory", "list") == direct.get_all(**ann)
    assert of(run, "memory", "list", "--limit", "2") == direct.get_all(limit=2, **ann)
    assert of(run, "memory", "search", "dog cat", "--limit", "1") == direct.search("dog cat", limit=1, **ann)
    direct.update(memory["id"], "Mia has a cat", **ann)
    assert of(run, "memory", "undo", memory["id"]) == direct.get(memory["id"], **ann)
    assert direct.get(memory["id"], **ann)["memory"] == memory["memory"]
    events = direct.history(memory["id"], **ann)
    assert of(run, "memory", "history", memory["id"]) == events
    of(run, "memory", "undo", memory["id"], "--to-event", events[1]["id"])
    assert direct.get(memory["id"], **ann)["memory"] == "Mia has a cat"
    direct.delete(memory["id"], **ann)
    assert memory["id"] not in [each["id"] for each in of(run, "memory", "list")["results"]]
    assert of(run, "memory", "list", "--deleted") == direct.get_all(include_deleted=True, **ann)
    assert of(run, "memory", "export", "ann.jsonl") == {"exported": 2}
    lines = (tmp_path / "ann.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == direct.get_all(**ann)["results"][::-1]
    imported = json.loads(run("memory", "import", "ann.jsonl", "--agent-id", "helper", "--json")[1])
    assert imported == {"imported": 2}
    texts = [[each["memory"] for each in direct.get_all(**ids)["results"]] for ids in (ann, {"agent_id": "helper"})]
    assert texts[0] == texts[1]


def test_only_add_reads_a_model(run, direct, monkeypatch):
    """Oracle: the list of agents that were opened; a store that is named is the one that is used."""
    direct.add(SAID, user_id="ann")
    (memory,) = direct.get_all(user_id="ann")["results"]
    for action in (["search", "dog"], ["list"], ["history", memory["id"]], ["export", "x.jsonl"], ["import", "x.jsonl"]):
        assert run("memory", *action, "--user-id", "ann")[0] == 0
    assert run.opened == []
    run("memory", "add", SAID, "--user-id", "ann", "--store", "sqlite:///other.db")
    assert run.opened == ["sqlite:///other.db"]
    assert len(json.loads(run("memory", "list", "--user-id", "ann", "--store", "sqlite:///other.db", "--json")[1])["results"]) == 1


def test_what_a_person_reads(run, direct):
    """Oracle: the lines of `shown`, which the next test writes out by hand, of what the agent returns."""
    ann = {"user_id": "ann"}
    status, out, _ = run("memory", "add", SAID, "--user-id", "ann")
    (memory,) = direct.get_all(**ann)["results"]
    assert (status, out) == (0, f"ADD     {memory['id']}  {memory['memory']}\n")
    assert run("memory", "list", "--user-id", "ann")[1] == memory_line(memory) + "\n"
    (found,) = direct.search("dog", **ann)["results"]
    assert run("memory", "search", "dog", "--user-id", "ann")[1] == memory_line(found) + "\n"
    (event,) = direct.history(memory["id"], **ann)
    assert run("memory", "history", memory["id"], "--user-id", "ann")[1] == event_line(event) + "\n"
    assert run("memory", "undo", memory["id"], "--user-id", "ann")[1] == memory_line(memory) + "  (deleted)\n"
    assert run("memory", "export", "x.jsonl", "--user-id", "ann")[1] == "exported 0 memories to x.jsonl\n"


def test_lines_are_written_out():
    """Oracle: each line by hand; what would move a terminal's cursor is a space."""
    assert operation_lines({"id": "7", "memory": "a\x1b[2Jb", "event": "ADD"}) == [f"ADD     {'7':36}  a [2Jb"]
    updated = {"id": "7", "memory": "new", "event": "UPDATE", "previous_memory": "old"}
    assert operation_lines(updated) == [f"UPDATE  {'7':36}  old", f"{'':42}->  new"]
    nothing = {"id": "", "memory": "hm", "event": "NONE", "reason": "BAD_SLOT: UPDATE 9: x"}
    assert operation_lines(nothing) == [f"NOOP    {'-':36}  hm  (BAD_SLOT: UPDATE 9: x)"]
    memory = {"id": "7", "memory": "m", "deleted": False, "updated_at": "2024-05-08T12:00:00.000000+00:00"}
    assert memory_line(memory) == "2024-05-08  7  m"
    assert memory_line(memory | {"score": 1.234, "deleted": True}) == "      1.23  7  m  (deleted)"
    event = {"id": 12, "created_at": "2024-05-08T12:00:00.000000+00:00", "actor": "user", "event": "UPDATE"}
    assert event_line(event | {"old_memory": "old", "new_memory": "new"}) == "    12  2024-05-08T12:00:00  user     UPDATE   old -> new"
    assert event_line(event | {"old_memory": "old", "new_memory": None}).endswith("  UPDATE   old")
    shown = [{"memory": "a", "selected": True}, {"memory": "b\n", "selected": False}]
    assert after_answer({"answer": "x", "memories": shown}) == ["", "  * a", "    b"]
    assert after_answer({"answer": "", "memories": []}) == ["(no answer)"]


@pytest.mark.parametrize(
    ("arguments", "status", "sentence"),
    [
        (["list"], 2, "no user is named; say whose memory this is, by --user-id"),
        (["add", SAID], 2, "no user is named; .*"),
        (["add", " ", "--user-id", "ann"], 2, "the text is blank; give a text"),
        (["add", SAID, "--user-id", "ann", "--timestamp", "soon"], 2, "timestamp is 'soon'; .*"),
        (["list", "--user-id", "ann", "--limit", "0"], 2, "limit is 0; .*"),
        (["list", "--user-id", "ann", "--store", "mysql://x"], 2, "the store's address is none that is known; .*"),
        (["list", "--user-id", "ann", "--store", "sqlite:///no/folder/x.db"], 2, "the store .* cannot be opened .*"),
        (["import", "gone.jsonl", "--user-id", "ann"], 2, "there is no file gone.jsonl .*"),
        (["forget", "--user-id", "ann"], 2, ".*forget.*"),
        (["history"], 2, "Missing from mr1jax memory history: ID .*"),
        (["history", NOBODYS, "--user-id", "ann"], 1, f"there is no memory '{NOBODYS}'"),
        (["undo", NOBODYS, "--user-id", "ann"], 1, f"there is no memory '{NOBODYS}'"),
    ],
)
def test_what_is_wrong_is_one_sentence(run, arguments, status, sentence):
    """Oracle: the sentence on standard error and the exit status: 1 for a memory that is not there, 2 for what the user wrote."""
    found, out, err = run("memory", *arguments)
    assert (found, out) == (status, "")
    assert re.fullmatch(f"mr1jax: {sentence}\n", err), err


def test_another_users_memory_is_not_there(run, direct):
    """Oracle: the words and the status for an id that nobody has."""
    theirs = direct.add(SAID, user_id="bob")["results"][0]["id"]
    for action in ("history", "undo"):
        foreign = run("memory", action, theirs, "--user-id", "ann")
        missing = run("memory", action, NOBODYS, "--user-id", "ann")
        assert foreign[2].replace(theirs, "ID") == missing[2].replace(NOBODYS, "ID")
        assert foreign[0] == missing[0] == 1


@pytest.mark.parametrize("action", ["", "add", "search", "list", "history", "undo", "export", "import"])
def test_help_has_an_example(run, action):
    """Oracle: the status, and in the help of an action the command itself with a user."""
    status, out, _ = run("memory", *filter(None, [action]), "--help")
    assert status == 0
    assert re.search(
        rf"mr1jax memory {action} \S.*--user-id ann" if action else "add.*search.*list", " ".join(out.replace("│", " ").split())
    )


def test_where_memories_are_kept(monkeypatch, tmp_path):
    """Oracle: the order: what is given, MR1JAX_STORE, the user's data folder, which nobody else may read."""
    monkeypatch.setenv("MR1JAX_STORE", "sqlite:///x.db")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    assert find_store("memory") == "memory"
    assert find_store("") == "sqlite:///x.db"
    assert not list(tmp_path.iterdir())
    monkeypatch.delenv("MR1JAX_STORE")
    assert find_store("") == f"sqlite:///{tmp_path}/data/mr1jax/memory.db"
    assert os.stat(tmp_path / "data/mr1jax").st_mode & 0o077 == 0
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "file"))
    with pytest.raises(ValueError, match="^there is no folder for memories .*; say by --store or MR1JAX_STORE where they are kept$"):
        find_store("")


# mr1jax chat ----------------------------------------------------------------------------------------------------------------------


def test_a_script_talks_to_the_agent(run, direct):
    """Oracle: the agent's own answer and memories after the same lines; each line is echoed, and then what came of it."""
    said = f"\n{SAID}\n  {QUESTION}  \n/list\n/quit\nLeo has a cat.\n"
    status, out, err = run("chat", "--user-id", "ann", said=said)
    (memory,) = direct.get_all(user_id="ann")["results"]
    expected = [f"> {SAID}", *operation_lines({"event": "ADD", **memory}), f"> {QUESTION}"]
    answered = direct.answer(QUESTION, user_id="ann")
    assert answered["answer"]
    expected += [answered["answer"], *after_answer(answered)[1:], "> /list", memory_line(memory), "> /quit"]
    assert (status, out.splitlines(), err) == (0, expected, "")


def test_a_script_gets_json(run, direct):
    """Oracle: one object a line, each what the agent returns for the line, beside the line."""
    out = run("chat", "--user-id", "ann", "--json", said=f"{SAID}\n{QUESTION}\n/list\n/undo\n")[1]
    said, asked, listed, undone = map(json.loads, out.splitlines())
    memory = direct.get_all(user_id="ann", include_deleted=True)["results"][0]
    added = {"id": memory["id"], "memory": memory["memory"], "event": "ADD"}
    assert said == {"said": SAID, "results": [added], "idempotent_replay": False}
    assert set(asked) == {"asked", "answer", "response", "memories"}
    assert [shown["id"] for shown in asked["memories"]] == [memory["id"]]
    assert [each["id"] for each in listed["listed"]] == [memory["id"]]
    assert undone == {"undone": SAID, "results": [{"id": memory["id"], "memory": memory["memory"], "event": "DELETE"}]}
    assert memory["deleted"]


@pytest.mark.parametrize(("line", "sentence"), [("/forget", "there is no command '/forget'; .*"), ("/undo", "nothing that was said .*")])
def test_a_script_ends_at_a_line_that_is_refused(run, direct, line, sentence):
    """Oracle: the status, the sentence, and the memories: what came before the line is kept, what comes after is not read."""
    status, _, err = run("chat", "--user-id", "ann", said=f"{line}\n{SAID}\n")
    assert status == 2
    assert re.fullmatch(f"mr1jax: {sentence}\n", err)
    assert direct.get_all(user_id="ann") == {"results": []}


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_person_goes_on_after_a_line_that_is_refused(run, direct, monkeypatch):
    """Oracle: the sentence on standard error, and the memory that the next line made; the lines come from input() and end by Ctrl-D."""
    lines = iter(["/forget", "", SAID])

    def typed(prompt):
        assert prompt == "> "
        for line in lines:
            return line
        raise EOFError

    monkeypatch.setattr("builtins.input", typed)
    status, out, err = run("chat", "--user-id", "ann", stdin=Terminal())
    assert status == 0
    assert len(err.splitlines()) == 2
    assert err.splitlines()[1].startswith("mr1jax: there is no command '/forget'; ")
    (memory,) = direct.get_all(user_id="ann")["results"]
    assert out.splitlines() == operation_lines({"event": "ADD", **memory})


def test_a_server_that_does_not_answer_is_status_1(run, direct, monkeypatch):
    """Oracle: the sentence of `Unavailable` and the exit status, of chat and of memory add."""

    def fail(*_, **__):
        raise Unavailable("the model wise-1 does not answer")

    monkeypatch.setattr(MemoryAgent, "add", fail)
    assert run("chat", "--user-id", "ann", said=SAID)[::2] == (1, "mr1jax: the model wise-1 does not answer\n")
    assert run("memory", "add", SAID, "--user-id", "ann") == (1, "", "mr1jax: the model wise-1 does not answer\n")


class Scripted:
    """An agent whose Manager does what it is told: {line: [(event, id or None, text)]}; everything else is the real agent's."""

    def __init__(self, agent, script):
        self._agent, self._script, self.ids = agent, script, []

    def __getattr__(self, name):
        return getattr(self._agent, name)

    def add(self, line, **ids):
        results = []
        for event, place, text in self._script[line]:
            if event == "ADD":
                done = self._agent.add(text, **ids)
                self.ids.append(done["results"][0]["id"])
            elif event == "UPDATE":
                done = self._agent.update(self.ids[place], text, **ids)
            else:
                done = self._agent.delete(self.ids[place], **ids)
            results += done["results"]
        return {"results": results, "idempotent_replay": False}


def test_undo_goes_back_line_by_line(direct):
    """Oracle: the memories that there were after each line, noted on the way; each /undo is the state one line earlier."""
    script = {
        "one": [("ADD", None, "Mia has a dog.")],
        "two": [("UPDATE", 0, "Mia has a cat."), ("ADD", None, "Leo works as a baker.")],
        "three": [("DELETE", 0, None), ("UPDATE", 1, "Leo sings."), ("UPDATE", 1, "Leo plays chess.")],
        "four": [("ADD", None, "Zoe likes tea."), ("DELETE", 2, None)],
    }
    talk, states = Chat(Scripted(direct, script), {"user_id": "ann"}, print), []
    for line in script:
        states.append({each["id"]: each["memory"] for each in direct.get_all(user_id="ann")["results"]})
        talk.hear(line)
    for line in reversed(script):
        assert talk.hear("/undo")["undone"] == line
        assert {each["id"]: each["memory"] for each in direct.get_all(user_id="ann")["results"]} == states.pop()
    with pytest.raises(ValueError, match="^nothing that was said"):
        talk.hear("/undo")


@pytest.mark.parametrize("mark", ["?", "\u061f", "\uff1f"])
def test_what_ends_in_a_question_mark_asks(direct, mark):
    """Oracle: the memories, of which there are none more; the same line with a full stop is remembered."""
    heard = []
    talk = Chat(direct, {"user_id": "ann"}, heard.append)
    asked = talk.hear(f"What is it{mark}")
    assert "".join(heard) == asked["answer"]
    assert direct.get_all(user_id="ann") == {"results": []}
    assert "results" in talk.hear("What is it.")
    assert len(direct.get_all(user_id="ann")["results"]) == 1
