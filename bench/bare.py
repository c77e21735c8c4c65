"""Histories and nothing else, for the stopwatch: what a peer does that keeps a list for each user.

users, blobs = rewritten(columns, lambda users: state.read(HISTORIES, 0, users), shape)
"""

from collections.abc import Callable, Sequence

import numpy as np

from storage.arrays import U64s
from storage.partitioned import distinct_rows
from storage.ragged import cut
from stream.reducers import Columns, reduce_users
from stream.shape import Shape


def rewritten(columns: Columns, read: Callable[[U64s], Sequence[bytes | None]], shape: Shape) -> tuple[U64s, list[memoryview]]:
    """The batch's users and their new histories. Zero weights switch off seen-sets, counts and edges."""
    first, rows = distinct_rows(columns.users)
    users = columns.users[first]
    return users, cut(*reduce_users(rows, _only_histories(columns), read(users), [None] * len(users), shape).histories)


def _only_histories(columns: Columns) -> Columns:
    nothing = np.zeros(len(columns), dtype=np.int64)
    return Columns(
        users=columns.users, items=columns.items, stamps=columns.stamps, event_ids=columns.event_ids, collections=columns.collections,
        sources=columns.sources, has_item=nothing.astype(np.bool_), weight=nothing,
    )  # fmt: skip
