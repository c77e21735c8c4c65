"""From `send()` to where it can be seen: probes that go with a load and ask another process, or the state, until they are contained.

`histories`: an event of the population, then `GET /v1/users/ID/recommendations` of the api process with the number of where it
landed, until an answer is fresh; that it holds the event is looked at too: the item just taken must be gone from it.
`neighbours`: the second event of a user, whose first was of an item of the probe's own, until that item's list in the state holds
the second's.
"""

import http.client
import json
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Final

import numpy as np

from bench.installation import Installation, Program
from bench.loading import Order, events, spread
from bench.services import LOOPBACK
from freshet.clock import now_ms
from storage.ids import ITEM, hash_id
from storage.neighbours import CO_ENGAGED, Neighbours
from stream.delivery import Token
from stream.events import Event
from stream.producer import Producer

HISTORIES_PER_S: Final = 25
NEIGHBOURS_PER_S: Final = 5
LEAD_S: Final = 1.0
"""Between the two events of a neighbours probe: the first is applied long before the second comes."""
LOOKED_EVERY_S: Final = 0.002
ASKING_MAX: Final = 32
WAIT_MS: Final = 5000
GIVEN_UP_S: Final = 60.0


@dataclass
class Seen:
    """What the probes of one kind found. `never` were not contained within GIVEN_UP_S; `untrue` answers were fresh and did not hold it."""

    times_ms: list[float] = field(default_factory=list)
    acked_ms: list[float] = field(default_factory=list)
    never: int = 0
    untrue: int = 0

    def figures(self) -> dict[str, float]:
        """For the report."""
        return spread(self.times_ms) | {"never": self.never, "untrue": self.untrue}


@dataclass(frozen=True)
class _Answered:
    """From `send()`: milliseconds to the acknowledgement, and to the first answer that contains the event, and whether that is so."""

    acked_ms: float
    answered_ms: float
    true: bool


def probe_histories(site: Installation, api: Program, producer: Producer, order: Order, *, seconds: float) -> Seen:
    """Probes on time, whatever becomes of those before: they are sent by one thread and waited for by others."""
    made, seen = events(order), Seen()
    with ThreadPoolExecutor(ASKING_MAX) as pool:
        asking: list[Future[_Answered | None]] = []
        for _ in _paced(HISTORIES_PER_S, seconds):
            event = next(made)
            began = time.perf_counter()
            asking.append(pool.submit(_answered, site.shape.partitions, api, producer.send(event), began))
        for one in asking:
            found = one.result()
            if found is None:
                seen.never += 1
            else:
                seen.acked_ms.append(found.acked_ms)
                seen.times_ms.append(found.answered_ms)
                seen.untrue += not found.true
    return seen


def _answered(partitions: int, api: Program, token: Token, began: float) -> _Answered | None:
    landed = token.result(GIVEN_UP_S)
    acked_ms = 1000 * (time.perf_counter() - began)
    event = token.what
    assert isinstance(event, Event), "probes are events"
    number = landed.offset * partitions + landed.partition
    while time.perf_counter() - began < GIVEN_UP_S:
        answer = _asked(api, f"/v1/users/{event.user_id}/recommendations?k=100&min_number={number}&wait_ms={WAIT_MS}")
        if answer["fresh"]:
            answered_ms = 1000 * (time.perf_counter() - began)
            return _Answered(acked_ms, answered_ms, event.item_id not in {item["item_id"] for item in answer["items"]})
    return None


def _asked(api: Program, path: str) -> dict[str, Any]:
    connection = http.client.HTTPConnection(LOOPBACK, api.port, timeout=GIVEN_UP_S)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        found: dict[str, Any] = json.load(answer)
        if answer.status != http.client.OK:
            raise RuntimeError(f"GET {path}: {answer.status} {found}")
        return found
    finally:
        connection.close()


@dataclass(frozen=True)
class _Awaited:
    """The list of `node` is to hold `neighbour`."""

    node: int
    neighbour: int
    began: float


def probe_neighbours(site: Installation, producer: Producer, order: Order, *, name: str, seconds: float) -> Seen:
    """In one thread: send what is due, look for what is awaited, each LOOKED_EVERY_S."""
    lists = Neighbours(site.state, site.shape.partitions, site.shape.edge_half_life_ms)
    count = int(NEIGHBOURS_PER_S * seconds)
    seconds_of = list(islice(events(order), count))
    seen, awaited, firsts, sent = Seen(), list[_Awaited](), 0, 0
    start = time.perf_counter()
    while sent < count or awaited:
        now = time.perf_counter()
        while firsts < count and now - start >= firsts / NEIGHBOURS_PER_S:
            producer.send(Event(user_id=f"{name}-{firsts}", action="click", item_id=f"{name}-{firsts}", ts_ms=now_ms()))
            firsts += 1
        while sent < firsts and now - start >= LEAD_S + sent / NEIGHBOURS_PER_S:
            item = seconds_of[sent].item_id or ""
            awaited.append(_Awaited(hash_id(f"{name}-{sent}", ITEM), hash_id(item, ITEM), time.perf_counter()))
            producer.send(Event(user_id=f"{name}-{sent}", action="click", item_id=item, ts_ms=now_ms()))
            sent += 1
        awaited = _looked(lists, awaited, seen)
        time.sleep(LOOKED_EVERY_S)
    return seen


def _looked(lists: Neighbours, awaited: list[_Awaited], seen: Seen) -> list[_Awaited]:
    """Those that are not there yet."""
    nodes = np.array([one.node for one in awaited], dtype=np.uint64)
    found = lists.read(CO_ENGAGED, nodes, as_of_ms=now_ms()) if awaited else []
    now, left = time.perf_counter(), list[_Awaited]()
    for one, (neighbours, _) in zip(awaited, found, strict=True):
        if one.neighbour in neighbours:
            seen.times_ms.append(1000 * (now - one.began))
        elif now - one.began > GIVEN_UP_S:
            seen.never += 1
        else:
            left.append(one)
    return left


def _paced(per_s: float, seconds: float) -> Iterator[int]:
    """A number each time one is due; a late one at once."""
    start = time.perf_counter()
    for n in range(int(per_s * seconds)):
        time.sleep(max(0.0, start + n / per_s - time.perf_counter()))
        yield n
