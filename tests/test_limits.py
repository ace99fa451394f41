"""The gate before every request: rate, size, tokens, hosts and origins, without a server."""

import asyncio
import hmac
import json

import pytest

from mr1jax.service import limits, serve
from mr1jax.service.limits import SECURITY_HEADERS, Buckets, Caller, Gate, Limits, Tokens

ADMIN, ANNS = "a" * 32, "b" * 32


def test_bucket_holds_a_burst_and_fills_at_its_rate():
    """Oracle: by hand: three at once, then one each half second; the wait is what is missing of one request over the rate."""
    now = [100.0]
    buckets = Buckets(Limits(rate=2.0, burst=3), clock=lambda: now[0])
    assert [buckets.take("x") for _ in range(5)] == [0, 0, 0, 0.5, 0.5]
    assert buckets.take("y") == 0
    now[0] += 0.25
    assert buckets.take("x") == 0.25
    now[0] += 0.25
    assert [buckets.take("x"), buckets.take("x")] == [0, 0.5]
    now[0] += 1000
    assert [buckets.take("x") for _ in range(4)] == [0, 0, 0, 0.5]


def test_callers_beyond_number_take_no_memory(monkeypatch):
    """Oracle: the count that is allowed; the caller heard of last is kept, the one not heard of for longest begins anew."""
    monkeypatch.setattr(limits, "MAX_CALLERS", 3)
    buckets = Buckets(Limits(rate=0.001, burst=1), clock=lambda: 0.0)
    for caller in "abcad":
        buckets.take(caller)
    assert len(buckets._buckets) == 3
    assert buckets.take("d") > 0
    assert buckets.take("b") == 0


@pytest.mark.parametrize(
    ("field", "value"),
    [("body_bytes", 0), ("rate", 0.0), ("rate", float("nan")), ("rate", float("inf")), ("burst", 0), ("read_seconds", -1.0)],
)
def test_limits_that_are_none_are_refused(field, value):
    """Oracle: the sentence names the field and the value."""
    with pytest.raises(ValueError, match=rf"^Limits\.{field} is {value}; [^\n]+$"):
        Limits(**{field: value})


# Tokens ---------------------------------------------------------------------------------------------------------------------------


def test_tokens_are_read_from_a_file(tmp_path):
    """Oracle: a file written by hand: one token for any user, one for a user whose name has a space; nothing else is known."""
    file = tmp_path / "tokens"
    file.write_text(f"{ADMIN}\n\n{ANNS}  ann lee \n")
    file.chmod(0o600)
    tokens = Tokens.read(file)
    assert tokens.find(ADMIN).user == ""
    assert tokens.find(ANNS).user == "ann lee"
    assert [tokens.find(other) for other in ("", ADMIN[:-1], ADMIN + "a", "\udcff")] == [None] * 4
    assert ADMIN not in repr(vars(tokens))


def test_every_token_is_compared(monkeypatch):
    """Oracle: calls of hmac.compare_digest, counted: as many as there are tokens, wherever the right one stands, all of one length."""
    seen = []
    monkeypatch.setattr(hmac, "compare_digest", lambda a, b: seen.append((len(a), len(b))) or a == b)
    tokens = Tokens({ADMIN: "", ANNS: "ann", "c" * 40: "bob"})
    for token in (ADMIN, ANNS, "c" * 40, "wrong"):
        tokens.find(token)
    assert seen == [(32, 32)] * 12


@pytest.mark.parametrize(
    ("text", "mode", "sentence"),
    [
        ("", 0o600, "--tokens .* holds no token; .*"),
        ("short ann", 0o600, "1 of the tokens have fewer than 16 characters; .*"),
        (f"{ADMIN} ann\n{ADMIN} bob", 0o600, "a token stands in --tokens .* twice; .*"),
        (ADMIN, 0o604, "everybody on this machine may read or write --tokens .*; run: chmod 600 .*"),
    ],
)
def test_a_file_that_gives_no_safe_tokens_is_refused(tmp_path, text, mode, sentence):
    """Oracle: the sentence, which holds no token."""
    file = tmp_path / "tokens"
    file.write_text(text)
    file.chmod(mode)
    with pytest.raises(ValueError, match=f"^{sentence}$") as refused:
        Tokens.read(file)
    assert ADMIN not in str(refused.value)
    assert "short" not in str(refused.value)
    with pytest.raises(ValueError, match="is no file"):
        Tokens.read(tmp_path)


