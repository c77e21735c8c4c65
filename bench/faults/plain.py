"""The log of events as anybody else would read it, one record at a time, and what it must come to.

For logs whose order is not known beforehand: what was redriven, and what a producer sent again.
"""

from collections.abc import Iterator
from typing import Any

import msgspec
import pyarrow as pa
from kafka import KafkaConsumer, TopicPartition

from bench.faults.judging import Wanted
from bench.faults.sites import Site
from storage.log import Position
from stream.events import Event
from stream.ingest import EVENTS


def plain_log(site: Site) -> Wanted:
    """Every event that can be read and lies where its user belongs; all others are refused."""
    wanted = Wanted(site.shape)
    for at, index, event in events(site):
        if wanted.oracle.partition(event.user_id) == at.partition:
            wanted.event(event, at, index)
        else:
            wanted.dead += 1
    return wanted


def events(site: Site) -> Iterator[tuple[Position, int, Event]]:
    """Each event with its place and its index in its record, partition by partition, in order."""
    places = [TopicPartition(site.kafka.topic(EVENTS), n) for n in range(site.shape.partitions)]
    consumer: Any = KafkaConsumer(bootstrap_servers=site.kafka.bootstrap, isolation_level="read_committed", auto_offset_reset="earliest")
    try:
        consumer.assign(places)
        ends = consumer.end_offsets(places)
        while any(consumer.position(place) < ends[place] for place in places):
            for records in consumer.poll(200).values():
                for record in records:
                    at = Position(record.partition, record.offset, record.offset)
                    yield from ((at, index, event) for index, event in enumerate(_events(record)))
    finally:
        consumer.close()


def _events(record: Any) -> list[Event]:
    if ("form", b"pack") not in record.headers:
        return [msgspec.json.decode(record.value, type=Event)]
    with pa.ipc.open_stream(record.value) as reader:
        rows = reader.read_all().to_pylist()
    for row in rows:
        row["context"] = msgspec.json.decode(row["context"]) if row["context"] else {}
        row["shown"] = row["shown"] or []
    return [msgspec.convert(row, Event) for row in rows]
