"""OpenAI's chat completions over a memory: whoever is named as `user` is answered from his own memories.

The last message of the user is the question. The Answer Agent replies to it, or, where the agent speaks through another server, its model
does, with the memories in its system message. Nothing is written to the memory here: that is what POST /v1/memories is for.
"""

import json
import re
import time
import uuid
from collections.abc import Iterator
from typing import Any

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel

from mr1jax.config import require
from mr1jax.service.bodies import TheAgent, TheCaller, own_user

MODEL = "mr1jax"

router = APIRouter(prefix="/v1", tags=["chat"])


class ChatMessage(BaseModel):
    """One message; content is text, or parts of which each is text."""

    role: str
    content: str | list[dict[str, Any]] | None = None

    def text(self) -> str:
        """Returns the text; raises ValueError where a part is something else."""
        parts = [{"type": "text", "text": self.content}] if isinstance(self.content, str) else self.content or []
        for part in parts:
            kind = part.get("type")
            require(kind == "text" and isinstance(part.get("text"), str), f"a message has a part of type {kind!r}; send text alone")
        return "\n".join(part["text"] for part in parts)


class ChatRequest(BaseModel):
    """What a client of OpenAI sends. Fields that are not here, such as temperature, are read by nobody: decoding is greedy."""

    messages: list[ChatMessage]
    model: str = ""
    user: str = ""
    stream: bool = False
    n: int = 1
    tools: list[dict[str, Any]] | None = None


@router.get("/models")
def list_models(agent: TheAgent) -> dict[str, Any]:
    """Lists the one model there is."""
    return {"object": "list", "data": [{"id": MODEL, "object": "model", "created": 0, "owned_by": "mr1jax"}]}


@router.post("/chat/completions", response_model=None)
def complete(body: ChatRequest, caller: TheCaller, agent: TheAgent) -> Response:
    """Answers the last message of the user from his memories: whole, or with stream=true as server-sent events."""
    require(body.model in ("", MODEL), f"there is no model {body.model!r}; GET /v1/models lists the one there is")
    require(body.n == 1, f"n is {body.n}; decoding is greedy, so ask for one")
    require(not body.tools, "tools are not called here; leave them out")
    asked = [message.text() for message in body.messages if message.role == "user"]
    require(bool(asked), "there is no message with the role user; the last such message is the question")
    found = agent.answer(asked[-1], user_id=own_user(caller, body.user))
    about = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": MODEL}
    if body.stream:
        return StreamingResponse(_stream(about, found["answer"]), media_type="text/event-stream")
    choice = {"index": 0, "message": {"role": "assistant", "content": found["answer"]}, "finish_reason": "stop"}
    return JSONResponse({**about, "object": "chat.completion", "choices": [choice], "memories": found["memories"]})


def _stream(about: dict[str, Any], answer: str) -> Iterator[str]:
    """Yields an answer word by word in the form of OpenAI's chunks; it was computed whole, for the program has fixed shapes."""
    pieces = [{"role": "assistant", "content": ""}, *({"content": piece} for piece in re.findall(r"\s*\S+|\s+$", answer)), {}]
    for delta in pieces:
        choice = {"index": 0, "delta": delta, "finish_reason": None if delta else "stop"}
        yield f"data: {json.dumps({**about, 'object': 'chat.completion.chunk', 'choices': [choice]})}\n\n"
    yield "data: [DONE]\n\n"
