"""What requests over HTTP say, and for whom they may say it. What a value may be is the agent's to check; here it has a type and a name."""

from typing import Annotated, Any

from fastapi import Depends, Request
from pydantic import BaseModel, ConfigDict, Field

from mr1jax.service.agent import MemoryAgent
from mr1jax.service.limits import Caller, Refused
from mr1jax.service.metrics import Metrics

MAX_LISTED = 1000  # memories or events in one response


async def _agent(request: Request) -> MemoryAgent:
    return request.app.state.agent


async def _metrics(request: Request) -> Metrics:
    return request.app.state.metrics


async def _caller(request: Request) -> Caller:
    return request.state.caller


# What routes ask FastAPI for.
TheAgent = Annotated[MemoryAgent, Depends(_agent)]
TheMetrics = Annotated[Metrics, Depends(_metrics)]
TheCaller = Annotated[Caller, Depends(_caller)]


class Scope(BaseModel):
    """Whose memories are meant: at least one of the three."""

    model_config = ConfigDict(extra="forbid")  # a field that is misspelt is an error, not a default

    user_id: str = ""
    agent_id: str = ""
    run_id: str = ""

    def of(self, caller: Caller) -> dict[str, Any]:
        """Returns the scope as arguments of the agent, under the user that the caller's token is bound to, where it is bound to one.

        Raises Refused where the request names another.
        """
        return {"user_id": own_user(caller, self.user_id), "agent_id": self.agent_id, "run_id": self.run_id}


def own_user(caller: Caller, user_id: str) -> str:
    """Returns the user that a caller acts for: whom it names, or whom its token is bound to; raises Refused where these are two."""
    if caller.user and user_id not in ("", caller.user):
        raise Refused(403, "this token acts for another user; leave the user out, or send the token of that user")
    return caller.user or user_id


class Said(BaseModel):
    """One message of a conversation."""

    model_config = ConfigDict(extra="forbid")

    role: str
    content: str
    name: str = ""


class NewMessages(Scope):
    """What was said, for the Memory Manager to make something of."""

    messages: str | list[Said]
    metadata: dict[str, Any] | None = None
    timestamp: str | None = None
    expires_at: str | None = None
    dry_run: bool = False
    idempotency_key: str = ""


class SearchQuery(Scope):
    """What to look for, and how many memories may come back."""

    query: str
    limit: int = Field(10, ge=1, le=MAX_LISTED)
    filters: dict[str, Any] | None = None


class Question(Scope):
    """A question for the Answer Agent. timestamp: when it is asked."""

    question: str
    timestamp: str | None = None


class NewText(Scope):
    """What a memory says from now on."""

    text: str


class Restored(Scope):
    """The event that a memory goes back to; without one, to what it was before its last."""

    to_event: int | None = None


class Listing(Scope):
    """Which memories to list."""

    limit: int = Field(100, ge=1, le=MAX_LISTED)
    include_deleted: bool = False


class EventListing(Scope):
    """Which part of the log to list."""

    after: int = Field(0, ge=0)
    limit: int = Field(MAX_LISTED, ge=1, le=MAX_LISTED)


class Moment(Scope):
    """The bank as it was after this event."""

    event: int = Field(ge=0)
