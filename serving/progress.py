"""How far ingest has come, told after each commit by whoever runs it and waited for by look-ups.

progress.advance(number=41, ts_ms=applied.ts_ms, now_ms=now_ms)      # after the commit and the caches
progress.wait(41, timeout_s=0.5)                                    # True once it is applied
"""

import itertools
import threading
from collections.abc import Callable, Mapping

import msgspec


class AsOf(msgspec.Struct, frozen=True):
    """The newest input an answer contains: information, never an order. `number` counts the log's appends, -1 = none yet."""

    number: int = -1
    ts_ms: int = 0


class Progress:
    """The newest applied append and event time. `moved_ms` is when that last changed: a stuck engine shows here."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._calls: dict[int, tuple[int, Callable[[], object]]] = {}
        self._serial = itertools.count()
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
            self._tell()

    def reached(self, number: int) -> bool:
        """Whether append `number` is applied."""
        return self._as_of.number >= number

    def wait(self, number: int, *, timeout_s: float) -> bool:
        """Whether append `number` is applied, after waiting for it at most this long."""
        if self.reached(number):
            return True
        with self._changed:
            return self._changed.wait_for(lambda: self.reached(number), timeout=max(timeout_s, 0.0))

    def call_when(self, number: int, call: Callable[[], object]) -> Callable[[], None]:
        """Call once append `number` is applied, in the thread that applies it; at once if it is. What is returned takes that back.

        For who must not hold a thread while it waits. `call` may not block.
        """
        with self._changed:
            if self.reached(number):
                call()
                return lambda: None
            key = next(self._serial)
            self._calls[key] = (number, call)

        def take_back() -> None:
            with self._changed:
                self._calls.pop(key, None)

        return take_back

    def _tell(self) -> None:
        """Under the lock: wake who waits."""
        self._changed.notify_all()
        for key, (number, call) in list(self._calls.items()):
            if self.reached(number):
                del self._calls[key]
                call()


class PartitionProgress(Progress):
    """The same where every partition counts for itself: the number of an append is offset * partitions + partition.

    `as_of.number` is then how many records are applied in all, less one: it tells of more or less, and orders nothing.
    """

    def __init__(self, partitions: int) -> None:
        super().__init__()
        self._marks = [0] * partitions

    def number_of(self, partition: int, offset: int) -> int:
        """The number that stands for where an append landed."""
        return offset * len(self._marks) + partition

    def reached(self, number: int) -> bool:
        """Whether its partition's watermark is beyond its offset."""
        offset, partition = divmod(number, len(self._marks))
        return self._marks[partition] > offset

    def move(self, marks: Mapping[int, int], *, ts_ms: int, now_ms: int) -> None:
        """Watermarks as they are now; one may also have gone back, after a rebuild."""
        with self._changed:
            for partition, mark in marks.items():
                if mark != self._marks[partition]:
                    self._marks[partition], self.moved_ms = mark, now_ms
            self._as_of = AsOf(sum(self._marks) - 1, max(ts_ms, self._as_of.ts_ms))
            self._tell()
