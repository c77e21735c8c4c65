"""Edges to neighbours: messages become lists, of each partition in one atomic commit, each edge once.

Beside the watermark of `edges` the state keeps, for each upstream partition, the place of the next event whose edges are
awaited here: what comes again lies below it and is dropped. Both move in the commit that writes the lists.

    connecting = Connecting(state, log, shape); connecting.claim_partition(3); connecting.apply_each([Arrived(3, records)])
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from storage.arrays import Bools
from storage.log import Log, Record
from storage.state import UPSTREAM, Advance, Claim, Refusal, State, Write
from stream.edges import EDGES, Parcel, decode_edges
from stream.ingest import check_gap, no_fault
from stream.neighbour_lists import connected, dirty_mark
from stream.reducers import Edges
from stream.shape import Shape

log = logging.getLogger(__name__)
Mark = tuple[int, int]
"""An upstream's incarnation, and the place of the next event of it."""
_NOTHING: Final[Mark] = (0, 0)


@dataclass(frozen=True)
class Arrived:
    """Records of one partition of `edges`. `end`: where the reader stands, if beyond the last record."""

    partition: int
    records: Sequence[Record]
    end: int = 0


@dataclass(frozen=True)
class _Fresh:
    """Of it what was not applied yet, and where its upstreams and the partition stand after it."""

    partition: int
    parcels: list[Parcel]
    marks: dict[int, Mark]
    after: int
    mark: bytes

    def __len__(self) -> int:
        return sum(len(parcel.edges) for parcel in self.parcels)


class Connecting:
    """Applies records of the `edges` topic, partition by partition. `fault` is called at each named point of a commit."""

    def __init__(
        self, state: State, edges_log: Log, shape: Shape, *, replaying: bool = False, fault: Callable[[str], None] = no_fault
    ) -> None:
        self._state, self._log, self._shape, self._replaying, self._fault = state, edges_log, shape, replaying, fault
        self._claims: dict[int, Claim] = {}
        self._marks: dict[int, int] = {}
        self._upstream: dict[int, dict[int, Mark]] = {}

    def claim_partition(self, partition: int) -> int:
        """Claim one partition and return its watermark. Raises `Gap`."""
        claim = self._state.claim(EDGES, partition, self._log.topic(EDGES).id)
        if not self._replaying:
            check_gap(self._log, claim)
        self._claims[partition], self._marks[partition] = claim, claim.watermark
        self._upstream[partition] = {n: _mark(blob) for n, blob in self._state.scan(UPSTREAM, partition)}
        return claim.watermark

    def apply_each(self, arrived: Sequence[Arrived]) -> list[int | Refusal]:
        """Apply what came for different partitions, each in a commit by itself: how many edges counted, or why it was refused.

        A record that is no edges is logged and passed over: nobody but ingest writes here.
        """
        found = [self._found(one) for one in arrived]
        writes: dict[int, list[Write]] = {one.partition: [self._moved(one)] for one in found}
        parcels = [parcel for one in found for parcel in one.parcels]
        if parcels:
            joined, items = _joined(parcels)
            marks = {one.partition: one.mark for one in found}
            for write in connected(self._state, joined, items, self._shape, mark=marks.__getitem__):
                writes[write.partition].append(write)
        self._fault("before edges commit")
        refusals = self._state.commit_each([([self._advance(one)], writes[one.partition]) for one in found])
        self._fault("after edges commit")
        for one, refused in zip(found, refusals, strict=True):
            if refused is None:
                self._marks[one.partition], self._upstream[one.partition] = one.after, one.marks
        return [len(one) if refused is None else refused for one, refused in zip(found, refusals, strict=True)]

    def _found(self, arrived: Arrived) -> _Fresh:
        partition = arrived.partition
        records = [record for record in arrived.records if record.offset >= self._marks[partition]]
        marks = dict(self._upstream[partition])
        parcels = [fresh for record in records for fresh in _fresh(record, marks)]
        after = max([self._marks[partition], arrived.end, *(record.offset + 1 for record in records[-1:])])
        mark = dirty_mark(records[-1].offset, append_ms=records[0].append_ms) if records else b""
        return _Fresh(partition, parcels, marks, after, mark)

    def _moved(self, found: _Fresh) -> Write:
        known = self._upstream[found.partition]
        moved = sorted(n for n, mark in found.marks.items() if known.get(n) != mark)
        return Write(UPSTREAM, found.partition, np.array(moved, dtype=np.uint64), [_stored(found.marks[n]) for n in moved])

    def _advance(self, found: _Fresh) -> Advance:
        return Advance(self._claims[found.partition], before=self._marks[found.partition], after=found.after)


def _fresh(record: Record, marks: dict[int, Mark]) -> Iterator[Parcel]:
    """The message's edges that have not been applied yet; moves their upstreams' marks past them."""
    try:
        parcels = decode_edges(record.value)
    except ValueError as error:
        log.error("edges_unreadable partition=%d offset=%d: %s", record.partition, record.offset, error)
        return
    for parcel in parcels:
        upstream, (incarnation, awaited) = parcel.upstream, marks.get(parcel.upstream.partition, _NOTHING)
        if upstream.incarnation < incarnation or (upstream.incarnation == incarnation and int(parcel.at[-1]) < awaited):
            continue
        marks[upstream.partition] = (upstream.incarnation, int(parcel.at[-1]) + 1)
        if upstream.incarnation > incarnation or int(parcel.at[0]) >= awaited:
            yield parcel
        else:
            new = parcel.at >= np.uint64(awaited)
            yield Parcel(upstream, parcel.edges.take(new), parcel.at[new], parcel.items[new])


def _joined(parcels: list[Parcel]) -> tuple[Edges, Bools]:
    if len(parcels) == 1:
        return parcels[0].edges, parcels[0].items
    names = ("nodes", "list_ids", "targets", "amounts", "ts_ms", "events")
    columns = (np.concatenate([getattr(parcel.edges, name) for parcel in parcels]) for name in names)
    return Edges(*columns), np.concatenate([parcel.items for parcel in parcels])


def _mark(blob: bytes) -> Mark:
    return int.from_bytes(blob[:8], "little"), int.from_bytes(blob[8:16], "little")


def _stored(mark: Mark) -> bytes:
    return mark[0].to_bytes(8, "little") + mark[1].to_bytes(8, "little")
