"""What is asked of a request before anything reads it: which host it names, which page sent it, who it is from, how often and how much.

`Gate` is one layer of ASGI around the application. Whatever it refuses has not been read to its end, and leaves in the shape of all
errors here: {"error": {"message", "type", "code"}}, which is also OpenAI's.
"""

import asyncio
import hashlib
import hmac
import json
import math
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mr1jax.config import require

Message = MutableMapping[str, Any]  # of ASGI, as are scope, receive and send
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

OPEN_PATHS = frozenset({"/", "/inspector.css", "/inspector.js", "/healthz", "/readyz", "/openapi.json"})  # hold nothing that anybody said
MIN_TOKEN = 16  # characters
MAX_CALLERS = 10_000  # whose rate is kept at a time; the one not heard of for longest is forgotten

_KINDS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "request_too_large",
    421: "misdirected_request",
    422: "invalid_request_error",
    429: "rate_limit_error",
}
# The page may load its own script and style and ask its own server, nothing else; a string can never become HTML in it.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
SECURITY_HEADERS = {
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}


@dataclass(frozen=True)
class Limits:
    """How much one caller may ask.

    body_bytes: of one request. rate: requests a second in the long run. burst: requests at once, after a pause. read_seconds: by when
    the body of a request must have come.
    """

    body_bytes: int = 1 << 20
    rate: float = 20.0
    burst: int = 100
    read_seconds: float = 30.0

    def __post_init__(self):
        require(self.body_bytes >= 1, f"Limits.body_bytes is {self.body_bytes}; let a request have a byte at least")
        require(0 < self.rate < math.inf, f"Limits.rate is {self.rate}; give requests a second, above 0")
        require(self.burst >= 1, f"Limits.burst is {self.burst}; let a caller send one request at least")
        require(0 < self.read_seconds < math.inf, f"Limits.read_seconds is {self.read_seconds}; give seconds, above 0")


@dataclass(frozen=True)
class Caller:
    """Who a request is from. name: what its rate is kept by. user: the only user it may act for, "" where that may be any."""

    name: str
    user: str = ""


class Tokens:
    """Bearer tokens and whom each may act for. Of a token its sha256 is kept, and nothing else."""

    def __init__(self, users: Mapping[str, str]):
        """users: by token, the user whom it is bound to, or "" for one that may act for any."""
        short = sum(len(token) < MIN_TOKEN for token in users)
        require(not short, f"{short} of the tokens have fewer than {MIN_TOKEN} characters; draw longer ones, as with: openssl rand -hex 32")
        self._users = {_digest(token): user for token, user in users.items()}

    @classmethod
    def read(cls, path: Path) -> "Tokens":
        """Reads a file with one token a line: alone where it may act for any user, or followed by the user it is bound to."""
        require(path.is_file(), f"--tokens {path} is no file; write one with a token a line, and after it the user it is bound to")
        require(not path.stat().st_mode & 0o007, f"everybody on this machine may read or write --tokens {path}; run: chmod 600 {path}")
        lines = [line.split(maxsplit=1) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        require(bool(lines), f"--tokens {path} holds no token; write one a line, as from: openssl rand -hex 32")
        require(len({token for token, *_ in lines}) == len(lines), f"a token stands in --tokens {path} twice; give each user its own")
        return cls({token: user[0].strip() if user else "" for token, *user in lines})

    def __bool__(self) -> bool:
        return bool(self._users)

    def find(self, token: str) -> Caller | None:
        """Returns who has this token. Every token is compared, each in constant time, so that the time tells nothing about any."""
        asked, found = _digest(token), None
        for digest, user in self._users.items():
            if hmac.compare_digest(digest, asked):
                found = Caller(name=digest.hex(), user=user)
        return found


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()


class Buckets:
    """A token bucket a caller: `burst` requests at once, `rate` more a second."""

    def __init__(self, limits: Limits, clock: Callable[[], float] = time.monotonic):
        self._limits, self._clock = limits, clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # by caller: what was left, and when that was

    def take(self, caller: str) -> float:
        """Takes one request out of the bucket of a caller; returns 0, or the seconds until there is one, and then takes none."""
        now = self._clock()
        left, since = self._buckets.pop(caller, (float(self._limits.burst), now))
        left = min(self._limits.burst, left + (now - since) * self._limits.rate)
        wait = max(0.0, (1 - left) / self._limits.rate)
        self._buckets[caller] = (left - (wait == 0), now)
        while len(self._buckets) > MAX_CALLERS:
            self._buckets.popitem(last=False)
        return wait


class Refused(Exception):
    """A request that goes no further: its HTTP status, one sentence, and headers besides."""

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None):
        super().__init__(message)
        self.status, self.headers = status, dict(headers or {})


