"""A memory over HTTP: mem0's REST by FastAPI, the state of the server, and the page of the inspector.

Routes only read what was sent, ask the agent and hand back what it says; `limits.Gate` stands before all of them. What is wrong in a
request is the agent's ValueError: one sentence, status 400, and 404 for a memory that this caller has none of.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from importlib import resources
from typing import Annotated, Any

from fastapi import APIRouter, FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from mr1jax.service import openai_api
from mr1jax.service.agent import MemoryAgent
from mr1jax.service.bodies import (
    EventListing,
    Listing,
    Moment,
    NewMessages,
    NewText,
    Question,
    Restored,
    Scope,
    SearchQuery,
    TheAgent,
    TheCaller,
    TheMetrics,
)
from mr1jax.service.chat_server import Unavailable
from mr1jax.service.limits import Gate, Limits, Refused, Tokens, error_body
from mr1jax.service.metrics import CONTENT_TYPE, Measured, Metrics
from mr1jax.service.records import NotFound

Json = dict[str, Any]
_PAGES = {
    "/": ("inspector.html", "text/html"),
    "/inspector.css": ("inspector.css", "text/css"),
    "/inspector.js": ("inspector.js", "text/javascript"),
}

memories = APIRouter(prefix="/v1", tags=["memories"])
state = APIRouter(tags=["server"])


@memories.post("/memories")
def add(body: NewMessages, caller: TheCaller, agent: TheAgent, metrics: TheMetrics) -> Json:
    """Lets the Memory Manager add, update or delete memories by what was said; returns what it did."""
    said = body.messages if isinstance(body.messages, str) else [message.model_dump(exclude_defaults=True) for message in body.messages]
    more = body.model_dump(include={"metadata", "timestamp", "expires_at", "dry_run", "idempotency_key"})
    done = agent.add(said, **body.of(caller), **more)
    if not body.dry_run and not done["idempotent_replay"]:
        metrics.count_operations(done)
    return done


@memories.get("/memories")
def list_memories(query: Annotated[Listing, Query()], caller: TheCaller, agent: TheAgent) -> Json:
    """Lists memories."""
    return agent.get_all(**query.of(caller), limit=query.limit, include_deleted=query.include_deleted)


@memories.delete("/memories")
def delete_all(query: Annotated[Scope, Query()], caller: TheCaller, agent: TheAgent, metrics: TheMetrics) -> Json:
    """Deletes every memory of a scope; each can be restored."""
    done = agent.delete_all(**query.of(caller))
    metrics.count_operations(done)
    return done


@memories.post("/memories/search")
def search(body: SearchQuery, caller: TheCaller, agent: TheAgent) -> Json:
    """Finds memories by a query, the best first."""
    return agent.search(body.query, **body.of(caller), limit=body.limit, filters=body.filters)


@memories.get("/memories/{memory_id}")
def get(memory_id: str, query: Annotated[Scope, Query()], caller: TheCaller, agent: TheAgent) -> Json:
    """Returns one memory."""
    return agent.get(memory_id, **query.of(caller))


@memories.put("/memories/{memory_id}")
def update(memory_id: str, body: NewText, caller: TheCaller, agent: TheAgent, metrics: TheMetrics) -> Json:
    """Sets what a memory says; what it said before stays in its history."""
    done = agent.update(memory_id, body.text, **body.of(caller))
    metrics.count_operations(done)
    return done


@memories.delete("/memories/{memory_id}")
def delete(memory_id: str, query: Annotated[Scope, Query()], caller: TheCaller, agent: TheAgent, metrics: TheMetrics) -> Json:
    """Deletes one memory; it can be restored."""
    done = agent.delete(memory_id, **query.of(caller))
    metrics.count_operations(done)
    return done


@memories.get("/memories/{memory_id}/history")
def history(memory_id: str, query: Annotated[Scope, Query()], caller: TheCaller, agent: TheAgent) -> list[Json]:
    """Lists all that ever happened to a memory, the oldest first."""
    return agent.history(memory_id, **query.of(caller))


@memories.post("/memories/{memory_id}/restore")
def restore(memory_id: str, body: Restored, caller: TheCaller, agent: TheAgent, metrics: TheMetrics) -> Json:
    """Takes a memory back to what it was before its last event, or after a given one."""
    done = agent.restore(memory_id, **body.of(caller), to_event=body.to_event)
    metrics.count_operations({"results": [{"event": "DELETE" if done["deleted"] else "RESTORE"}]})  # what undoes an ADD deletes
    return done


@memories.get("/events")
def events(query: Annotated[EventListing, Query()], caller: TheCaller, agent: TheAgent) -> Json:
    """Lists the operations of a scope in their order."""
    return {"results": [event.to_json() for event in agent.events(**query.of(caller), after=query.after, limit=query.limit)]}


@memories.get("/state")
def state_at(query: Annotated[Moment, Query()], caller: TheCaller, agent: TheAgent) -> Json:
    """Lists the memories there were after an event."""
    return {"results": [memory.to_json() for memory in agent.state_at(query.event, **query.of(caller))]}


@memories.post("/answer")
def answer(body: Question, caller: TheCaller, agent: TheAgent) -> Json:
    """Answers a question from the memories, and says which were retrieved and which of them selected."""
    return agent.answer(body.question, **body.of(caller), timestamp=body.timestamp)


@state.get("/healthz")
async def healthz() -> Json:
    """Says that the process answers."""
    return {"status": "ok"}


@state.get("/readyz")
def readyz(agent: TheAgent) -> Json:
    """Says whether the store answers; status 503 where it does not."""
    try:
        agent.get_all(run_id="readyz", limit=1)
    except Exception as error:
        raise Refused(503, f"the store does not answer: {type(error).__name__}") from error
    return {"status": "ready"}


@state.get("/metrics")
def prometheus(caller: TheCaller, metrics: TheMetrics) -> Response:
    """Returns the counters; they are about all users, and so not for a token that is bound to one."""
    if caller.user:
        raise Refused(403, "the metrics are about all users; ask with a token that is bound to none")
    return Response(metrics.render(), media_type=CONTENT_TYPE)


def _page(file: str, media_type: str) -> Callable[[], Awaitable[Response]]:
    body = (resources.files("mr1jax.service") / file).read_bytes()

    async def page() -> Response:
        return Response(body, media_type=media_type)

    return page


async def _on_wrong_value(_: Request, error: Exception) -> Response:
    status = 404 if isinstance(error, NotFound) else 400
    return JSONResponse(error_body(status, str(error)), status)


async def _on_wrong_form(_: Request, error: Exception) -> Response:
    """What pydantic found first in a request, as one sentence; not what the request said there."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    place = ".".join(map(str, first["loc"])).encode("ascii", "backslashreplace").decode()
    return JSONResponse(error_body(422, f"{place:.80}: {first['msg'].lower()}; GET /openapi.json says what may stand there"), 422)


