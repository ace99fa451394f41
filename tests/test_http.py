"""The server over its socket: REST against the agent itself, OpenAI's own client, refusals, metrics, and its end."""

import json
import re
import socket
import threading
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import openai
import pytest
from prometheus_client.parser import text_string_to_metric_families
from served import FREE, Kept, serving, tiny_agent

from mr1jax.config import replace
from mr1jax.service.agent import MemoryAgent
from mr1jax.service.limits import SECURITY_HEADERS
from mr1jax.service.records import Event, Scope

ADMIN, ANNS = "a" * 32, "b" * 32
SAID = "Mia has a dog called Bramo."
QUESTION = "What is Mia's dog called?"
HOSTILE = [
    "<script>fetch('//evil.example.com')</script><img src=x onerror=alert(1)>",
    "'; DROP TABLE memories; -- \" OR 1=1",
    "../../etc/passwd",
    "%00%2e%2e%2f{{7*7}}${7*7}#{7*7}",
    "\u202e\u0645\u0631\u062d\u0628\u0627 e\u0301 \U0001f415",
]


@pytest.fixture(scope="module")
def agent():
    return Kept(tiny_agent())


@pytest.fixture(scope="module")
def client(agent):
    with serving(agent) as (url, _), httpx.Client(base_url=url, timeout=600) as client:
        yield client


@pytest.fixture
def user():
    return f"user-{uuid.uuid4()}"


def error_of(response):
    """Returns (status, sentence) of an error, whose shape it checks."""
    error = response.json()
    assert set(error) == {"error"}
    assert set(error["error"]) == {"message", "type", "code"}
    assert error["error"]["code"] == response.status_code
    assert "\n" not in error["error"]["message"]
    return response.status_code, error["error"]["message"]


def test_rest_is_the_agent(agent, client, user):
    """Oracle: the agent, asked directly for the same, after every request: what HTTP returns is what it returns."""
    mine = {"user_id": user}
    done = client.post("/v1/memories", json={"messages": [{"role": "user", "content": SAID, "name": "Mia"}], **mine}).json()
    assert [(each["event"], each["memory"]) for each in done["results"]] == [("ADD", agent.get_all(**mine)["results"][0]["memory"])]
    memory_id = done["results"][0]["id"]
    at = f"/v1/memories/{memory_id}"
    assert client.get("/v1/memories", params=mine).json() == agent.get_all(**mine)
    assert client.get(at, params=mine).json() == agent.get(memory_id, **mine)
    assert client.put(at, json={"text": "Mia has a cat.", **mine}).json()["results"][0]["memory"] == "Mia has a cat."
    assert agent.get(memory_id, **mine)["memory"] == "Mia has a cat."
    client.put(at, json={"text": "Mia has a hamster.", **mine})
    assert client.get(f"{at}/history", params=mine).json() == agent.history(memory_id, **mine)
    first = agent.events(**mine)[0].id
    assert client.get("/v1/state", params={"event": first, **mine}).json()["results"] == [
        m.to_json() for m in agent.state_at(first, **mine)
    ]
    assert client.get("/v1/state", params={"event": first, **mine}).json()["results"][0]["memory"] == done["results"][0]["memory"]
    assert client.post(f"{at}/restore", json=mine).json()["memory"] == "Mia has a cat."
    assert client.post(f"{at}/restore", json={"to_event": first, **mine}).json()["memory"] == done["results"][0]["memory"]
    assert client.post("/v1/memories/search", json={"query": "dog", **mine}).json() == agent.search("dog", **mine)
    assert client.delete(at, params=mine).status_code == 200
    assert agent.get_all(**mine)["results"] == []
    assert client.post(f"{at}/restore", json=mine).status_code == 200
    assert client.delete("/v1/memories", params=mine).status_code == 200
    assert client.get("/v1/memories", params=mine).json()["results"] == []
    listed = client.get("/v1/memories", params={"include_deleted": True, **mine}).json()
    assert listed == agent.get_all(include_deleted=True, **mine)
    events = client.get("/v1/events", params=mine).json()["results"]
    assert events == [event.to_json() for event in agent.events(**mine)]
    assert [event["event"] for event in events] == "ADD UPDATE UPDATE RESTORE RESTORE DELETE RESTORE DELETE".split()
    assert client.get("/v1/events", params={"after": events[4]["id"], "limit": 1, **mine}).json()["results"] == [events[5]]


