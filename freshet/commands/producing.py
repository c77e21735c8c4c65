"""Publishing files: events through the producer, entities in lines; nothing in a file is passed over in silence.

with publishing(settings, url=None) as place: produce_events(place, open_events(path), advance)
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Final

import msgspec
import pyarrow as pa

from freshet.access import Place, Unreachable, access
from freshet.clock import now_ms
from freshet.cluster import kafka_of
from freshet.readers.entities import read_entities
from freshet.readers.source import Source
from freshet.settings import Settings
from storage.log import Entry
from stream.delivery import NotDelivered
from stream.entities import ENTITIES
from stream.events import Entity
from stream.kafka import Kafka
from stream.log_kafka import KafkaLog
from stream.producer import Producer
from stream.producer_kafka import KafkaSink
from stream.routing import partitions_of

Advance = Callable[[int], None]
FLUSH_LINES: Final = 5000
ENTITIES_AT_ONCE: Final = 500


class KafkaPlace:
    """The cluster's topics: `with KafkaPlace(kafka) as place`. Workers apply what is published; nothing is looked up here."""

    def __init__(self, kafka: Kafka) -> None:
        """Raises `KafkaUnreachable`."""
        self._log = KafkaLog(kafka)

    def __enter__(self) -> "KafkaPlace":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._log.close()

    def producer(self) -> Producer:
        """One that packs and routes as Java clients do."""
        return Producer(KafkaSink(self._log.kafka))

    def append_entities(self, bodies: Sequence[bytes]) -> None:
        """Append each under its key KIND:ID, to that key's partition: the topic is compacted."""
        entities = msgspec.json.decode(b"[" + b",".join(bodies) + b"]", type=list[Entity])
        keys = [f"{entity.kind}:{entity.id}" for entity in entities]
        where = partitions_of(pa.array(keys, pa.string()), self._log.topic(ENTITIES).partitions)
        entries = [Entry(partition, body, key=key.encode()) for partition, body, key in zip(where.tolist(), bodies, keys, strict=True)]
        self._log.append(ENTITIES, entries, now_ms=now_ms())

    def settle(self) -> None:
        """The workers apply by themselves: `freshet lag` tells how far they are."""


@contextmanager
def publishing(settings: Settings, url: str | None) -> Iterator[Place]:
    """The server at `url`, else Kafka where brokers are set, else as `access`. Raises `KafkaUnreachable` besides."""
    if settings.kafka and not url:
        with KafkaPlace(kafka_of(settings)) as place:
            yield place
        return
    with access(settings, url) as site:
        yield site


def produce_events(place: Place, source: Source, advance: Advance) -> tuple[int, int]:
    """Publish every row: events, and lines that are none as they are. Returns how many of each.

    Raises what refuses them (`LogFull`, `Unreachable`): what the bar has counted is there, of the rest some may be.
    """
    published = bad = 0
    try:
        with place.producer() as producer:
            for row in source:
                if row.event is not None:
                    producer.send(row.event)
                    published += 1
                else:
                    producer.send_raw(row.raw)
                    bad += 1
                if (published + bad) % FLUSH_LINES == 0:
                    producer.flush()
                    advance(FLUSH_LINES)
            producer.flush()
    except NotDelivered as error:
        why = f"{error.failed[0][1]}; {len(error.failed)} of the newest {published + bad:,} lines were not acknowledged"
        raise Unreachable(f"{why}: publish the file again (events that have ids of their own count once)") from error
    advance((published + bad) % FLUSH_LINES)
    return published, bad


def produce_entities(place: Place, path: Path, advance: Advance) -> int:
    """Publish what a file knows of items, collections and queries; returns how many."""
    bodies, count = (msgspec.json.encode(entity) for entity in read_entities(path)), 0
    while chunk := list(islice(bodies, ENTITIES_AT_ONCE)):
        place.append_entities(chunk)
        count += len(chunk)
        advance(len(chunk))
    return count
