"""The cluster form in one process: workers' writers over a real Redis, followers of it, and servings over one Qdrant client.

site = Followed(folder); site.events(40); site.put("i1", title="Rook"); follower = site.follower(); follower.pump(now_ms=NOW_MS)
"""

import tempfile
import uuid
from collections.abc import Callable, Iterable
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import redis
from qdrant_client import QdrantClient

from bench.services import RedisServer
from freshet.processes.follower import Follower
from freshet.processes.following import Following
from freshet.processes.serving import ClusterServing, filled
from freshet.service import Serving, Stores
from freshet.settings import Settings
from freshet.version_files import BLEND_FILE, COUNTING_FILE, LINEAR_FILE, MODEL_FILE, OPTIMISER_FILE
from freshet.world.events import World, WorldConfig
from storage.changes_redis import ChangeFeed
from storage.health import Beat
from storage.health_redis import RedisHealth
from storage.ids import ITEM, hash_id
from storage.leases_redis import Leases
from storage.log import JSON, Entry, Record
from storage.log_lmdb import LmdbLog
from storage.models import Version
from storage.models_redis import RedisRegistry
from storage.names import Names
from storage.places import LocalPlace
from storage.state import DIRTY
from storage.state_redis import RedisState
from storage.vectors import Collections
from storage.vectors_local import VectorServer
from stream.entities import ENTITIES
from stream.entity_writer import EntityWriter
from stream.events import Event
from stream.ingest import EVENTS, Ingest
from stream.routing import partition_of
from stream.shape import Shape
from stream.wire import encode_event
from tests.freshet.sites import NOW_MS, SMALL, site, train
from tests.services import redis_server

PARTITIONS = 3


@cache
def trained() -> dict[str, bytes]:
    """The files of a small real model: made once."""
    with tempfile.TemporaryDirectory() as folder, site(Path(folder) / "data") as service:
        out = Path(folder) / "out"
        train(service, out, steps=20)
        return {name: (out / name).read_bytes() for name in (MODEL_FILE, BLEND_FILE, COUNTING_FILE, OPTIMISER_FILE, LINEAR_FILE)}


class Flaky(redis.Redis):
    """A connection that is away once, at the n-th thing asked of it from when `away_at` is set; `answers_lost`: after it was done."""

    away_at = -1
    answers_lost = False

    @classmethod
    def of(cls, server: RedisServer) -> "Flaky":
        return cls(port=server.port)

    def pipeline(self, *args: Any, **options: Any) -> Any:
        return self._maybe(lambda: super(Flaky, self).pipeline(*args, **options))

    def execute_command(self, *args: Any, **options: Any) -> Any:
        return self._maybe(lambda: super(Flaky, self).execute_command(*args, **options))  # type: ignore[no-untyped-call]  # redis-py's

    def _maybe(self, act: Callable[[], Any]) -> Any:
        self.away_at -= 1
        if self.away_at != 0:
            return act()
        if self.answers_lost:
            act()
        raise redis.ConnectionError("away")


