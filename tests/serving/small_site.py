"""A small site: a real log, ingest, state, model and vectors, wired for look-ups as the roof would.

site = Site(tmp_path); site.stock({"m1": "red fox"}); site.take("u1", "m1"); site.lookup.recommend("u1", now_ms=site.now_ms)
"""

from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np

from encoders.base import ItemFeatures
from encoders.blend import Blend
from encoders.config import ModelConfig
from encoders.model import Model
from encoders.text import tokens
from serving.contents import Contents
from serving.live import LiveModel
from serving.lookup import Lookup
from serving.metrics import Metrics
from serving.popularity import Popularity
from serving.progress import Progress
from serving.rows import RowIndex
from serving.services import Engine, Services
from serving.sessions import Sessions
from serving.sources import SOURCES, Reader
from storage.arrays import F32s, U64s
from storage.catalogue import Catalogue
from storage.counts import Counts
from storage.histories import Histories
from storage.ids import ITEM, hash_ids
from storage.log import JSON, Entry, Position
from storage.log_lmdb import LmdbLog
from storage.names import Names
from storage.neighbours import Neighbours
from storage.state_memory import MemoryState
from storage.vectors import Collections, revision
from storage.vectors_edge import VectorFolder
from stream.entities import ENTITIES, EntityIngest
from stream.events import Entity, Event
from stream.ingest import EVENTS, Ingest
from stream.routing import partition_of
from stream.shape import Shape

START_MS = 1_700_000_000_000
CONFIG = ModelConfig(dim=16, item_heads=2, user_layers=1, user_heads=2, history_len=8, neighbours_max=2, head_hidden=4)


