"""How long partitions stand still when they move: a worker joins, one leaves in order, one is killed.

    found, workers = stalls(site, workers, order, ("join", "leave", "kill"))

A load flows meanwhile. Watermarks and epochs of both topics are read each LOOK_S; a partition has moved when its epoch grew.
Its stall is the longest time between two advances of its watermark, from the last one before the act to the first after all
partitions are held again; `stall_s` is that of the worst partition that moved, `together_s` the longest time in which none
of those advanced, `others_s` the worst of those that stayed: what the machine and the load alone make of it (`load_late_s`: by
how much the load was late at worst so far; what was not sent could not be applied).
"""

import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final

from bench.installation import APPLIED, START_S, Installation, Mark, Program
from bench.loading import Load, Order

MOVES: Final = ("join", "leave", "kill")
LOOK_S: Final = 0.01
STEADY_S: Final = 3.0
"""Of load before each act, and after the partitions are held again."""


@dataclass
class Advances:
    """When each partition's watermark was seen to advance, and the epochs at the first and last look."""

    times: list[list[float]] = field(default_factory=list)
    first: list[Mark] = field(default_factory=list)
    last: list[Mark] = field(default_factory=list)

    def look(self, marks: list[Mark], now: float) -> None:
        """As they are now."""
        if not self.first:
            self.first, self.last, self.times = marks, marks, [[] for _ in marks]
        for times, before, mark in zip(self.times, self.last, marks, strict=True):
            if mark.watermark != before.watermark:
                times.append(now)
        self.last = marks

    def moved(self) -> list[int]:
        """The partitions that were claimed meanwhile."""
        return [n for n, (before, mark) in enumerate(zip(self.first, self.last, strict=True)) if mark.epoch > before.epoch]

    def stall_s(self, partition: int, *, since: float) -> float:
        """The longest time without an advance that ended after `since`."""
        return longest(self.times[partition], since=since)

    def together_s(self, partitions: Sequence[int], *, since: float) -> float:
        """The longest time in which none of these advanced."""
        return longest(sorted(at for n in partitions for at in self.times[n]), since=since)


def longest(times: Sequence[float], *, since: float) -> float:
    """The longest gap between neighbouring times whose end is after `since`.

    >>> longest([0.0, 5.0, 6.0, 8.0], since=5.5)
    2.0
    """
    return max((after - before for before, after in pairwise(times) if after > since), default=0.0)


def stalls(
    site: Installation, workers: Sequence[Program], order: Order, moves: Sequence[str]
) -> tuple[dict[str, dict[str, float]], list[Program]]:
    """One act after the other; returns what each took, and the workers that are left."""
    left, gone, found = list(workers), list[Program](), dict[str, dict[str, float]]()
    with Load(order) as load:
        for move in moves:
            seen = Advances()
            _watch(site, seen, seconds=STEADY_S)
            began = time.perf_counter()
            if move == "join":
                left.append(site.start("worker"))
            else:
                gone.append(left.pop(0))
                gone[-1].send(signal.SIGTERM if move == "leave" else signal.SIGKILL)
            _watch_until_held(site, seen, left)
            held_s = time.perf_counter() - began
            _watch(site, seen, seconds=STEADY_S)
            found[move] = _told(seen, began) | {"held_s": round(held_s, 2), "load_late_s": round(load.late_ms / 1000, 2)}
            if move == "leave" and gone[-1].ended():
                raise RuntimeError(f"a worker did not end in order: {gone[-1].said()}")
    return found, left


def _told(seen: Advances, since: float) -> dict[str, float]:
    moved = seen.moved()
    stayed = [n for n in range(len(seen.times)) if n not in moved]
    return {
        "moved": len(moved),
        "stall_s": round(max((seen.stall_s(n, since=since) for n in moved), default=0.0), 2),
        "together_s": round(seen.together_s(moved, since=since), 2),
        "others_s": round(max((seen.stall_s(n, since=since) for n in stayed), default=0.0), 2),
    }


def _watch(site: Installation, seen: Advances, *, seconds: float) -> None:
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        seen.look([mark for topic in APPLIED for mark in site.marks(topic)], time.perf_counter())
        time.sleep(LOOK_S)


def _watch_until_held(site: Installation, seen: Advances, workers: Sequence[Program]) -> None:
    """Looks go on while it is asked, now and then, whether these workers hold everything."""
    end = time.perf_counter() + START_S
    while not site.all_held(workers):
        dead = [worker for worker in workers if not worker.alive]
        if dead or time.perf_counter() > end:
            raise RuntimeError("\n".join(worker.said() for worker in dead or workers))
        _watch(site, seen, seconds=0.25)
