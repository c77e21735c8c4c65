"""Small data folders made from the synthetic world, for tests of the roof."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from freshet.engine import Engine
from freshet.learning.job import Job, Report
from freshet.learning.learn import Inputs, run, stored_contents
from freshet.learning.reading import read_for_training
from freshet.service import Loaded, Service
from freshet.settings import Settings
from freshet.version_files import BLEND_FILE, COUNTING_FILE, LINEAR_FILE, MODEL_FILE, OPTIMISER_FILE
from freshet.world.events import World, WorldConfig
from storage.log import Entry
from storage.models import Version
from stream.ingest import EVENTS
from stream.producer import Producer

NOW_MS = 1_800_000_000_000
SMALL = WorldConfig(seed=1, users=60, items=80, events=1500)


@contextmanager
def site(folder: Path, config: WorldConfig = SMALL, **settings: object) -> Iterator[Service]:
    """An engine and a service over a folder; a fresh folder is filled with the world's entities and events."""
    with Engine(Settings(data=folder, **settings)) as engine:  # type: ignore[arg-type]  # names and values come from the test
        service = Service(engine)
        try:
            if engine.applied_number == 0:
                fill(service, World(config))
            yield service
        finally:
            service.close()


def fill(service: Service, world: World) -> None:
    """Publish the whole world and apply it."""
    service.engine.append_entities([msgspec.json.encode(entity) for entity in world.entities()], now_ms=NOW_MS)

    def append(entries: list[Entry]) -> object:
        return service.engine.log.append(EVENTS, entries, now_ms=NOW_MS)

    producer = Producer(append)  # type: ignore[arg-type]  # the positions are not looked at
    for event in world.events():
        producer.send(event)
    producer.flush()
    service.engine.drain(now_ms=NOW_MS)
    service.engine.flush_archive()


def train(service: Service, out: Path, *, kind: str = "trunk", steps: int = 40, blend: str | None = None) -> Report:
    """One training in this process, short."""
    out.mkdir(parents=True)
    service.engine.flush_archive()
    current = service.current
    job = Job(
        out=str(out), kind=kind, parent=current.live.version if current else None, partitions=service.engine.shape.partitions,
        steps_max=steps, blend_events=200, gate_events=300, new_events=300, blend=blend,
    )  # fmt: skip
    parent = service.registry.files(job.parent) if job.parent else None
    return run(job, Inputs(read_for_training(service.engine.archive).table(), parent, stored_contents(service.engine.state, 1)))


def promote(service: Service, out: Path, name: str, *, generation: int = 1) -> Loaded:
    """Put a training's files live whatever the gate said, every item embedded."""
    files = {file: (out / file).read_bytes() for file in (MODEL_FILE, BLEND_FILE, COUNTING_FILE, OPTIMISER_FILE, LINEAR_FILE)}
    version = Version(name, generation, None, NOW_MS, service.engine.applied_number, {})
    service.registry.put(version, files)
    loaded = service.load(name)
    row = 0
    while row < len(service.view.catalogue):
        row = service.build(loaded, now_ms=NOW_MS, start=row)
    service.promote(version, loaded)
    return loaded