class Site:
    """One data folder. Time stands still at `now_ms` but for what a test does to it; `take` moves it on by a second."""

    def __init__(
        self, folder: Path, *, shape: Shape | None = None, collections: Collections | None = None, candidates_max: int = 2000
    ) -> None:
        self.shape = shape or Shape()
        self.now_ms, self.is_ready, self.engine = START_MS, True, Engine(alive=True, lag_records=0, stuck_ms=0, dirty_items=0)
        self.log = LmdbLog(folder / "log", partitions=self.shape.partitions, log_bytes_max=64 << 20)
        self.state, self.catalogue, self.progress, self.metrics = MemoryState(), Catalogue(), Progress(), Metrics()
        names = Names(self.state)
        self.ingest = Ingest(self.state, self.log, self.shape, names=names)
        self.entities = EntityIngest(self.state, self.log, self.shape, names=names)
        self.ingest.claim()
        self.entities.claim()
        index, partitions = RowIndex(self.catalogue), self.shape.partitions
        counts = Counts(self.state, partitions, self.shape.count_half_life_ms)
        self.popularity = Popularity(index, counts, partitions=partitions, half_life_ms=self.shape.count_half_life_ms)
        positive = np.zeros(256, dtype=np.bool_)
        positive[[action.code for action in self.shape.actions.values() if action.positive]] = True
        self.sessions = Sessions(index)
        self.contents = Contents(self.catalogue)
        self.reader = Reader(
            self.catalogue,
            index,
            histories=Histories(self.state),
            neighbours=Neighbours(self.state, partitions, self.shape.edge_half_life_ms),
            popularity=self.popularity,
            sessions=self.sessions,
            contents=self.contents,
            partition_of=lambda user_id: partition_of(user_id, partitions),
            positive=positive,
        )
        self.collections = collections or VectorFolder(folder / "vectors")
        self.live: LiveModel | None = None
        self.batch = 0
        self.lookup = Lookup(self.reader, lambda: self.live, self.progress, candidates_max=candidates_max)

    def append_events(self, messages: Sequence[bytes], form: int) -> list[Position]:
        entries = [Entry(self._route(message), message, form) for message in messages]
        return self.log.append(EVENTS, entries, now_ms=self.now_ms)

    def append_entities(self, messages: Sequence[bytes]) -> list[Position]:
        return self.log.append(ENTITIES, [Entry(0, message) for message in messages], now_ms=self.now_ms)

    def run(self) -> None:
        """Apply everything appended, entities first."""
        records = self.log.read_ordered(ENTITIES, self._next(ENTITIES))
        if records:
            for node, content in self.entities.apply(records, now_ms=self.now_ms).contents.items():
                if content.kind == "item":
                    self.contents.put(np.array([self.catalogue.put(node, content)]))
        records = self.log.read_ordered(EVENTS, self.progress.as_of.number + 1)
        if records:
            applied = self.ingest.apply(records, now_ms=self.now_ms)
            for name, node in applied.born.items():
                self.catalogue.add(node, name)
            self.popularity.update(applied.items, applied.counts)
            liked = applied.kept & (applied.columns.weight > 0)
            ts_ms = (applied.columns.stamps[liked] >> np.uint64(16)).astype(np.int64)
            self.sessions.take(applied.columns.users[liked], applied.columns.items[liked], ts_ms)
            self.progress.advance(number=records[-1].number, ts_ms=applied.ts_ms, now_ms=self.now_ms)

    def event(self, user_id: str, item_id: str, action: str = "like") -> bytes:
        """An event a second after the last, as JSON."""
        self.now_ms += 1000
        return msgspec.json.encode(Event(user_id=user_id, action=action, ts_ms=self.now_ms, item_id=item_id))

    def take(self, user_id: str, *items: str, action: str = "like") -> list[Position]:
        """Engagements of one user a second apart, appended at once and applied."""
        positions = self.append_events([self.event(user_id, item_id, action) for item_id in items], JSON)
        self.run()
        return positions

    def stock(self, titles: dict[str, str], *, deleted: bool = False) -> None:
        """Items with titles, applied."""
        self.now_ms += 1000
        entities = [Entity(kind="item", id=name, title=title, ts_ms=self.now_ms, deleted=deleted) for name, title in titles.items()]
        self.append_entities([msgspec.json.encode(entity) for entity in entities])
        self.run()

    def go_live(self, version: str = "g1-h0", *, weights: Sequence[float] = (1.0, 1.0, 0.5, 0.1, 0.1, 0.5, 0.5, 0.5, 0.5)) -> LiveModel:
        """An untrained model of everything stocked by now, with its vectors."""
        model = Model.new(CONFIG, np.unique(self.catalogue.ids), seed=1)
        vectors = self.collections.open(1, CONFIG.dim)
        self.live = LiveModel(version, 1, vectors.collection, model=model, blend=Blend(SOURCES, np.array(weights)), vectors=vectors)
        self.refresh(self.catalogue.ids)
        return self.live

    def refresh(self, ids: U64s) -> None:
        """Embed items from their titles and upsert them."""
        assert self.live is not None
        self.batch += 1
        self.live.vectors.upsert(ids, self.embed(ids), revision=revision(1, self.batch))

    def embed(self, ids: U64s) -> F32s:
        assert self.live is not None and isinstance(self.live.model, Model)
        titles = self.catalogue.titles(self.catalogue.rows(ids).tolist())
        none = np.full((len(ids), 2), -1, dtype=np.int64)
        features = ItemFeatures(
            ids, text=tokens(titles), degree=np.zeros(len(ids), np.float32), neighbours=none, weights=np.zeros((len(ids), 2), np.float32)
        )
        return self.live.model.embed_items(features)

    def services(self) -> Services:
        return Services(
            lookup=self.lookup,
            append_events=self.append_events,
            append_entities=self.append_entities,
            engine=lambda: self.engine,
            digest=lambda: {"digest": "0", "below": 0},
            status=lambda: {"lag_records": self.engine.lag_records, "tallies": self.ingest.tallies},
            ready=lambda: self.is_ready,
            metrics=self.metrics,
            clock_ms=lambda: self.now_ms,
        )

    def ids(self, *names: str) -> U64s:
        return hash_ids(names, ITEM)

    def close(self) -> None:
        self.collections.close()
        self.log.close()

    def _next(self, topic: str) -> int:
        marks = self.state.watermarks(topic)
        return min(self.log.number_of(topic, partition, offset) for partition, offset in marks.items())

    def _route(self, message: bytes) -> int:
        try:
            return partition_of(msgspec.json.decode(message, type=Event).user_id, self.shape.partitions)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return 0


TITLES = {
    "m1": "red fox runs",
    "m2": "red fox sleeps",
    "m3": "blue whale sings",
    "m4": "blue whale dives",
    "m5": "green frog jumps",
    "m6": "old oak stands",
}


def walk(site: Site, users: int = 8) -> None:
    """Everybody goes m1, m2, m3, m4: then m2 follows m1, and m3 follows m2; m5 is taken by one, m6 by none."""
    steps = [(f"walker{user}", item) for user in range(users) for item in ("m1", "m2", "m3", "m4")]
    site.append_events([site.event(user, item) for user, item in [*steps, ("walker0", "m5")]], JSON)
    site.run()
