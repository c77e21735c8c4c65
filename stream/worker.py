"""One worker's share: events to state and edges, edges to neighbours, round after round.

Not faust: `stream/app.py` runs this as a service inside the faust worker. One thread reads, decodes and reduces, another
commits (`stream/committing.py`), others apply edges (`stream/gathering.py`) and archive (`stream/archiver.py`). Many workers
share the partitions of both topics by Kafka's group, and what each may write is decided by the state.

    worker = Worker(kafka, state, log, shape); worker.round(now_ms=now_ms); worker.close()
"""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from storage.log import PACK, Log
from storage.names import Names
from storage.state import Fenced, State, WatermarkMoved
from stream.archiver import Archiver
from stream.collecting import collect_seldom
from stream.committing import Committing, Reduced
from stream.connecting import Connecting
from stream.consuming import Batch, BatchConsumer
from stream.edges import EDGES
from stream.gathering import Gathering
from stream.ingest import EVENTS, Applied, Ingest, Prepared, no_fault
from stream.kafka import SESSION_MS, Kafka
from stream.parting import parted
from stream.shape import Shape
from stream.wire import Decoded, decode

log = logging.getLogger(__name__)
GROUP: Final = "freshet"
RECORDS_MAX: Final = 16_384
"""In one poll: while one partition's batch is committed, another's is reduced."""
PACKS_MAX: Final = 256
"""In one poll, after one that brought packs: edges are read only between polls."""
EVENTS_AT_ONCE: Final = 32_768
"""A commit holds at most about so many events: a larger one would keep Redis from answering look-ups."""
PACK_WEIGHT: Final = 256
"""For how many events a pack counts before it is opened."""
TOGETHER_BYTES: Final = 256 << 10
"""So little is reduced at once, whatever partitions it is of: one after the other they would wait for more than they work."""
REST_SHARE: Final = 0.5
"""Of the time that a round of so little took: others have the cores meanwhile, and the next round does more for its price."""
REST_MAX_S: Final = 0.05


@dataclass(frozen=True)
class Round:
    """What one round did."""

    events: int = 0
    edges: int = 0
    applied: tuple[Applied, ...] = ()
    rest_s: float = 0.0
    """How long to wait before the next round."""


@dataclass
class Health:
    """What a worker has applied since it began, and its reader's place in what it holds; for other threads to read."""

    events: int = 0
    edges: int = 0
    held: dict[tuple[str, int], int] = field(default_factory=dict)