# Where it listens -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "localhost", "::1"])
def test_this_machine_alone_needs_no_token(host):
    """Oracle: the addresses of RFC 1122 and 4291 that never leave a machine."""
    assert "localhost" in serve.served_hosts(host, (), has_tokens=False)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "::0", "192.168.1.5", "memory.example.com", "localhost.example.com", "127.1", ""])
def test_any_other_address_needs_tokens(host):
    """Oracle: the sentence; with tokens it is served, everywhere only under names that are given."""
    with pytest.raises(ValueError, match="^--host .* can be reached from elsewhere; give --tokens a file of tokens, or leave --host out$"):
        serve.served_hosts(host, ("memory.example.com",), has_tokens=False)
    assert "memory.example.com" in serve.served_hosts(host, ("memory.example.com",), has_tokens=True)
    if host in ("0.0.0.0", "::", "::0"):
        with pytest.raises(ValueError, match="has no name of its own"):
            serve.served_hosts(host, (), has_tokens=True)


def test_a_port_that_is_taken_is_refused():
    """Oracle: a port that this test holds."""
    with serve.bind("127.0.0.1", 0) as held:
        port = held.getsockname()[1]
        with pytest.raises(
            ValueError, match=rf"^port {port} of 127.0.0.1 cannot be had \(Address already in use\); give another by --port$"
        ):
            serve.bind("127.0.0.1", port)
    with pytest.raises(ValueError, match="^--port is 70000; give a number below 65536$"):
        serve.bind("127.0.0.1", 70000)


# The gate -------------------------------------------------------------------------------------------------------------------------


class Sent:
    """A request as ASGI hands it over, and what came of it: status, headers, error, how much was read, and what the application got."""

    def __init__(self, path="/v1/memories", headers=(), chunks=(b"",), client="127.0.0.1", endless=False):
        names = {name for name, _ in headers}
        headers = [*headers, *[(b"host", b"localhost:8000")] * (b"host" not in names)]
        self.scope = {"type": "http", "method": "POST", "path": path, "headers": headers, "client": (client, 1)}
        self.chunks, self.endless, self.reads, self.got = list(chunks), endless, 0, None

    def through(self, gate):
        gate._app = self._application
        asyncio.run(asyncio.wait_for(gate(self.scope, self._receive, self._send), timeout=5))
        return self

    async def _receive(self):
        self.reads += 1
        if self.endless and self.reads > len(self.chunks):
            await asyncio.Event().wait()
        body = self.chunks[self.reads - 1]
        return {"type": "http.request", "body": body, "more_body": self.endless or self.reads < len(self.chunks)}

    async def _application(self, scope, receive, send):
        self.got = (await receive())["body"]
        self.caller = scope["state"]["caller"]
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"{}"})

    async def _send(self, message):
        if message["type"] == "http.response.start":
            self.status, self.headers = message["status"], {name.decode(): value.decode() for name, value in message["headers"]}
        else:
            self.error = json.loads(message["body"]).get("error")


def gate(limit=Limits(), tokens=None, hosts=("localhost", "[::1]")):  # noqa: B008
    return Gate(None, limit, Tokens(tokens or {}), hosts)


def bearer(token):
    return [(b"authorization", f"Bearer {token}".encode())]


def test_a_body_is_read_to_its_limit_and_no_further():
    """Oracle: chunks counted: what fits arrives whole; of what does not, the chunk that is too much is the last that is read."""
    exact = Sent(chunks=[b"x" * 60, b"y" * 40]).through(gate(Limits(body_bytes=100)))
    assert (exact.status, exact.got) == (200, b"x" * 60 + b"y" * 40)
    over = Sent(chunks=[b"x" * 60] * 50).through(gate(Limits(body_bytes=100)))
    assert (over.status, over.reads, over.got, over.headers["connection"]) == (413, 2, None, "close")
    assert over.error == {
        "message": "the body of a request may have 100 bytes; send less at a time",
        "type": "request_too_large",
        "code": 413,
    }


@pytest.mark.parametrize("length", [b"101", b"1" * 5000, b"-1", b"1e2", b"\xb2"])
def test_a_body_that_says_it_is_too_large_is_not_read(length):
    """Oracle: no chunk is asked for."""
    said = Sent(headers=[(b"content-length", length)]).through(gate(Limits(body_bytes=100)))
    assert (said.status, said.reads) == (413, 0)