def test_what_add_is_told_reaches_the_agent(agent, client, user):
    """Oracle: the agent: metadata and times are those that were sent, a dry run writes nothing, a key counts once."""
    body = {"messages": SAID, "user_id": user, "metadata": {"from": "test"}, "timestamp": "2024-05-08T12:00:00Z", "idempotency_key": "k"}
    client.post("/v1/memories", json={**body, "idempotency_key": "", "dry_run": True})
    assert agent.get_all(user_id=user)["results"] == []
    client.post("/v1/memories", json=body)
    assert client.post("/v1/memories", json=body).json()["idempotent_replay"] is True
    (memory,) = agent.get_all(user_id=user)["results"]
    assert memory["metadata"] == {"from": "test"}
    assert memory["created_at"].startswith("2024-05-08T12:00:00")


def test_an_answer_names_what_was_retrieved_and_selected(agent, client, user):
    """Oracle: the agent, asked directly; greedy decoding answers twice alike."""
    agent.add(SAID, user_id=user)
    answered = client.post("/v1/answer", json={"question": QUESTION, "user_id": user}).json()
    assert answered == agent.answer(QUESTION, user_id=user)
    assert [set(memory) >= {"id", "memory", "selected", "score"} for memory in answered["memories"]] == [True]


# OpenAI ---------------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def chat(client):
    return openai.OpenAI(base_url=f"{client.base_url}/v1".replace("//v1", "/v1"), api_key="none", max_retries=0)


def test_openai_client_is_answered_from_the_memory_of_its_user(agent, chat, user):
    """Oracle: the agent's own answer; the last message of the user is the question, and another user has no such memory."""
    agent.add(SAID, user_id=user)
    messages = [{"role": "user", "content": "Who am I?"}, {"role": "assistant", "content": "I cannot say."}]
    messages += [{"role": "user", "content": [{"type": "text", "text": QUESTION}]}]
    whole = chat.chat.completions.create(model="mr1jax", messages=messages, user=user, temperature=0)
    expected = agent.answer(QUESTION, user_id=user)
    assert (whole.choices[0].message.role, whole.choices[0].message.content) == ("assistant", expected["answer"])
    assert (whole.object, whole.choices[0].finish_reason) == ("chat.completion", "stop")
    assert whole.model_extra["memories"] == expected["memories"]
    other = chat.chat.completions.create(model="mr1jax", messages=messages, user=f"{user}-2")
    assert other.model_extra["memories"] == []
    assert [model.id for model in chat.models.list()] == ["mr1jax"]


@pytest.mark.parametrize("text", ["", "Bramo", " two words\n and  more \u00e9\U0001f415 ", "\n\ndata: [DONE]\n\n"])
def test_openai_client_streams(agent, chat, client, user, text, monkeypatch):
    """Oracle: the whole answer is what the pieces come to, whatever stands in it; the raw events are OpenAI's, the last of them [DONE]."""
    came = [{"piece": text[at : at + 3]} for at in range(0, len(text), 3)] + [{"answer": text, "response": "", "memories": []}]
    monkeypatch.setattr(agent, "stream_answer", lambda question, **_: iter(came), raising=False)
    asked = {"model": "mr1jax", "messages": [{"role": "user", "content": QUESTION}], "user": user}
    chunks = list(chat.chat.completions.create(**asked, stream=True))
    pieces = [chunk.choices[0].delta.content or "" for chunk in chunks]
    assert "".join(pieces) == text
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None] * (len(chunks) - 1) + ["stop"]
    assert len({chunk.id for chunk in chunks}) == 1
    raw = client.post("/v1/chat/completions", json={**asked, "stream": True})
    assert raw.headers["content-type"].startswith("text/event-stream")
    assert re.fullmatch(r"(data: \{.*\}\n\n)+data: \[DONE\]\n\n", raw.text)
    assert raw.text.count("\n\n") == len(chunks) + 1


def test_a_stream_says_what_the_agent_answers(agent, chat, user):
    """Oracle: the agent, asked for a whole answer."""
    agent.add(SAID, user_id=user)
    asked = {"model": "mr1jax", "messages": [{"role": "user", "content": QUESTION}], "user": user}
    pieces = [chunk.choices[0].delta.content or "" for chunk in chat.chat.completions.create(**asked, stream=True)]
    assert "".join(pieces) == agent.answer(QUESTION, user_id=user)["answer"] != ""


