"""Everything once, in a folder that is gone afterwards, before a process says that it is ready.

Inner loops are compiled where they are first called, and kept beside the code from then on. Without this the first events and
look-ups of an installation wait for half a minute of it, and those of each later start for half a second, in which they are read in.

    rehearse()      # or, to have it done: python -m freshet.rehearsal
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec
import numpy as np

from encoders.blend import Blend
from encoders.config import ModelConfig
from encoders.linear import DECAYS, Linear
from encoders.model import Model
from freshet.engine import Engine
from freshet.service import Service
from freshet.settings import Settings
from freshet.version_files import BLEND_FILE, COUNTING_FILE, LINEAR_FILE, MODEL_FILE
from serving.sources import SOURCES
from storage.log import Entry, Position
from storage.models import Version
from stream.events import Entity, Event
from stream.ingest import EVENTS
from stream.producer import Producer

USERS: Final = 4
ITEMS: Final = 12
SECOND_MS: Final = 1000
NAME: Final = "rehearsal"


def rehearse() -> None:
    """Events in both forms, a small model of every source, vectors, look-ups. Raises OSError or `DiskFull` if 10 MB are not free."""
    with tempfile.TemporaryDirectory(prefix="freshet-rehearsal-") as folder, Engine(_settings(Path(folder))) as engine:
        service = Service(engine)
        try:
            now_ms = _filled(service)
            _promoted(service, now_ms)
            _asked(service, now_ms)
        finally:
            service.close()


def _settings(folder: Path) -> Settings:
    """Small, whatever the environment says of sizes."""
    return Settings(data=folder, partitions=1, log_bytes_max=1 << 24, state_bytes_max=1 << 27)


def _events() -> list[Event]:
    """Everybody takes most of the items, one after the other."""
    taken = [(user, place) for place in range(ITEMS - 2) for user in range(USERS)]
    return [
        Event(user_id=f"u{user}", item_id=f"i{(user + place) % ITEMS}", action="like", ts_ms=SECOND_MS * (1 + n))
        for n, (user, place) in enumerate(taken)
    ]


def _filled(service: Service) -> int:
    """Entities, a pack and single events are applied; returns the time then."""
    engine, events = service.engine, _events()
    now_ms = events[-1].ts_ms + SECOND_MS
    items = [Entity(kind="item", id=f"i{n}", title=f"item {n}", ts_ms=SECOND_MS) for n in range(ITEMS)]
    engine.append_entities([msgspec.json.encode(item) for item in items], now_ms=now_ms)

    def append(entries: Sequence[Entry]) -> Sequence[Position]:
        return engine.log.append(EVENTS, entries, now_ms=now_ms)

    producer = Producer(append)
    for event in events[:-USERS]:
        producer.send(event)
    producer.flush()
    engine.drain(now_ms=now_ms)
    for event in events[-USERS:]:
        engine.append_events([msgspec.json.encode(event)], now_ms=now_ms)
        service.step(now_ms=now_ms)
    return now_ms


def _promoted(service: Service, now_ms: int) -> None:
    ids = service.view.catalogue.ids
    places = np.arange(len(ids), dtype=np.uint16)
    followers = np.broadcast_to(places, (len(DECAYS), len(ids), len(ids))).copy()
    weights = np.ones(followers.shape, np.float32)
    linear = Linear(np.sort(ids), followers, weights, followers[0], weights[0])
    blend = Blend(SOURCES, np.ones(len(SOURCES)))
    files = {
        MODEL_FILE: Model.new(ModelConfig(), ids, seed=0).to_bytes(), BLEND_FILE: blend.to_json().encode(),
        COUNTING_FILE: blend.to_json().encode(), LINEAR_FILE: linear.to_bytes(),
    }  # fmt: skip
    version = Version(NAME, service.next_generation(), None, now_ms, service.engine.applied_number, {})
    service.registry.put(version, files)
    loaded = service.load(NAME)
    service.build(loaded, now_ms=now_ms)
    service.promote(version, loaded)


def _asked(service: Service, now_ms: int) -> None:
    service.refresh(now_ms=now_ms)
    service.lookup.recommend("u0", now_ms=now_ms)
    service.lookup.recommend("nobody", now_ms=now_ms)
    service.lookup.similar("i0", now_ms=now_ms)


if __name__ == "__main__":
    rehearse()
