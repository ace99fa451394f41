"""Puts requests of many threads into one batch: who asks waits a moment for company, and all are served by one run."""

import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

_WAIT = 0.003  # seconds that the first request of a batch waits for others


class Batcher:
    """Serves requests in batches of at most `most`, in a thread of its own. `run` takes requests and returns as many results, in order."""

    def __init__(self, run: Callable[[Sequence[Any]], Sequence[Any]], most: int, name: str):
        self._run, self._most = run, most
        self.sizes: Counter[int] = Counter()  # how many batches there were, by how many requests were in them
        self._waiting: queue.SimpleQueue[tuple[Any, Future] | None] = queue.SimpleQueue()
        self._closed, self._lock = False, threading.Lock()
        self._thread = threading.Thread(target=self._serve, name=name, daemon=True)
        self._thread.start()

    def ask(self, request: Any) -> Any:
        """Returns the result of one request, or raises what its batch ended with. Raises ValueError after `close`."""
        return self.submit(request).result()

    def submit(self, request: Any) -> Future:
        """Puts one request in line, and returns what will hold its result, or what its batch ended with; as `ask` otherwise."""
        future: Future = Future()
        with self._lock:
            if self._closed:
                raise ValueError("the agent is closed; open another")
            self._waiting.put((request, future))
        return future

    def close(self) -> None:
        """Serves what waits, then ends the thread."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._waiting.put(None)
        self._thread.join()

    def _serve(self) -> None:
        is_open = True
        while is_open:
            batch, is_open = self._gather()
            if batch:
                self._answer(batch)

    def _gather(self) -> tuple[list[tuple[Any, Future]], bool]:
        """Takes the next batch, and tells whether more may come."""
        batch: list[tuple[Any, Future]] = []
        deadline = None
        while len(batch) < self._most:
            try:
                each = self._waiting.get(timeout=None if deadline is None else max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                break
            if each is None:
                return batch, False
            batch.append(each)
            deadline = deadline or time.monotonic() + _WAIT
        return batch, True

    def _answer(self, batch: list[tuple[Any, Future]]) -> None:
        self.sizes[len(batch)] += 1
        try:
            results = self._run([request for request, _ in batch])
        except BaseException as error:  # whoever waits must hear of it, and the thread goes on
            for _, future in batch:
                future.set_exception(error)
            return
        for (_, future), result in zip(batch, results, strict=True):
            future.set_result(result)
