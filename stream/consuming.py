"""The batch consumer: a group member whose truth about offsets is the state, not the group.

A partition that is assigned is paused until the ingest thread has claimed it (one script: epoch, watermark, topic id) and
sought to its watermark. Kafka's callbacks run on the client's own thread and only leave a note. A batch is records of one
partition, read under one claim; a batch whose commit is refused is dropped, and the partition claimed again if it is still
ours after the next poll.

    consumer = BatchConsumer(kafka, group="freshet", topics=["events", "edges"], claim=claim)
    for batch in consumer.poll(timeout_ms=100): ...
"""

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from kafka import ConsumerRebalanceListener, KafkaConsumer, TopicPartition
from kafka.errors import IllegalStateError, KafkaError, LogTruncationError, OffsetOutOfRangeError, RetriableError

from storage.log import Record
from storage.state import Gap
from stream.assigning import TopicByTopic
from stream.joining import keep_joins
from stream.kafka import SESSION_MS, Kafka, KafkaUnreachable, unreachable
from stream.kafka_records import read_in_batches

HEARTBEAT_MS: Final = 300
"""The answer to it is how a member learns that another has come; until all have, nobody reads on."""
LEAVE_MS: Final = 3000
"""A broker that has not answered to a goodbye by then learns of it when the session ends."""
PARTITION_BYTES: Final = 1 << 20
"""Fetched of one partition at once: a poll is then of several, and one is reduced while another is committed."""
NEWER_MS: Final = 5
"""The client hands out what it fetched during the last round: so long is waited for what has come since."""
NAMED_S: Final = 1.0
"""While a reader fetches all the time it is told when a topic goes; one that stood still for longer asks who it has read from."""
_TAKEN_AWAY: Final = (IllegalStateError, ValueError, KeyError)
"""What the client says of a partition that its thread has given up, which it does before it tells the listener."""
Claim = Callable[[str, int], int]
"""(topic, partition) -> watermark; raises `Gap`."""


@dataclass(frozen=True)
class Batch:
    """Records of one partition in order, and where its reader stands behind them: beyond the last record, if markers follow."""

    topic: str
    partition: int
    records: Sequence[Record]
    end: int


