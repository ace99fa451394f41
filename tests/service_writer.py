"""Processes that add memories until they are killed, and write each down once it is acknowledged: `service_writer.py STORE FOLDER NUMBER`.

One process imports what all need and divides; `FOLDER/k` is what the k-th had acknowledged, `FOLDER/k.pid` who it is.
"""

import json
import os
import sys
import uuid
from pathlib import Path

from mr1jax.service.memories import Memories
from mr1jax.service.records import Event, Scope
from mr1jax.service.sql_store import SqlStore
from mr1jax.service.texts import now

_AT_MOST = 2000  # memories, should nobody kill it


def write(url, number, told):
    scope = Scope("ann")
    memories = Memories(SqlStore(url))
    for count in range(_AT_MOST):
        event = Event(str(uuid.uuid4()), "ADD", None, f"writer {number} said {count}", "ann", said_at=now(), created_at=now())

        def once(event=event):
            return memories.store.commit(scope, [event], version=memories.store.version(scope), receipt=None)

        memories.in_turn(scope, once)
        print(json.dumps({"id": event.memory_id, "memory": event.new_memory}), file=told, flush=True)


def main(url, folder, number):
    for k in range(int(number)):
        child = os.fork()
        if child == 0:
            with (Path(folder) / str(k)).open("w") as told:
                write(url, k, told)
        (Path(folder) / f"{k}.pid").write_text(str(child))
    while True:
        try:
            os.wait()
        except ChildProcessError:
            return


if __name__ == "__main__":
    main(*sys.argv[1:])
