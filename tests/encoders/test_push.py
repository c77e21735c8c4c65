"""Forward push against dense PageRank, places by relation and kind, hubs pruned alike however much is known."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from encoders.base import COLLECTION, ITEM, F64s
from encoders.push import Adjacency, kept_degree, nearest, pruned, push
from encoders.push_kernels import BUDGET, RESTART

EDGES = st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8), st.floats(0.1, 9.0)), min_size=1, max_size=40)
NODES = 9


def graph_of(edges: list[tuple[int, int, float]], *, nodes: int = NODES) -> Adjacency:
    sources, targets, weights = (np.array(part) for part in zip(*edges, strict=True))
    return Adjacency.of(sources, targets, weights, nodes=nodes)


def dense(graph: Adjacency, source: int) -> F64s:
    """PageRank with restarts by power iteration; who has no edge keeps what it gets."""
    step = np.zeros((len(graph), len(graph)))
    for u in range(len(graph)):
        part = slice(graph.offsets[u], graph.offsets[u + 1])
        step[u, graph.targets[part]] = graph.weights[part]
        if not step[u].any():
            step[u, u] = 1.0
    step /= step.sum(axis=1, keepdims=True)
    start = np.eye(len(graph))[source]
    rank: F64s = start
    for _ in range(400):
        rank = RESTART * start + (1 - RESTART) * rank @ step
    return rank


def dense_with_dead_ends(graph: Adjacency, source: int) -> F64s:
    """As papers 1.4 has it: where there is no edge all mass stays at once, restarts and all."""
    rank = np.zeros(len(graph))
    mass = np.eye(len(graph))[source]
    dead = np.diff(graph.offsets) == 0
    for _ in range(400):
        rank += np.where(dead, mass, RESTART * mass)
        moved = np.zeros(len(graph))
        for u in np.flatnonzero(~dead):
            part = slice(graph.offsets[u], graph.offsets[u + 1])
            moved[graph.targets[part]] += (1 - RESTART) * mass[u] * graph.weights[part] / graph.weights[part].sum()
        mass = moved
    return rank


@given(EDGES, st.integers(0, 8))
def test_what_is_pushed_is_a_lower_bound_and_lacks_what_is_left(edges: list[tuple[int, int, float]], source: int) -> None:
    graph = graph_of(edges)
    p, r = push(graph, source)
    rank = dense_with_dead_ends(graph, source)
    assert p.sum() + r.sum() == pytest.approx(1)
    assert (p <= rank + 1e-9).all() and (p + RESTART * r <= rank + 1e-9).all()
    assert np.abs(rank - p).sum() == pytest.approx(r.sum(), abs=1e-9)


@given(EDGES, st.integers(0, 8))
def test_dead_ends_are_loops(edges: list[tuple[int, int, float]], source: int) -> None:
    graph = graph_of(edges)
    assert np.allclose(dense(graph, source), dense_with_dead_ends(graph, source), atol=1e-9), "the oracle with loops is the other"


@given(EDGES, st.integers(0, 8))
def test_with_symmetric_weights_no_node_lacks_more_than_its_weight_allows(edges: list[tuple[int, int, float]], source: int) -> None:
    graph = graph_of(edges).symmetric()
    p, r = push(graph, source)
    of_node = np.array([graph.weights[graph.offsets[u] : graph.offsets[u + 1]].sum() for u in range(len(graph))])
    reached = of_node > 0
    assert (dense_with_dead_ends(graph, source) - p <= of_node / BUDGET + 1e-9)[reached].all()
    assert (r[reached] <= of_node[reached] / BUDGET + 1e-12).all()


@given(EDGES, st.integers(0, 8), st.sets(st.integers(0, 8)))
def test_a_graph_known_in_part_gives_lower_bounds(edges: list[tuple[int, int, float]], source: int, unknown: set[int]) -> None:
    graph, loaded = graph_of(edges), ~np.isin(np.arange(NODES), list(unknown))
    p, r = push(graph, source, loaded=loaded)
    assert p.sum() + r.sum() == pytest.approx(1)
    assert (p <= dense_with_dead_ends(graph, source) + 1e-9).all()
    assert (p[~loaded & (np.arange(NODES) != source)] == 0).all(), "nothing is pushed from what is not known"


@given(EDGES, st.integers(1, 4))
def test_the_nearest_are_the_best_of_each_kind_ties_by_row(edges: list[tuple[int, int, float]], places: int) -> None:
    graph, kinds = graph_of(edges), (np.arange(NODES) >= 6).astype(np.uint8)
    rows, values = nearest(graph, np.arange(NODES), kinds, {COLLECTION: 2, ITEM: places})
    assert rows.shape == values.shape == (NODES, 2 + places)
    for source in range(NODES):
        p, r = push(graph, source)
        value = p + RESTART * r
        wanted = []
        for kind, count in ((COLLECTION, 2), (ITEM, places)):
            best = [v for v in np.lexsort((np.arange(NODES), -value)) if v != source and kinds[v] == kind and value[v] > 0][:count]
            wanted += [*best, *[-1] * (count - len(best))]
        assert rows[source].tolist() == wanted
        assert np.allclose(values[source], np.where(rows[source] >= 0, value[rows[source]], 0))


def test_a_relation_by_itself_keeps_its_places_however_rare_it_is() -> None:
    often = graph_of([(0, v, 100.0) for v in range(1, 7)])
    seldom = graph_of([(0, 7, 1.0), (0, 1, 1.0)])
    kinds = np.zeros(NODES, dtype=np.uint8)
    first, _ = nearest(often, np.array([0]), kinds, {ITEM: 3})
    second, _ = nearest(seldom, np.array([0]), kinds, {ITEM: 3})
    assert first.tolist() == [[1, 2, 3]] and second.tolist() == [[1, 7, -1]]


def test_a_node_alone_has_nobody_and_edges_are_added_up() -> None:
    graph = graph_of([(1, 2, 1.0), (1, 2, 2.0), (1, 3, 1.0), (3, 3, 4.0)])
    assert graph.targets.tolist() == [2, 3, 3] and graph.weights.tolist() == pytest.approx([9 / 8, 3 / 8, 12 / 8])
    rows, _ = nearest(graph, np.array([0, 1]), np.zeros(NODES, dtype=np.uint8), {ITEM: 2})
    assert rows.tolist() == [[-1, -1], [2, 3]]
    nothing = Adjacency.of(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64), np.zeros(0), nodes=1)
    assert nearest(nothing, np.array([0]), np.zeros(1, dtype=np.uint8), {ITEM: 2})[0].tolist() == [[-1, -1]]
    assert len(pruned(nothing, np.ones(1, dtype=np.uint64))) == 1


def test_a_node_keeps_as_many_edges_as_the_paper_says() -> None:
    degrees = np.array([5, 14, 15, 100, 1000, 100_000])
    assert kept_degree(degrees, degree_max=10_000).tolist() == [5, 10, 10, 52, 380, 10_000]


@given(st.integers(11, 400), st.integers(0, 50))
def test_what_was_pruned_is_not_needed_again(degree: int, seed: int) -> None:
    ids = np.random.default_rng(seed).integers(0, 2**63, size=degree + 1).astype(np.uint64)

    def kept(count: int) -> set[int]:
        graph = graph_of([(0, v, 1.0) for v in range(1, count + 1)], nodes=degree + 1)
        return set(pruned(graph, ids).targets.tolist())

    before, after = kept(degree - 1), kept(degree)
    assert after - {degree} <= before
    assert kept(10) == set(range(1, 11)), "ten are always kept"


def test_about_as_many_are_kept_as_wanted() -> None:
    random = np.random.default_rng(0)
    counts: list[Any] = []
    for _ in range(50):
        ids = random.integers(0, 2**63, size=1001).astype(np.uint64)
        counts.append(len(pruned(graph_of([(0, v, 1.0) for v in range(1, 1001)], nodes=1001), ids).targets))
    assert np.mean(counts) == pytest.approx(float(kept_degree(np.array([1000]))[0]), rel=0.02)


@given(EDGES, st.integers(0, 8), st.floats(0.01, 100.0))
def test_by_degree_faded_weights_change_nothing(edges: list[tuple[int, int, float]], source: int, fade: float) -> None:
    graph = graph_of(edges).by_degree()
    faded = graph_of([(u, v, weight * (fade if u % 2 else 1.0)) for u, v, weight in edges]).by_degree()
    p, r = push(graph, source)
    q, s = push(faded, source)
    assert np.allclose(p, q) and np.allclose(r, s)
    assert np.abs(dense_with_dead_ends(graph_of(edges), source) - p).sum() == pytest.approx(r.sum(), abs=1e-9), "the same steps"
