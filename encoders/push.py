"""A node's nearest by random walks with restart: one relation cannot crowd out another, and the cost does not grow with the graph.

What this is not: a store, or where edges come from. Nodes are rows 0..n - 1, numbered by the caller.

    graph = pruned(Adjacency.of(sources, targets, weights, nodes=n), ids).scaled()
    near = nearest(graph, rows, kinds=kinds, quotas={ITEM: 10, COLLECTION: 5})      # one subset of the relations
    near = neighbours([(all_of_them, {ITEM: 10}), (rare, {ITEM: 10})], rows, kinds=kinds)
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate
from typing import Final, NamedTuple, TypeAlias

import numpy as np

from encoders.base import Bools, F32s, F64s, I64s, U8s, U64s
from encoders.push_kernels import Graph, Scratch, nearest_rows, push_from, share_out

ALPHA: Final = 0.86
D_MIN: Final = 10
D_MAX: Final = 1_000
KINDS: Final = 256
Quotas: TypeAlias = Mapping[int, int]
"""How many nodes of each kind are wanted; the order of the kinds is that of their places."""


@dataclass(frozen=True)
class Reach:
    """How far mass is pushed: c, the chance that a walk ends at each step, and W: as fine as that many walks (delta = 1 / W)."""

    restart: float = 0.15
    walks: int = 1_000

    def __post_init__(self) -> None:
        if not 0 < self.restart < 1 or self.walks < 1:
            raise ValueError(f"restart must lie between 0 and 1, walks be at least 1: {self.restart}, {self.walks}")


REACH: Final = Reach()


@dataclass(frozen=True)
class Adjacency:
    """A directed graph of n nodes: row u's edges are offsets[u]:offsets[u + 1] of targets and weights.

    offsets (n + 1,); targets (E,) rows; weights (E,) finite, > 0. loaded (n,): False where a node's edges are not known here, whatever
    its list holds: nothing is then pushed from it. None: all are known.
    """

    offsets: I64s
    targets: I64s
    weights: F64s
    loaded: Bools | None = None

    def __post_init__(self) -> None:
        assert self.offsets.ndim == 1 and len(self.offsets) >= 1, f"offsets must be (n + 1,), not {self.offsets.shape}"
        assert self.offsets[0] == 0 and self.offsets[-1] == len(self.targets), "offsets must run from 0 to the number of edges"
        assert (self.degree >= 0).all(), "offsets must not fall"
        assert self.targets.shape == self.weights.shape, f"targets {self.targets.shape}, weights {self.weights.shape}"
        assert not self.targets.size or (self.targets.min() >= 0 and self.targets.max() < len(self)), "a target must be a row"
        assert ((self.weights > 0) & (self.weights < np.inf)).all(), "weights must be finite and above 0"
        assert self.loaded is None or len(self.loaded) == len(self), f"{len(self)} nodes, loaded {len(self.loaded or ())}"

    @classmethod
    def of(cls, sources: I64s, targets: I64s, weights: F64s, *, nodes: int, loaded: Bools | None = None) -> "Adjacency":
        """From edges (E,) in any order; weights of equal edges are added up. Each list lies by row. O(E log E)."""
        assert len(sources) == len(targets) == len(weights), f"{len(sources)} sources, {len(targets)} targets, {len(weights)} weights"
        for name, rows in (("source", sources), ("target", targets)):
            assert not rows.size or (rows.min() >= 0 and rows.max() < nodes), f"a {name} must be one of {nodes} rows"
        edges, where = np.unique(sources * nodes + targets, return_inverse=True)
        sums = np.bincount(where, weights=weights, minlength=len(edges)).astype(np.float64)
        offsets = np.searchsorted(edges, np.arange(nodes + 1, dtype=np.int64) * nodes)
        return cls(offsets, edges % nodes if nodes else edges, sums, loaded)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def degree(self) -> I64s:
        """(n,) edges of each node."""
        return np.diff(self.offsets)

    @cached_property
    def strength(self) -> F64s:
        """(n,) w(u): the sum of a node's weights; infinite where it is not loaded, so that no residual is enough to push it."""
        sums = np.zeros(len(self))
        filled = np.flatnonzero(self.degree)
        if len(filled):
            sums[filled] = np.add.reduceat(self.weights, self.offsets[filled])
        return sums if self.loaded is None else np.where(self.loaded, sums, np.inf)

    def scaled(self) -> "Adjacency":
        """The same graph with weights of mean 1: what makes W a number of edges."""
        return replace(self, weights=self.weights / self.weights.mean()) if len(self.weights) else self


