"""Quix Streams keeps the newest 100 item ids of each user: the peer that freshet's own loops are compared with.

A program of its own, for an environment of its own (`requirements.txt` beside it); it imports nothing of freshet. It reads a
topic of JSON events from the earliest offset under a consumer group of its own, keeps a list per message key in Quix's state,
and stops after so many events.

    python last_items.py --bootstrap 127.0.0.1:9092 --topic events --events 200000 --folder STATE

The last line of standard output is JSON. `seconds` and `cpu_seconds` (user and system, all threads of the process) run from the
first event processed to the last. `closed_seconds` and `closed_cpu_seconds` run on until `Application.run` has committed the
last checkpoint and closed: the first pair leaves out what is still owed, the second counts the shutdown too.

Settings. The documentation offers one for throughput, how seldom a checkpoint is committed, and warns of memory and of repeats
when it is long: the default of 5 s is kept, which already folds all updates of a user since the last one into one write and one
changelog record. At-least-once (the default) is the cheaper guarantee. The rest are defaults too: orjson for events and state,
RocksDB with lz4, 64 MiB write buffers and a 1 GiB block cache, librdkafka fetching ahead into 100,000 messages or 64 MiB. Tried,
in turns on a busy machine: ten times fewer or more messages ahead, no gain that stood out of the noise; a checkpoint each 30 s, 7 %
less CPU, for half a minute of unsaved work, so no. Only log lines below a warning are off.
"""

import argparse
import importlib.metadata
import json
import platform
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # at run time `main` imports it: the list can be tested where Quix is not installed
    from quixstreams import State  # type: ignore[import-not-found]

KEPT = 100
COMMIT_S = 5.0
IDLE_S = 60.0
"""Without a new event for so long, the topic holds fewer than were asked for."""

Moment = tuple[float, float]
"""Wall and process CPU seconds."""


class LastItems:
    """What is done for each event, and when the first and the last of `events` were."""

    def __init__(self, events: int, clock: Callable[[], Moment]) -> None:
        self.seen = 0
        self.began = self.ended = (0.0, 0.0)
        self._events, self._clock = events, clock

    def keep(self, event: dict[str, Any], state: "State") -> None:
        """Add the event's item to its user's list; Quix hands over the state of the message's key."""
        if self.seen == 0:
            self.began = self._clock()
        items = state.get("items", [])
        items.append(event["item_id"])
        state.set("items", items[-KEPT:])
        self.seen += 1
        if self.seen == self._events:
            self.ended = self._clock()


def now() -> Moment:
    """The clock of this process."""
    return time.perf_counter(), time.process_time()


def versions() -> dict[str, str]:
    """What decides the figure."""
    found = {name: importlib.metadata.version(name) for name in ("quixstreams", "confluent-kafka", "rocksdict", "orjson")}
    return {"python": platform.python_version(), **found}


def main() -> None:
    """Parse, run, print."""
    from quixstreams import Application

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bootstrap", required=True, help="host:port of a broker")
    parser.add_argument("--topic", required=True, help="JSON events, keyed by user id")
    parser.add_argument("--events", type=int, required=True, help="stop after so many")
    parser.add_argument("--folder", type=Path, required=True, help="where the state goes")
    options = parser.parse_args()
    application = Application(
        broker_address=options.bootstrap,
        consumer_group=f"last-items-{uuid.uuid4().hex}",
        auto_offset_reset="earliest",
        processing_guarantee="at-least-once",
        commit_interval=COMMIT_S,
        state_dir=options.folder,
        use_changelog_topics=True,
        loglevel="WARNING",
    )
    lists = LastItems(options.events, now)
    application.dataframe(application.topic(options.topic)).update(lists.keep, stateful=True)
    application.run(count=options.events, timeout=IDLE_S, collect=False)
    closed = now()
    if lists.seen < options.events:
        raise SystemExit(f"topic {options.topic!r} gave {lists.seen} events, then none for {IDLE_S:.0f} s: ask for at most as many")
    report = {
        "events": lists.seen,
        "seconds": lists.ended[0] - lists.began[0],
        "cpu_seconds": lists.ended[1] - lists.began[1],
        "closed_seconds": closed[0] - lists.began[0],
        "closed_cpu_seconds": closed[1] - lists.began[1],
        "versions": versions(),
    }
    print(json.dumps(report), flush=True)


if __name__ == "__main__":
    main()