def test_pieces_are_sent_as_they_are_written(agent, chat, user, monkeypatch):
    """Oracle: an answer that is not written to its end before the client has read how it begins."""
    was_read = threading.Event()

    def written(question, **_):
        yield {"piece": "Bra"}
        assert was_read.wait(60)
        yield {"piece": "mo"}
        yield {"answer": "Bramo", "response": "", "memories": []}

    monkeypatch.setattr(agent, "stream_answer", written, raising=False)
    asked = {"model": "mr1jax", "messages": [{"role": "user", "content": QUESTION}], "user": user}
    pieces = []
    for chunk in chat.chat.completions.create(**asked, stream=True):
        pieces.append(chunk.choices[0].delta.content)
        if pieces[-1] == "Bra":
            was_read.set()
    assert pieces == ["", "Bra", "mo", None]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"user": ""}, "no user_id, agent_id or run_id is given; .*"),
        ({"messages": [{"role": "system", "content": "x"}]}, "there is no message with the role user; .*"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "a message has a part of type 'image_url'; send text alone"),
        ({"model": "gpt-5"}, "there is no model 'gpt-5'; .*"),
        ({"n": 2}, "n is 2; .*"),
        ({"tools": [{"type": "function"}]}, "tools are not called here; .*"),
    ],
)
def test_openai_client_hears_what_is_wrong(chat, user, change, sentence):
    """Oracle: the client's own kind of error, with the sentence; a stream fails before it begins, too."""
    asked = {"model": "mr1jax", "messages": [{"role": "user", "content": QUESTION}], "user": user, **change}
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError) as refused:
            chat.chat.completions.create(**asked, stream=stream)
        assert re.fullmatch(sentence, refused.value.body["message"])


class Upstream(BaseHTTPRequestHandler):
    """A server of chat completions that notes what it is asked and says one thing, at once or in pieces that may break off, or fails."""

    def do_POST(self):
        self.server.asked.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
        if self.server.pieces and self.server.asked[-1].get("stream"):
            self.stream()
            return
        answer = {"choices": [{"message": {"content": "<think>hm</think>Her dog is Bramo."}}]}
        body = json.dumps(answer).encode()
        self.send_response(self.server.status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def stream(self):
        self.send_response(200)
        self.send_header("content-type", "text/event-stream; charset=utf-8")
        self.end_headers()
        for piece in self.server.pieces:
            self.wfile.write(b"data: " + json.dumps({"choices": [{"delta": {"content": piece}}]}).encode() + b"\n\n")
        self.wfile.write(self.server.end)

    def log_message(self, *_):
        pass


@pytest.fixture
def upstream():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Upstream)
    server.asked, server.status, server.pieces, server.end = [], 200, [], b""
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_model_behind_a_url_is_told_what_is_remembered(upstream, user):
    """Oracle: what its server was asked, written out by hand: a system message with the memories as JSON strings, then the conversation."""
    agent = MemoryAgent.from_pretrained(base_url=f"http://127.0.0.1:{upstream.server_port}/v1", model="wise-1")
    said = 'Mia has a dog called "Bramo".'
    event = Event(
        str(uuid.uuid4()), "ADD", None, said, user_id=user, said_at="2024-05-08T12:00:00+00:00", created_at="2024-05-08T12:00:00+00:00"
    )
    agent.store.commit(Scope(user), [event], version=None, receipt=None)
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": QUESTION}]
    with serving(agent) as (url, _):
        chat = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
        reply = chat.chat.completions.create(model="mr1jax", messages=messages, user=user)
        (asked,) = upstream.asked
        first, *rest = asked["messages"]
        assert (asked["model"], asked["temperature"], rest) == ("wise-1", 0, messages)
        assert first["role"] == "system"
        assert first["content"].splitlines()[-1] == r'2024-05-08: "Mia has a dog called \"Bramo\"."'
        assert not set(asked) & {"guided_regex", "structured_outputs"}
        assert reply.choices[0].message.content == "Her dog is Bramo."
        assert [memory["memory"] for memory in reply.model_extra["memories"]] == [said]
        upstream.status = 404
        with pytest.raises(openai.InternalServerError) as refused:
            chat.chat.completions.create(model="mr1jax", messages=messages, user=user, stream=True)
    assert refused.value.status_code == 503
    assert re.fullmatch(r"the model wise-1 at .* does not answer \(status 404\); .*", refused.value.body["message"])


