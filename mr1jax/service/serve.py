"""Starts the server, and stops it: what is wrong is said before a model is loaded; what has begun is finished before the store closes."""

import contextlib
import ipaddress
import signal
import socket
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Literal

import uvicorn

from mr1jax.config import require
from mr1jax.service.agent import MemoryAgent
from mr1jax.service.http import make_app
from mr1jax.service.limits import Limits, Tokens

LOCAL_HOSTS = ("localhost", "127.0.0.1", "[::1]")
DRAIN_SECONDS = 30  # that requests have to come to their end once the server is told to stop
MAX_CONNECTIONS = 512  # at a time; one more is told 503


def run_server(
    open_agent: Callable[[], MemoryAgent], host: str, port: int, tokens: Path | None, hosts: tuple[str, ...], limits: Limits
) -> None:
    """Serves a memory until SIGTERM or Ctrl-C; requests that are in the making are then finished, and the store is closed last.

    open_agent: makes the agent, once everything else is found right. tokens: a file as `Tokens.read` reads it. hosts: names besides the
    address itself that requests may ask for. Raises ValueError where the address is no local one and there are no tokens, or is taken.
    """
    known = Tokens.read(tokens) if tokens else Tokens({})
    names = served_hosts(host, hosts, bool(known))
    with bind(host, port) as listener:
        server = make_server(make_app(open_agent(), limits, known, names))
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: None)  # uvicorn raises again, when all is closed, the signal that it stopped for
        address = listener.getsockname()
        print(f"mr1jax: listening on http://{_as_host(address[0])}:{address[1]}", file=sys.stderr, flush=True)
        server.run(sockets=[listener])


def make_server(app: Callable[..., Awaitable[None]]) -> uvicorn.Server:
    """Returns the server of an application; its `run` returns once it is told to stop and everything is closed."""
    config = uvicorn.Config(
        app,
        lifespan="on",
        log_level="warning",
        access_log=False,  # a path may name a user
        proxy_headers=False,  # whoever connects is the client; a header could name another at each request
        server_header=False,
        timeout_graceful_shutdown=DRAIN_SECONDS,
        limit_concurrency=MAX_CONNECTIONS,
    )
    return uvicorn.Server(config)


def served_hosts(host: str, hosts: tuple[str, ...], has_tokens: bool) -> tuple[str, ...]:
    """Returns the names that requests may ask for; raises ValueError where an address that others can reach is to be served openly."""
    require(
        is_local(host) or has_tokens, f"--host {host} can be reached from elsewhere; give --tokens a file of tokens, or leave --host out"
    )
    everywhere = _is_address(host, "is_unspecified")
    require(not everywhere or bool(hosts), f"--host {host} has no name of its own; say what the server is called from outside, by --hosts")
    return (*LOCAL_HOSTS, *hosts) if everywhere else (*LOCAL_HOSTS, _as_host(host), *hosts)


def is_local(host: str) -> bool:
    """Tells whether an address can be reached from this machine alone. A name is not looked up: only localhost is known to be."""
    return host == "localhost" or _is_address(host, "is_loopback")


def _is_address(host: str, kind: Literal["is_loopback", "is_unspecified"]) -> bool:
    with contextlib.suppress(ValueError):  # a name
        return getattr(ipaddress.ip_address(host), kind)
    return False


def bind(host: str, port: int) -> socket.socket:
    """Takes the port; raises ValueError where it cannot be had. Port 0 is any that is free."""
    require(0 <= port < 1 << 16, f"--port is {port}; give a number below 65536")
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # what a server that has just ended leaves behind does not count
        listener.bind((host, port))
        listener.listen()
        return listener
    except OSError as error:
        listener.close()
        raise ValueError(f"port {port} of {host} cannot be had ({error.strerror}); give another by --port") from error


def _as_host(address: str) -> str:
    return f"[{address}]" if ":" in address else address
