"""Edges that have come and wait, and the thread that applies them: those of several partitions together, beside the events.

To write a list costs more than to change it, and busy nodes come again and again: so what comes within EVERY_MS is applied
together, and so is whatever comes while the last of it is being applied.

    gathering = Gathering(connecting, on_refusal); gathering.claim(3); gathering.add(3, records, end, now_ms=now_ms)
    edges = gathering.step(now_ms=now_ms)
"""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final

from storage.log import Record
from storage.state import Refusal
from stream.connecting import Arrived, Connecting

EVERY_MS: Final = 150
UNDER_WAY_MS: Final = 10
"""Until it is looked again whether the next may begin."""
RECORDS_MAX: Final = 512
"""Of one partition; so many do not wait any longer."""
TOGETHER_BYTES: Final = 4 << 20
"""Applied at once, but for what a single partition has."""
WAITING_BYTES_MAX: Final = 64 << 20
"""With more than this waiting the reader waits too."""
OnRefusal = Callable[[int, Exception], None]


@dataclass
class _Waiting:
    """Of one partition."""

    records: list[Record] = field(default_factory=list)
    end: int = 0
    since_ms: int = 0
    size: int = 0

    def due_ms(self, now_ms: int) -> int:
        """When, from now on; a clock that was set back makes nothing wait."""
        waited_ms = now_ms - self.since_ms
        return 0 if waited_ms < 0 or len(self.records) >= RECORDS_MAX else max(EVERY_MS - waited_ms, 0)


class Gathering:
    """For one thread, on which `on_refusal` is called too."""

    def __init__(self, connecting: Connecting, *, on_refusal: OnRefusal) -> None:
        self._connecting, self._on_refusal = connecting, on_refusal
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="connecting")
        self._waiting: dict[int, _Waiting] = {}
        self._under_way: tuple[list[Arrived], Future[list[int | Refusal]]] | None = None
        self._edges = 0

    @property
    def idle(self) -> bool:
        """Whether nothing waits and nothing is under way."""
        return not self._waiting and self._under_way is None

    def claim(self, partition: int) -> int:
        """Claim a partition: what waited of it is read again. Returns its watermark; raises `Gap`."""
        self._settle()
        self._waiting.pop(partition, None)
        return self._connecting.claim_partition(partition)

    def add(self, partition: int, records: Sequence[Record], end: int, *, now_ms: int) -> None:
        """Records of a claimed partition, behind those that wait already."""
        waiting = self._waiting.setdefault(partition, _Waiting(since_ms=now_ms))
        waiting.records += records
        waiting.size += sum(len(record.value) for record in records)
        waiting.end = end

    def patience_ms(self, now_ms: int) -> int:
        """For how long there is nothing to be done here, unless more comes."""
        return UNDER_WAY_MS if self._under_way is not None else self._due_ms(now_ms)

    def step(self, *, now_ms: int) -> int:
        """Begin with what is due, if nothing is under way; how many edges were applied since the last call. Raises what went wrong.

        Waits while more than WAITING_BYTES_MAX wait.
        """
        if self._under_way is not None and self._under_way[1].done():
            self._settle()
        if self._under_way is None and self._due_ms(now_ms) == 0:
            self._begin()
        while sum(waiting.size for waiting in self._waiting.values()) > WAITING_BYTES_MAX:
            self._settle()
            self._begin()
        edges, self._edges = self._edges, 0
        return edges

    def _due_ms(self, now_ms: int) -> int:
        return min((waiting.due_ms(now_ms) for waiting in self._waiting.values()), default=EVERY_MS)

    def close(self) -> None:
        """Let what is under way end, drop the rest: whoever comes next reads it again."""
        self._executor.shutdown(wait=True, cancel_futures=True)

    def _begin(self) -> None:
        """With those that have waited longest, and with others too where it is little."""
        first, size = list[Arrived](), 0
        for partition, waiting in sorted(self._waiting.items(), key=lambda one: one[1].since_ms):
            size += waiting.size
            if first and size > TOGETHER_BYTES:
                break
            first.append(Arrived(partition, waiting.records, waiting.end))
        for one in first:
            del self._waiting[one.partition]
        self._under_way = first, self._executor.submit(self._connecting.apply_each, first)

    def _settle(self) -> None:
        """Wait for what is under way, and count it."""
        if self._under_way is None:
            return
        (arrived, future), self._under_way = self._under_way, None
        for one, counted in zip(arrived, future.result(), strict=True):
            if isinstance(counted, Exception):
                self._waiting.pop(one.partition, None)
                self._on_refusal(one.partition, counted)
            else:
                self._edges += counted