# What is refused ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "sentence"),
    [
        ("GET", "/v1/memories", None, 400, "no user_id, agent_id or run_id is given; .*"),
        ("DELETE", "/v1/memories", None, 400, "no user_id, agent_id or run_id is given; .*"),
        ("GET", "/v1/memories?user_id=a&limit=0", None, 422, r"query\.limit: input should be greater than or equal to 1; .*"),
        ("GET", "/v1/memories?user_id=a&usr=b", None, 422, r"query\.usr: extra inputs are not permitted; .*"),
        ("GET", "/v1/memories/gone?user_id=a", None, 404, ".*gone.*"),
        ("POST", "/v1/memories", {"messages": SAID, "user": "a"}, 422, r"body\.user: extra inputs are not permitted; .*"),
        ("POST", "/v1/memories", {"messages": "", "user_id": "a"}, 400, ".*blank.*"),
        ("POST", "/v1/memories", {"messages": SAID, "user_id": "a\0b"}, 400, "user_id is .*without control characters"),
        ("POST", "/v1/memories", {"messages": SAID, "user_id": "a" * 257}, 400, "user_id has 257 characters; .*"),
        ("POST", "/v1/memories", {"messages": SAID, "user_id": "a", "timestamp": "soon"}, 400, "timestamp is 'soon'; .*"),
        ("POST", "/v1/answer", {"question": " ", "user_id": "a"}, 400, ".*blank.*"),
        ("PUT", "/v1/memories/gone", {"text": "x", "user_id": "a"}, 404, ".*gone.*"),
        ("GET", "/v1/state?user_id=a&event=-1", None, 422, r"query\.event: .*"),
        ("GET", "/v1/nothing", None, 404, "Not Found"),
        ("GET", "/docs", None, 404, "Not Found"),
        ("PATCH", "/v1/memories", None, 405, "Method Not Allowed"),
    ],
)
def test_what_is_wrong_is_one_sentence(client, method, path, body, status, sentence):
    """Oracle: the table of statuses and sentences."""
    found, said = error_of(client.request(method, path, json=body))
    assert found == status
    assert re.fullmatch(sentence, said)


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[" * 100_000, b'{"messages": "x", "user_id": "a"', b"\xff\xfe", b"NaN", b"null", b'"\\ud800"']
)
def test_what_is_no_json_is_refused(client, body):
    """Oracle: an error of the client's, never one of the server's."""
    status, _ = error_of(client.post("/v1/memories", content=body, headers={"content-type": "application/json"}))
    assert status in (400, 422)
    status, _ = error_of(client.post("/v1/memories", content=b'{"messages": "x", "user_id": "a"}', headers={"content-type": "text/plain"}))
    assert status == 422


def test_half_a_character_is_refused(client, user):
    """Oracle: the lone surrogate, which JSON can write and UTF-8 cannot."""
    for field in ("messages", "user_id", "idempotency_key"):
        body = {"messages": SAID, "user_id": user, field: "x\ud800"}
        raw = json.dumps(body).encode()
        assert error_of(client.post("/v1/memories", content=raw, headers={"content-type": "application/json"}))[0] in (400, 422)
    raw = json.dumps({"messages": SAID, "user_id": user, "x\ud800": ""}).encode()
    assert error_of(client.post("/v1/memories", content=raw, headers={"content-type": "application/json"}))[0] == 422


ROUTES = [
    ("GET", "/v1/memories/{id}", None),
    ("GET", "/v1/memories/{id}/history", None),
    ("DELETE", "/v1/memories/{id}", None),
    ("PUT", "/v1/memories/{id}", {"text": "mine now"}),
    ("POST", "/v1/memories/{id}/restore", {}),
]


def call(client, method, path, scope, body):
    if body is None:
        return client.request(method, path, params=scope)
    return client.request(method, path, json={**body, **scope})


