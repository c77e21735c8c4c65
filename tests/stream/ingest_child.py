"""Processes that ingest while a test watches from outside, told what to do by a line of JSON on standard input each.

`nursery` loads everything once and forks a child for each trial, so that killing fifty of them takes seconds; nothing of
LMDB is open when it forks. `feed` is one process that must live through whatever it is given.

    python -m tests.stream.ingest_child nursery FOLDER
"""

import base64
import json
import os
import random
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any

from bench.faults.points import ending_at
from storage.log import Entry
from storage.log_lmdb import LmdbLog
from storage.names import Names
from storage.state_lmdb import LmdbState
from storage.state_memory import MemoryState
from stream.ingest import EVENTS, Ingest
from stream.replay import digest
from stream.shape import Shape
from tests.stream.event_logs import APPEND_MS, SMALL, fill, ingest_all, make_messages

LOG_BYTES_MAX = 1 << 30


def main() -> None:
    mode, folder = sys.argv[1], Path(sys.argv[2])
    warm_up()
    {"nursery": nursery, "feed": feed}[mode](folder)


def warm_up() -> None:
    """Load what a first batch loads, and leave nothing open."""
    with tempfile.TemporaryDirectory() as scratch, LmdbLog(Path(scratch), log_bytes_max=LOG_BYTES_MAX) as log:
        fill(log, make_messages(random.Random(0), Shape(), count=40))
        ingest_all(log, MemoryState(), Shape())


def nursery(folder: Path) -> None:
    """For each line: fork a child that ingests FOLDER's log to its end; answer its pid, then how it ended."""
    for line in sys.stdin:
        order = json.loads(line)
        pid = os.fork()
        if pid == 0:
            trial(folder, order)
        answer(pid)
        _, status = os.waitpid(pid, 0)
        answer(os.waitstatus_to_exitcode(status))


def trial(folder: Path, order: dict[str, Any]) -> None:  # whatever JSON says
    status = 1
    try:
        with LmdbLog(folder / "log", log_bytes_max=LOG_BYTES_MAX) as log:
            state = LmdbState(folder / "state", boot_id="this boot")
            ingest_all(log, state, SMALL, batch=order["batch"], fault=ending_at(order.get("point", ""), order.get("hit", 1)))
            state.close()
        status = 0
    except BaseException:  # noqa: BLE001 a forked child must not go on as its parent
        traceback.print_exc()
    finally:
        os._exit(status)


def feed(folder: Path) -> None:
    """For each line, [[form, base64], ...]: append, ingest, answer what became of it; for `null`: compare with a replay."""
    with LmdbLog(folder / "log", log_bytes_max=LOG_BYTES_MAX) as log:
        state = LmdbState(folder / "state", boot_id="this boot")
        ingest = Ingest(state, log, SMALL, names=Names(state))
        ingest.claim()
        for line in sys.stdin:
            order = json.loads(line)
            if order is None:
                again = MemoryState()
                ingest_all(log, again, SMALL, batch=37)
                answer(digest(state, 0) == digest(again, 0))
                continue
            first = log.append(EVENTS, [Entry(0, base64.b64decode(body), form) for form, body in order], now_ms=APPEND_MS)[0].offset
            applied = ingest.apply(log.read(EVENTS, 0, first, records_max=len(order)), now_ms=APPEND_MS)
            answer([applied.events, [(letter.offset - first, letter.index, letter.kind) for letter in applied.dead_letters]])
        state.close()


def answer(value: object) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
