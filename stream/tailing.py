"""What is published just now: newest records of `events`, a few, for who looks at one before it is applied.

    tail = Tail(kafka, partitions=12, every_ms=200, clock_ms=clock_ms); tail.start(); records = tail.take(); ...; tail.stop()

A thread of its own, for a broker that is away keeps who asks it waiting. Nothing is promised: a look is taken each `every_ms` and what is
published meanwhile is passed over, so what it costs is bounded, whatever is published; without a broker there is nothing, which is told
once a minute.
"""

import contextlib
import logging
import threading
from collections.abc import Callable
from typing import Final

from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaError

from storage.log import Record
from stream.ingest import EVENTS
from stream.kafka import Kafka
from stream.kafka_records import read_in_batches

log = logging.getLogger(__name__)
POLL_MS: Final = 200
RECORDS_MAX: Final = 64
FETCH_BYTES_MAX: Final = 64 << 10
ANSWER_MS: Final = 5000
AWAY_S: Final = 5.0
TOLD_MS: Final = 60_000
STOP_S: Final = 2.0


class Tail(threading.Thread):
    """`take` from any thread."""

    def __init__(self, kafka: Kafka, *, partitions: int, every_ms: int, clock_ms: Callable[[], int]) -> None:
        super().__init__(name="tail", daemon=True)
        self._kafka, self._every_s, self._clock_ms = kafka, every_ms / 1000, clock_ms
        self._places = [TopicPartition(kafka.topic(EVENTS), partition) for partition in range(partitions)]
        self._lock, self._newest = threading.Lock(), list[Record]()
        self._stopping = threading.Event()
        self._told_ms: int | None = None

    def run(self) -> None:
        """Look until told to stop."""
        while not self._stopping.is_set():
            try:
                self._follow()
            except (KafkaError, OSError, ValueError) as error:
                self._tell(error)
                self._stopping.wait(AWAY_S)

    def take(self) -> list[Record]:
        """What the last look found, once."""
        with self._lock:
            newest, self._newest = self._newest, []
        return newest

    def stop(self) -> None:
        """End within a look; one that waits for a broker ends with the process."""
        self._stopping.set()
        if self.is_alive():
            self.join(STOP_S)

    def _follow(self) -> None:
        bounds = {"fetch_max_bytes": FETCH_BYTES_MAX, "max_partition_fetch_bytes": FETCH_BYTES_MAX, "bootstrap_timeout_ms": ANSWER_MS}
        consumer = KafkaConsumer(**self._kafka.consumer_options() | bounds)
        try:
            read_in_batches(consumer)
            consumer.assign(self._places)
            consumer.seek_to_end()
            while not self._stopping.is_set():
                found = [record for records in consumer.poll(POLL_MS, max_records=RECORDS_MAX).values() for record in records]
                if found:
                    with self._lock:
                        self._newest = found
                    self._stopping.wait(self._every_s)
                    consumer.seek_to_end()
        finally:
            with contextlib.suppress(KafkaError):
                consumer.close(autocommit=False)

    def _tell(self, error: Exception) -> None:
        now = self._clock_ms()
        if self._told_ms is None or now - self._told_ms >= TOLD_MS:
            self._told_ms = now
            log.warning("nothing_overheard error=%s doing=trying again each %g s", type(error).__name__, AWAY_S)
