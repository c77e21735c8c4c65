"""Edges to neighbour lists and dirty marks: what a batch of them writes.

writes = connected(state, edges, items, shape, mark=lambda partition: dirty_mark(number, append_ms=append_ms))
"""

from collections.abc import Callable

from storage.arrays import Bools
from storage.neighbours import node_partition
from storage.partitioned import distinct_rows, present, read_rows, write_rows
from storage.state import DIRTY, NEIGHBOURS, State, Write
from stream.reducers import Edges, reduce_neighbours
from stream.shape import Shape


def connected(state: State, edges: Edges, items: Bools, shape: Shape, *, mark: Callable[[int], bytes]) -> list[Write]:
    """Edges to neighbour lists and dirty marks: the writes.

    items (E,): the edge's node is an item, so it has a vector; `mark` of a partition tells one change from the next.
    """
    first, rows = distinct_rows(edges.list_ids)
    list_ids, nodes = edges.list_ids[first], edges.nodes[first]
    where = node_partition(nodes, shape.partitions)
    lists = reduce_neighbours(rows, edges, read_rows(state, NEIGHBOURS, where, list_ids), shape)
    writes = write_rows(NEIGHBOURS, where, list_ids, lists)
    changed = nodes[items[first]]  # a node may have a list of each relation
    changed = changed[distinct_rows(changed)[0]]
    if len(changed):
        where = node_partition(changed, shape.partitions)
        marks = {partition: mark(partition) for partition in present(where)}
        writes += write_rows(DIRTY, where, changed, [marks[partition] for partition in where.tolist()])
    return writes


def dirty_mark(number: int, *, append_ms: int) -> bytes:
    """What tells one change from the next, and when the first record of its batch was appended (`stream/refresh.py`, `marked_ms`)."""
    return number.to_bytes(8, "little") + max(append_ms, 0).to_bytes(8, "little")
