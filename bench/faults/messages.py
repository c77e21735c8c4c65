"""Made messages for a log: seeded streams with everything that goes wrong, and what they must come to.

messages = make_messages(random.Random(1), shape, count=500); oracle = expected(shape, messages, positions)
"""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import msgspec
import pyarrow as pa

from bench.oracle import Oracle
from storage.columns import EVENT_SCHEMA
from storage.log import PACK, Entry, Position
from stream.events import Event
from stream.ingest import EVENTS
from stream.shape import DAY_MS, Shape
from stream.wire import encode_event, encode_pack

APPEND_MS = 100_000_000_000_000
START_MS: Final = 1_000_000_000_000
"""So long ago that a few thousand events, with years between some, end before now: a real broker stamps what a producer sends."""
SMALL = Shape(history_max=16, seen_max=24, neighbours_max=8, edge_window=3, edge_half_life_ms=7 * DAY_MS, count_half_life_ms=DAY_MS)
"""Bounds that a few hundred events reach."""
UNREADABLE = (b"", b"{", b"null", b"\xff\xfe", b'{"user_id":"u"}', b'{"user_id":"u","action":"view","item_id":"i","ts_ms":"soon"}')


@dataclass
class Message:
    """What is appended, the events in it that must be accepted by their index, and how many dead letters it costs."""

    entry: Entry
    events: dict[int, Event] = field(default_factory=dict)
    refused: int = 0


class Stream:
    """Events of a few users: late, repeated, at equal times, after years; now and then one that must be refused."""

    SPOILT: Final = 7
    """Kinds of those."""

    def __init__(self, rng: random.Random, shape: Shape, *, users: int = 9, items: int = 150) -> None:
        self._rng = rng
        self._users: dict[int, list[str]] = {p: [] for p in range(shape.partitions)}
        oracle = Oracle(shape)
        for n in range(users * shape.partitions):
            self._users[oracle.partition(f"user {n}")].append(f"user {n}")
        self._items = [f"item {n}" for n in range(items)]
        self._clock = START_MS
        self._told: list[list[Event]] = [[] for _ in range(shape.partitions)]
        self._made = 0

    def event(self, partition: int) -> Event:
        """The next event of a partition's users."""
        rng, told = self._rng, self._told[partition]
        if told and rng.random() < 0.06:
            return rng.choice(told[-400:])
        self._clock += rng.choice((0, 0, 0, 1000, 60_000, 3_600_000))
        self._clock += rng.randrange(300, 900) * DAY_MS if rng.random() < 0.003 else 0
        late = rng.choice((1000, 3_600_000, 2 * DAY_MS, 1000 * DAY_MS)) * rng.randrange(3) if rng.random() < 0.2 else 0
        self._made += 1
        action = rng.choice(("view", "click", "save", "purchase", "hide", "search"))
        event = Event(
            user_id=rng.choice(self._users[partition]),
            action=action,
            ts_ms=max(0, self._clock - late),
            item_id=None if action == "search" and rng.random() < 0.8 else self._item(),
            query=f"query {rng.randrange(20)}" if action == "search" else None,
            event_id=f"event {self._made}" if rng.random() < 0.7 else None,
            collection_id=f"board {rng.randrange(6)}" if rng.random() < 0.15 else None,
            source_item_id=self._item() if rng.random() < 0.15 else None,
            surface=rng.choice((None, "home", "feed", "fridge door")),
            shown=[self._item()] if rng.random() < 0.1 else [],
            value=rng.choice((None, 0.5)),
            context={"page": 2} if rng.random() < 0.1 else {},
        )
        if event.event_id:
            told.append(event)
        return event

    def refused(self, partition: int, *, kind: int | None = None) -> Event:
        """An event that can be read and must not be accepted: of some kind, or of a certain one below SPOILT."""
        event = msgspec.structs.replace(self.event(partition), event_id=None)
        spoilt: Sequence[dict[str, object]] = (
            {"ts_ms": APPEND_MS + 2 * DAY_MS},
            {"ts_ms": -1},
            {"action": "levitate"},
            {"user_id": ""},
            {"schema": 2},
            {"action": "view", "item_id": None},
            {"value": float("nan")},
        )
        spoiling = self._rng.choice(spoilt) if kind is None else spoilt[kind]
        return msgspec.structs.replace(event, **spoiling)

    def _item(self) -> str:
        return "hub" if self._rng.random() < 0.15 else self._rng.choice(self._items)


def make_messages(rng: random.Random, shape: Shape, *, count: int, items: int = 150) -> list[Message]:
    """JSON and packs of up to 30 events, 3 % of everything bad."""
    stream = Stream(rng, shape, items=items)
    messages = []
    for _ in range(count):
        partition, chance = rng.randrange(shape.partitions), rng.random()
        if chance < 0.03:
            messages.append(Message(Entry(partition, rng.choice(UNREADABLE)), refused=1))
        elif chance < 0.04:
            messages.append(Message(Entry(partition, b"ARROW1 no more", PACK), refused=1))
        elif chance < 0.3:
            messages.append(_pack(rng, stream, partition))
        elif chance < 0.32:
            messages.append(Message(Entry(partition, _readable(stream.refused(partition))), refused=1))
        elif chance < 0.34 and shape.partitions > 1:
            stray = stream.event((partition + 1) % shape.partitions)
            messages.append(Message(Entry(partition, encode_event(stray)), refused=1))
        else:
            event = stream.event(partition)
            messages.append(Message(Entry(partition, encode_event(event)), {0: event}))
    return messages


def expected(shape: Shape, messages: Sequence[Message], positions: Sequence[Position], *, incarnation: int = 0) -> Oracle:
    """The oracle after these messages."""
    oracle = Oracle(shape)
    for message, at in zip(messages, positions, strict=True):
        for index, event in message.events.items():
            oracle.apply(event, f"{EVENTS}:{incarnation}:{at.partition}:{at.offset}:{index}")
    return oracle


def columns(events: Sequence[Event]) -> pa.RecordBatch:
    """Events as columns, NaN and all: JSON has none."""
    rows = [msgspec.structs.asdict(event) for event in events]
    for row in rows:
        row["context"] = msgspec.json.encode(row["context"]).decode() if row["context"] else None
        row["shown"] = row["shown"] or None
    return pa.RecordBatch.from_pylist(rows, schema=EVENT_SCHEMA)


def _readable(event: Event) -> bytes:
    """JSON as a careless producer writes it: NaN is not JSON, and msgspec would make it null."""
    body = encode_event(event)
    return body.replace(b"null", b"NaN") if event.value is not None and math.isnan(event.value) else body


def _pack(rng: random.Random, stream: Stream, partition: int) -> Message:
    good = [rng.random() > 0.05 for _ in range(rng.randrange(31))]
    events = [stream.event(partition) if ok else stream.refused(partition) for ok in good]
    kept = {index: event for index, (event, ok) in enumerate(zip(events, good, strict=True)) if ok}
    return Message(Entry(partition, encode_pack(columns(events)), PACK), kept, good.count(False))
