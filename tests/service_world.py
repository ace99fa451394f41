"""What the tests of the service share: stores of every kind, a server of PostgreSQL that is thrown away, and engines small or scripted."""

import contextlib
import os
import pwd
import shutil
import subprocess
import tempfile
import threading
from pathlib import Path

import jax
import pytest
from tiny import CONFIG, WordTokenizer

from mr1jax.agents.prompts import make_language
from mr1jax.config import AgentConfig, BankConfig, replace
from mr1jax.model.transformer import init_params
from mr1jax.prepare import Start
from mr1jax.service.engine import Decision, Reply, Step
from mr1jax.service.extract import WholeSentences
from mr1jax.service.texts import Speller
from mr1jax.structs import OperationKind

_BINARIES = ("/usr/lib/postgresql", "/usr/local/pgsql")


class LetterTokenizer(WordTokenizer):
    """Words as in `tiny`, and every printable letter, so that anything can be written and dates have years."""

    def __init__(self):
        super().__init__()
        known = set(self.pieces)
        self.pieces += [bytes([byte]) for byte in range(256) if bytes([byte]) not in known and byte != 0x0A]
        self.vocab_size = len(self.pieces)
        self._longest_first = sorted(range(2, self.vocab_size), key=lambda token: -len(self.pieces[token]))


LETTERS = LetterTokenizer()
SMALL = replace(
    CONFIG,
    model=replace(CONFIG.model, vocab_size=LETTERS.vocab_size),
    bank=BankConfig(num_slots=6, slot_width=12, num_terms=5),
    manager=AgentConfig(num_retrieved=3, prompt_length=100, response_length=12),
    answerer=AgentConfig(num_retrieved=4, prompt_length=128, response_length=12),
)


def small_start(seed=0, scale=1.0):
    """Random agents that read letters and words."""
    make = jax.jit(init_params, static_argnums=0)
    params = {
        name: jax.tree.map(lambda x: x * scale, make(SMALL.model, jax.random.key(seed + k)))
        for k, name in enumerate(("manager", "answerer"))
    }
    return Start(SMALL, params, LETTERS, make_language(LETTERS, 4))


class ScriptedEngine:
    """Does as a fact says: "set KEY VALUE" is an UPDATE of the memory that begins alike, or else an ADD, "drop KEY" a DELETE, else a NOOP.

    reply quotes all it is shown and answers with the last.
    """

    num_slots, slot_width = 8, 64

    def __init__(self):
        self.speller = Speller(LETTERS)
        self.decided = []
        self.lock = threading.Lock()

    def decide(self, request):
        with self.lock:
            self.decided.append(request)
        verb, _, rest = request.asked.text.partition(" ")
        key = rest.split()[0] if rest else ""
        places = [k for k, line in enumerate(request.lines) if line.text.split()[1:2] == [key]]
        if verb == "set" and places:
            return Decision((Step(OperationKind.UPDATE, places[0], request.asked.text),), "")
        if verb == "set":
            return Decision((Step(OperationKind.ADD, text=request.asked.text),), "")
        if verb == "drop" and places:
            return Decision((Step(OperationKind.DELETE, places[0]),), "")
        return Decision((), "NOOP")

    def reply(self, request):
        shown = tuple(range(len(request.lines)))
        return Reply(request.lines[-1].text if shown else "", "", shown, shown)

    def stream(self, request):
        reply = self.reply(request)
        yield from reply.answer
        yield reply

    def close(self):
        pass


def scripted_agent(store):
    """A `MemoryAgent` whose Manager is scripted."""
    from mr1jax.service.agent import MemoryAgent

    engine = ScriptedEngine()
    return MemoryAgent(engine, store, WholeSentences(engine.speller, engine.slot_width))


@contextlib.contextmanager
def throw_away_postgresql():
    """Starts a server on a socket in a folder of its own, and yields the address of a store there; skips where it cannot be."""
    found = [path for root in _BINARIES for path in Path(root).glob("**/bin/initdb")]
    named = shutil.which("initdb")
    if not found and not named:
        pytest.skip("there is no initdb of PostgreSQL on this machine")
    pytest.importorskip("psycopg")
    binaries, user = (found[0] if found else Path(named)).parent, _somebody()
    folder = Path(tempfile.mkdtemp(prefix="pg"))
    try:
        if user:
            shutil.chown(folder, user)
        start = dict(user=user, cwd=folder, check=True, capture_output=True, timeout=60)
        subprocess.run([binaries / "initdb", "-D", folder / "data", "-A", "trust", "-U", "mr1jax", "-N"], **start)
        options = f"-k {folder} -c listen_addresses= -c fsync=off"
        subprocess.run([binaries / "pg_ctl", "-D", folder / "data", "-o", options, "-l", folder / "log", "-w", "start"], **start)
        try:
            yield f"postgresql+psycopg://mr1jax@/postgres?host={folder}"
        finally:
            subprocess.run([binaries / "pg_ctl", "-D", folder / "data", "-m", "immediate", "stop"], **start)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _somebody():
    """PostgreSQL does not run as root: whom to be instead, None for oneself."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name).pw_name
    return pytest.skip("PostgreSQL does not run as root, and there is nobody else here")


@pytest.fixture(scope="module")
def postgresql():
    with throw_away_postgresql() as url:
        yield url


@pytest.fixture(params=["memory", "sqlite", "postgresql"])
def store_url(request, tmp_path):
    """The address of an empty store of each kind."""
    if request.param == "postgresql":
        import sqlalchemy as sa

        url = request.getfixturevalue("postgresql")
        engine = sa.create_engine(url)
        with engine.begin() as connection:
            connection.execute(sa.text("drop schema public cascade"))
            connection.execute(sa.text("create schema public"))
        engine.dispose()
        return url
    return "memory" if request.param == "memory" else f"sqlite:///{tmp_path}/memories.db"
