"""Who is near a node in a graph: forward push (approximate personalised PageRank), the nearest of each kind, and edges of hubs pruned.

    graph = pruned(Adjacency.of(sources, targets, weights, nodes=n), ids)
    rows, values = nearest(graph, np.arange(n), kinds, {ITEM: 10, COLLECTION: 5})

Source: OmniSage, papers 1.4 (PRUNE, PUSH, NEIGHBOURS). A relation asked by itself keeps its places however rare it is, so each has a graph
of its own. We differ: where theirs leaves a node that two relations found to the one with the larger value, it may stand in the places of
both, which tell apart why it is near; values of different graphs say little beside one another.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from encoders.base import Bools, F32s, F64s, I64s, U8s, U64s
from encoders.push_kernels import Graph, best, pushed, scratch

DEGREE_MIN: Final = 10
DEGREE_MAX: Final = 1000
DEGREE_POWER: Final = 0.86


@dataclass(frozen=True)
class Adjacency:
    """A graph of n nodes: node u has edges to `targets[offsets[u]:offsets[u + 1]]`, ascending, with `weights` > 0; mean weight 1."""

    offsets: I64s
    targets: I64s
    weights: F64s

    @classmethod
    def of(cls, sources: I64s, targets: I64s, weights: F64s, *, nodes: int) -> "Adjacency":
        """From edges (E,) in any order; those between the same two nodes are added up."""
        if not len(sources):
            return cls(np.zeros(nodes + 1, dtype=np.int64), np.zeros(0, dtype=np.int64), np.zeros(0))
        keys, place = np.unique(sources * nodes + targets, return_inverse=True)
        summed = np.bincount(place, weights=weights, minlength=len(keys))
        offsets = np.searchsorted(keys, np.arange(nodes + 1) * nodes).astype(np.int64)
        return cls(offsets, keys % nodes, summed / summed.mean())

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def by_degree(self) -> "Adjacency":
        """The same steps, each node as heavy as it has edges: so what else is in the graph, or has faded, does not change who is near."""
        degree = np.diff(self.offsets)
        sums = np.bincount(np.repeat(np.arange(len(self)), degree), weights=self.weights, minlength=len(self))
        return Adjacency(self.offsets, self.targets, self.weights * np.repeat(degree / np.maximum(sums, 1e-300), degree))

    def symmetric(self) -> "Adjacency":
        """Both ways, each edge's weight being what lay on either."""
        sources = np.repeat(np.arange(len(self)), np.diff(self.offsets))
        ends = np.concatenate([sources, self.targets]), np.concatenate([self.targets, sources])
        return Adjacency.of(*ends, np.concatenate([self.weights, self.weights]), nodes=len(self))


def push(graph: Adjacency, source: int, *, loaded: Bools | None = None) -> tuple[F64s, F64s]:
    """(p, r) of one source, (n,) each: p <= the PageRank of restarts at the source, and what it lacks is the sum of r.

    Nodes that are not `loaded` keep what comes to them: a graph that is only known near the source gives lower bounds.
    """
    room = scratch(len(graph))
    pushed(_laid(graph, loaded), source, room)
    return room.p, room.r


def nearest(
    graph: Adjacency,
    sources: I64s,
    kinds: U8s,
    quotas: Mapping[int, int],
    *,
    loaded: Bools | None = None,
) -> tuple[I64s, F32s]:
    """Of each kind the nearest, source left out: (S, sum of quotas) rows, -1 = none, and p + c·r, a lower bound of the PageRank.

    kinds (n,); places by kind in the order of `quotas`, nearest first, ties by row.
    """
    wanted = np.zeros((2, 256), dtype=np.int64)  # by kind: how many places, and where they begin
    for n, (kind, count) in enumerate(quotas.items()):
        wanted[:, kind] = count, sum(list(quotas.values())[:n])
    rows, values = best(_laid(graph, loaded), sources, kinds, wanted)
    return rows, values.astype(np.float32)


def kept_degree(degree: I64s, *, degree_max: int = DEGREE_MAX) -> I64s:
    """How many of so many edges a node keeps: min(d, max(min(floor(d^0.86), d_max), d_min))."""
    wanted = np.floor(degree**DEGREE_POWER).astype(np.int64)
    kept: I64s = np.minimum(degree, np.maximum(np.minimum(wanted, degree_max), DEGREE_MIN))
    return kept


def pruned(graph: Adjacency, ids: U64s, *, degree_max: int = DEGREE_MAX) -> Adjacency:
    """Hubs with fewer edges: one is kept if its hash is below what its node's degree leaves, so that what was dropped stays dropped.

    ids (n,) name the nodes wherever the graph is built. Streaming form of papers 1.4, PRUNE: the share only falls as degrees grow.
    """
    degree = np.diff(graph.offsets)
    share = np.maximum(DEGREE_MIN, np.minimum(degree**DEGREE_POWER, degree_max)) / np.maximum(degree, 1)
    sources = np.repeat(np.arange(len(graph)), degree)
    kept = _hash01(ids[sources], ids[graph.targets]) < share[sources]
    offsets = np.concatenate([[0], np.cumsum(np.bincount(sources[kept], minlength=len(graph)))]).astype(np.int64)
    return Adjacency(offsets, graph.targets[kept], graph.weights[kept])


def _hash01(sources: U64s, targets: U64s) -> F64s:
    """(E,) in [0, 1), of an edge's two ids in this order: splitmix64's mixing."""
    x = sources * np.uint64(0x9E3779B97F4A7C15) + targets
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        x = (x ^ (x >> np.uint64(shift))) * np.uint64(factor)
    mixed: F64s = ((x ^ (x >> np.uint64(31))) >> np.uint64(11)).astype(np.float64)
    return mixed * 2.0**-53


def _laid(graph: Adjacency, loaded: Bools | None) -> Graph:
    sums = np.concatenate([[0.0], np.cumsum(graph.weights)])
    of_node = np.where(np.diff(graph.offsets) > 0, np.maximum(np.diff(sums[graph.offsets]), 1e-12), 0.0)
    known = np.ones(len(graph), dtype=np.bool_) if loaded is None else loaded
    return Graph(graph.offsets, graph.targets, graph.weights, of_node, known)
