"""The log on Kafka: the same protocol as the embedded one, for what is not the hot path.

Appends (events that came over HTTP, dead letters, edges), reads by offset (replay, archive, commands), and the topics'
identities. The hot path reads through `stream/consuming.py`. A record's number is its offset: Kafka numbers each partition
by itself.

    log = KafkaLog(Kafka("127.0.0.1:9092")); log.append("events", [Entry(3, body)], now_ms=0)
"""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.errors import KafkaError

from storage.log import PACK, VALUE_BYTES_MAX, Entry, LogFull, Position, Record, Topic
from stream.expiring import keep_expiring
from stream.kafka import DELIVERY_MS, Kafka, KafkaUnreachable, unreachable
from stream.kafka_records import PACK_HEADER, read_in_batches

BATCH_BYTES: Final = 1 << 20
POLL_MS: Final = 200


class KafkaLog:
    """Shared by the threads of a process. The broker stamps the appends (`LogAppendTime`), whatever `now_ms` says."""

    def __init__(self, kafka: Kafka) -> None:
        """Raises `KafkaUnreachable`."""
        self.kafka = kafka
        self._reading, self._writing, self._describing = threading.Lock(), threading.Lock(), threading.Lock()
        with _told(kafka):
            self._consumer = KafkaConsumer(**kafka.consumer_options())
        read_in_batches(self._consumer)
        self._producer: KafkaProducer | None = None
        self._admin: KafkaAdminClient | None = None
        self._assigned: TopicPartition | None = None

    def __enter__(self) -> "KafkaLog":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Send what waits, release the connections."""
        if self._producer is not None:
            self._producer.close()
        if self._admin is not None:
            self._admin.close()
        self._consumer.close()

    def topic(self, name: str) -> Topic:
        """The topic as the cluster knows it. Raises `KafkaUnreachable` when it is not there."""
        full = self.kafka.topic(name)
        with self._describing, _told(self.kafka):
            if self._admin is None:
                self._admin = KafkaAdminClient(**self.kafka.options())
            (found,) = self._admin.describe_topics([full])  # asks the cluster: a topic made anew must not be known by its old id
        if found["error_code"] or not found["partitions"]:
            raise KafkaUnreachable(f"there is no topic {full!r} at {self.kafka.bootstrap}: make it (freshet topics create)")
        return Topic(name, str(found["topic_id"]), len(found["partitions"]))

    def append(self, topic: str, entries: Sequence[Entry], *, now_ms: int) -> list[Position]:
        """Append in order within each partition; acknowledged by all in-sync replicas when this returns.

        Not all or nothing: on an error some may be there. Raises `KafkaUnreachable`, ValueError for a value above the bound.
        """
        for entry in entries:
            if len(entry.value) > VALUE_BYTES_MAX:
                raise ValueError(f"a record of {len(entry.value)} bytes is above the bound of {VALUE_BYTES_MAX}: send fewer events in one")
        with self._writing, _told(self.kafka):
            producer, full = self._sender(), self.kafka.topic(topic)
            sent = [
                producer.send(
                    full,
                    entry.value,
                    key=entry.key,
                    partition=entry.partition,
                    timestamp_ms=now_ms,
                    headers=[PACK_HEADER] if entry.form == PACK else [],
                )
                for entry in entries
            ]
            producer.flush(DELIVERY_MS / 1000)
            landed = [future.get(timeout=DELIVERY_MS / 1000) for future in sent]
        return [Position(at.partition, at.offset, at.offset) for at in landed]

    def read(self, topic: str, partition: int, offset: int, *, records_max: int = 1000) -> list[Record]:
        """Records of one partition from `offset`, inclusive; fewer, or none, at its end."""
        where = TopicPartition(self.kafka.topic(topic), partition)
        with self._reading, _told(self.kafka):
            end = self._consumer.end_offsets([where])[where]
            if self._assigned != where:
                self._consumer.assign([where])
                self._assigned = where
            self._consumer.seek(where, offset)
            found: list[Record] = []
            while len(found) < records_max and self._consumer.position(where) < end:
                polled = self._consumer.poll(POLL_MS, max_records=records_max - len(found))
                found += polled.get(where, ())
            return found

    def first_offset(self, topic: str, partition: int) -> int:
        """The lowest offset still held; equals the end when the partition is empty."""
        where = TopicPartition(self.kafka.topic(topic), partition)
        with self._reading, _told(self.kafka):
            return int(self._consumer.beginning_offsets([where])[where])

    def end_offset(self, topic: str, partition: int) -> int:
        """The offset the next record will get: below it nothing is open or undecided."""
        where = TopicPartition(self.kafka.topic(topic), partition)
        with self._reading, _told(self.kafka):
            return int(self._consumer.end_offsets([where])[where])

    def _sender(self) -> KafkaProducer:
        if self._producer is None:
            self._producer = KafkaProducer(**self.kafka.producer_options() | {"batch_size": BATCH_BYTES})
            keep_expiring(self._producer)
        return self._producer


@contextmanager
def _told(kafka: Kafka) -> Iterator[None]:
    """Kafka's errors as ours, which name the address and never the password."""
    try:
        yield
    except KafkaError as error:
        if "RecordTooLarge" in type(error).__name__:
            raise LogFull(f"Kafka at {kafka.bootstrap} refuses a record: {error}") from error
        raise unreachable(kafka, error) from error
