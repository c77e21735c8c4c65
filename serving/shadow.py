"""A candidate in shadow: a share of the look-ups is ranked by it too, a little later and for nobody, and compared with what is live.

    shadow = Shadow(lookup, clock_ms, share=0.05); shadow.begin(candidate)
    shadow.note("u1", 10)      # by whoever has answered
    if shadow.stood(now_ms=now_ms): told = shadow.end()

Whether a candidate is better is the gate's to say, which knows what was taken. What a shadow can tell is whether it works where it is
going to: on these users, with these vectors, at what cost, and how much of the answers would change.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from serving.live import LiveModel
from serving.lookup import Lookup
from serving.metrics import Metrics
from serving.neural import aimed

WAITING_MAX: Final = 64
"""Look-ups that wait; what comes beyond is dropped and counted."""
STEP_LOOKUPS: Final = 2
"""Ranked in one step, each by both: the thread that steps has events to apply."""
STOOD_LOOKUPS: Final = 100
STOOD_MS: Final = 5000
"""So many look-ups ranked, or so long in shadow, is enough: where few ask nobody waits for more."""


@dataclass(frozen=True)
class Shadowed:
    """How a candidate did: look-ups compared, those that failed (an error, or a user's vector that is not finite), those dropped; mean
    share of the live answer's items that the candidate's has too; how long it took for one, in the mean.
    """

    compared: int
    failed: int
    dropped: int
    overlap: float
    mean_ms: float

    @classmethod
    def joined(cls, parts: "Sequence[Shadowed]") -> "Shadowed":
        """What several processes saw of one candidate, as one."""
        compared, failed, dropped = (sum(getattr(part, name) for part in parts) for name in ("compared", "failed", "dropped"))
        overlap = sum(part.compared * part.overlap for part in parts) / compared if compared else 1.0
        spent_ms = sum((part.compared + part.failed) * part.mean_ms for part in parts)
        return cls(compared, failed, dropped, overlap, spent_ms / max(1, compared + failed))

    @property
    def failing(self) -> str:
        """Why the candidate must not go live; empty if it may."""
        if not self.failed:
            return ""
        of = self.failed + self.compared
        return f"failed in shadow: {self.failed} of {of} look-ups had an error, a vector that is not finite, or too few items"

    @property
    def numbers(self) -> dict[str, float]:
        """For the record of the decision."""
        told = {"lookups": self.compared + self.failed, "failed": self.failed, "dropped": self.dropped}
        return {f"shadow_{name}": float(count) for name, count in told.items()} | {
            "shadow_overlap": self.overlap, "shadow_mean_ms": self.mean_ms,
        }  # fmt: skip


@dataclass
class _Seen:
    """Of one candidate, so far."""

    candidate: LiveModel
    overlaps: list[float] = field(default_factory=list)
    failed: int = 0
    dropped: int = 0
    spent_s: float = 0.0
    since_ms: int | None = None


class Shadow:
    """`note` from any thread, everything else from the one that steps. Without a candidate nothing waits and nothing is ranked."""

    def __init__(
        self, lookup: Lookup, clock_ms: Callable[[], int], *, share: float, metrics: Metrics | None = None,
        away: tuple[type[Exception], ...] = (),
    ) -> None:  # fmt: skip
        """`share` of the look-ups, evenly: every twentieth at 0.05. Errors in `away` are a store's, no candidate's: they are raised."""
        self._lookup, self._clock_ms, self._share, self._metrics, self._away = lookup, clock_ms, share, metrics, away
        self._lock, self._waiting, self._credit = threading.Lock(), deque[tuple[str, int]](), 0.0
        self._seen: _Seen | None = None

    @property
    def candidate(self) -> LiveModel | None:
        """Who stands in it."""
        return None if self._seen is None else self._seen.candidate

    @property
    def ranked(self) -> int:
        """Look-ups that the candidate has ranked or failed at."""
        return 0 if self._seen is None else len(self._seen.overlaps) + self._seen.failed

    def begin(self, candidate: LiveModel) -> None:
        """From now on look-ups are noted for this one."""
        with self._lock:
            self._waiting.clear()
            self._seen, self._credit = _Seen(candidate), 0.0

    def note(self, user_id: str, k: int) -> None:
        """Somebody was answered."""
        if self._seen is None:
            return
        with self._lock:
            self._credit += self._share
            if self._credit < 1 or self._seen is None:
                return
            self._credit -= 1
            if len(self._waiting) < WAITING_MAX:
                self._waiting.append((user_id, k))
            else:
                self._seen.dropped += 1
                self._count("dropped")

    def step(self) -> None:
        """Rank a few of those that wait."""
        for _ in range(STEP_LOOKUPS):
            with self._lock:
                if self._seen is None or not self._waiting:
                    return
                asked = self._waiting.popleft()
            self._compare(self._seen, *asked)

    def stood(self, *, now_ms: int) -> bool:
        """Rank a few more; whether the candidate has been here for long enough."""
        assert self._seen is not None, "somebody stands in it"
        if self._seen.since_ms is None:
            self._seen.since_ms = now_ms
        self.step()
        return self.ranked >= STOOD_LOOKUPS or now_ms - self._seen.since_ms >= STOOD_MS

    def end(self) -> Shadowed:
        """What was seen; nothing is noted any more."""
        with self._lock:
            seen, self._seen = self._seen, None
            self._waiting.clear()
        assert seen is not None, "a shadow ends that was begun"
        ranked = len(seen.overlaps) + seen.failed
        overlap = float(np.mean(seen.overlaps)) if seen.overlaps else 1.0
        return Shadowed(len(seen.overlaps), seen.failed, seen.dropped, overlap, 1000 * seen.spent_s / max(1, ranked))

    def _compare(self, seen: _Seen, user_id: str, k: int) -> None:
        context = self._lookup.context(user_id, now_ms=self._clock_ms())
        live, began = self._lookup.rank(context, self._lookup.live(), k=k).rows[:k], time.perf_counter()
        try:
            broken = aimed(context.history, seen.candidate, now_ms=context.now_ms) is None
            answer = self._lookup.rank(context, seen.candidate, k=k).rows[:k]
        except self._away:
            raise
        except Exception:  # noqa: BLE001  # whatever a candidate does wrong is the candidate's: nobody waits for it
            broken, answer = True, live[:0]
        seen.spent_s += time.perf_counter() - began
        if broken or len(answer) < len(live):
            seen.failed += 1
            self._count("failed")
            return
        seen.overlaps.append(len(np.intersect1d(live, answer)) / len(live) if len(live) else 1.0)
        self._count("compared")
        if self._metrics is not None:
            self._metrics.shadow_overlap.set(float(np.mean(seen.overlaps)))

    def _count(self, outcome: str) -> None:
        if self._metrics is not None:
            self._metrics.shadow_lookups.labels(outcome).inc()