def test_a_body_that_does_not_come_is_not_waited_for():
    """Oracle: a client that sends one chunk and then nothing, ever."""
    slow = Sent(chunks=[b"x"], endless=True).through(gate(Limits(read_seconds=0.05)))
    assert (slow.status, slow.headers["connection"]) == (408, "close")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ([(b"host", b"LOCALHOST:8000")], 200),
        ([(b"host", b"localhost")], 200),
        ([(b"host", b"[::1]:8000")], 200),
        ([(b"host", b"evil.example.com")], 421),
        ([(b"host", b"localhost.evil.example.com:8000")], 421),
        ([(b"host", b"evil.example.com:8000@localhost")], 421),
        ([(b"host", b"")], 421),
        ([(b"host", b"localhost"), (b"host", b"localhost")], 421),
        ([(b"host", b"localhost:8000"), (b"origin", b"http://localhost:8000")], 200),
        ([(b"host", b"localhost:8000"), (b"origin", b"https://localhost:8000")], 200),
        ([(b"host", b"localhost:8000"), (b"origin", b"http://localhost:3000")], 403),
        ([(b"host", b"localhost:8000"), (b"origin", b"http://evil.example.com")], 403),
        ([(b"host", b"localhost:8000"), (b"origin", b"http://evil.localhost:8000")], 403),
        ([(b"host", b"localhost:8000"), (b"origin", b"null")], 403),
        ([(b"host", b"localhost:8000"), (b"origin", b"")], 403),
    ],
)
def test_only_our_hosts_and_our_own_page(headers, status):
    """Oracle: the table; every response has the headers that keep a page from doing harm, and none allows another site (CORS)."""
    sent = Sent(headers=headers).through(gate())
    assert sent.status == status
    assert SECURITY_HEADERS.items() <= sent.headers.items()
    assert not [name for name in sent.headers if name.startswith("access-control")]


@pytest.mark.parametrize(
    ("headers", "path", "status", "user"),
    [
        (bearer(ADMIN), "/v1/memories", 200, ""),
        (bearer(ANNS), "/v1/memories", 200, "ann"),
        ([(b"authorization", b"bearer  " + ANNS.encode())], "/v1/memories", 200, "ann"),
        ([], "/v1/memories", 401, None),
        ([], "/metrics", 401, None),
        ([], "/v1", 401, None),
        ([], "//", 401, None),
        ([], "/", 200, ""),
        ([], "/healthz", 200, ""),
        (bearer("c" * 32), "/v1/memories", 401, None),
        (bearer("\xff" * 32), "/v1/memories", 401, None),
        ([(b"authorization", b"Basic " + ADMIN.encode())], "/v1/memories", 401, None),
        ([(b"authorization", ADMIN.encode())], "/v1/memories", 401, None),
    ],
)
def test_a_token_says_who_it_is(headers, path, status, user):
    """Oracle: the table; without a token only pages that hold nothing are open."""
    sent = Sent(path, headers).through(gate(tokens={ADMIN: "", ANNS: "ann"}))
    assert sent.status == status
    if status == 200:
        assert sent.caller.user == user
    else:
        assert (sent.headers["www-authenticate"], sent.reads) == ("Bearer", 0)


def test_a_caller_is_slowed_down_alone():
    """Oracle: by hand: two requests each; whom a token names is counted by token, others by address, wrong tokens among these."""
    door = gate(Limits(rate=0.01, burst=2), tokens={ADMIN: "", ANNS: "ann"})
    assert [Sent(headers=bearer(ADMIN)).through(door).status for _ in range(3)] == [200, 200, 429]
    assert [Sent(headers=bearer(ANNS), client="127.0.0.9").through(door).status for _ in range(3)] == [200, 200, 429]
    assert [Sent(headers=bearer("c" * 32)).through(door).status for _ in range(3)] == [401, 401, 429]
    assert Sent(path="/healthz").through(door).status == 429
    last = Sent(headers=bearer(ADMIN)).through(door)
    assert 99 <= int(last.headers["retry-after"]) <= 100
    assert last.reads == 0


def test_websockets_are_refused():
    """Oracle: the message that ASGI closes one with."""
    sent = []

    async def send(message):
        sent.append(message)

    asyncio.run(gate()({"type": "websocket"}, None, send))
    assert sent == [{"type": "websocket.close", "code": 1008}]


def test_a_bound_caller_is_found_by_its_digest_alone():
    """Oracle: the name that its rate is kept by does not hold the token."""
    caller = Tokens({ANNS: "ann"}).find(ANNS)
    assert caller == Caller(name=caller.name, user="ann")
    assert ANNS not in caller.name
