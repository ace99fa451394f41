"""A server as it runs, on a port of the loopback that is free, in a thread of the tests; and the tiny agent that they share."""

import contextlib
import functools
import threading

import httpx

from mr1jax.service.agent import MemoryAgent
from mr1jax.service.http import make_app
from mr1jax.service.limits import Limits, Tokens
from mr1jax.service.serve import LOCAL_HOSTS, bind, make_server

FREE = Limits(rate=10_000.0, burst=10_000)  # tests that are not about the rate do not meet it


@functools.cache
def tiny_agent():
    """The shipped agent over a store in memory: compiled once for all tests, which keep apart by their users."""
    return MemoryAgent.from_pretrained()


class Kept:
    """An agent that outlives the servers of the tests: closing is noted, and that is all. Everything else is the agent's."""

    def __init__(self, agent):
        self.agent, self.closed = agent, 0

    def __getattr__(self, name):
        return getattr(self.agent, name)

    def close(self):
        self.closed += 1


@contextlib.contextmanager
def serving(agent, limits=FREE, tokens=None, hosts=LOCAL_HOSTS):
    """Yields (url, the uvicorn server) while it runs; it is told to stop at the end, and waited for."""
    with bind("127.0.0.1", 0) as listener:
        server = make_server(make_app(agent, limits, Tokens(tokens or {}), hosts))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        try:
            httpx.get(f"{url}/healthz", timeout=30).raise_for_status()  # waits in the port's queue until the server takes it
            yield url, server
        finally:
            server.should_exit = True
            thread.join(timeout=60)
            assert not thread.is_alive()
