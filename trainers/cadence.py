"""When to train: enough new events, enough time since the last run, or a drift, but never too soon after it.

reason = due(Cadence(), new_events=2_000, now_ms=now_ms, last_ms=last_run_ms)      # "" = not yet
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Cadence:
    """A run is due at `events` new ones, or `elapsed_ms` after the last if there is any new event; at least `interval_ms_min` apart."""

    events: int = 2_000
    elapsed_ms: int = 600_000
    interval_ms_min: int = 5_000

    def __post_init__(self) -> None:
        if self.events < 1 or self.interval_ms_min < 0 or self.elapsed_ms < self.interval_ms_min:
            raise ValueError(f"events must be at least 1 and elapsed_ms not below interval_ms_min >= 0: {self}")


def due(cadence: Cadence, *, new_events: int, now_ms: int, last_ms: int | None, drifted: str = "") -> str:
    """Why a run is due, in words; empty if it is not. `last_ms`: start of the last run, None = there was none. Bounds are inclusive.

    `drifted`: how the live model fell behind, if it did (`trainers/drift.py`).

    >>> due(Cadence(events=10), new_events=12, now_ms=1_000, last_ms=None)
    '12 new events, 10 are enough'
    """
    if new_events < 1:
        return ""
    waited = None if last_ms is None else now_ms - last_ms
    if waited is not None and waited < cadence.interval_ms_min:
        return ""
    if drifted:
        return f"drift: {drifted}; {new_events} new events"
    if new_events >= cadence.events:
        return f"{new_events} new events, {cadence.events} are enough"
    if waited is not None and waited >= cadence.elapsed_ms:
        return f"{waited} ms since the last run, {cadence.elapsed_ms} are enough; {new_events} new events"
    return ""
