"""Events to what changes: pure, no clock, no Kafka, defined one event at a time in log order.

A batch is reduced by running that definition over all its events inside one working set, so any batch size gives the
same bits. Late events land where their time puts them; a known event id changes nothing.

    users = reduce_users(rows, columns, histories, seen, shape)
    lists = reduce_neighbours(rows, users.edges, lists, shape)
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from storage import decay
from storage.arrays import Bools, I64s, U64s
from storage.neighbours import IN_COLLECTION, SALTS
from storage.ragged import cut, words
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

    def of_items(self) -> Bools:
        """Which nodes are items (E,): all but the collections, which in-collection edges lead back from."""
        items: Bools = self.list_ids != self.nodes ^ SALTS[IN_COLLECTION]
        items[::2] = True
        return items

    def take(self, rows: I64s | Bools) -> "Edges":
        """Some of them, in this order."""
        return Edges(
            self.nodes[rows], self.list_ids[rows], self.targets[rows], self.amounts[rows], self.ts_ms[rows], self.events[rows]
        )  # fmt: skip


@dataclass(frozen=True)
class Users:
    """What events made of their users: R histories and seen-sets, for `ragged.cut`; edges once; which counted (N,), False: duplicate."""

    histories: tuple[U64s, I64s]
    seen: tuple[U64s, I64s]
    applied: Bools
    edges: Edges


def reduce_users(rows: I64s, columns: Columns, histories: Sequence[bytes | None], seen: Sequence[bytes | None], shape: Shape) -> Users:
    """Put events into their users' histories and seen-sets; emit their edges.

    rows (N,): each event's row among the R stored blobs of either kind. An event pairs with up to `edge_window` entries before
    it and, if late, after it: earlier -> later adds weight / distance, later -> earlier half of it; the pair's time is the later one's.
    """
    room = len(rows) * (4 * shape.edge_window + 4)
    ids, numbers = np.empty((3, room), dtype=np.uint64), np.empty((3, room), dtype=np.int64)
    new_histories, new_seen, applied, count = kernels.apply_events(
        rows, columns.items, columns.stamps, columns.event_ids, columns.collections, columns.sources, columns.has_item, columns.weight,
        *words(histories), *words(seen), shape.positive, shape.history_max, shape.seen_max, shape.edge_window, ids, numbers,
    )  # fmt: skip
    return Users(new_histories, new_seen, applied, Edges(*ids[:, :count], *numbers[:, :count]))


def reduce_neighbours(rows: I64s, edges: Edges, lists: Sequence[bytes | None], shape: Shape) -> list[memoryview]:
    """Add edges to their lists in log order. rows (E,): each edge's list among the R stored blobs; returns the new ones."""
    stored = kernels.apply_edges(
        *words(lists), rows, edges.targets, edges.amounts, edges.ts_ms, shape.neighbours_max, shape.edge_half_life_ms, decay.TABLE,
    )  # fmt: skip
    return cut(*stored)


def reduce_counts(table: I64s, rows: I64s, columns: Columns, applied: Bools, shape: Shape) -> None:
    """Count applied events that name an item, in place. table (R, 4); rows (N,)."""
    half_life = shape.count_half_life_ms
    kernels.count(table, rows, columns.stamps, columns.has_item, columns.weight, applied, half_life, decay.TABLE)
