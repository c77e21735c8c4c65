"""What this process counts and times, in the operators' format, in a registry of its own.

metrics = Metrics(); metrics.lookup_seconds.observe(0.0008); body = metrics.text()
"""

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

LABELS_MAX: Final = 32
"""Distinct reasons of dead letters; what comes beyond counts as `other`."""
_LOOKUP_S: Final = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.05, 0.1, 0.5, 2.0)
_VISIBLE_S: Final = (0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0)


class Metrics:
    """Every metric names its unit. Counters only rise; gauges are set by whoever knows, at the latest when they are read."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.events_accepted = Counter("freshet_events_accepted_total", "Events applied to the state", registry=registry)
        self.lag_records = Gauge("freshet_lag_records", "Records in the log that are not applied yet", registry=registry)
        self.dirty_items = Gauge("freshet_dirty_items", "Items whose vector waits to be refreshed", registry=registry)
        self.visible_seconds = Histogram(
            "freshet_visible_seconds", "From an event's append to its being visible to look-ups", buckets=_VISIBLE_S, registry=registry
        )
        self.lookup_seconds = Histogram("freshet_lookup_seconds", "Time of one look-up", buckets=_LOOKUP_S, registry=registry)
        self.promotions = Counter("freshet_promotions_total", "Candidates that went live", registry=registry)
        self.refusals = Counter("freshet_refusals_total", "Candidates that the gate refused", registry=registry)
        self._dead_letters = Counter("freshet_dead_letters_total", "Refused input", ["reason"], registry=registry)
        self._model = Gauge("freshet_model_info", "The live model", ["version", "generation", "collection"], registry=registry)
        self._reasons: set[str] = set()

    def dead_letters(self, reason: str, count: int = 1) -> None:
        """Count dead letters of a kind (`DeadLetter.kind`, a bounded set)."""
        if reason not in self._reasons:
            if len(self._reasons) >= LABELS_MAX:
                reason = "other"
            self._reasons.add(reason)
        self._dead_letters.labels(reason).inc(count)

    def model(self, version: str, *, generation: int, collection: str) -> None:
        """Say which model is live; the one before is no longer listed."""
        self._model.clear()
        self._model.labels(version, str(generation), collection).set(1)

    def text(self) -> bytes:
        """The exposition format."""
        return generate_latest(self.registry)