class BatchConsumer:
    """For one thread. `close` leaves the group."""

    def __init__(self, kafka: Kafka, *, group: str, topics: Iterable[str], claim: Claim, session_ms: int = SESSION_MS) -> None:
        """Raises `KafkaUnreachable`."""
        self._claim_partition, self._prefix = claim, kafka.prefix
        self._where = kafka.bootstrap
        options = kafka.consumer_options(group=group) | {
            "partition_assignment_strategy": [TopicByTopic],
            "session_timeout_ms": session_ms,
            "heartbeat_interval_ms": min(HEARTBEAT_MS, session_ms // 3),
            "max_partition_fetch_bytes": PARTITION_BYTES,
        }
        try:
            self._consumer = KafkaConsumer(**options)
        except KafkaError as error:
            raise unreachable(kafka, error) from error
        read_in_batches(self._consumer)
        keep_joins(self._consumer)
        self._notes = _Notes(self._consumer)
        self._held: dict[TopicPartition, int] = {}
        wanted = [kafka.topic(topic) for topic in topics]
        # Asked first: a member that joins before it knows how many partitions there are is given none, and does not join again.
        missing = [topic for topic in wanted if not self._consumer.partitions_for_topic(topic)]
        if missing:
            self._consumer.close(autocommit=False)
            raise KafkaUnreachable(f"there is no topic {', '.join(missing)} at {kafka.bootstrap}: make it (freshet topics create)")
        self._topic_ids = {topic: self._consumer._cluster.topic_id(topic) for topic in wanted}
        self._named_s = time.monotonic()
        self._consumer.subscribe(wanted, listener=self._notes)

    @property
    def held(self) -> dict[tuple[str, int], int]:
        """The claimed partitions, (topic, partition), and the next offset this reader will hand out."""
        return {(self._name(where), where.partition): end for where, end in self._held.items()}

    def poll(self, *, timeout_ms: int, records_max: int) -> list[Batch]:
        """What has come, by partition. Partitions that were assigned meanwhile are claimed first. Raises `Gap`, `KafkaUnreachable`."""
        self._settle()
        try:
            polled = self._polled(timeout_ms, records_max)
            if polled and all(self._highwater(where) <= records[-1].offset + 1 for where, records in polled.items()):
                for where, records in self._polled(NEWER_MS, records_max).items():
                    polled.setdefault(where, []).extend(records)
            unsettled = self._notes.unsettled()
            ends = {where: self._position(where) for where in self._held if where not in unsettled}
        except (OffsetOutOfRangeError, LogTruncationError) as error:
            raise Gap(
                f"the log no longer holds what comes next ({error}): rebuild (freshet rebuild), or accept the loss (freshet gap accept)"
            ) from error
        moved = {where: end for where, end in ends.items() if end is not None and (polled.get(where) or end > self._held[where])}
        if moved and time.monotonic() - self._named_s > NAMED_S and not self._named_anew():
            for where in moved:  # nobody says that what was read is of the same topics: it is read again
                with suppress(*_TAKEN_AWAY):
                    self._consumer.seek(where, self._held[where])
            return []
        self._check_topics()
        self._held |= moved
        return [Batch(self._name(where), where.partition, polled.get(where, ()), end) for where, end in moved.items()]

    def behind(self) -> bool:
        """Whether a claimed partition's log goes on beyond this reader, as far as the last answers of the brokers tell."""
        return any(self._highwater(where) > end for where, end in self._held.items())

    def refused(self, topic: str, partition: int) -> None:
        """A commit was refused: what was read counts for nothing, and the partition is claimed again if it is still ours."""
        where = TopicPartition(self._prefix + topic, partition)
        if self._held.pop(where, None) is not None:
            self._notes.put_back(where)

    def close(self) -> None:
        """Leave the group, so that others take over at once."""
        self._consumer.close(autocommit=False, timeout_ms=LEAVE_MS)

    def _polled(self, timeout_ms: int, records_max: int) -> dict[TopicPartition, list[Record]]:
        """What the client hands out: nothing while the brokers are away.

        It looks for who leads the group first, before it hands out anything, and raises where it cannot even ask.
        """
        try:
            polled: dict[TopicPartition, list[Record]] = self._consumer.poll(timeout_ms, max_records=records_max)
        except RetriableError:
            time.sleep(timeout_ms / 1000)
            return {}
        return polled

    def _settle(self) -> None:
        """Forget what was taken from us; claim, seek and resume what was given."""
        for where in self._notes.gone():
            self._held.pop(where, None)
        for where in self._notes.take():
            mark = self._claim_partition(self._name(where), where.partition)
            with suppress(*_TAKEN_AWAY):
                self._consumer.seek(where, mark)
                self._consumer.resume(where)
                self._held[where] = mark

    def _named_anew(self) -> bool:
        """Whether the brokers have said, after what was read last, which topics these are."""
        cluster, run = self._consumer._cluster, self._consumer._net.run
        try:
            if cluster.metadata_refresh_in_progress:  # it may have been asked before
                run(cluster.refresh_metadata)
            run(cluster.refresh_metadata)
        except KafkaError:
            return False
        self._named_s = time.monotonic()
        return True

    def _check_topics(self) -> None:
        """Kafka is read by name here: raise when the name is another topic's by now, whose records must not be taken for the old one's."""
        for topic, joined in self._topic_ids.items():
            named = self._consumer._cluster.topic_id(topic)
            if named is None:
                raise KafkaUnreachable(f"topic {topic} at {self._where} is gone: make it (freshet topics create), then freshet gap accept")
            if named != joined:
                raise Gap(
                    f"topic {topic} was made anew: it was {joined} and is {named}. Rebuild from the archive (freshet rebuild), "
                    "or accept the loss on record (freshet gap accept)."
                )

    def _position(self, where: TopicPartition) -> int | None:
        """Behind what was polled last; None for a partition that is not ours any more.

        The client's own `position` looks through all partitions for each one, as its poll has just done.
        """
        state = self._consumer._subscription.assignment.get(where)
        return None if state is None or state.position is None else int(state.position.offset)

    def _highwater(self, where: TopicPartition) -> int:
        """Where the partition ends as far as the brokers have told; 0 where they have not, or it is not ours any more."""
        state = self._consumer._subscription.assignment.get(where)
        return 0 if state is None else state.highwater or 0

    def _name(self, where: TopicPartition) -> str:
        return str(where.topic)[len(self._prefix) :]


class _Notes(ConsumerRebalanceListener):  # type: ignore[misc]  # kafka-python has no types
    """What Kafka's thread writes down and the ingest thread reads: partitions given, and partitions taken away."""

    def __init__(self, consumer: KafkaConsumer) -> None:
        self._consumer, self._lock = consumer, threading.Lock()
        self._given: set[TopicPartition] = set()
        self._gone: set[TopicPartition] = set()

    def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        """Paused at a place that is none, until somebody knows where to go on."""
        assigned = list(assigned)
        for where in assigned:
            self._consumer.seek(where, 0)
        self._consumer.pause(*assigned)
        with self._lock:
            self._given.update(assigned)
            self._gone.difference_update(assigned)

    def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        """Nothing is flushed: what is not committed was not applied."""
        with self._lock:
            self._gone.update(revoked)
            self._given.difference_update(revoked)

    def on_partitions_lost(self, lost: Iterable[TopicPartition]) -> None:
        """The same: the state fences us, whether we noticed or not."""
        self.on_partitions_revoked(lost)

    def put_back(self, where: TopicPartition) -> None:
        """Claim it again, unless it has been taken away."""
        with self._lock:
            if where not in self._gone:
                with suppress(*_TAKEN_AWAY):
                    self._consumer.pause(where)
                    self._given.add(where)

    def take(self) -> list[TopicPartition]:
        """What waits to be claimed, once."""
        with self._lock:
            given, self._given = sorted(self._given), set()
            return given

    def unsettled(self) -> set[TopicPartition]:
        """What is not ours any more, or was given and not claimed yet."""
        with self._lock:
            return self._gone | self._given

    def gone(self) -> set[TopicPartition]:
        """What is not ours any more."""
        with self._lock:
            return set(self._gone)
