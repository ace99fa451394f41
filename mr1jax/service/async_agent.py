"""`AsyncMemoryAgent`: `MemoryAgent` for a program with an event loop."""

import asyncio
import functools
import weakref
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from mr1jax.service.agent import MemoryAgent
from mr1jax.service.records import Event, Json, Memory, Scope

_THREADS = 64  # as many calls can wait at once for one batch or the store


class AsyncMemoryAgent:
    """The same calls for a program with an event loop, over one `MemoryAgent`: each has the arguments, results and errors of its twin.

    Calls that write for one owner are done in the order in which they were made; those of others, and those that read, go beside them.
    """

    def __init__(self, agent: MemoryAgent):
        self.agent = agent
        self._pool = ThreadPoolExecutor(_THREADS, "mr1jax-async")
        self._turns: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()

    @classmethod
    def from_pretrained(cls, path: str | Path = "", **settings: str) -> "AsyncMemoryAgent":
        """As `MemoryAgent.from_pretrained`."""
        return cls(MemoryAgent.from_pretrained(path, **settings))

    async def add(self, *args: Any, **kwargs: Any) -> Json:
        return await self._in_order(self.agent.add, *args, **kwargs)

    async def search(self, *args: Any, **kwargs: Any) -> Json:
        return await self._beside(self.agent.search, *args, **kwargs)

    async def get(self, *args: Any, **kwargs: Any) -> Json:
        return await self._beside(self.agent.get, *args, **kwargs)

    async def get_all(self, **kwargs: Any) -> Json:
        return await self._beside(self.agent.get_all, **kwargs)

    async def update(self, *args: Any, **kwargs: Any) -> Json:
        return await self._in_order(self.agent.update, *args, **kwargs)

    async def delete(self, *args: Any, **kwargs: Any) -> Json:
        return await self._in_order(self.agent.delete, *args, **kwargs)

    async def delete_all(self, **kwargs: Any) -> Json:
        return await self._in_order(self.agent.delete_all, **kwargs)

    async def history(self, *args: Any, **kwargs: Any) -> list[Json]:
        return await self._beside(self.agent.history, *args, **kwargs)

    async def restore(self, *args: Any, **kwargs: Any) -> Json:
        return await self._in_order(self.agent.restore, *args, **kwargs)

    async def answer(self, *args: Any, **kwargs: Any) -> Json:
        return await self._beside(self.agent.answer, *args, **kwargs)

    async def stream_answer(self, *args: Any, **kwargs: Any) -> AsyncIterator[Json]:
        coming = await self._beside(self.agent.stream_answer, *args, **kwargs)
        while (each := await self._beside(next, coming, None)) is not None:
            yield each

    async def events(self, **kwargs: Any) -> list[Event]:
        return await self._beside(self.agent.events, **kwargs)

    async def state_at(self, *args: Any, **kwargs: Any) -> list[Memory]:
        return await self._beside(self.agent.state_at, *args, **kwargs)

    async def export_jsonl(self, *args: Any, **kwargs: Any) -> int:
        return await self._beside(self.agent.export_jsonl, *args, **kwargs)

    async def import_jsonl(self, *args: Any, **kwargs: Any) -> int:
        return await self._in_order(self.agent.import_jsonl, *args, **kwargs)

    async def close(self) -> None:
        """Waits for the calls that are being done, then closes the agent."""
        await asyncio.to_thread(self._pool.shutdown)
        await asyncio.to_thread(self.agent.close)

    async def __aenter__(self) -> "AsyncMemoryAgent":
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self.close()

    async def _in_order(self, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        scope = Scope(*(kwargs.get(name, "") for name in ("user_id", "agent_id", "run_id")))
        async with self._turns.setdefault(scope.owner, asyncio.Lock()):
            return await self._beside(call, *args, **kwargs)

    async def _beside(self, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._pool, functools.partial(call, *args, **kwargs))
