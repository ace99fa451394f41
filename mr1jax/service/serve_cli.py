"""mr1jax serve and mr1jax mcp: arguments only. What they need beyond the library is imported once they run."""

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from mr1jax.config import require
from mr1jax.service.limits import Limits

if TYPE_CHECKING:
    from mr1jax.service.agent import MemoryAgent


@dataclass(frozen=True)
class Served:
    """The memory that is served.

    path: folder of the agents; the shipped ones where it is left out. store: sqlite:///file.db, postgresql+psycopg://..., or memory, which
    forgets all at the end; left out, MR1JAX_STORE, or memory.db in the user's data folder. manager_from, answerer_from: weights of one
    agent, as a run leaves them. base_url: a server of OpenAI's chat completions, whose model decides and answers instead. model: its name
    there.
    """

    path: str = ""
    store: str = ""
    manager_from: str = ""
    answerer_from: str = ""
    base_url: str = ""
    model: str = ""

    def opener(self) -> "Callable[[], MemoryAgent]":
        """Returns what opens it: nothing is read before it is called."""

        def open_agent() -> "MemoryAgent":
            from mr1jax.service.agent import MemoryAgent

            return MemoryAgent.from_pretrained(**vars(self) | {"store": find_store(self.store)})

        return open_agent


STORE_VARIABLE = "MR1JAX_STORE"


def find_store(store: str) -> str:
    """Returns the address of a store: what is given, else what MR1JAX_STORE says, else a file in the user's data folder, which is made.

    Not in the working folder: who is remembered is the same person in every folder, and clients of MCP start their servers anywhere.
    Nor in runs/, which holds what can be trained again. Raises ValueError where the folder cannot be made.
    """
    if known := store or os.environ.get(STORE_VARIABLE, ""):
        return known
    try:
        shared = os.environ.get("XDG_DATA_HOME") or Path.home() / (
            "Library/Application Support" if sys.platform == "darwin" else ".local/share"
        )
        folder = Path(shared) / "mr1jax"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # memories are nobody else's to read
    except (OSError, RuntimeError) as error:
        raise ValueError(f"there is no folder for memories ({error}); say by --store or {STORE_VARIABLE} where they are kept") from error
    return f"sqlite:///{folder / 'memory.db'}"


Memory = Annotated[Served, tyro.conf.arg(name="")]
SHIPPED = Served()
LIMITS = Limits()


def serve(
    memory: Memory = SHIPPED,
    host: str = "127.0.0.1",
    port: int = 8000,
    tokens: Path | None = None,
    hosts: tuple[str, ...] = (),
    limits: Limits = LIMITS,
) -> None:
    """Serves a memory over HTTP: mem0's REST, OpenAI's chat completions, and at / a page to inspect it.

    Args:
      host: the address to listen on; any that others can reach needs --tokens.
      tokens: a file with a bearer token a line, and after it the user it is bound to; alone it may act for all.
      hosts: names besides the address that the server is reached by.
    """
    from mr1jax.service.serve import run_server

    run_server(memory.opener(), host, port, tokens, hosts, limits)


def mcp(memory: Memory = SHIPPED, user_id: str = "") -> None:
    """Serves the memory of one user as tools of a model: the Model Context Protocol over standard input and output.

    Args:
      user_id: whose memory it is; no tool can ask for another.
    """
    require(user_id != "", "no user is named; say whose memory this is, by --user-id")
    from mr1jax.service.mcp_server import run_stdio

    run_stdio(memory.opener(), user_id)
