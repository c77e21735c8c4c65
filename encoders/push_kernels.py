"""Forward push, compiled: mass spreads from a node until what is left anywhere is small; then the best of what was touched.

    pushed(graph, source, scratch(n)); rows, values = best(graph, sources, kinds, wanted)

The algorithm of papers 1.4, PUSH, a line of it a line here. What an interpreter would do with dictionaries is done in arrays of the whole
graph, cleared where they were touched, so that a source costs the same in any graph.
"""

from typing import Final, NamedTuple

import numpy as np
from numba import njit

from encoders.base import Bools, F64s, I64s, U8s

RESTART: Final = 0.15
BUDGET: Final = 1000
"""W: mass below a node's weight / W is not pushed on."""
PUSHES_MAX: Final = 20 * BUDGET
"""For one source. A node lighter than others is pushed for less; what is left stays where it is, and values stay lower bounds."""


class Graph(NamedTuple):
    """Edges by node, as in `push.Adjacency`; each node's weight (n,); which nodes' edges are known (n,)."""

    offsets: I64s
    targets: I64s
    weights: F64s
    of_node: F64s
    loaded: Bools


class Scratch(NamedTuple):
    """(n,) each: p and r, a ring of nodes that wait, which of them do, and what was touched, in order."""

    p: F64s
    r: F64s
    queue: I64s
    queued: Bools
    touched: I64s


@njit(cache=True, nogil=True)
def scratch(nodes: int) -> Scratch:
    """All zero, as `pushed` wants it and whoever reads leaves it."""
    flags = np.zeros(nodes, dtype=np.bool_)
    return Scratch(np.zeros(nodes), np.zeros(nodes), np.zeros(nodes, dtype=np.int64), flags, np.zeros(nodes, dtype=np.int64))


@njit(cache=True, nogil=True)
def pushed(graph: Graph, source: int, room: Scratch) -> int:
    """Fill p and r; returns how many nodes were touched. A node stands in the queue once."""
    p, r, queue, queued = room.p, room.r, room.queue, room.queued
    count, head, waiting, pushes, seen = len(queue), 0, 1, 0, 1
    queue[0], queued[source], r[source], room.touched[0] = source, True, 1.0, source
    while waiting and pushes < PUSHES_MAX:
        u = queue[head]
        head, waiting, queued[u] = (head + 1) % count, waiting - 1, False
        mass, of_node = r[u], graph.of_node[u]
        if pushes and mass * BUDGET < of_node:
            continue
        pushes += 1
        r[u] = 0.0
        if of_node == 0.0:
            p[u] += mass
            continue
        p[u] += RESTART * mass
        scale = (1.0 - RESTART) * mass / of_node
        for at in range(graph.offsets[u], graph.offsets[u + 1]):
            v = graph.targets[at]
            if p[v] == 0.0 and r[v] == 0.0:
                room.touched[seen] = v
                seen += 1
            r[v] += scale * graph.weights[at]
            if graph.loaded[v] and not queued[v] and r[v] * BUDGET >= graph.of_node[v]:
                queue[(head + waiting) % count], queued[v] = v, True
                waiting += 1
    while waiting:
        queued[queue[head]] = False
        head, waiting = (head + 1) % count, waiting - 1
    return seen


@njit(cache=True, nogil=True)
def best(graph: Graph, sources: I64s, kinds: U8s, wanted: I64s) -> tuple[I64s, F64s]:
    """(S, all places) rows and values; wanted (2, 256): by kind how many places, and where they begin."""
    nodes, width = len(graph.offsets) - 1, wanted[0].sum()
    room = scratch(nodes)
    rows, values = np.full((len(sources), width), -1, dtype=np.int64), np.zeros((len(sources), width))
    for s in range(len(sources)):
        seen = pushed(graph, sources[s], room)
        for n in range(seen):
            v = room.touched[n]
            value = room.p[v] + RESTART * room.r[v]
            room.p[v] = room.r[v] = 0.0
            begin, end = wanted[1, kinds[v]], wanted[1, kinds[v]] + wanted[0, kinds[v]]
            if v == sources[s]:
                continue
            at = end
            while at > begin and (values[s, at - 1] < value or (values[s, at - 1] == value and rows[s, at - 1] > v)):
                at -= 1
            for later in range(end - 1, at, -1):
                rows[s, later], values[s, later] = rows[s, later - 1], values[s, later - 1]
            if at < end:
                rows[s, at], values[s, at] = v, value
    return rows, values