@pytest.mark.parametrize(("method", "path", "body"), ROUTES)
def test_another_users_memory_is_not_there(agent, client, user, method, path, body):
    """Oracle: the words for an id that nobody has, with one id in place of the other; the memory stays as it was."""
    memory_id, nobodys = agent.add(SAID, user_id=user)["results"][0]["id"], str(uuid.uuid4())
    before = agent.get(memory_id, user_id=user)
    foreign = error_of(call(client, method, path.format(id=memory_id), {"user_id": f"{user}-2"}, body))
    missing = error_of(call(client, method, path.format(id=nobodys), {"user_id": f"{user}-2"}, body))
    assert foreign[0] == 404
    assert foreign[1].replace(memory_id, "ID") == missing[1].replace(nobodys, "ID")
    assert agent.get(memory_id, user_id=user) == before


def test_a_bound_token_acts_for_its_user_alone(agent, user):
    """Oracle: every route with another's name is refused; without a name it is the token's user; the counters of all are for admins."""
    mine = agent.add(SAID, user_id=user)["results"][0]["id"]
    everywhere = [(method, path.format(id=mine), body) for method, path, body in ROUTES]
    everywhere += [("GET", "/v1/memories", None), ("DELETE", "/v1/memories", None), ("GET", "/v1/events", None)]
    everywhere += [("POST", "/v1/memories", {"messages": SAID}), ("POST", "/v1/memories/search", {"query": "dog"})]
    everywhere += [("POST", "/v1/answer", {"question": QUESTION})]
    with serving(agent, tokens={ADMIN: "", ANNS: user}) as (url, _), httpx.Client(base_url=url, timeout=120) as client:
        client.headers["authorization"] = f"Bearer {ANNS}"
        for method, path, body in everywhere:
            assert call(client, method, path, {"user_id": "bob"}, body).status_code == 403
        chat = {"messages": [{"role": "user", "content": QUESTION}]}
        assert client.post("/v1/chat/completions", json={**chat, "user": "bob"}).status_code == 403
        assert client.get("/v1/state", params={"user_id": "bob", "event": 1}).status_code == 403
        assert client.get("/metrics").status_code == 403
        assert [memory["id"] for memory in client.get("/v1/memories").json()["results"]] == [mine]
        assert client.post("/v1/chat/completions", json=chat).json()["memories"][0]["id"] == mine
        assert client.get("/v1/memories", params={"agent_id": "helper"}).json()["results"] == []
        client.headers["authorization"] = f"Bearer {ADMIN}"
        assert client.get("/metrics").status_code == 200
        assert client.get("/v1/memories", params={"user_id": user}).json() == agent.get_all(user_id=user)
        del client.headers["authorization"]
        assert error_of(client.get("/v1/memories", params={"user_id": user}))[0] == 401
        assert client.get("/").status_code == client.get("/healthz").status_code == client.get("/readyz").status_code == 200


def test_too_much_is_refused_before_it_is_all_sent(agent):
    """Oracle: clients that never finish: one says a length, one sends chunks without end; both hear 413 and the end of the connection."""
    head = "POST /v1/memories HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    with serving(agent, replace(FREE, body_bytes=10_000)) as (url, _):
        address = ("127.0.0.1", httpx.URL(url).port)
        for rest in (b"Content-Length: 10001\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n" + b"1000\r\n" + b"x" * 4096 + b"\r\n1000\r\n"):
            with socket.create_connection(address, timeout=30) as client:
                client.sendall(head.encode() + rest)
                if b"chunked" in rest:
                    client.sendall(b"x" * 4096 + b"\r\n1000\r\n" + b"x" * 4096 + b"\r\n")
                answered = b""
                while part := client.recv(65536):
                    answered += part
            assert answered.startswith(b"HTTP/1.1 413 ")
            assert b"\r\nconnection: close\r\n" in answered
            assert b"10000 bytes" in answered


def test_too_many_are_told_to_wait(agent):
    """Oracle: by hand: the first request of the fixture and two more fill a burst of three."""
    with serving(agent, replace(FREE, rate=0.01, burst=3)) as (url, _):
        answers = [httpx.get(f"{url}/v1/models") for _ in range(4)]
    assert [answer.status_code for answer in answers] == [200, 200, 429, 429]
    assert 0 < int(answers[-1].headers["retry-after"]) <= 100
    assert error_of(answers[-1])[1].startswith("too many requests")


