"""Synthetic events for the stopwatch: users and items are Zipf (exponent 1), the n-th event comes n milliseconds after the first.

users, items = draw(1_000_000, seed=0); encode_pack(pack(users, items, np.arange(250)))
"""

from typing import Final

import numpy as np
import pyarrow as pa

from storage.arrays import I64s
from storage.columns import EVENT_SCHEMA
from stream.events import Event

USERS: Final = 200_000
ITEMS: Final = 100_000
PACK_EVENTS: Final = 250
START_MS: Final = 1_700_000_000_000
EDGE_WINDOW: Final = 5
"""How far back the edges of `full` reach: ten directed ones an event. What is measured is defined by it; the product's default is more."""


def draw(events: int, *, seed: int) -> tuple[I64s, I64s]:
    """The numbers of each event's user and item: (N,), (N,)."""
    generator = np.random.default_rng(seed)
    return zipf(generator, USERS, events), zipf(generator, ITEMS, events)


def zipf(generator: np.random.Generator, size: int, draws: int) -> I64s:
    """Ranks below `size`, each in proportion to 1 / (1 + rank)."""
    weights = 1.0 / np.arange(1, size + 1)
    return generator.choice(size, draws, p=weights / weights.sum())


def pack(users: I64s, items: I64s, rows: I64s) -> pa.RecordBatch:
    """Some of the drawn events as columns. rows (B,) are their numbers."""
    given = {
        "event_id": [f"e{n}" for n in rows.tolist()],
        "user_id": [f"u{user}" for user in users[rows]],
        "action": ["click"] * len(rows),
        "ts_ms": (START_MS + rows).tolist(),
        "item_id": [f"i{item}" for item in items[rows]],
        "schema": [1] * len(rows),
    }
    columns = [pa.array(given[f.name], f.type) if f.name in given else pa.nulls(len(rows), f.type) for f in EVENT_SCHEMA]
    return pa.record_batch(columns, schema=EVENT_SCHEMA)


def event(users: I64s, items: I64s, n: int) -> Event:
    """One of the drawn events."""
    return Event(event_id=f"e{n}", user_id=f"u{users[n]}", action="click", ts_ms=START_MS + n, item_id=f"i{items[n]}")