class Near(NamedTuple):
    """rows (S, K) int64, -1 where there is none; weights (S, K) float32, p + c * r, 0 where there is none."""

    rows: I64s
    weights: F32s


def push(adjacency: Adjacency, source: int, *, reach: Reach = REACH) -> tuple[F64s, F64s]:
    """Where walks from a source end (p) and what was not pushed on (r), each (n,).

    p + c * r <= pi, sum(p) + sum(r) = 1, |pi - p|_1 = sum(r), with pi where a walk ends that ends with chance c at each step; one that
    cannot go on ends where it is. A node is pushed while it holds w(u) / W; the source is always pushed once, however heavy. If w is
    symmetric and every list is loaded, then pi(v) - p(v) <= w(v) / W.

    The weight of all lists walked is at most W / c, beyond the source's own. Edges are bounded too (`WORK_MAX`), for where they are far
    lighter than the mean: beyond it residuals stay, and only the last of these inequalities is lost.

    Source: papers, 1.4 PUSH. We differ: that second bound, and lists that are not loaded.
    """
    assert 0 <= source < len(adjacency), f"the source must be one of {len(adjacency)} rows: {source}"
    held = _scratch(len(adjacency))
    push_from(source, _graph(adjacency), held, reach.restart, 1 / reach.walks)
    return held.p, held.r


def nearest(adjacency: Adjacency, sources: I64s, *, kinds: U8s, quotas: Quotas, reach: Reach = REACH) -> Near:
    """For each source (S,) the nodes of each kind with the highest p + c * r, highest first, itself left out.

    kinds (n,). Each kind has its own places, in the quotas' order. Ties, of weights as they are returned, go to the lower row.

    p + c * r is a lower bound of where walks end; p alone would leave what was reached but not pushed at 0, all hubs among it.
    Memory 33 bytes a node for all sources together; the time of one does not depend on n. Source: papers, 1.4 NEIGHBOURS.
    """
    assert len(kinds) == len(adjacency), f"{len(adjacency)} nodes, {len(kinds)} kinds"
    assert not sources.size or (sources.min() >= 0 and sources.max() < len(adjacency)), f"sources must be among {len(adjacency)} rows"
    begin, end = np.zeros(KINDS, dtype=np.int64), np.zeros(KINDS, dtype=np.int64)
    places = 0
    for kind, wanted in quotas.items():
        assert 0 <= kind < KINDS and wanted >= 1, f"a kind is below {KINDS}, a quota at least 1: {kind}: {wanted}"
        begin[kind], end[kind] = places, places + wanted
        places += wanted
    held = _scratch(len(adjacency))
    rows, weights = nearest_rows(sources, _graph(adjacency), held, (kinds, begin, end), (reach.restart, 1 / reach.walks))
    return Near(rows, weights)


def neighbours(subsets: Sequence[tuple[Adjacency, Quotas]], sources: I64s, *, kinds: U8s, reach: Reach = REACH) -> Near:
    """The nearest in several subsets of the relations, over the same rows, each node once; places by subset, then by kind. See `union`."""
    quotas = [wanted for _, wanted in subsets]
    parts = [
        nearest(adjacency, sources, kinds=kinds, quotas=enough, reach=reach)
        for (adjacency, _), enough in zip(subsets, candidates(quotas), strict=True)
    ]
    return union(parts, quotas)


def candidates(quotas: Sequence[Quotas]) -> list[Quotas]:
    """What to ask each subset for, so that it fills its quotas whatever the others take: of each kind, all that are wanted in all."""
    return [{kind: sum(other.get(kind, 0) for other in quotas) for kind in wanted} for wanted in quotas]