async def _on_refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)
    return JSONResponse(error_body(error.status, str(error)), error.status, error.headers)


async def _on_http(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse(error_body(error.status_code, str(error.detail)), error.status_code, error.headers)


async def _on_unavailable(_: Request, error: Exception) -> Response:
    return JSONResponse(error_body(503, str(error)), 503)


async def _on_fault(_: Request, error: Exception) -> Response:
    """A fault of ours: the log has it whole, the client learns nothing of it."""
    return JSONResponse(error_body(500, "the server failed; its log says how"), 500)


def make_app(agent: MemoryAgent, limits: Limits, tokens: Tokens, hosts: Iterable[str]) -> Callable[..., Awaitable[None]]:
    """Returns the application as ASGI; it closes the agent when it is shut down.

    hosts: names and addresses, without a port, that a request may ask for.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        agent.close()

    app = FastAPI(title="mr1jax", description="A memory that a trained Manager keeps.", lifespan=lifespan, docs_url=None, redoc_url=None)
    app.state.agent, app.state.metrics = agent, Metrics(agent)
    for router in (memories, openai_api.router, state):
        app.include_router(router)
    for path, (file, media_type) in _PAGES.items():
        app.add_api_route(path, _page(file, media_type), include_in_schema=False)
    handlers = {ValueError: _on_wrong_value, RequestValidationError: _on_wrong_form, Refused: _on_refused, HTTPException: _on_http}
    for kind, handler in {**handlers, Unavailable: _on_unavailable, Exception: _on_fault}.items():
        app.add_exception_handler(kind, handler)
    return Measured(Gate(app, limits, tokens, hosts), app.state.metrics)