class Followed:
    """A state of its own. What is opened here needs no closing but the log's, with `close`."""

    def __init__(self, folder: Path, *, client: "redis.Redis | None" = None) -> None:
        self.folder, self.prefix = folder, uuid.uuid4().hex
        self.client: Any = client or redis.Redis.from_url(redis_server().url)
        self.shape = Shape(partitions=PARTITIONS)
        self.state = RedisState(self.client, partitions=PARTITIONS, prefix=self.prefix)
        self.health = RedisHealth(self.client, self.prefix)
        self.log = LmdbLog(folder / "log", partitions=PARTITIONS)
        self.qdrant = QdrantClient(":memory:")
        self._ingest = Ingest(self.state, self.log, self.shape, names=Names(self.state))
        self._ingest.claim()
        self._writer = EntityWriter(self.state, self.log, self.shape)
        self._number = 0

    def close(self) -> None:
        self.qdrant.close()
        self.log.close()
        self.client.close()

    def apply(self, events: Iterable[Event]) -> None:
        """As a worker does: one partition's records in a commit."""
        for event in events:
            self.log.append(EVENTS, [Entry(partition_of(event.user_id, PARTITIONS), encode_event(event))], now_ms=NOW_MS)
        marks = self.state.watermarks(EVENTS)
        for partition in range(PARTITIONS):
            records = self.log.read(EVENTS, partition, marks.get(partition, 0), records_max=1 << 20)
            if records:
                self._ingest.apply(records, now_ms=NOW_MS)

    def put(self, name: str, **content: object) -> None:
        """An entity message: newer than those before it, unless `ts_ms` says otherwise."""
        entity = {"kind": "item", "id": name, "ts_ms": NOW_MS + self._number, **content}
        self._number += 1
        self._writer.apply(Record(self._number, 0, self._number, NOW_MS, JSON, msgspec.json.encode(entity)), now_ms=NOW_MS)

    def fill(self, config: WorldConfig = SMALL) -> None:
        """The whole synthetic world."""
        world = World(config)
        for entity in world.entities():
            at = self.log.append(ENTITIES, [Entry(0, msgspec.json.encode(entity))], now_ms=NOW_MS)[0]
            self._number += 1
            self._writer.apply(Record(self._number, 0, at.offset, NOW_MS, JSON, msgspec.json.encode(entity)), now_ms=NOW_MS)
        self.apply(world.events())

    def follower(self, client: Any = None, state: RedisState | None = None) -> Follower:
        """One process's."""
        feed = ChangeFeed(client or self.client, partitions=PARTITIONS, prefix=self.prefix)
        return Follower(Settings(data=self.folder, partitions=PARTITIONS), self.shape, state or self.state, feed)

    def registry(self, **options: Any) -> RedisRegistry:
        """The versions of all."""
        return RedisRegistry(self.client, LocalPlace(self.folder / "models"), self.prefix, **options)

    def store(self, name: str, generation: int, *, at_ms: int = NOW_MS) -> Version:
        """A version of the small model, beside the others."""
        version = Version(name, generation, None, at_ms, 1, {})
        self.registry().put(version, trained())
        return version

    def promote(self, name: str) -> None:
        """Live for all from now on."""
        registry = self.registry()
        registry.promote(name, expected_sequence=registry.sequence())

    def process(self, name: str, *, refreshes: bool, vectors: Collections | None = None) -> "Process":
        """What an api process (or a refresher) is made of."""
        return Process(self, name, refreshes=refreshes, vectors=vectors or VectorServer(self.qdrant))


class Process:
    """One process's serving, stepped by the test."""

    def __init__(self, site: Followed, name: str, *, refreshes: bool, vectors: Collections) -> None:
        self.site, self.name, self.pid = site, name, abs(hash(name)) % 30_000
        registry = site.registry()
        leases = Leases(site.client, "refresher", owner=name, prefix=site.prefix) if refreshes else None
        stores = Stores(registry, vectors, refreshes, lambda collection: any(b.collection == collection for b in site.health.read()))
        self.serving = Serving(site.follower(), stores)
        self.following = Following(
            self.serving, registry, builds=lambda: leases is not None and 0 in leases.held, whole=filled(site.health)
        )
        follower = self.serving._site
        assert isinstance(follower, Follower)
        self.whole = ClusterServing(_none(), follower, self.serving, self.following, site.health, leases)

    def beat(self, now_ms: int = NOW_MS) -> Beat:
        """Say what is loaded here."""
        current = self.serving.current
        version, collection = (current.live.version, current.live.collection) if current else (None, None)
        shadow = asdict(self.following.shadowed) if self.following.shadowed else None
        ready = {"candidate": self.following.candidate, "built": self.following.built, "shadow": shadow}
        beat = Beat(self.name, self.pid, now_ms, version, collection, 0, **ready)  # type: ignore[arg-type]  # three kinds in one
        self.site.health.beat(beat)
        return beat

    def round(self, now_ms: int = NOW_MS) -> None:
        """One round as the pulse does it, builds to the end."""
        self.beat(now_ms)
        while self.whole.follow(now_ms=now_ms):
            pass
        self.whole.step(now_ms=now_ms)
        self.beat(now_ms)

    @property
    def version(self) -> str | None:
        """What answers here."""
        return self.serving.current.live.version if self.serving.current else None


def _none() -> Any:
    """Kafka's part, which nothing here asks for."""
    return None


def node(name: str) -> int:
    """An item's id."""
    return hash_id(name, ITEM)


def settled(condition: Callable[[], bool], act: Callable[[], object], *, rounds: int = 200) -> None:
    """Act until it holds."""
    for _ in range(rounds):
        if condition():
            return
        act()
    raise AssertionError(f"not so after {rounds} rounds")


def dirty(site: Followed) -> int:
    return sum(1 for partition in range(PARTITIONS) for _ in site.state.scan(DIRTY, partition))


def refreshed(site: Followed, refresher: Process, now_ms: int) -> int:
    """Step until nothing is dirty; returns the time."""
    for n in range(200):
        refresher.round(now_ms + 500 * n)
        if dirty(site) == 0:
            return now_ms + 500 * n
    raise AssertionError(f"{dirty(site)} items are dirty still")
