"""What is published just now is seen once, bounded whatever is published, and a broker that is away is told and found again."""

import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bench.services import KafkaServer, free_port, wait_until
from freshet.clock import now_ms
from storage.log import Entry, Record
from stream.ingest import EVENTS
from stream.kafka import Kafka
from stream.log_kafka import KafkaLog
from stream.tailing import RECORDS_MAX, STOP_S, Tail
from stream.topics import create
from tests.services import kafka_server

SEEN_S = 30.0
EVERY_MS = 50
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")


def topics(broker: KafkaServer) -> Kafka:
    made = Kafka(broker.bootstrap, prefix=f"{uuid.uuid4().hex[:8]}-")
    create(made, partitions=2, replicas=1)
    return made


@contextmanager
def tailing(kafka: Kafka) -> Iterator[Tail]:
    tail = Tail(kafka, partitions=2, every_ms=EVERY_MS, clock_ms=now_ms)
    tail.start()
    try:
        yield tail
    finally:
        tail.stop()


def seen(log: KafkaLog, tail: Tail, *, since: int = 0) -> list[Record]:
    """Publish one record after the other until one of them is seen."""
    found: list[Record] = []
    numbers = iter(range(since, 10_000))

    def any_seen() -> bool:
        n = next(numbers)
        log.append(EVENTS, [Entry(n % 2, b"now %d" % n)], now_ms=0)
        found.extend(tail.take())
        return bool(found)

    wait_until(any_seen, seconds=SEEN_S, alive=tail.is_alive)
    return found


def test_what_is_published_from_now_on_is_seen_and_handed_over_once() -> None:
    kafka = topics(kafka_server())
    with KafkaLog(kafka) as log:
        log.append(EVENTS, [Entry(0, b"before")], now_ms=0)
        with tailing(kafka) as tail:
            first = seen(log, tail)
            assert {record.value for record in first}.isdisjoint({b"before"})
            again = seen(log, tail, since=1000)
            assert all(record.value.startswith(b"now ") for record in [*first, *again])
            places = [(record.partition, record.number) for record in [*first, *again]]
            assert len(places) == len(set(places))


def test_however_much_is_published_a_look_takes_a_few() -> None:
    kafka = topics(kafka_server())
    with KafkaLog(kafka) as log, tailing(kafka) as tail:
        seen(log, tail)
        for _ in range(5):
            log.append(EVENTS, [Entry(n % 2, bytes(200)) for n in range(2000)], now_ms=0)
            assert len(tail.take()) <= RECORDS_MAX


def test_without_a_broker_there_is_nothing_which_is_told(caplog: pytest.LogCaptureFixture) -> None:
    nobody = Kafka(f"127.0.0.1:{free_port()}", bootstrap_ms=1000)
    with tailing(nobody) as tail:
        wait_until(lambda: "nothing_overheard" in caplog.text, seconds=SEEN_S, alive=tail.is_alive)
        assert tail.take() == []
        began = time.monotonic()
    assert time.monotonic() - began < STOP_S + 1


def test_a_broker_that_comes_back_is_listened_to_again(tmp_path: Path) -> None:
    kafka_server()  # what is missing skips here, or fails where CI is set
    with KafkaServer(tmp_path / "kafka") as broker:
        kafka = topics(broker)
        with tailing(kafka) as tail:
            with KafkaLog(kafka) as log:
                seen(log, tail)
            broker.stop()
            tail.take()
            broker.start()
            with KafkaLog(kafka) as log:
                assert seen(log, tail, since=2000)
