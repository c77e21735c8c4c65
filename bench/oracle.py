"""What ingest must come to, in dictionaries, lists and Python's own integers: written from the design, one event at a time.

It shares no code with the reducers; the layouts of the blobs are written down here a second time.

    oracle = Oracle(shape); oracle.apply(event, origin="events:0:0:7:0"); oracle.blobs("counts", 0)
"""

import struct
from collections import Counter
from dataclasses import dataclass, field

from storage.ids import COLLECTION, EVENT, ITEM, QUERY, USER, hash_id
from stream.events import Event
from stream.shape import SURFACES, Shape

CO_ENGAGED, IN_COLLECTION, SHOWN_NEXT_TO = range(3)
SALTS = (0, 0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F)
RING = 128
SATURATED = 1 << 62


def murmur2(data: bytes) -> int:
    """As Java's Kafka client has it; `test_routing.py` holds it against kafka-python's."""
    m, h = 0x5BD1E995, 0x9747B28C ^ len(data)
    body = len(data) - len(data) % 4
    for (k,) in struct.iter_unpack("<I", data[:body]):
        k = k * m & 0xFFFFFFFF
        h = h * m & 0xFFFFFFFF ^ ((k ^ k >> 24) * m & 0xFFFFFFFF)
    if data[body:]:
        h = (h ^ int.from_bytes(data[body:], "little")) * m & 0xFFFFFFFF
    h = (h ^ h >> 13) * m & 0xFFFFFFFF
    return h ^ h >> 15


def step_weight(f: int) -> int:
    """floor(2^(20 + f/1024)), the largest whole number whose 1024th power is not above 2^(20480 + f)."""
    guess = int(2.0 ** (20 + f / 1024)) + 2
    while guess**1024 > 1 << (20 * 1024 + f):
        guess -= 1
    return guess


STEPS = [step_weight(f) for f in range(1024)]


