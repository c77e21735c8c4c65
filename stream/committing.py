"""What follows the reducing of batches, on a thread of its own: edges on the log, acknowledged, then the commits.

So the next partition's batch is decoded and reduced meanwhile. Small batches that wait go together, with one acknowledgement
and one round trip of commits to wait for. Of a partition there is at most one batch under way, and after a refusal none until
it is claimed again: the next one is reduced over what this one writes, and an edge that is sent behind a hole would make those
in the hole look old. The first error ends everything: nothing more is sent.

    committing = Committing(ingest, on_commit)
    if committing.settle(3): committing.submit([Reduced(3, ingest.prepare(decoded), end=17)], now_ms=now_ms)
    done = committing.collect(wait=True)
"""

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final

from storage.state import Fenced, WatermarkMoved
from stream.ingest import Applied, Ingest, Prepared

UNDER_WAY_MAX: Final = 90_000
"""Events of batches that are reduced and not committed, which hold all they will write: three of the largest."""
TOGETHER_MAX: Final = 4096
"""Events of batches that go together: of larger ones the first need not wait for the last."""
OnCommit = Callable[[int, Applied, int], None]
"""(partition, what was applied, where the reader stands), on the committing thread."""
OnRefusal = Callable[[int, Exception], None]


class _Ended(RuntimeError):
    """An earlier batch met an error: this one was not sent."""


@dataclass(frozen=True)
class Reduced:
    """One partition's batch, and where its reader stands behind it."""

    partition: int
    prepared: Prepared
    end: int


@dataclass(frozen=True)
class _Batch:
    """On its way."""

    reduced: Reduced
    now_ms: int
    done: "Future[Applied]" = field(default_factory=Future)

    def __len__(self) -> int:
        return len(self.reduced.prepared.decoded)


class Committing:
    """For one thread that reduces; `on_refusal` is called there, from `settle` or `collect`."""

    def __init__(self, ingest: Ingest, *, on_commit: OnCommit, on_refusal: OnRefusal) -> None:
        self._ingest, self._on_commit, self._on_refusal = ingest, on_commit, on_refusal
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="committing")
        self._under_way: dict[int, _Batch] = {}
        self._waiting: deque[_Batch] = deque()
        self._done: list[Applied] = []
        self._refused: set[int] = set()
        self._ended = False

    def claimed(self, partition: int) -> None:
        """The partition may go on after a refusal."""
        self._refused.discard(partition)

    def settle(self, partition: int) -> bool:
        """Wait for the partition's batch that is under way; whether the next one may be reduced over the state as it is now."""
        self._take(partition)
        return partition not in self._refused

    def submit(self, batches: Sequence[Reduced], *, now_ms: int) -> None:
        """Publish and commit settled partitions' next batches, behind those of others; waits while too much is under way."""
        for one in batches:
            settled = one.partition not in self._under_way and one.partition not in self._refused
            assert settled, f"partition {one.partition} is not settled"
        while sum(map(len, self._under_way.values())) >= UNDER_WAY_MAX:
            self._take(next(iter(self._under_way)))
        for one in batches:
            batch = self._under_way[one.partition] = _Batch(one, now_ms)
            self._waiting.append(batch)
        for _ in batches:
            self._executor.submit(self._finish_waiting)

    def collect(self, *, wait: bool) -> list[Applied]:
        """What was committed since the last call, in order; with `wait` everything submitted."""
        for partition, batch in list(self._under_way.items()):
            if wait or batch.done.done():
                self._take(partition)
        done, self._done = self._done, []
        return done

    def close(self) -> None:
        """Let the commits at hand end, drop the rest."""
        self._ended = True
        self._executor.shutdown(wait=True, cancel_futures=True)

    def _take(self, partition: int) -> None:
        batch = self._under_way.pop(partition, None)
        if batch is None:
            return
        try:
            self._done.append(batch.done.result())
        except (Fenced, WatermarkMoved) as refusal:
            self._refused.add(partition)
            self._on_refusal(partition, refusal)

    def _finish_waiting(self) -> None:
        """Submitted with each batch; one that an earlier call took along leaves nothing to do."""
        batches = self._next()
        try:
            if batches:
                self._finish(batches)
        except BaseException as error:  # noqa: BLE001  # raised where it is collected
            self._ended = True
            for batch in batches:
                if not batch.done.done():
                    batch.done.set_exception(error)

    def _next(self) -> list[_Batch]:
        """The batch that has waited longest, and those behind it that go with it."""
        batches: list[_Batch] = []
        while self._waiting and (not batches or sum(map(len, batches)) + len(self._waiting[0]) <= TOGETHER_MAX):
            batches.append(self._waiting.popleft())
        return batches

    def _finish(self, batches: list[_Batch]) -> None:
        if self._ended:
            raise _Ended("nothing is sent after an error")
        self._ingest.publish([batch.reduced.prepared for batch in batches], now_ms=batches[-1].now_ms)
        reduced = [batch.reduced for batch in batches]
        done = self._ingest.commit_each([(one.prepared, {one.partition: one.end}) for one in reduced])
        for batch, one, applied in zip(batches, reduced, done, strict=True):
            if isinstance(applied, Exception):
                batch.done.set_exception(applied)
                continue
            self._on_commit(one.partition, applied, one.end)
            batch.done.set_result(applied)