@pytest.mark.parametrize(
    "path",
    [
        "/../../etc/passwd",
        "/..%2f..%2fetc/passwd",
        "/inspector.js/../agent.py",
        "/%2e%2e/agent.py",
        "/v1/memories/..%2f..%2fagent.py?user_id=a",
    ]
    + ["/inspector.css%00.py", "//etc/passwd", "/v1/memories/%00?user_id=a"],
)
def test_no_path_leads_to_a_file(client, path):
    """Oracle: raw request lines, as no client would send them: refused, and nothing of a file comes back."""
    with socket.create_connection(("127.0.0.1", client.base_url.port), timeout=30) as raw:
        raw.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        answered = b""
        while part := raw.recv(65536):
            answered += part
    assert re.match(rb"HTTP/1.1 (400|404) ", answered)
    assert b"root:" not in answered
    assert b"import" not in answered


@pytest.mark.parametrize("text", HOSTILE)
def test_whatever_is_written_is_text(agent, client, text):
    """Oracle: the text itself, back from every place it was put; and JSON, which no browser takes for a page."""
    scope = {"user_id": f"{uuid.uuid4()} {text}".replace("\u202e", ""), "agent_id": text.replace("\u202e", ""), "run_id": ""}
    added = client.post("/v1/memories", json={"messages": SAID, **scope, "metadata": {text: text}}).json()["results"][0]["id"]
    stored = client.put(f"/v1/memories/{added}", json={"text": text, **scope}).json()["results"][0]["memory"]
    assert stored == " ".join(text.replace("\u202e", " ").split())
    (memory,) = client.get("/v1/memories", params=scope).json()["results"]
    assert (memory["user_id"], memory["memory"], memory["metadata"]) == (scope["user_id"], stored, {text: text})
    assert client.post("/v1/memories/search", json={"query": text, **scope}).status_code == 200
    assert client.post("/v1/memories/search", json={"query": "x", **scope, "filters": {text: text}}).status_code in (200, 400)
    missing = client.get(f"/v1/memories/{text}/history".replace("/../..", "/%2e%2e"), params=scope)
    for response in (missing, client.get("/v1/events", params=scope)):
        assert response.headers["content-type"] == "application/json"
        assert SECURITY_HEADERS.items() <= dict(response.headers).items()
    assert agent.get(added, **scope)["memory"] == stored


# The server itself ----------------------------------------------------------------------------------------------------------------


def metrics_of(client):
    """Returns {(name, labels): value} as a parser of Prometheus's own reads it."""
    families = text_string_to_metric_families(client.get("/metrics").text)
    return {(sample.name, tuple(sorted(sample.labels.items()))): sample.value for family in families for sample in family.samples}


def test_metrics_count_what_was_done(agent, user):
    """Oracle: requests and operations counted by hand, read by Prometheus's own parser; nothing that was said or asked is in them."""
    with serving(agent) as (url, _), httpx.Client(base_url=url, timeout=120) as client:
        added = client.post("/v1/memories", json={"messages": SAID, "user_id": user}).json()["results"][0]["id"]
        for path in (f"/v1/memories/{added}", "/v1/memories/gone", "/v1/memories/gone-too"):
            client.get(path, params={"user_id": user})
        for _ in ("what undoes the ADD deletes", "and what undoes that restores"):
            client.post(f"/v1/memories/{added}/restore", json={"user_id": user})
        client.get("/v1/secret-path")
        client.request("BREW", "/v1/memories")
        client.post("/v1/memories", json={"messages": SAID, "user_id": user, "dry_run": True})
        found, text = metrics_of(client), client.get("/metrics").text
    requests = {tuple(dict(labels).values()): value for (name, labels), value in found.items() if name == "mr1jax_http_requests_total"}
    assert requests["GET", "/v1/memories/{memory_id}", "200"] == 1
    assert requests["GET", "/v1/memories/{memory_id}", "404"] == 2
    assert requests["GET", "none", "404"] == 1
    assert requests["POST", "/v1/memories", "200"] == 2
    assert [value for (method, *_), value in requests.items() if method == "other"] == [1]
    assert found["mr1jax_http_request_seconds_count", (("route", "/v1/memories/{memory_id}"),)] == 3
    assert found["mr1jax_operations_total", (("event", "ADD"),)] == 1
    assert found["mr1jax_operations_total", (("event", "DELETE"),)] == 1
    assert found["mr1jax_operations_total", (("event", "RESTORE"),)] == 1
    assert found["mr1jax_compilations_total", ()] == agent.compilations()
    batches = agent.engine.batch_sizes()["decide"]
    assert found["mr1jax_batch_size_count", (("program", "decide"),)] == sum(batches.values()) > 0
    assert found["mr1jax_batch_size_sum", (("program", "decide"),)] == sum(size * count for size, count in batches.items())
    assert found["mr1jax_batch_size_bucket", (("le", "1.0"), ("program", "decide"))] == batches[1]
    for word in (user, "Bramo", "secret-path", "BREW", "gone"):
        assert word not in text