def moment(ts_ms: int, half_life_ms: int) -> tuple[int, int]:
    """A time as whole half-lives and the weight of its fraction."""
    whole, rest = divmod(ts_ms, half_life_ms)
    return whole, STEPS[rest * 1024 // half_life_ms]


@dataclass
class Person:
    """entries: (time, action, surface, node), oldest first. applied: every event id, oldest first. seen: node -> latest time."""

    entries: list[tuple[int, int, int, int]] = field(default_factory=list)
    applied: list[int] = field(default_factory=list)
    seen: dict[int, int] = field(default_factory=dict)


@dataclass
class Tallied:
    """events, positives, and a decayed weight at its landmark."""

    events: int = 0
    positives: int = 0
    decayed: int = 0
    landmark: int = 0


@dataclass
class Weights:
    """A neighbour list: weight by node, in order of arrival, at its landmark."""

    landmark: int = 0
    of: dict[int, int] = field(default_factory=dict)


class Oracle:
    """Feed it accepted events in log order; then ask for the bytes of every table."""

    def __init__(self, shape: Shape) -> None:
        self.shape = shape
        self.people: dict[tuple[int, int], Person] = {}
        self.counts: dict[tuple[int, int], Tallied] = {}
        self.lists: dict[tuple[int, int], Weights] = {}
        self.accepted: Counter[int] = Counter()
        self.duplicates: Counter[int] = Counter()
        self.trims = 0

    def partition(self, user_id: str) -> int:
        return (murmur2(user_id.encode()) & 0x7FFFFFFF) % self.shape.partitions

    def apply(self, event: Event, origin: str) -> bool:
        """One accepted event; False when its id is among the last applied for its user."""
        partition = self.partition(event.user_id)
        person = self.people.setdefault((partition, hash_id(event.user_id, USER)), Person())
        event_id = hash_id(event.event_id or origin, EVENT)
        self.accepted[partition] += 1
        if event_id in person.applied[-RING:]:
            self.duplicates[partition] += 1
            return False
        person.applied.append(event_id)
        action = self.shape.actions[event.action]
        weight = action.weight if action.positive and event.item_id is not None else 0
        node = hash_id(event.item_id, ITEM) if event.item_id is not None else hash_id(event.query or "", QUERY)
        at = sum(entry[0] <= event.ts_ms for entry in person.entries)
        if weight:
            self._pair(person.entries, at, node, (event.ts_ms, weight))
            self._attach(event, node, weight)
        surface = 0 if event.surface is None else SURFACES.index(event.surface) + 1 if event.surface in SURFACES else 255
        person.entries.insert(at, (event.ts_ms, action.code, surface, node))
        del person.entries[: max(0, len(person.entries) - self.shape.history_max)]
        if event.item_id is not None:
            self._see(person.seen, node, event.ts_ms)
            self._count(self.counts.setdefault((partition, node), Tallied()), event.ts_ms, weight)
        return True

    def blobs(self, table: str, partition: int) -> dict[int, bytes]:
        """The table's rows of a partition by key."""
        if table == "histories":
            return {user: self._history(person) for (p, user), person in self.people.items() if p == partition}
        if table == "seen":
            return {user: _pairs(sorted(person.seen.items())) for (p, user), person in self.people.items() if p == partition}
        if table == "counts":
            return {
                node: struct.pack("<4q", count.events, count.positives, count.decayed, count.landmark)
                for (p, node), count in self.counts.items()
                if p == partition
            }
        assert table == "neighbours", table
        return {
            node ^ SALTS[relation]: struct.pack("<q", weights.landmark) + _pairs(list(weights.of.items()))
            for (relation, node), weights in self.lists.items()
            if node % self.shape.partitions == partition
        }

    def _history(self, person: Person) -> bytes:
        ring = [0] * min(len(person.applied), RING)
        for n, event_id in enumerate(person.applied):
            ring[n % RING] = event_id
        head = len(person.entries) | len(ring) << 16 | (len(person.applied) % RING) << 32
        entries = [(node, ts_ms << 16 | action << 8 | surface) for ts_ms, action, surface, node in person.entries]
        return struct.pack("<Q", head) + _pairs(entries) + struct.pack(f"<{len(ring)}Q", *ring)

    def _see(self, seen: dict[int, int], node: int, ts_ms: int) -> None:
        seen[node] = max(seen.get(node, 0), ts_ms)
        if len(seen) > self.shape.seen_max:
            del seen[min(seen, key=lambda n: (seen[n], -n))]

    def _count(self, count: Tallied, ts_ms: int, weight: int) -> None:
        count.events += 1
        if not weight:
            return
        whole, step = moment(ts_ms, self.shape.count_half_life_ms)
        if not count.positives or whole > count.landmark:
            count.decayed >>= max(0, whole - count.landmark)
            count.landmark = whole
        count.positives += 1
        count.decayed = min(count.decayed + (weight * step >> count.landmark - whole), SATURATED)

    def _pair(self, entries: list[tuple[int, int, int, int]], at: int, node: int, new: tuple[int, int]) -> None:
        ts_ms, weight = new
        liked = {action.code for action in self.shape.actions.values() if action.positive}
        before, after = entries[:at][::-1], entries[at:]
        for distance, (_, action, _, other) in enumerate(before[: self.shape.edge_window], 1):
            if action in liked and other != node:
                self._edge(CO_ENGAGED, (other, node), weight * (60 // distance), ts_ms)
        for distance, (later_ms, action, _, other) in enumerate(after[: self.shape.edge_window], 1):
            if action in liked and other != node:
                self._edge(CO_ENGAGED, (node, other), weight * (60 // distance), later_ms)

    def _attach(self, event: Event, node: int, weight: int) -> None:
        if event.collection_id is not None:
            self._edge(IN_COLLECTION, (node, hash_id(event.collection_id, COLLECTION)), weight * 60, event.ts_ms)
        if event.source_item_id is not None and event.source_item_id != event.item_id:
            self._edge(SHOWN_NEXT_TO, (hash_id(event.source_item_id, ITEM), node), weight * 60, event.ts_ms)

    def _edge(self, relation: int, pair: tuple[int, int], amount: int, ts_ms: int) -> None:
        self._add(self.lists.setdefault((relation, pair[0]), Weights()), pair[1], amount, ts_ms)
        self._add(self.lists.setdefault((relation, pair[1]), Weights()), pair[0], amount // 2, ts_ms)

    def _add(self, weights: Weights, target: int, amount: int, ts_ms: int) -> None:
        whole, step = moment(ts_ms, self.shape.edge_half_life_ms)
        if not weights.of:
            weights.landmark = whole
        elif whole > weights.landmark:
            weights.of = {node: weight >> whole - weights.landmark for node, weight in weights.of.items()}
            weights.landmark = whole
        weight = amount * step >> weights.landmark - whole
        if weight == 0:  # too old to weigh anything: it leaves no trace
            return
        weights.of[target] = min(weights.of.get(target, 0) + weight, SATURATED)
        if len(weights.of) == 2 * self.shape.neighbours_max:
            self.trims += 1
            kept = sorted(weights.of, key=lambda node: (-weights.of[node], node))[: self.shape.neighbours_max]
            weights.of = {node: weight for node, weight in weights.of.items() if node in set(kept)}


def _pairs(rows: list[tuple[int, int]]) -> bytes:
    return b"".join(struct.pack("<2Q", *row) for row in rows)
