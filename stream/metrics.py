"""What a worker counts and times, in the operators' format, in a registry of its own.

    metrics = Metrics(watch.progress, clock_ms=now_ms); worker.watched = metrics.at; run(worker, ..., told=metrics.told); metrics.text()

Of each partition held there is its watermark, its lag and how old the first record that waits is; a partition that is given
away is no longer listed, so that summed over the workers every partition counts once.
"""

import time
from collections.abc import Callable, Iterator
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from stream.edges import EDGES
from stream.ingest import EVENTS, Applied
from stream.watching import SERVICES, Progress
from stream.worker import Round

REASONS_MAX: Final = 32
"""Distinct reasons of dead letters; what comes beyond counts as `other`."""
DELAYS_MAX: Final = 64
"""Of a large batch so many records stand for all in the histogram of delays."""
_COMMITS: Final = {"commit": EVENTS, "edges commit": EDGES}
"""What the named points around a commit are about."""
_COMMIT_S: Final = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)
_DELAY_S: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 300.0, 3600.0)


class Metrics:
    """Counters rise with each round, on the hot path's thread; gauges are made of the last look when they are read."""

    def __init__(self, progress: Progress, *, clock_ms: Callable[[], int], timer: Callable[[], float] = time.perf_counter) -> None:
        self._clock_ms, self._timer = clock_ms, timer
        self.registry = registry = CollectorRegistry()
        self._events = Counter("freshet_worker_events_total", "Events applied to the state", registry=registry)
        self._edges = Counter("freshet_worker_edges_total", "Edges applied to neighbour lists", registry=registry)
        self._duplicates = Counter("freshet_worker_duplicates_total", "Events that had been applied before", registry=registry)
        self._dead_letters = Counter("freshet_worker_dead_letters_total", "Refused input", ["reason"], registry=registry)
        self._refused = Counter("freshet_worker_refused_commits_total", "Batches dropped: another claimed it", ["topic"], registry=registry)
        self._commit = Histogram(
            "freshet_worker_commit_seconds", "Time of one commit to the state", ["topic"], buckets=_COMMIT_S, registry=registry
        )
        self._delay = Histogram(
            "freshet_worker_commit_delay_seconds", "From an event's append to its commit", buckets=_DELAY_S, registry=registry
        )
        for topic in (EVENTS, EDGES):  # there from the start, so that the first refusal is a rise
            self._refused.labels(topic)
            self._commit.labels(topic)
        self._reasons: set[str] = set()
        self._began: dict[str, float] = {}
        registry.register(_Held(progress, clock_ms))
        ProcessCollector(registry=registry)

    def told(self, done: Round) -> None:
        """What a round has done."""
        self._edges.inc(done.edges)
        for applied in done.applied:
            self._count(applied)

    def at(self, point: str) -> None:
        """A named point of a commit is reached, or one was refused."""
        when, _, what = point.partition(" ")
        topic = _COMMITS.get(what)
        if when == "refused":
            self._refused.labels(what).inc()
        elif topic is not None and when == "before":
            self._began[topic] = self._timer()
        elif topic is not None and topic in self._began:
            self._commit.labels(topic).observe(self._timer() - self._began.pop(topic))

    def text(self) -> bytes:
        """The exposition format."""
        return generate_latest(self.registry)

    def _count(self, applied: Applied) -> None:
        self._events.inc(applied.events)
        self._duplicates.inc(applied.duplicates)
        for letter in applied.dead_letters:
            self._dead_letters.labels(self._reason(letter.kind)).inc()
        records, now_ms = applied.decoded.records, self._clock_ms()
        for record in records[:: max(len(records) // DELAYS_MAX, 1)]:
            self._delay.observe(max(now_ms - record.append_ms, 0) / 1000)

    def _reason(self, kind: str) -> str:
        if kind not in self._reasons and len(self._reasons) >= REASONS_MAX:
            return "other"
        self._reasons.add(kind)
        return kind


class _Held(Collector):
    """The partitions held, as last seen, and what stands still or does not answer."""

    def __init__(self, progress: Progress, clock_ms: Callable[[], int]) -> None:
        self._progress, self._clock_ms = progress, clock_ms

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Gauges made anew at each reading."""
        look, now_ms = self._progress.look, self._clock_ms()
        held = GaugeMetricFamily("freshet_worker_partitions", "Partitions held", labels=["topic"])
        for topic in (EVENTS, EDGES):
            held.add_metric([topic], sum(where[0] == topic for where in look.partitions))
        where_labels = ["topic", "partition"]
        watermark = GaugeMetricFamily("freshet_worker_watermark_offset", "Next offset to apply", labels=where_labels)
        lag = GaugeMetricFamily("freshet_worker_lag_records", "Records in the log that are not applied yet", labels=where_labels)
        behind = GaugeMetricFamily("freshet_worker_behind_seconds", "Age of the first record that is not applied yet", labels=where_labels)
        for (topic, partition), standing in sorted(look.partitions.items()):
            labels = [topic, str(partition)]
            watermark.add_metric(labels, standing.watermark)
            lag.add_metric(labels, standing.lag)
            behind.add_metric(labels, standing.behind_ms / 1000)
        yield from (held, watermark, lag, behind)
        stuck = self._progress.stuck_ms(now_ms) / 1000
        yield GaugeMetricFamily("freshet_worker_stuck_seconds", "Since when records wait, or may wait, and no watermark moves", stuck)
        away = GaugeMetricFamily("freshet_worker_service_away", "Whether a service does not answer", labels=["service"])
        for service in SERVICES:
            away.add_metric([service], self._progress.away(now_ms) == service)
        yield away