def test_readiness_is_the_stores(agent, monkeypatch):
    """Oracle: a store that fails: the server lives but is not ready, and the sentence tells nothing of the fault."""
    with serving(agent) as (url, _):
        assert httpx.get(f"{url}/readyz").json() == {"status": "ready"}

        def fail(**_):
            raise OSError("password of the database")

        monkeypatch.setattr(agent, "get_all", fail, raising=False)
        assert error_of(httpx.get(f"{url}/readyz")) == (503, "the store does not answer: OSError")
        assert httpx.get(f"{url}/healthz").status_code == 200
        assert error_of(httpx.get(f"{url}/v1/memories?user_id=a")) == (500, "the server failed; its log says how")


def test_what_has_begun_is_finished_before_the_store_closes(agent, monkeypatch):
    """Oracle: a request that is held inside the agent while the server is told to stop: it is answered, and only then the agent closed."""
    entered, go_on, seen = threading.Event(), threading.Event(), []

    def slow(*_, **__):
        entered.set()
        assert go_on.wait(60)
        seen.append("answered")
        return {"results": []}

    monkeypatch.setattr(agent, "search", slow, raising=False)
    monkeypatch.setattr(agent, "close", lambda: seen.append("closed"), raising=False)
    with serving(agent) as (url, server):
        answers = []
        asking = threading.Thread(
            target=lambda: answers.append(httpx.post(f"{url}/v1/memories/search", json={"query": "x", "user_id": "a"}, timeout=90))
        )
        asking.start()
        assert entered.wait(60)
        server.should_exit = True
        go_on.set()
        asking.join(60)
    assert [answer.status_code for answer in answers] == [200]
    assert seen == ["answered", "closed"]


def test_openapi_lists_every_route(client):
    """Oracle: the routes of the interface, by hand."""
    paths = client.get("/openapi.json").json()["paths"]
    routes = {(method.upper(), path) for path, methods in paths.items() for method in methods}
    by_id = "/v1/memories/{memory_id}"
    assert routes >= {("POST", "/v1/memories"), ("GET", "/v1/memories"), ("DELETE", "/v1/memories"), ("POST", "/v1/memories/search")}
    assert routes >= {("GET", by_id), ("PUT", by_id), ("DELETE", by_id), ("GET", f"{by_id}/history"), ("POST", f"{by_id}/restore")}
    assert routes >= {("GET", "/v1/events"), ("GET", "/v1/state"), ("POST", "/v1/answer"), ("POST", "/v1/chat/completions")}
    assert routes >= {("GET", "/v1/models"), ("GET", "/healthz"), ("GET", "/readyz"), ("GET", "/metrics")}


def test_a_model_behind_a_url_streams(upstream, user):
    """Oracle: by hand: the pieces that its server sends, without what it thinks; then one that breaks off, of which the sentence is heard;
    and one that sends all at once, though asked to stream."""
    agent = MemoryAgent.from_pretrained(base_url=f"http://127.0.0.1:{upstream.server_port}/v1", model="wise-1")
    asked = {"model": "mr1jax", "messages": [{"role": "user", "content": QUESTION}], "user": user, "stream": True}
    with serving(agent) as (url, _):
        chat = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)

        def read():
            return "|".join(filter(None, (chunk.choices[0].delta.content for chunk in chat.chat.completions.create(**asked))))

        assert read() == "Her dog is Bramo."
        upstream.pieces = ["<thi", "nk>a ", "dog?</think>", "\n", "Her dog", " is", None, " Bramo."]
        upstream.end = b': a comment\n\ndata: {"choices": [], "usage": {}}\n\ndata: [DONE]\n\n'
        assert read() == "Her dog| is| Bramo."
        upstream.end = b'data: {"choi'
        with pytest.raises(openai.APIError, match=r"^the model wise-1 at .* does not answer \(.*\); see that it runs, and try again$"):
            read()
