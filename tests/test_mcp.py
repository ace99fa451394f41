"""The memory as tools of a model: the SDK's own client, in this process and over the standard streams of a server of its own."""

import asyncio
import os
import sys
import uuid
from pathlib import Path

import pytest
from mcp import Client, StdioServerParameters
from served import tiny_agent

from mr1jax.service.mcp_server import make_server

ROOT = Path(__file__).parents[1]
SAID = "Mia has a dog called Bramo."
QUESTION = "What is Mia's dog called?"
NAMES = {"add", "search", "get", "list", "update", "delete", "history", "answer"}
START = "from mr1jax.cli import main; main()"


def talk(server, conversation):
    """Runs a coroutine of a client that is connected to this server."""

    async def connected():
        async with Client(server, read_timeout_seconds=240) as client:
            return await conversation(client)

    return asyncio.run(connected())


async def result(client, tool, **arguments):
    """Returns what a tool returned; fails where it refused."""
    answered = await client.call_tool(tool, arguments)
    assert not answered.is_error, answered.content[0].text
    return answered.structured_content


async def refusal(client, tool, **arguments):
    """Returns the words that a tool refused with."""
    answered = await client.call_tool(tool, arguments)
    assert answered.is_error
    return answered.content[0].text


@pytest.fixture
def user():
    return f"user-{uuid.uuid4()}"


def test_no_tool_lets_a_model_name_a_user(user):
    """Oracle: the schemas as a client is shown them: eight tools, whose arguments are these; reading ones say that they only read."""

    async def listed(client):
        return (await client.list_tools()).tools

    tools = {tool.name: tool for tool in talk(make_server(tiny_agent(), user), listed)}
    assert set(tools) == NAMES
    arguments = {name for tool in tools.values() for name in tool.input_schema["properties"]}
    assert arguments == {"text", "query", "limit", "memory_id", "question"}
    assert all(tool.description for tool in tools.values())
    assert {name for name, tool in tools.items() if tool.annotations.read_only_hint} == NAMES - {"add", "update", "delete"}


def test_tools_are_the_agent(user):
    """Oracle: the agent, asked directly for the same user after every call."""
    agent, mine = tiny_agent(), {"user_id": user}

    async def converse(client):
        (added,) = (await result(client, "add", text=SAID))["results"]
        assert added["event"] == "ADD"
        await result(client, "add", text="Leo works as a baker in Utrecht.")
        assert await result(client, "list") == agent.get_all(**mine)
        assert [len((await result(client, "list", limit=limit))["results"]) for limit in (1, 2)] == [1, 2]
        assert await result(client, "get", memory_id=added["id"]) == agent.get(added["id"], **mine)
        assert await result(client, "search", query="dog baker", limit=1) == agent.search("dog baker", limit=1, **mine)
        assert await result(client, "answer", question=QUESTION) == agent.answer(QUESTION, **mine)
        await result(client, "update", memory_id=added["id"], text="Mia has a cat.")
        assert agent.get(added["id"], **mine)["memory"] == "Mia has a cat."
        assert (await result(client, "history", memory_id=added["id"]))["results"] == agent.history(added["id"], **mine)
        await result(client, "delete", memory_id=added["id"])
        assert added["id"] not in {memory["id"] for memory in agent.get_all(**mine)["results"]}

    talk(make_server(agent, user), converse)


def test_another_users_memory_is_out_of_reach(user):
    """Oracle: the words for an id that nobody has; an argument that names another user changes nothing about whose memory it is."""
    agent, nobodys = tiny_agent(), str(uuid.uuid4())
    theirs = agent.add(SAID, user_id=f"{user}-2")["results"][0]["id"]

    async def converse(client):
        for tool, more in (("get", {}), ("update", {"text": "mine"}), ("delete", {}), ("history", {})):
            foreign = await refusal(client, tool, memory_id=theirs, user_id=f"{user}-2", **more)
            missing = await refusal(client, tool, memory_id=nobodys, **more)
            assert foreign.replace(theirs, "ID") == missing.replace(nobodys, "ID")
        assert await result(client, "list", user_id=f"{user}-2") == {"results": []}
        await result(client, "add", text=SAID, user_id=f"{user}-2")

    talk(make_server(agent, user), converse)
    assert len(agent.get_all(user_id=f"{user}-2")["results"]) == 1
    assert len(agent.get_all(user_id=user)["results"]) == 1


def test_a_model_hears_what_is_wrong(user, monkeypatch):
    """Oracle: the agent's own sentence for a wrong value; of a fault of ours nothing but that there was one."""
    agent = tiny_agent()

    async def converse(client):
        assert "blank" in await refusal(client, "add", text=" ")
        assert "limit" in await refusal(client, "search", query="x", limit=0)
        assert "gone" in await refusal(client, "get", memory_id="gone")

        def fail(*_, **__):
            raise OSError("password of the database")

        monkeypatch.setattr(agent, "search", fail)
        assert await refusal(client, "search", query="x") == "Error executing tool search"

    talk(make_server(agent, user), converse)


def environment():
    return os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "JAX_COMPILATION_CACHE_DIR": str(ROOT / ".jax_cache")}


@pytest.mark.slow
def test_over_standard_streams(tmp_path):
    """Oracle: what was told to one process is known to the next, started anew on the same file."""
    arguments = ["-c", START, "mcp", "--user-id", "ann", "--store", f"sqlite:///{tmp_path / 'memory.db'}"]
    server = StdioServerParameters(command=sys.executable, args=arguments, env=environment(), cwd=tmp_path)

    async def tell(client):
        return await result(client, "add", text=SAID)

    async def known(client):
        return await result(client, "list")

    (added,) = talk(server, tell)["results"]
    assert [memory["id"] for memory in talk(server, known)["results"]] == [added["id"]]
