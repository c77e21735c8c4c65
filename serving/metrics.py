"""What this process counts and times, in the operators' format, in a registry of its own.

metrics = Metrics(); metrics.lookup_seconds.observe(0.0008); body = metrics.text()
"""

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from serving.online import Summary

LABELS_MAX: Final = 32
"""Distinct reasons of dead letters; what comes beyond counts as `other`."""
_LOOKUP_S: Final = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.05, 0.1, 0.5, 2.0)
_MEASURES: Final = {"hit_at_10": "Hit rate at 10", "ndcg_at_10": "NDCG at 10", "reciprocal_rank": "Mean reciprocal rank"}
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
        self._online_cases = Gauge("freshet_online_cases", "Events that were ranked just before they were applied", registry=registry)
        self._online_coverage = Gauge(
            "freshet_online_coverage_ratio", "Part of the catalogue in the newest answers' first ten", registry=registry
        )
        self._online_novelty = Gauge(
            "freshet_online_novelty_bits", "Mean -log2 of the share of events of what is answered", registry=registry
        )
        self.drifts = Counter("freshet_drifts_total", "Times the live model was seen to do worse than it used to", registry=registry)
        self._online = {
            measure: Gauge(f"freshet_online_{measure}", f"{said} of the newest ranked events", ["system", "segment"], registry=registry)
            for measure, said in _MEASURES.items()
        }
        self.roll_backs = Counter(
            "freshet_roll_backs_total", "Versions taken back because their predecessor would do better", registry=registry
        )
        self.shadow_lookups = Counter(
            "freshet_shadow_lookups_total", "Look-ups that a candidate in shadow ranked too, failed at, or had no time for", ["outcome"],
            registry=registry,
        )  # fmt: skip
        self.shadow_overlap = Gauge(
            "freshet_shadow_overlap_ratio", "Part of the live answers that the last candidate in shadow gave too", registry=registry
        )
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

    def online(self, summary: Summary) -> None:
        """Set what look-ups are worth lately, by system and segment."""
        self._online_cases.set(summary["cases"])
        self._online_coverage.set(summary["coverage"])
        self._online_novelty.set(summary["novelty_bits"])
        for system, segments in summary["figures"].items():
            for segment, measures in segments.items():
                for name, gauge in self._online.items():
                    gauge.labels(system, segment).set(measures[name])

    def text(self) -> bytes:
        """The exposition format."""
        return generate_latest(self.registry)
