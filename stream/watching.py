"""Is the worker getting on? Asked of Kafka and of the state, by a thread of its own, whatever the hot path is doing.

A hot path that waits for a broker can say nothing of itself, and what it last heard of the log's end stands still with it. So
here the ends and the watermarks are asked for again every few seconds, and not to be answered is no progress either.

    watch = Watch(worker, kafka, clock_ms); watch.start(); watch.progress.stuck_ms(now_ms)
"""

import contextlib
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaError

from stream.ingest import EVENTS
from stream.kafka import Kafka
from stream.worker import Worker

EVERY_MS: Final = 5_000
ASK_MS: Final = 10_000
"""A service that has not answered by then is away."""
FETCH_BYTES: Final = 1 << 16
KAFKA: Final = "kafka"
REDIS: Final = "redis"
SERVICES: Final = (KAFKA, REDIS)
Where = tuple[str, int]
"""Topic and partition."""


@dataclass(frozen=True)
class Standing:
    """One partition: the next offset to apply, the log's end, and how old the first record that waits is."""

    watermark: int
    end: int
    behind_ms: int = 0

    @property
    def lag(self) -> int:
        """Records, markers included, that are not applied yet."""
        return max(self.end - self.watermark, 0)


@dataclass(frozen=True)
class Look:
    """What was last seen of the partitions held, and when."""

    at_ms: int
    partitions: Mapping[Where, Standing] = field(default_factory=dict)


def progressed(before: Look, after: Look) -> bool:
    """Nothing waits, or a watermark has moved, or other partitions are held than before."""
    if all(standing.lag == 0 for standing in after.partitions.values()) or before.partitions.keys() != after.partitions.keys():
        return True
    return any(standing.watermark != before.partitions[where].watermark for where, standing in after.partitions.items())


class Progress:
    """What was seen, and since when nothing has moved. Written by the watch, read by any thread."""

    def __init__(self, at_ms: int) -> None:
        self.look = Look(at_ms)
        self._moved_ms = at_ms
        self._asked = self._failed = ""

    def asks(self, service: str) -> None:
        """A service is being asked."""
        self._asked = service

    def fails(self) -> None:
        """It does not answer."""
        self._failed = self._asked

    def sees(self, look: Look) -> None:
        """All have answered."""
        if progressed(self.look, look):
            self._moved_ms = look.at_ms
        self._asked = self._failed = ""
        self.look = look

    def stuck_ms(self, now_ms: int) -> int:
        """For how long records wait, or may wait, and no watermark has moved; 0 while all is well."""
        still = now_ms - self._moved_ms
        return still if still > 2 * EVERY_MS else 0

    def away(self, now_ms: int) -> str | None:
        """The service that does not answer."""
        return (self._failed or self._asked or None) if now_ms - self.look.at_ms > EVERY_MS + ASK_MS else None


class Watch(threading.Thread):
    """Looks every EVERY_MS until stopped; what it finds is in `progress`."""

    def __init__(self, worker: Worker, kafka: Kafka, clock_ms: Callable[[], int]) -> None:
        super().__init__(name="watch", daemon=True)
        self._worker, self._kafka, self._clock_ms = worker, kafka, clock_ms
        self._stopping = threading.Event()
        self._consumer: KafkaConsumer | None = None
        self.progress = Progress(clock_ms())

    def run(self) -> None:
        """Look after look; what a service raises means that it is away, and it is asked again."""
        while not self._stopping.is_set():
            try:
                self._look()
            except Exception:  # noqa: BLE001  # the outer loop of this thread: told as `away`, and the hot path tells its error
                self.progress.fails()
                self._forget()
            self._stopping.wait(EVERY_MS / 1000)
        self._forget()

    def stop(self) -> None:
        """No further look."""
        self._stopping.set()

    def _look(self) -> None:
        self.progress.asks(REDIS)
        marks = self._worker.watermarks()
        self.progress.asks(KAFKA)
        ends = self._ends(marks)
        born = self._appended({where: mark for where, mark in marks.items() if mark < ends[where]})
        now_ms = self._clock_ms()
        behind_ms = {where: max(now_ms - append_ms, 0) for where, append_ms in born.items()}
        self.progress.sees(Look(now_ms, {where: Standing(mark, ends[where], behind_ms.get(where, 0)) for where, mark in marks.items()}))

    def _ends(self, held: Iterable[Where]) -> dict[Where, int]:
        """Where the log ends, of what is held; one partition is asked for even when none is."""
        asked = {TopicPartition(self._kafka.topic(topic), n): (topic, n) for topic, n in {*held, (EVENTS, 0)}}
        ends = self._client().end_offsets(list(asked), timeout_ms=ASK_MS)
        return {where: int(ends[at]) for at, where in asked.items()}

    def _appended(self, waiting: Mapping[Where, int]) -> dict[Where, int]:
        """When the record at each of these places was appended; left out where no answer comes in time."""
        consumer, places = self._client(), {TopicPartition(self._kafka.topic(topic), n): (topic, n) for topic, n in waiting}
        consumer.assign(list(places))
        for at, where in places.items():
            consumer.seek(at, waiting[where])
        found: dict[Where, int] = {}
        end_ms = self._clock_ms() + ASK_MS
        while len(found) < len(places) and self._clock_ms() < end_ms and not self._stopping.is_set():
            for at, records in consumer.poll(200, max_records=1).items():
                found[places[at]] = int(records[0].timestamp)
                consumer.pause(at)
        return found

    def _client(self) -> KafkaConsumer:
        if self._consumer is None:
            options = self._kafka.consumer_options() | {"max_partition_fetch_bytes": FETCH_BYTES, "bootstrap_timeout_ms": ASK_MS}
            self._consumer = KafkaConsumer(**options)
        return self._consumer

    def _forget(self) -> None:
        """A client that failed once is made anew."""
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            with contextlib.suppress(KafkaError):
                consumer.close(autocommit=False)
