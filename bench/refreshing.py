"""Refresh delay: from the event that made an item dirty to the upsert that contains it, while a load flows.

A refresher as `freshet refresher` is made, in this process, over qdrant-client's local mode; the model is untrained, which
costs as much. It steps as the product's pulse does. The marks are looked at each LOOK_S beside it: an item is dirty from
the time in the first mark seen of it (when the edges that changed it were appended, within the commit of their events) to the
upsert, or until the refresher looks at it and finds that not enough has changed. A mark that is overwritten between two looks
keeps the later time, so a delay may be LOOK_S too short.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import redis
from qdrant_client import QdrantClient

from bench.installation import Installation, Program
from bench.loading import Load, Order, spread
from encoders.blend import Blend
from encoders.config import ModelConfig
from encoders.model import Model
from freshet.clock import now_ms
from freshet.cluster import store_of
from freshet.processes.follower import Follower
from freshet.processes.pulse import PULSE_S
from freshet.service import REFRESH_INTERVAL_MS, Serving, Stores
from freshet.version_files import BLEND_FILE, COUNTING_FILE, MODEL_FILE
from serving.sources import SOURCES
from storage.arrays import F32s, U64s
from storage.changes_redis import ChangeFeed
from storage.models import Version
from storage.models_redis import RedisRegistry
from storage.state import DIRTY
from storage.state_redis import RedisState
from storage.vectors import collection_of
from storage.vectors_local import LocalVectors, VectorServer
from stream.refresh import Refreshed, marked_ms

LOOK_S: Final = 0.1
VERSION: Final = "g1-1"


@dataclass(frozen=True)
class Refreshing:
    """The load, how long it is measured, and how long it flows before the model is made of the items that came."""

    order: Order
    seconds: float
    warm_s: float


@dataclass
class Tracker:
    """What was dirty since when. For one thread."""

    since_ms: dict[int, int] = field(default_factory=dict)
    delays_ms: list[float] = field(default_factory=list)
    newest_ms: list[float] = field(default_factory=list)
    looked_at: int = 0
    embedded: int = 0
    dirty: list[tuple[float, int]] = field(default_factory=list)
    _shown: set[int] = field(default_factory=set)

    def look(self, marks: dict[int, bytes], at_s: float) -> None:
        """All marks as they are now."""
        self.since_ms = {node: self.since_ms.get(node) or marked_ms(mark) for node, mark in marks.items()}
        self.dirty.append((round(at_s, 1), len(marks)))

    def shown(self, node: int, mark: bytes) -> None:
        """The refresher is given a mark."""
        self.since_ms.setdefault(node, marked_ms(mark))
        self._shown.add(node)

    def stepped(self) -> None:
        """What it was shown is done with: what marks these items from now on is another change."""
        for node in self._shown:
            self.since_ms.pop(node, None)
        self._shown.clear()

    def upserted(self, ids: U64s, at_ms: int) -> None:
        """The vectors that are written now contain all that marked these items."""
        for node in ids.tolist():
            since = self.since_ms.pop(node, 0)
            if since:
                self.delays_ms.append(at_ms - since)

    def told(self, refreshed: Refreshed) -> None:
        """What the refresher says of its step by itself."""
        self.looked_at, self.embedded = self.looked_at + refreshed.looked_at, self.embedded + refreshed.embedded
        self.newest_ms += refreshed.delays_ms

    def forget(self) -> None:
        """Count from here on."""
        self.delays_ms, self.newest_ms, self.dirty, self.looked_at, self.embedded = [], [], [], 0, 0


class _NotingState(RedisState):
    """Tells which marks the refresher is given."""

    shown: Callable[[int, bytes], None]

    def scan(self, table: str, partition: int, *, start: int = 0) -> Iterator[tuple[int, bytes]]:
        """And tell."""
        for node, blob in super().scan(table, partition, start=start):
            if table == DIRTY:
                self.shown(node, blob)
            yield node, blob

    def read(self, table: str, partition: int, ids: U64s) -> list[bytes | None]:
        """And tell."""
        found = super().read(table, partition, ids)
        if table == DIRTY:
            for node, blob in zip(ids.tolist(), found, strict=True):
                if blob is not None:
                    self.shown(node, blob)
        return found


class _NotingVectors(LocalVectors):
    """Tells when vectors are written."""

    upserted: Callable[[U64s, int], None]

    def upsert(self, ids: U64s, vectors: F32s, *, revision: int) -> None:
        """And tell."""
        super().upsert(ids, vectors, revision=revision)
        self.upserted(ids, now_ms())


class _NotingServer(VectorServer):
    """Opens vectors that tell."""

    def __init__(self, client: QdrantClient, upserted: Callable[[U64s, int], None]) -> None:
        super().__init__(client)
        self._noted, self._upserted = client, upserted

    def open(self, generation: int, dim: int) -> LocalVectors:
        """The generation's collection."""
        vectors = _NotingVectors(collection_of(generation), dim, client=self._noted)
        vectors.upserted = self._upserted
        return vectors