def error_body(status: int, message: str) -> dict[str, Any]:
    """Returns the one shape of an error."""
    return {"error": {"message": message, "type": _KINDS.get(status, "server_error"), "code": status}}


class Gate:
    """Lets through what names one of our hosts, comes from no other site, has a token where there are any, and is not too much."""

    def __init__(self, app: Callable[..., Awaitable[None]], limits: Limits, tokens: Tokens, hosts: Iterable[str]):
        """hosts: names and addresses, without a port, that a request may ask for."""
        self._app, self._limits, self._tokens = app, limits, tokens
        self._hosts, self._buckets = frozenset(host.lower() for host in hosts), Buckets(limits)

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self._app(scope, receive, send)
        if scope["type"] != "http":
            return await send({"type": "websocket.close", "code": 1008})  # nothing here speaks it
        send = _with_security_headers(send)
        try:
            headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]]
            self._check_site(headers)
            scope.setdefault("state", {})["caller"] = self._identify(scope, dict(headers))
            body = await self._read_body(dict(headers), receive)
        except Refused as refused:
            return await _send_refusal(send, refused)
        except _Gone:
            return None
        return await self._app(scope, _replay(body, receive), send)

    def _check_site(self, headers: list[tuple[str, str]]) -> None:
        """A name that was made to lead here (DNS rebinding) is none of our hosts; a page of another site says where it is from."""
        hosts = [value for name, value in headers if name == "host"]
        if len(hosts) != 1 or _without_port(hosts[0]).lower() not in self._hosts:
            raise Refused(421, "this server has no such host; a name it is to be reached by is given to it as --hosts")
        for name, value in headers:
            if name == "origin" and value.partition("://")[2].lower() != hosts[0].lower():
                raise Refused(403, "a page of another site may not use this server")

    def _identify(self, scope: Message, headers: Mapping[str, str]) -> Caller:
        address = Caller(name=f"address {(scope.get('client') or ('',))[0]}")
        scheme, _, token = headers.get("authorization", "").partition(" ")
        known = self._tokens.find(token.strip()) if scheme.lower() == "bearer" else None
        caller = known or address
        if wait := self._buckets.take(caller.name):
            sentence = f"too many requests: {self._limits.rate:g} a second are allowed; wait as long as Retry-After says"
            raise Refused(429, sentence, {"retry-after": str(math.ceil(wait))})
        if self._tokens and known is None and scope["path"] not in OPEN_PATHS:
            raise Refused(401, "this server wants a token; send it as Authorization: Bearer TOKEN", {"www-authenticate": "Bearer"})
        return caller

    async def _read_body(self, headers: Mapping[str, str], receive: Receive) -> bytes:
        """Reads the body, by chunks too, and no further than the limit; what says beforehand that it is longer is not read at all."""
        limit = self._limits.body_bytes
        too_large = Refused(413, f"the body of a request may have {limit} bytes; send less at a time", {"connection": "close"})
        said = headers.get("content-length", "0")
        if not said.isdecimal() or len(said) > len(str(limit)) or int(said) > limit:
            raise too_large
        parts, size, more = [], 0, True
        try:
            async with asyncio.timeout(self._limits.read_seconds):
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise _Gone
                    parts.append(message.get("body", b""))
                    size, more = size + len(parts[-1]), message.get("more_body", False)
                    if size > limit:
                        raise too_large
        except TimeoutError:
            raise Refused(408, "the body of the request did not come in time; send it again", {"connection": "close"}) from None
        return b"".join(parts)


class _Gone(Exception):
    """The client went away before it had said all."""


def _without_port(host: str) -> str:
    """Takes the port off a Host header; an IPv6 address stays in its brackets, as it is listed."""
    name, _, port = host.rpartition(":")
    return name if name and port.isdecimal() else host


def _replay(body: bytes, receive: Receive) -> Receive:
    """Hands a body that has been read to the application, and then whatever comes, which is that the client went away."""
    waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive_again() -> Message:
        return waiting.pop() if waiting else await receive()

    return receive_again


def _with_security_headers(send: Send) -> Send:
    added = [(name.encode(), value.encode()) for name, value in SECURITY_HEADERS.items()]

    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", ()), *added]
        await send(message)

    return send_with_headers


async def _send_refusal(send: Send, refused: Refused) -> None:
    body = json.dumps(error_body(refused.status, str(refused))).encode()
    headers = {"content-type": "application/json", "content-length": str(len(body)), **refused.headers}
    pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": refused.status, "headers": pairs})
    await send({"type": "http.response.body", "body": body})
