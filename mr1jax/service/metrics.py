"""What the server counts, for Prometheus: requests, how long they take, operations by kind, compilations and batch sizes.

No label comes from a request as it is: a path is the pattern of its route, so that nobody can make up series, and nothing that was said
or asked, and no name of a user, is in any of them.
"""

import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from mr1jax.service.agent import MemoryAgent
from mr1jax.service.limits import Message, Receive, Send

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS")
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_SIZES = (1, 2, 4, 8, 16, 32)  # requests in a batch


class Metrics:
    """The counters of one server, in a registry of their own: two servers in one process do not add up."""

    def __init__(self, agent: MemoryAgent):
        self.registry = CollectorRegistry()
        self.registry.register(_Compiled(agent))
        self.requests = Counter("mr1jax_http_requests", "Requests", ["method", "route", "status"], registry=self.registry)
        self.seconds = Histogram(
            "mr1jax_http_request_seconds", "From request to response", ["route"], buckets=_SECONDS, registry=self.registry
        )
        self.operations = Counter("mr1jax_operations", "What was done to memories", ["event"], registry=self.registry)

    def count_operations(self, done: dict[str, Any]) -> None:
        """Counts what a call has done, by its results: ADD, UPDATE, DELETE, NONE, RESTORE."""
        for result in done["results"]:
            self.operations.labels(result["event"]).inc()

    def render(self) -> bytes:
        """Returns all of them as Prometheus reads them."""
        return generate_latest(self.registry)


class _Compiled(Collector):
    """What the agents' programs count for themselves, read where Prometheus asks."""

    def __init__(self, agent: MemoryAgent):
        self._agent = agent

    def collect(self) -> Iterator[Metric]:
        """Yields compilations and, for decisions and answers, batches by how many requests were in one."""
        yield CounterMetricFamily("mr1jax_compilations", "Compilations of the agents' programs", value=self._agent.compilations())
        batches = HistogramMetricFamily("mr1jax_batch_size", "Requests in one batch", labels=["program"])
        for program, count_of in self._agent.engine.batch_sizes().items():
            below = {str(float(size)): sum(n for other, n in count_of.items() if other <= size) for size in _SIZES}
            everything = [("+Inf", sum(count_of.values()))]
            batches.add_metric([program], [*below.items(), *everything], sum(size * n for size, n in count_of.items()))
        yield batches


class Measured:
    """The outermost layer of ASGI: counts every request and times it, those that were refused at the gate included."""

    def __init__(self, app: Callable[..., Awaitable[None]], metrics: Metrics):
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        status, begun = [500], time.perf_counter()

        async def send_and_note(message: Message) -> None:
            if message["type"] == "http.response.start":
                status[0] = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, send_and_note)
        finally:
            route = getattr(scope.get("route"), "path", "none")
            method = scope["method"] if scope["method"] in _METHODS else "other"
            self._metrics.requests.labels(method, route, status[0]).inc()
            self._metrics.seconds.labels(route).observe(time.perf_counter() - begun)