class Worker:
    """Raises whatever the log or the state raise beyond a refused commit: then nothing more may be sent, and the process ends."""

    def __init__(  # noqa: PLR0913  # what it works on, and how
        self, kafka: Kafka, state: State, edges_log: Log, shape: Shape, *, group: str = GROUP, session_ms: int = SESSION_MS,
        archiver: Archiver | None = None, fault: Callable[[str], None] = no_fault,
    ) -> None:  # fmt: skip
        """With an `archiver` what is applied is handed on to it; it is closed with the worker."""
        self._state, self._archiver, self._fault = state, archiver, fault
        self.watched: Callable[[str], None] = no_fault
        """Told each named point of a commit, and `refused TOPIC`."""
        self._ingest = Ingest(state, edges_log, shape, names=Names(state), edges_apart=True, fault=self._at)
        self._committing = Committing(self._ingest, on_commit=self._committed, on_refusal=partial(self._refused, EVENTS))
        self._gathering = Gathering(Connecting(state, edges_log, shape, fault=self._at), on_refusal=partial(self._refused, EDGES))
        self.health = Health()
        self._packs = False
        self._consumer = BatchConsumer(kafka, group=group, topics=(EVENTS, EDGES), claim=self._claim, session_ms=session_ms)

    @property
    def held(self) -> dict[tuple[str, int], int]:
        """The partitions this worker has claimed, and its reader's place in each."""
        return self._consumer.held

    def watermarks(self) -> dict[tuple[str, int], int]:
        """The stored watermarks of what is held, asked of the state; from any thread."""
        held = self.health.held
        stored = {topic: self._state.watermarks(topic) for topic in {topic for topic, _ in held} or {EVENTS}}
        return {(topic, partition): stored[topic].get(partition, 0) for topic, partition in held}

    def round(self, *, now_ms: int, timeout_ms: int = 100) -> Round:
        """Poll once; events are applied at once, edges when enough wait or have waited long enough. Raises `Gap`.

        While more is there to be read, the last commits may still be under way, and edges always: a later round tells of them.
        """
        timeout_ms = min(timeout_ms, self._gathering.patience_ms(now_ms))
        batches = self._consumer.poll(timeout_ms=timeout_ms, records_max=PACKS_MAX if self._packs else RECORDS_MAX)
        begin, size = time.perf_counter(), sum(len(record.value) for batch in batches for record in batch.records)
        self._packs = any(batch.records[0].form == PACK for batch in batches if batch.topic == EVENTS and batch.records)
        self._apply([batch for batch in batches if batch.topic == EVENTS], now_ms)
        for batch in batches:
            if batch.topic == EDGES:
                self._gathering.add(batch.partition, batch.records, batch.end, now_ms=now_ms)
        edges = self._gathering.step(now_ms=now_ms)
        applied = self._committing.collect(wait=not self._consumer.behind())
        rest_s = rest_after(time.perf_counter() - begin, size=size)
        done = Round(sum(one.events for one in applied), edges, tuple(applied), rest_s)
        self._note(done)
        return done

    def close(self) -> None:
        """Leave the group. What waits is read again by whoever comes next."""
        self._committing.close()
        self._gathering.close()
        self._consumer.close()
        if self._archiver is not None:
            self._archiver.close()

    def _note(self, done: Round) -> None:
        health = self.health
        health.events, health.edges, health.held = health.events + done.events, health.edges + done.edges, self.held

    def _at(self, point: str) -> None:
        self.watched(point)
        self._fault(point)

    def _claim(self, topic: str, partition: int) -> int:
        if topic == EVENTS:
            self._committing.settle(partition)
            mark = self._ingest.claim_partition(partition)
            self._committing.claimed(partition)
            if self._archiver is not None:
                self._archiver.claimed(partition, incarnation=self._ingest.incarnation(partition), watermark=mark)
            return mark
        return self._gathering.claim(partition)

    def _apply(self, batches: Sequence[Batch], now_ms: int) -> None:
        """Little of many partitions at once; else turn by turn a piece of each, so that another's is reduced while one is committed."""
        if sum(len(record.value) for batch in batches for record in batch.records) <= TOGETHER_BYTES:
            self._apply_together([batch for batch in batches if self._committing.settle(batch.partition)], now_ms)
            return
        left = {batch.partition: pieces(batch) for batch in batches}
        while left:
            for partition, rest in list(left.items()):
                decoded, end = next(rest, (None, 0))
                prepared = None
                if decoded is not None and self._committing.settle(partition):
                    prepared = self._prepare(decoded, [partition])
                if prepared is None:
                    del left[partition]
                else:
                    self._committing.submit([Reduced(partition, prepared, end)], now_ms=now_ms)

    def _apply_together(self, batches: Sequence[Batch], now_ms: int) -> None:
        records = [record for batch in batches for record in batch.records]
        together = self._prepare(decode(records), [batch.partition for batch in batches])
        if together is None:
            return
        prepared = dict(parted(together)) if records else {}
        for batch in batches:
            if not batch.records:  # only its reader has moved on
                prepared[batch.partition] = self._ingest.prepare(decode([]))
        self._committing.submit([Reduced(batch.partition, prepared[batch.partition], batch.end) for batch in batches], now_ms=now_ms)

    def _prepare(self, decoded: Decoded, partitions: Sequence[int]) -> Prepared | None:
        """None when one of them is not as it was left; who owns which is then seen anew, of all of them."""
        try:
            return self._ingest.prepare(decoded)
        except (Fenced, WatermarkMoved) as refusal:
            for partition in partitions:
                self._refused(EVENTS, partition, refusal)
            return None

    def _committed(self, partition: int, applied: Applied, end: int) -> None:
        if self._archiver is not None:
            self._archiver.applied(partition, applied.decoded, end)

    def _refused(self, topic: str, partition: int, refusal: Exception) -> None:
        log.warning("commit_refused topic=%s partition=%d: %s", topic, partition, refusal)
        self.watched(f"refused {topic}")
        self._consumer.refused(topic, partition)


def rest_after(worked_s: float, *, size: int) -> float:
    """Seconds to wait after a round that worked on `size` bytes for so long: none where nothing came, or so much that more is waiting.

    >>> rest_after(0.02, size=1000), rest_after(0.02, size=1 << 20), rest_after(0.02, size=0), rest_after(9.0, size=1000)
    (0.01, 0.0, 0.0, 0.05)
    """
    return min(REST_MAX_S, REST_SHARE * worked_s) if 0 < size <= TOGETHER_BYTES else 0.0


def pieces(batch: Batch) -> Iterator[tuple[Decoded, int]]:
    """A batch in pieces of about EVENTS_AT_ONCE events, each with where its reader stands; the last one ends where the batch does."""
    begin = weight = 0
    for n, record in enumerate(batch.records[:-1], start=1):
        weight += PACK_WEIGHT if record.form == PACK else 1
        if weight >= EVENTS_AT_ONCE:
            yield decode(batch.records[begin:n]), record.offset + 1
            begin, weight = n, 0
    yield decode(batch.records[begin:]), batch.end


def run(
    worker: Worker, *, clock_ms: Callable[[], int], stopping: Callable[[], bool], told: Callable[[Round], None] = lambda _: None,
    rest: Callable[[float], object] = time.sleep,
) -> None:  # fmt: skip
    """Rounds until told to stop; then leave the group. Whatever goes wrong ends it, after which nothing more is sent."""
    collect_seldom()
    try:
        while not stopping():
            done = worker.round(now_ms=clock_ms())
            told(done)
            if done.rest_s:
                rest(done.rest_s)
    finally:
        worker.close()
