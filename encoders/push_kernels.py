"""Forward push over a weighted graph, and places shared out among lists, compiled. `encoders/push.py` has the formulas.

touched = push_from(source, graph, held, restart, delta)      # fills held.p and held.r
rows, weights = nearest_rows(sources, graph, held, (kinds, begin, end), (restart, delta))
"""

from typing import Final, NamedTuple

import numpy as np
from numba import njit

from encoders.base import F32s, F64s, I64s, U8s

WORK_MAX: Final = 16
"""Edges walked for a source, in units of W / c, beyond its own. Mass alone bounds the *weight* walked by one unit: light edges are more."""
SEEN: Final = 1
QUEUED: Final = 2


class Graph(NamedTuple):
    """Edges of node u: offsets[u]:offsets[u + 1] of targets and weights (E,); strength (n,): their sum, inf where they are not known."""

    offsets: I64s
    targets: I64s
    weights: F64s
    strength: F64s


class Scratch(NamedTuple):
    """p and r, what is known of a node (0, SEEN, QUEUED), the ring of queued nodes, the nodes seen; all (n,), the first three zeros."""

    p: F64s
    r: F64s
    state: U8s
    queue: I64s
    seen: I64s


@njit(cache=True, nogil=True)
def push_from(source: int, graph: Graph, held: Scratch, restart: float, delta: float) -> int:
    """Push from one source until no residual reaches delta * strength; how many nodes `held.seen` then begins with.

    A queued node's residual only grows, so what was enough to queue it need not be asked again when it is popped.
    """
    p, r, state, queue, seen = held.p, held.r, held.state, held.queue, held.seen
    r[source], state[source], seen[0], queue[0] = 1.0, QUEUED, source, source
    count, head, waiting = 1, 0, 1
    edges_left = np.int64(WORK_MAX / (restart * delta)) + graph.offsets[source + 1] - graph.offsets[source]
    if graph.strength[source] == np.inf:
        return count
    while waiting:
        node = queue[head]
        begin, end = graph.offsets[node], graph.offsets[node + 1]
        edges_left -= end - begin
        if edges_left < 0:
            break
        head, waiting = (head + 1) % len(queue), waiting - 1
        mass = r[node]
        r[node], state[node] = 0.0, SEEN
        if graph.strength[node] == 0.0:
            p[node] += mass
            continue
        p[node] += restart * mass
        passed = (1.0 - restart) * mass / graph.strength[node]
        for edge in range(begin, end):
            target = graph.targets[edge]
            r[target] += passed * graph.weights[edge]
            if state[target] == 0:
                state[target], seen[count] = SEEN, target
                count += 1
            if state[target] == SEEN and r[target] >= delta * graph.strength[target]:
                state[target], queue[(head + waiting) % len(queue)] = QUEUED, target
                waiting += 1
    return count


@njit(cache=True, nogil=True)
def nearest_rows(
    sources: I64s, graph: Graph, held: Scratch, places: tuple[U8s, I64s, I64s], reach: tuple[float, float]
) -> tuple[I64s, F32s]:
    """For each source the nodes with the highest p + c * r of each kind, in the places begin[kind]:end[kind]; rows and weights (S, K).

    places: the kind of each node (n,), begin and end (256,). The scratch is as it was when this returns.
    """
    kinds, begin, end = places
    restart, delta = reach
    rows = np.full((len(sources), end.max()), -1, dtype=np.int64)
    weights = np.zeros((len(sources), end.max()), dtype=np.float32)
    for s in range(len(sources)):
        source = sources[s]
        count = push_from(source, graph, held, restart, delta)
        for node in held.seen[:count]:
            kind = kinds[node]
            if node != source and end[kind] > begin[kind]:
                value = np.float32(held.p[node] + restart * held.r[node])
                _insert(rows[s, begin[kind] : end[kind]], weights[s, begin[kind] : end[kind]], node, value)
            held.p[node], held.r[node], held.state[node] = 0.0, 0.0, 0
    return rows, weights


@njit(cache=True, nogil=True)
def _insert(rows: I64s, weights: F32s, node: int, value: float) -> None:
    """Put a node where it belongs among the highest, ties by row; the last falls out. Empty places are at the end."""
    at = len(rows)
    while at > 0 and (rows[at - 1] < 0 or value > weights[at - 1] or (value == weights[at - 1] and node < rows[at - 1])):
        at -= 1
        if at + 1 < len(rows):
            rows[at + 1], weights[at + 1] = rows[at], weights[at]
    if at < len(rows):
        rows[at], weights[at] = node, value


@njit(cache=True, nogil=True)
def share_out(rows: I64s, weights: F32s, order: I64s, block: I64s, start: I64s) -> tuple[I64s, F32s]:
    """Candidates (S, C) in this order (S, C), each into its column's block unless that is full or the node has a place: (S, start[-1]).

    block (C,): which block a column's candidates ask for; block b owns the places start[b]:start[b + 1].
    """
    placed = np.full((len(rows), start[-1]), -1, dtype=np.int64)
    values = np.zeros((len(rows), start[-1]), dtype=np.float32)
    for s in range(len(rows)):
        free = start[:-1].copy()
        for column in order[s]:
            node, b = rows[s, column], block[column]
            if node >= 0 and free[b] < start[b + 1] and not np.any(placed[s] == node):
                placed[s, free[b]], values[s, free[b]] = node, weights[s, column]
                free[b] += 1
    return placed, values
