"""How far ingest has come, told after each commit by whoever runs it and waited for by look-ups.

progress.advance(number=41, ts_ms=applied.ts_ms, now_ms=now_ms)      # after the commit and the caches
progress.wait(41, timeout_s=0.5)                                    # True once it is applied
"""

import threading

import msgspec


class AsOf(msgspec.Struct, frozen=True):
    """The newest input an answer contains: information, never an order. `number` counts the log's appends, -1 = none yet."""

    number: int = -1
    ts_ms: int = 0


class Progress:
    """The newest applied append and event time. `moved_ms` is when that last changed: a stuck engine shows here."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._as_of = AsOf()
        self.moved_ms = 0

    @property
    def as_of(self) -> AsOf:
        """What any read that starts now sees at least."""
        return self._as_of

    def advance(self, *, number: int, ts_ms: int, now_ms: int) -> None:
        """`number` (inclusive) and all before it are applied and can be seen; ts_ms is the newest event time among them."""
        with self._changed:
            self._as_of = AsOf(max(number, self._as_of.number), max(ts_ms, self._as_of.ts_ms))
            self.moved_ms = now_ms
            self._changed.notify_all()

    def wait(self, number: int, *, timeout_s: float) -> bool:
        """Whether append `number` is applied, after waiting for it at most this long."""
        if self._as_of.number >= number:
            return True
        with self._changed:
            return self._changed.wait_for(lambda: self._as_of.number >= number, timeout=max(timeout_s, 0.0))
