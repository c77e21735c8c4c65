"""What must be there after a fault, and what is: lost, doubled, and whatever else is wrong.

wanted = Wanted(site.shape); wanted.add(messages, site.fill(messages)); ...; verdict = judged(site, wanted, recovery_s=3.2)
"""

import math
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from bench.faults.messages import Message
from bench.faults.sites import Site
from bench.oracle import Oracle
from freshet.operators.cluster_verify import verify
from storage.archive import Archive
from storage.log import Position
from storage.state import COUNTS, HISTORIES, NEIGHBOURS, SEEN
from stream.events import Event
from stream.ingest import EVENTS
from stream.shape import Shape

NEAR: Final = 1e-3
"""Of a list's weight: edges of several partitions meet in another order, and rounding with them."""


@dataclass(frozen=True)
class Verdict:
    """Events without their effect, events with more than one, seconds to recover; in words what else is not as it must be."""

    lost: int
    doubled: int
    recovery_s: float
    wrong: tuple[str, ...] = ()

    def and_also(self, *wrong: str) -> "Verdict":
        """With what the fault itself saw to be wrong."""
        return replace(self, wrong=(*self.wrong, *filter(None, wrong)))


class Wanted:
    """What everything on the log must come to: an oracle, and how many records are refused."""

    def __init__(self, shape: Shape) -> None:
        self.oracle, self.dead = Oracle(shape), 0

    @property
    def accepted(self) -> int:
        """Events, repeated ones included."""
        return sum(self.oracle.accepted.values())

    def add(
        self, messages: Sequence[Message], positions: Sequence[Position], *, incarnation: int = 0,
        given_up: Callable[[Position], bool] = lambda _: False,
    ) -> None:  # fmt: skip
        """Messages where they lie; not those that an accepted loss names."""
        for message, at in zip(messages, positions, strict=True):
            if given_up(at):
                continue
            self.dead += message.refused
            for index, event in message.events.items():
                self.event(event, at, index, incarnation=incarnation)

    def event(self, event: Event, at: Position, index: int = 0, *, incarnation: int = 0) -> None:
        """One event that must be accepted."""
        self.oracle.apply(event, f"{EVENTS}:{incarnation}:{at.partition}:{at.offset}:{index}")


def judged(site: Site, wanted: Wanted, *, recovery_s: float, archive: Archive | None = None) -> Verdict:
    """Compare everything, once all is applied."""
    oracle, totals = wanted.oracle, site.totals()
    missing, extra = _counted(site, oracle)
    letters = len({letter.origin for letter in site.letters()})
    lost = max(missing, wanted.accepted - totals["accepted"]) + max(0, wanted.dead - letters)
    doubled = max(extra, totals["accepted"] - wanted.accepted) + max(0, totals["dead"] - wanted.dead)
    wrong = []
    truth = {"accepted": wanted.accepted, "duplicates": sum(oracle.duplicates.values()), "dead": wanted.dead}
    if totals != truth or letters != wanted.dead:
        wrong.append(f"totals are {totals} with {letters} dead letters, not {truth}")
    for partition in range(site.shape.partitions):
        exact = (HISTORIES, SEEN, COUNTS, NEIGHBOURS)[: 4 if site.shape.partitions == 1 else 3]
        wrong += [
            f"{table} of partition {partition} are not the oracle's"
            for table in exact
            if dict(site.state.scan(table, partition)) != oracle.blobs(table, partition)
        ]
        apart = _weights(dict(site.state.scan(NEIGHBOURS, partition)), oracle.blobs(NEIGHBOURS, partition))
        if not oracle.trims and apart > NEAR:
            wrong.append(f"neighbours of partition {partition} weigh not what the oracle's do: {apart:.2g} apart")
    return Verdict(max(0, lost), max(0, doubled), recovery_s, (*wrong, *unlike_a_replay(site, archive)))


def unlike_a_replay(site: Site, archive: Archive | None = None) -> list[str]:
    """Digests of histories, seen-sets and counts against a replay of events, of neighbours against one of `edges`."""
    found = verify(site.services, archive if archive is not None else site.archive, told=lambda _: None)
    return [
        f"partition {live.partition} is not its replay: {live} and {again}"
        for live, again in zip(found.live, found.replay, strict=True)
        if live != again
    ]


def _counted(site: Site, oracle: Oracle) -> tuple[int, int]:
    """Events of items: how many are missing, how many are there beyond what must be."""
    missing = extra = 0
    for partition in range(site.shape.partitions):
        live = {node: _events(blob) for node, blob in site.state.scan(COUNTS, partition)}
        truth = {node: _events(blob) for node, blob in oracle.blobs(COUNTS, partition).items()}
        for node in live.keys() | truth.keys():
            difference = live.get(node, 0) - truth.get(node, 0)
            missing, extra = missing + max(0, -difference), extra + max(0, difference)
    return missing, extra


def _events(blob: bytes) -> int:
    return int(struct.unpack_from("<q", blob)[0])


def _weights(live: dict[int, bytes], truth: dict[int, bytes]) -> float:
    """The largest relative difference of two lists' sums."""
    if live.keys() != truth.keys():
        return math.inf
    return max((abs(_sum(live[node]) - _sum(blob)) / max(_sum(blob), 1) for node, blob in truth.items()), default=0.0)


def _sum(blob: bytes) -> int:
    return sum(weight for _, weight in struct.iter_unpack("<2Q", blob[8:]))
