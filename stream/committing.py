"""What follows the reducing of a batch, on a thread of its own: edges on the log, acknowledged, then the commit.

So the next partition's batch is decoded and reduced meanwhile. Of a partition there is at most one batch under way, and
after a refusal none until it is claimed again: the next one is reduced over what this one writes, and an edge that is sent
behind a hole would make those in the hole look old. The first error ends everything: nothing more is sent.

    committing = Committing(ingest, on_commit)
    if committing.settle(3): committing.submit(3, ingest.prepare(decoded), end=17, now_ms=now_ms)
    done = committing.collect(wait=True)
"""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

from storage.state import Fenced, WatermarkMoved
from stream.ingest import Applied, Ingest, Prepared

UNDER_WAY_MAX: Final = 3
"""Batches reduced and not committed: each holds all it will write."""
OnCommit = Callable[[int, Applied, int], None]
"""(partition, what was applied, where the reader stands), on the committing thread."""
OnRefusal = Callable[[int, Exception], None]


class _Ended(RuntimeError):
    """An earlier batch met an error: this one was not sent."""


class Committing:
    """For one thread that reduces; `on_refusal` is called there, from `settle` or `collect`."""

    def __init__(self, ingest: Ingest, *, on_commit: OnCommit, on_refusal: OnRefusal) -> None:
        self._ingest, self._on_commit, self._on_refusal = ingest, on_commit, on_refusal
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="committing")
        self._under_way: dict[int, Future[Applied]] = {}
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

    def submit(self, partition: int, prepared: Prepared, *, end: int, now_ms: int) -> None:
        """Publish and commit a settled partition's next batch, behind those of other partitions; waits while too many are."""
        assert partition not in self._under_way and partition not in self._refused, f"partition {partition} is not settled"
        while len(self._under_way) >= UNDER_WAY_MAX:
            self._take(next(iter(self._under_way)))
        self._under_way[partition] = self._executor.submit(self._finish, partition, prepared, end, now_ms)

    def collect(self, *, wait: bool) -> list[Applied]:
        """What was committed since the last call, in order; with `wait` everything submitted."""
        for partition, future in list(self._under_way.items()):
            if wait or future.done():
                self._take(partition)
        done, self._done = self._done, []
        return done

    def close(self) -> None:
        """Let the commit at hand end, drop the rest."""
        self._ended = True
        self._executor.shutdown(wait=True, cancel_futures=True)

    def _take(self, partition: int) -> None:
        future = self._under_way.pop(partition, None)
        if future is None:
            return
        try:
            self._done.append(future.result())
        except (Fenced, WatermarkMoved) as refusal:
            self._refused.add(partition)
            self._on_refusal(partition, refusal)

    def _finish(self, partition: int, prepared: Prepared, end: int, now_ms: int) -> Applied:
        if self._ended:
            raise _Ended("nothing is sent after an error")
        try:
            self._ingest.publish([prepared], now_ms=now_ms)
            applied = self._ingest.commit(prepared, ends={partition: end})
            self._on_commit(partition, applied, end)
        except (Fenced, WatermarkMoved):
            raise
        except BaseException:
            self._ended = True
            raise
        return applied