def union(parts: Sequence[Near], quotas: Sequence[Quotas]) -> Near:
    """The parts of several subsets beside one another: each kept to its quotas, and each node kept once, where its weight is largest.

    parts: what `nearest` found for `candidates(quotas)`. Candidates are taken by falling weight (ties: the earlier subset, then the lower
    row). One is placed unless its node has a place or its kind is full in its subset; so a slot that a duplicate frees goes to the next
    best, and a node stays with the lighter subset if the heavier has no room for it.

    Weights of different subsets are compared: all are chances that a walk from the same source ends there, but in a sparse subset walks
    spread less. So of a duplicate the sparse subset's is usually kept. What each subset may fill is not touched by that.

    Source: papers, 1.4 NEIGHBOURS.
    """
    asked = [wide for part in candidates(quotas) for wide in part.values()]
    sizes = [wanted for part in quotas for wanted in part.values()]
    widths = [sum(part.values()) for part in candidates(quotas)]
    assert [part.rows.shape[1] for part in parts] == widths, f"parts need {widths} candidates: {[part.rows.shape for part in parts]}"
    rows, weights = np.hstack([part.rows for part in parts]), np.hstack([part.weights for part in parts])
    order = np.argsort(-weights, axis=1, kind="stable")
    block = np.repeat(np.arange(len(asked)), asked)
    placed, values = share_out(rows, weights, order, block, np.array([0, *accumulate(sizes)]))
    return Near(placed, values)


def kept_degree(d: I64s, d_min: int = D_MIN, d_max: int = D_MAX, alpha: float = ALPHA) -> I64s:
    """How many of d edges to keep: min(d, max(min(floor(d ^ alpha), d_max), d_min)). Source: papers, 1.4 PRUNE."""
    kept: I64s = np.minimum(d, np.floor(d.astype(np.float64) ** alpha).clip(max=d_max).clip(min=d_min).astype(np.int64))
    return kept


def kept_share(d: I64s, d_min: int = D_MIN, d_max: int = D_MAX, alpha: float = ALPHA) -> F64s:
    """The chance that an edge of a node with d is kept: min(1, max(d_min, min(d ^ alpha, d_max)) / d); it falls as d grows."""
    degree = np.maximum(d, 1).astype(np.float64)
    share: F64s = np.minimum(1.0, (degree**alpha).clip(max=d_max).clip(min=d_min) / degree)
    return share


def pruned(adjacency: Adjacency, ids: U64s, *, share: F64s | None = None) -> Adjacency:
    """The graph without the edges that chance drops: kept iff hash01(id of source, id of target) < share of the source.

    ids (n,), the same from build to build though rows are not; share (n,), `kept_share` of each node's degree if there is none. Pass it
    where lists are pruned already: d counts the edges dropped before. As the share only falls, nothing dropped is ever needed again.

    About `kept_degree` edges stay, not exactly. The two ends of an edge decide apart. Weights are not scaled again.
    Source: papers, 1.4 PRUNE, streaming.
    """
    assert len(ids) == len(adjacency), f"{len(adjacency)} nodes, {len(ids)} ids"
    shares = kept_share(adjacency.degree) if share is None else share
    source = np.repeat(np.arange(len(adjacency)), adjacency.degree)
    kept = hash01(ids[source], ids[adjacency.targets]) < shares[source]
    offsets = np.concatenate([[0], np.cumsum(kept)])[adjacency.offsets]
    return replace(adjacency, offsets=offsets, targets=adjacency.targets[kept], weights=adjacency.weights[kept])


def hash01(sources: U64s, targets: U64s) -> F64s:
    """An edge's own number in [0, 1), the same everywhere: 53 bits of splitmix64 over both ids; (E,)."""
    mixed: F64s = (_mixed(_mixed(sources) + targets) >> np.uint64(11)) * 2.0**-53
    return mixed


def _mixed(x: U64s) -> U64s:
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _graph(adjacency: Adjacency) -> Graph:
    return Graph(adjacency.offsets, adjacency.targets, adjacency.weights, adjacency.strength)


def _scratch(nodes: int) -> Scratch:
    return Scratch(np.zeros(nodes), np.zeros(nodes), np.zeros(nodes, dtype=np.uint8), np.empty(nodes, np.int64), np.empty(nodes, np.int64))
