"""`freshet verify` and `replay` over a cluster: is the state what archive and log say, while workers may be at work?

A partition's live digest is taken between two looks at its watermark that agree, and compared with a replay up to there.
Neighbours are compared with a replay of `edges` while its first record is kept; else a thousand nodes with what the events
themselves give, which differs a little: there the partitions' edges meet in another order.

    found = verify(site, archive, told=advance); found.equal
"""

import heapq
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
import xxhash

from freshet.cluster import Services
from freshet.operators.cluster_losses import accepted, incarnation_of, spans
from storage.archive import Archive
from storage.arrays import F64s, U64s
from storage.neighbours import NEIGHBOURS_MAX, load_neighbours
from storage.ragged import words
from storage.state import NEIGHBOURS, State
from storage.state_memory import MemoryState
from stream.edges import EDGES
from stream.ingest import EVENTS
from stream.replay import FROM_EVENTS, digest
from stream.replay_shared import Upto, replay_edges, replay_shared, shared_history

SAMPLED: Final = 1000
LOOKS_MAX: Final = 5


class Moving(RuntimeError):
    """The state changes faster than it can be read; the message says what to do."""


@dataclass(frozen=True)
class Digests:
    """Of one partition: histories, seen-sets and counts up to `events`, neighbours up to `edges`; both offsets exclusive."""

    partition: int
    events: int
    edges: int
    state: str
    neighbours: str


@dataclass(frozen=True)
class ClusterVerified:
    """Live and replayed digests by partition. `sampled` nodes were compared where neighbours could not be: their largest difference."""

    live: list[Digests]
    replay: list[Digests]
    sampled: int = 0
    difference: float = 0.0

    @property
    def equal(self) -> bool:
        """Whether all that can be compared byte for byte is equal."""
        return self.live == self.replay


def verify(site: Services, archive: Archive, *, told: Callable[[int], None]) -> ClusterVerified:
    """Raises `Moving`, and `Gap` when archive and log do not reach back to the beginning."""
    whole = edges_are_whole(site)
    live = [_steady(site, partition, whole=whole) for partition in range(site.shape.partitions)]
    marks = {one.partition: one.events for one in live}
    edges = {one.partition: one.edges for one in live} if whole else None
    again = _replayed(site, archive, marks, edges, told)
    replay = [_digests(again, one.partition, one.events, one.edges, whole=whole) for one in live]
    if whole:
        return ClusterVerified(live, replay)
    return ClusterVerified(live, replay, *_sampled(site, again))


def replayed(site: Services, archive: Archive, *, told: Callable[[int], None]) -> list[Digests]:
    """What archive and log say, to the end of the log as it is now; neighbours from `edges` as far as it is kept."""
    marks = {partition: site.log.end_offset(EVENTS, partition) for partition in range(site.shape.partitions)}
    edges = {partition: site.log.end_offset(EDGES, partition) for partition in range(site.shape.partitions)}
    again = _replayed(site, archive, marks, edges, told)
    return [_digests(again, partition, marks[partition], edges[partition], whole=True) for partition in marks]


def edges_are_whole(site: Services) -> bool:
    """Whether all that ever reached the neighbours is still in `edges`: its first record is kept, and no loss is on record."""
    lost = any(loss.stream == EDGES for loss in accepted(site))
    return not lost and all(site.log.first_offset(EDGES, partition) == 0 for partition in range(site.shape.partitions))


def _replayed(
    site: Services, archive: Archive, marks: dict[int, int], edges: dict[int, int] | None, told: Callable[[int], None]
) -> MemoryState:  # fmt: skip
    again = MemoryState()
    upto = {partition: Upto(incarnation_of(site, EVENTS, partition), mark) for partition, mark in marks.items()}
    source = shared_history(archive, site.log, upto, spans(accepted(site)))
    replay_shared(source, again, site.log, site.shape, now_ms=0, edges_apart=edges is not None, told=told)
    if edges is not None:
        replay_edges(site.log, again, site.shape, edges)
    return again


def _steady(site: Services, partition: int, *, whole: bool) -> Digests:
    for _ in range(LOOKS_MAX):
        before = [site.state.watermarks(stream).get(partition, 0) for stream in (EVENTS, EDGES)]
        found = _digests(site.state, partition, *before, whole=whole)
        if before == [site.state.watermarks(stream).get(partition, 0) for stream in (EVENTS, EDGES)]:
            return found
    raise Moving(f"partition {partition} moved on {LOOKS_MAX} times while it was read: stop the workers, or verify when less comes in")


def _digests(state: State, partition: int, events: int, edges: int, *, whole: bool) -> Digests:
    neighbours = digest(state, partition, (NEIGHBOURS,)) if whole else ""
    return Digests(partition, events, edges, digest(state, partition, FROM_EVENTS), neighbours)


def _sampled(site: Services, again: MemoryState) -> tuple[int, float]:
    """How many lists were compared, and the largest L1 distance of their normalised weights, 0 to 2."""
    chosen = heapq.nsmallest(SAMPLED, _lists(site.state, site.shape.partitions), key=lambda at: _order(at[1]))
    largest = 0.0
    for partition, node in chosen:
        ids = np.array([node], dtype=np.uint64)
        (live,), (derived,) = site.state.read(NEIGHBOURS, partition, ids), again.read(NEIGHBOURS, partition, ids)
        largest = max(largest, distance(live, derived))
    return len(chosen), largest


def distance(one: bytes | None, other: bytes | None) -> float:
    """L1 distance of two lists' weights, each normalised to a sum of 1: 0 when they say the same, 2 when they share nothing."""
    weights: dict[int, float] = {}
    for sign, blob in ((1.0, one), (-1.0, other)):
        nodes, shares = _shares(blob)
        for node, share in zip(nodes.tolist(), shares.tolist(), strict=True):
            weights[node] = weights.get(node, 0.0) + sign * share
    return sum(map(abs, weights.values()))


def _shares(blob: bytes | None) -> tuple[U64s, F64s]:
    held = load_neighbours(*words([blob]), np.zeros(1, np.int64), NEIGHBOURS_MAX)
    weights = held.weights.astype(np.float64)
    return held.nodes, weights / max(weights.sum(), 1.0)


def _lists(state: State, partitions: int) -> Iterable[tuple[int, int]]:
    return ((partition, node) for partition in range(partitions) for node, _ in state.scan(NEIGHBOURS, partition))


def _order(node: int) -> int:
    """The same nodes on every run, and no others than chance would take."""
    return xxhash.xxh3_64_intdigest(node.to_bytes(8, "little"))
