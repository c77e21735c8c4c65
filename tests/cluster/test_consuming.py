"""The batch consumer where its client's own thread is ahead of it: partitions that go to another, and a topic that is another one."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.faults.losses import recreate
from bench.faults.messages import APPEND_MS
from bench.services import KafkaServer, wait_until
from storage.log import Entry
from storage.state import Gap
from stream.consuming import NAMED_S, BatchConsumer
from stream.ingest import EVENTS
from stream.kafka import Kafka, KafkaUnreachable
from stream.log_kafka import KafkaLog
from stream.topics import create
from tests.cluster.installation import Site
from tests.services import kafka_server

SETTLED_S = 60.0


def member(site: Site) -> BatchConsumer:
    return BatchConsumer(site.kafka, group=site.name, topics=[EVENTS], claim=lambda topic, partition: 0)


def append(site: Site, records: int) -> None:
    entries = [Entry(partition, b"x") for partition in range(site.shape.partitions) for _ in range(records)]
    site.log.append(EVENTS, entries, now_ms=APPEND_MS)


def reading(consumer: BatchConsumer, found: list[int]) -> Callable[[], int]:
    """One more poll; how many records there were in all."""

    def poll() -> int:
        found.extend(record.offset for batch in consumer.poll(timeout_ms=50, records_max=100) for record in batch.records)
        return len(found)

    return poll


def test_partitions_that_go_to_another_end_nothing_at_whatever_moment_they_go(wide: Site) -> None:
    append(wide, 1)
    first, second = member(wide), member(wide)
    found = list[int](), list[int]()
    poll_first, poll_second = reading(first, found[0]), reading(second, found[1])
    try:
        wait_until(lambda: poll_first() == 3, seconds=SETTLED_S)

        def shared() -> bool:
            poll_second(), poll_first()
            assert first.behind() is False
            return 0 < len(first.held) < 3 and len(first.held) + len(second.held) == 3

        wait_until(shared, seconds=SETTLED_S, every=0)
        append(wide, 1)
        wait_until(lambda: poll_first() + poll_second() >= 6, seconds=SETTLED_S)
        assert sum(offset == 1 for offsets in found for offset in offsets) == 3, "each new record went to one of them"
    finally:
        first.close()
        second.close()


def test_members_join_and_share_however_short_their_polls_are(wide: Site) -> None:
    """What the brokers say of a group comes while nobody polls; a member that asked anew each time would never be done."""
    members = [member(wide), member(wide)]

    def shared() -> bool:
        for one in members:
            one.poll(timeout_ms=0, records_max=100)
        return sorted(len(one.held) for one in members) == [1, 2]

    try:
        wait_until(shared, seconds=SETTLED_S / 3)
        held = [set(one.held) for one in members]
        assert not held[0] & held[1]
    finally:
        for one in members:
            one.close()


def test_brokers_that_go_away_end_nothing_and_are_read_on_from_when_they_are_back(tmp_path: Path) -> None:
    """kafka-python looks for who leads the group, and raises when it cannot even ask."""
    kafka_server()  # skips where it is not installed
    with KafkaServer(tmp_path / "kafka") as server:
        kafka = Kafka(server.bootstrap)
        create(kafka, partitions=1, replicas=1)
        reader = BatchConsumer(kafka, group="reader", topics=[EVENTS], claim=lambda topic, partition: 0)
        found = list[int]()
        poll = reading(reader, found)
        try:
            wait_until(lambda: poll() == 0 and len(reader.held) == 1, seconds=SETTLED_S)
            server.kill()
            wait_until(reader._consumer._coordinator.coordinator_unknown, seconds=SETTLED_S)
            assert [reader.poll(timeout_ms=1000, records_max=100) for _ in range(10)] == [[]] * 10
            server.start()
            with KafkaLog(kafka) as log:
                log.append(EVENTS, [Entry(0, b"x")], now_ms=APPEND_MS)
            wait_until(lambda: poll() == 1, seconds=SETTLED_S)
        finally:
            reader.close()


def test_a_reader_that_stood_still_takes_no_record_of_a_topic_made_anew(wide: Site) -> None:
    """Kafka is asked by name, and the new topic is longer than the old one was: its records lie where this reader goes on."""
    append(wide, 20)
    consumer, found = member(wide), list[int]()
    poll = reading(consumer, found)
    try:
        wait_until(lambda: poll() == 60, seconds=SETTLED_S)
        stood_still = time.monotonic() + NAMED_S
        recreate(wide, EVENTS)
        wide.look_again()
        append(wide, 50)
        wait_until(lambda: time.monotonic() > stood_still, seconds=SETTLED_S)
        with pytest.raises((Gap, KafkaUnreachable), match="gap accept"):
            wait_until(lambda: poll() > 60, seconds=SETTLED_S)
        assert len(found) == 60
    finally:
        consumer.close()