def measure_refresh(plan: Refreshing, site: Installation, workers: Sequence[Program]) -> dict[str, object]:
    """Let the load flow, make the model live, and refresh for so long."""
    tracker, client = Tracker(), QdrantClient(":memory:")
    state = _NotingState(redis.Redis.from_url(site.settings.redis), partitions=site.shape.partitions, prefix=site.settings.redis_prefix)
    state.shown = tracker.shown
    with Load(plan.order) as load:
        site.wait(lambda: load.sent >= plan.order.rate * plan.warm_s, workers)
        follower = Follower(
            site.settings, site.shape, state, ChangeFeed(site.client, partitions=site.shape.partitions, prefix=site.settings.redis_prefix)
        )
        serving = _serving(site, follower, _NotingServer(client, tracker.upserted))
        serving.told = tracker.told
        _refresh(serving, site, tracker, seconds=REFRESH_INTERVAL_MS / 1000 * 4)
        tracker.forget()
        sent, began = load.sent, time.perf_counter()
        _refresh(serving, site, tracker, seconds=plan.seconds)
        took, late_ms, rate = time.perf_counter() - began, load.late_ms, load.sent - sent
    items = len(serving.view.catalogue)
    serving.close()
    state.close()
    client.close()
    counts = [count for _, count in tracker.dirty]
    return {
        "rate": plan.order.rate, "events_per_s": round(rate / took), "load_late_ms": late_ms, "items": items,
        "delay_ms": spread(tracker.delays_ms), "newest_mark_ms": spread(tracker.newest_ms),
        "looked_at_per_s": round(tracker.looked_at / took), "embedded_per_s": round(tracker.embedded / took),
        "dirty": tracker.dirty[:: max(1, len(counts) // 20)], "dirty_max": max(counts), "dirty_last": counts[-1],
    }  # fmt: skip


def _serving(site: Installation, follower: Follower, vectors: VectorServer) -> Serving:
    """With an untrained model of what is in the catalogue, whole and live."""
    registry = RedisRegistry(site.client, store_of(site.settings, "models"), site.settings.redis_prefix)
    serving = Serving(follower, Stores(registry, vectors))
    blend = Blend(SOURCES, np.ones(len(SOURCES))).to_json().encode()
    model = Model.new(ModelConfig(), follower.view.catalogue.ids, seed=0)
    version = Version(VERSION, 1, None, now_ms(), follower.progress.as_of.number, {})
    registry.put(version, {MODEL_FILE: model.to_bytes(), BLEND_FILE: blend, COUNTING_FILE: blend})
    loaded, row = serving.load(VERSION), 0
    while row < len(serving.view.catalogue):
        row = serving.build(loaded, now_ms=now_ms(), start=row)
    serving.promote(version, loaded)
    return serving


def _refresh(serving: Serving, site: Installation, tracker: Tracker, *, seconds: float) -> None:
    """As the pulse steps, and look at the marks beside it."""
    began, looked = time.perf_counter(), -LOOK_S
    while (now_s := time.perf_counter() - began) < seconds:
        if now_s - looked >= LOOK_S:
            looked = now_s
            tracker.look({node: mark for n in range(site.shape.partitions) for node, mark in site.state.scan(DIRTY, n)}, now_s)
        serving.step(now_ms=now_ms())
        tracker.stepped()
        time.sleep(PULSE_S)
