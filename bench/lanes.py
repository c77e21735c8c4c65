"""Users side by side: each asks for recommendations before each of its events, over HTTP, in a loop that is closed per user.

seen = Lanes(producer, port, partitions=4).run(history, events, items, told=print)
"""

import http.client
import json
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import quote

from bench.services import LOOPBACK
from freshet.demo.counted import BASELINES, Counted
from stream.delivery import Token
from stream.events import Event
from stream.producer import Producer

LANES: Final = 64
"""Most of the time a lane waits for its user's event to become visible; so many keep the api process busy."""
APART_MAX: Final = 5000
WAIT_MS: Final = 1000
PROBE_EVERY: Final = 20
"""After every so many-th event of a lane its user is asked for at once: from send to the first answer that contains it."""
K: Final = 10
TOLD_S: Final = 10.0
TIMEOUT_S: Final = 30.0
Sent = Event | bytes


@dataclass
class Seen:
    """What the look-ups gave: by event, whether the item was among the ten; times in ms; how many waits ran out."""

    hits: dict[int, bool] = field(default_factory=dict)
    lookup_ms: list[float] = field(default_factory=list)
    visible_ms: list[float] = field(default_factory=list)
    late: int = 0


class Lanes:
    """LANES threads, a user always in the same one. `number` of an append is offset * partitions + partition, as the api counts."""

    def __init__(self, producer: Producer, port: int, *, partitions: int) -> None:
        self._producer, self._port, self._partitions = producer, port, partitions
        self._seen, self._lock = Seen(), threading.Condition()
        self._had: dict[str, set[str]] = {}
        self._newest: dict[str, Token] = {}
        self._open: set[int] = set()
        self._error: BaseException | None = None

    def run(self, history: Sequence[Sent], events: Sequence[Sent], items: Sequence[str], *, told: Callable[[str], None]) -> Seen:
        """Hand the events to their lanes in order, at most APART_MAX beyond the oldest that is not done. An error of a lane is raised."""
        for event in history:
            if isinstance(event, Event) and event.item_id is not None:
                self._had.setdefault(event.user_id, set()).add(event.item_id)
        known, lanes = frozenset(items), [queue.SimpleQueue[tuple[int, Event] | None]() for _ in range(LANES)]
        threads = [threading.Thread(target=self._lane, args=(lane, known), daemon=True) for lane in lanes]
        for thread in threads:
            thread.start()
        last = time.monotonic()
        for n, event in enumerate(events):
            with self._lock:
                if not self._lock.wait_for(lambda: self._error or n - min(self._open, default=n) < APART_MAX, TIMEOUT_S):  # noqa: B023  # called here
                    raise TimeoutError(
                        f"event {min(self._open):,} was not answered while {APART_MAX:,} later ones waited for {TIMEOUT_S:.0f} s"
                    )
                if self._error is not None:
                    break
                self._open.add(n)
            if isinstance(event, bytes):
                self._producer.send_raw(event)
                self._done(n)
            else:
                lanes[hash(event.user_id) % LANES].put((n, event))
            if time.monotonic() - last > TOLD_S:
                last = time.monotonic()
                ranked, hits = len(self._seen.hits), sum(list(self._seen.hits.values()))
                told(f"{n:,}/{len(events):,} sent, {ranked:,} ranked, hit@10 {hits / max(1, ranked):.4f}, {self._seen.late} late")
        for lane, thread in zip(lanes, threads, strict=True):
            lane.put(None)
            thread.join()
        if self._error is not None:
            raise self._error
        return self._seen

    def _lane(self, events: "queue.SimpleQueue[tuple[int, Event] | None]", known: frozenset[str]) -> None:
        connection = http.client.HTTPConnection(LOOPBACK, self._port, timeout=TIMEOUT_S)
        try:
            for count, (n, event) in enumerate(iter(events.get, None)):
                self._one(connection, n, event, known, probe=count % PROBE_EVERY == 0)
                self._done(n)
        except BaseException as error:  # noqa: BLE001  # raised again by `run`, in the caller's thread
            with self._lock:
                self._error = error
                self._lock.notify_all()
        finally:
            connection.close()

    def _one(self, connection: http.client.HTTPConnection, n: int, event: Event, known: frozenset[str], *, probe: bool) -> None:
        had = self._had.setdefault(event.user_id, set())
        if had and event.item_id in known and event.item_id not in had:
            begin = time.perf_counter()
            items, fresh = self._ask(connection, event)
            self._seen.lookup_ms.append(1000 * (time.perf_counter() - begin))
            self._seen.hits[n] = event.item_id in items
            self._seen.late += not fresh
        if event.item_id is not None:
            had.add(event.item_id)
        begin = time.perf_counter()
        self._newest[event.user_id] = self._producer.send(event)
        if probe:
            _, fresh = self._ask(connection, event)
            if fresh:
                self._seen.visible_ms.append(1000 * (time.perf_counter() - begin))

    def _ask(self, connection: http.client.HTTPConnection, event: Event) -> tuple[list[str], bool]:
        """The ten items at the time of the user's next event, and whether the event before was applied."""
        path, token = (
            f"/v1/users/{quote(event.user_id, safe='')}/recommendations?k={K}&at_ms={event.ts_ms}",
            self._newest.get(event.user_id),
        )
        if token is not None:
            landed = token.result()
            path += f"&min_number={landed.offset * self._partitions + landed.partition}&wait_ms={WAIT_MS}"
        try:
            status, body = _got(connection, path)
        except ConnectionError:  # a server closes what was idle for a while, maybe just now; one that is gone refuses the next one
            connection.close()
            status, body = _got(connection, path)
        if status != 200:
            raise RuntimeError(f"GET {path} answered {status}: {body}")
        return [item["item_id"] for item in body["items"]], bool(body["fresh"])

    def _done(self, n: int) -> None:
        with self._lock:
            self._open.discard(n)
            self._lock.notify_all()


def _got(connection: http.client.HTTPConnection, path: str) -> tuple[int, Any]:
    connection.request("GET", path)
    answer = connection.getresponse()
    return answer.status, json.loads(answer.read())


def hits_of(seen: Seen, events: Sequence[Sent], warm: int, items: Sequence[str]) -> dict[str, float]:
    """Hit rate at 10 of the model, as answered, and of the counting baselines, in the order of the events."""
    counted, ranks, rows, had = Counted(len(items)), list[list[int]](), {name: row for row, name in enumerate(items)}, dict[str, set[int]]()
    for n, event in enumerate(events):
        row = rows.get(event.item_id or "", -1) if isinstance(event, Event) else -1
        if not isinstance(event, Event) or row < 0:
            continue
        mine = had.setdefault(event.user_id, set())
        if n >= warm and n - warm in seen.hits:
            ranks.append(counted.ranks(event.user_id, row))
        if row not in mine:
            mine.add(row)
            counted.learn(event.user_id, row)
    rates = {name: sum(row[place] <= K for row in ranks) / max(1, len(ranks)) for place, name in enumerate(BASELINES)}
    return {"model": sum(seen.hits.values()) / max(1, len(seen.hits)), **rates}
