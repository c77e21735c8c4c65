"""Events to what changes: pure, no clock, no Kafka, defined one event at a time in log order.

A batch is reduced by running that definition over all its events inside one working set, so any batch size gives the
same bits. Late events land where their time puts them; a known event id changes nothing.

    edges, applied = reduce_users(rows, columns, histories, seen, shape)
    reduce_neighbours(lists, rows, edges, shape)
"""

from dataclasses import dataclass

import numpy as np

from storage import decay
from storage.arrays import Bools, I64s, U64s
from storage.histories import HistorySet, SeenSet
from storage.neighbours import SALTS, NeighbourSet
from stream import kernels
from stream.shape import Shape


@dataclass(frozen=True)
class Columns:
    """Valid events in log order, ids hashed; 0 = none. `weight` is 0 for what makes no edge. All arrays (N,)."""

    users: U64s
    items: U64s
    stamps: U64s
    event_ids: U64s
    collections: U64s
    sources: U64s
    has_item: Bools
    weight: I64s

    def __len__(self) -> int:
        return len(self.users)


@dataclass(frozen=True)
class Edges:
    """Directed edges in log order: add `amount` at `ts_ms` to neighbour `target` of `node`'s list `list_id`. All (E,).

    `events`: the row of the event that made each edge. They come in pairs, there and back.
    """

    nodes: U64s
    list_ids: U64s
    targets: U64s
    amounts: I64s
    ts_ms: I64s
    events: I64s

    def __len__(self) -> int:
        return len(self.nodes)

    def take(self, rows: I64s | Bools) -> "Edges":
        """Some of them, in this order."""
        return Edges(
            self.nodes[rows], self.list_ids[rows], self.targets[rows], self.amounts[rows], self.ts_ms[rows], self.events[rows]
        )  # fmt: skip


def reduce_users(rows: I64s, columns: Columns, held: HistorySet, seen: SeenSet, shape: Shape) -> tuple[Edges, Bools]:
    """Put events into their users' histories and seen-sets, in place; emit their edges once.

    rows (N,): each event's row in the working sets. Returns the edges and which events were applied (False: duplicate).
    An event pairs with up to `edge_window` entries before it and, if late, after it: earlier -> later adds weight /
    distance, later -> earlier half of it; the pair's time is the later one's.
    """
    applied = np.zeros(len(rows), dtype=np.bool_)
    room = len(rows) * (4 * shape.edge_window + 4)
    nodes, list_ids, targets = (np.empty(room, np.uint64) for _ in range(3))
    amounts, ts_ms = (np.empty(room, np.int64) for _ in range(2))
    emitted = np.empty(len(rows) + 1, np.int64)
    count = kernels.apply_events(
        rows, columns.items, columns.stamps, columns.event_ids, columns.collections, columns.sources, columns.has_item, columns.weight,
        held.start, held.items, held.stamps, held.size, held.ring, held.ring_size, held.ring_next,
        seen.start, seen.items, seen.ts_ms, seen.size,
        shape.positive, shape.history_max, shape.seen_max, shape.edge_window, SALTS, applied,
        nodes, list_ids, targets, amounts, ts_ms, emitted,
    )  # fmt: skip
    events = np.arange(len(rows)).repeat(emitted[1:] - emitted[:-1])
    return Edges(nodes[:count], list_ids[:count], targets[:count], amounts[:count], ts_ms[:count], events), applied


def reduce_neighbours(lists: NeighbourSet, order: I64s, begin: I64s, edges: Edges, shape: Shape) -> None:
    """Add edges to their lists, in place. `order` and `begin` group the edges by list, log order kept within each."""
    kernels.apply_edges(
        lists.start, lists.nodes, lists.weights, lists.size, lists.landmark,
        order, begin, edges.targets, edges.amounts, edges.ts_ms,
        shape.neighbours_max, shape.edge_half_life_ms, decay.TABLE,
    )  # fmt: skip


def reduce_counts(table: I64s, rows: I64s, columns: Columns, applied: Bools, shape: Shape) -> None:
    """Count applied events that name an item, in place. table (R, 4); rows (N,)."""
    half_life = shape.count_half_life_ms
    kernels.count(table, rows, columns.stamps, columns.has_item, columns.weight, applied, half_life, decay.TABLE)
