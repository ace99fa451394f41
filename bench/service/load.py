"""Adds and answers a second over HTTP: the server in a process of its own on a SQLite file, its clients on the loopback.

Clients are threads with a connection and a user each, and send the next request once the last is answered. For half of the time they add
sentences, then they ask about what they added.
"""

import contextlib
import http.client
import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bench.service.told import Told, percentiles, told

CLIENTS = (1, 8, 64)
_STARTS = 600  # seconds that the server may take, compiling included
_SERVE = "import sys; from mr1jax.cli import main; sys.argv[0] = 'mr1jax'; main()"
_FREE = ("--limits.rate", "1000000", "--limits.burst", "1000000")  # the rate of one address is what is measured


class Client:
    """One connection, and the user it speaks for. Raises RuntimeError for any status but 200."""

    def __init__(self, port: int, user: str):
        self._connection, self._user = http.client.HTTPConnection("127.0.0.1", port, timeout=_STARTS), user

    def post(self, path: str, **body: Any) -> Any:
        said = json.dumps(body | {"user_id": self._user}).encode()
        self._connection.request("POST", path, said, {"content-type": "application/json"})
        return json.loads(self._read())

    def get(self, path: str) -> bytes:
        self._connection.request("GET", path)
        return self._read()

    def add(self, text: str) -> None:
        self.post("/v1/memories", messages=text)

    def answer(self, question: str) -> None:
        self.post("/v1/answer", question=question)

    def close(self) -> None:
        self._connection.close()

    def _read(self) -> bytes:
        response = self._connection.getresponse()
        body = response.read()
        if response.status != 200:
            raise RuntimeError(f"status {response.status}: {body[:200]!r}")
        return body


def measure(folder: Path, seconds: float) -> dict[str, Any]:
    """Measures each number of clients for so many seconds; {"clients": {"8": {"adds_per_s", "answers_per_s", ...}}, "compilations"}."""
    clients, conversations = {}, told(max(CLIENTS))
    with serving(f"sqlite:///{folder}/load.db") as port:
        _compile(port, conversations)
        before = _metric(port, "mr1jax_compilations_total")
        for number in CLIENTS:
            clients[str(number)] = _round(port, number, seconds / 2, conversations)
            print(f"load, {number} clients: {clients[str(number)]}", flush=True)
        after = _metric(port, "mr1jax_compilations_total")
    return {"seconds": seconds, "clients": clients, "compilations": {"before": int(before), "under_load": int(after - before)}}


@contextlib.contextmanager
def serving(store: str) -> Iterator[int]:
    """Starts `mr1jax serve` and yields its port; it is told to stop at the end. Raises RuntimeError where it does not start or end well."""
    command = [sys.executable, "-c", _SERVE, "serve", "--port", "0", "--store", store, *_FREE]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        lines = []
        try:
            for line in process.stderr:
                lines.append(line)
                if found := re.search(r"listening on http://127\.0\.0\.1:(\d+)", line):
                    break
            else:
                raise RuntimeError(f"the server did not start: {''.join(lines)[-2000:]}")
            reader = threading.Thread(target=lines.extend, args=(process.stderr,))  # so that what it says never fills the pipe
            reader.start()
            yield int(found[1])
        finally:
            process.terminate()
    reader.join()


def _compile(port: int, conversations: list[Told]) -> None:
    """Lets the server meet every size of a batch, of either kind, before anything is timed."""
    for number in CLIENTS:
        _round(port, number, 1.0, conversations, "warm")


def _round(port: int, number: int, seconds: float, conversations: list[Told], users: str = "user") -> dict[str, Any]:
    result: dict[str, Any] = {}
    clients = [Client(port, f"{users}-{number}-{k}") for k in range(number)]
    for kind, call, texts in (
        ("adds", Client.add, [each.facts for each in conversations]),
        ("answers", Client.answer, [each.questions for each in conversations]),
    ):
        taken, wall = _repeat(list(zip(clients, texts, strict=False)), call, seconds)
        result |= {f"{kind}_per_s": round(len(taken) / wall, 2), kind: {"requests": len(taken), **percentiles(taken)}}
    return result


def _repeat(work: list[tuple[Client, tuple[str, ...]]], call: Callable[[Client, str], None], seconds: float) -> tuple[list[float], float]:
    """Lets every client send its texts over and over; returns what each request took, and all of them together."""
    taken: list[float] = []
    failed: list[BaseException] = []
    began = time.perf_counter()

    def run(client: Client, texts: tuple[str, ...]) -> None:
        count = 0
        try:
            while time.perf_counter() - began < seconds and not failed:
                sent = time.perf_counter()
                call(client, texts[count % len(texts)])
                taken.append(time.perf_counter() - sent)
                count += 1
        except Exception as error:  # noqa: BLE001  said below, once all threads have ended
            failed.append(error)
        finally:
            client.close()  # who has to wait for the others would find that the server has closed it; the next request opens it again

    threads = [threading.Thread(target=run, args=each) for each in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise RuntimeError(f"a request failed: {failed[0]}") from failed[0]
    return taken, time.perf_counter() - began


def _metric(port: int, name: str) -> float:
    client = Client(port, "")
    text = client.get("/metrics").decode()
    client.close()
    return float(next(line.split()[-1] for line in text.splitlines() if line.startswith(f"{name} ")))
