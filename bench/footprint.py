"""What a user, an item and what belongs to them take in Redis: a partition is filled by the product's ingest, and Redis is asked.

    held = footprint(Filling(users=2000), redis); held.rows["histories"].each

Contents and what was embedded are written as entities and the refresher would: `TEXT_CHARS` of text an item. `bounds` are rows
as long as they may become.
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import redis

from bench.services import RedisServer
from bench.synthetic import PACK_EVENTS, START_MS, pack, zipf
from storage.arrays import U64s
from storage.catalogue import Content, encode_content
from storage.histories import RING
from storage.log import PACK, Entry
from storage.log_lmdb import LmdbLog
from storage.names import Names
from storage.slots import tags
from storage.state import COUNTS, EMBEDDED, HISTORIES, NAMES, NEIGHBOURS, NODES, SEEN, Write
from storage.state_redis import BUCKETS, RedisState
from stream.ingest import EVENTS, Ingest
from stream.refresh import COMPARED_MAX
from stream.shape import Shape
from stream.wire import encode_pack

TABLES: Final = (HISTORIES, SEEN, COUNTS, NEIGHBOURS, NODES, EMBEDDED, NAMES)
TEXT_CHARS: Final = 200
BOUND_ROWS: Final = 200
LISTED_FIELDS: Final = 16_384
_RECORDS_AT_ONCE: Final = 16
_LOG_BYTES: Final = 4 << 30
_NOTE_BYTES, _NOTED_BYTES = 24, 12
"""Of what was embedded: its head, and each neighbour that was compared."""


@dataclass(frozen=True)
class Filling:
    """Who fills the partition: each user has so many events in all, of items drawn by Zipf (exponent 1)."""

    users: int = 2000
    items: int = 2000
    events_per_user: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.users, self.items, self.events_per_user) < 1:
            raise ValueError(f"{self}: each must be at least 1")


@dataclass(frozen=True)
class Rows:
    """How many rows of a table there are, and what all its keys take."""

    count: int
    bytes: int

    @property
    def each(self) -> float:
        """Bytes of one row."""
        return self.bytes / max(self.count, 1)


@dataclass(frozen=True)
class Footprint:
    """By table. `list_us`: for how long a field stops Redis when the names of a hash's fields are listed."""

    rows: dict[str, Rows]
    bounds: dict[str, float]
    list_us: float

    @property
    def user(self) -> float:
        """Bytes of a user: history, seen-set, name."""
        return sum(self.rows[table].each for table in (HISTORIES, SEEN, NAMES))

    @property
    def node(self) -> float:
        """Bytes of an item but its counts: neighbours, content, what was embedded, name."""
        return sum(self.rows[table].each for table in (NEIGHBOURS, NODES, EMBEDDED, NAMES))

    @property
    def user_max(self) -> float:
        """Of a user whose history and seen-set are full."""
        return self.user + sum(self.bounds[table] - self.rows[table].each for table in (HISTORIES, SEEN))

    @property
    def node_max(self) -> float:
        """Of an item whose list is full."""
        return self.node + self.bounds[NEIGHBOURS] - self.rows[NEIGHBOURS].each

    def figures(self) -> dict[str, Any]:
        """For the report, rounded."""
        each = {f"{table}_row": round(rows.each) for table, rows in self.rows.items()}
        bounds = {f"{table}_row_at_its_bound": round(size) for table, size in self.bounds.items()}
        sums = {"user": self.user, "node": self.node, "user_max": self.user_max, "node_max": self.node_max}
        return {**{name: round(size) for name, size in sums.items()}, **each, **bounds, "list_us_per_field": round(self.list_us, 3)}


def footprint(filling: Filling, server: RedisServer) -> Footprint:
    """Fill an empty Redis, and ask it."""
    with server.client() as client:
        client.config_set("hash-max-listpack-entries", 0)  # a small hash is packed closer than those of millions of users are
        state = RedisState(client, partitions=1, prefix="filled")
        _fill(state, filling)
        _describe(state)
        rows = {table: _measured(client, state, "filled", table) for table in TABLES}
        bounds = RedisState(client, partitions=1, prefix="bounds")
        shape, ids = Shape(), np.arange(1, BOUND_ROWS + 1, dtype=np.uint64) << np.uint64(52)
        sizes = {
            HISTORIES: 8 + 16 * shape.history_max + 8 * RING, SEEN: 16 * shape.seen_max, NEIGHBOURS: 8 + 16 * 2 * shape.neighbours_max,
        }  # fmt: skip
        bounds.commit([], [Write(table, 0, ids, [bytes(size)] * len(ids)) for table, size in sizes.items()])
        return Footprint(rows, {table: _measured(client, bounds, "bounds", table).each for table in sizes}, _list_us(client))


def _fill(state: RedisState, filling: Filling) -> None:
    """Every event of every user, in an order drawn at random."""
    generator = np.random.default_rng(filling.seed)
    users = generator.permutation(np.repeat(np.arange(filling.users), filling.events_per_user))
    items = zipf(generator, filling.items, len(users))
    with tempfile.TemporaryDirectory() as folder, LmdbLog(Path(folder), log_bytes_max=_LOG_BYTES) as log:
        shape = Shape()
        ingest = Ingest(state, log, shape, names=Names(state))
        ingest.claim()
        for start in range(0, len(users), PACK_EVENTS * _RECORDS_AT_ONCE):
            part = np.arange(start, min(len(users), start + PACK_EVENTS * _RECORDS_AT_ONCE))
            packs = [part[at : at + PACK_EVENTS] for at in range(0, len(part), PACK_EVENTS)]
            landed = log.append(EVENTS, [Entry(0, encode_pack(pack(users, items, rows)), PACK) for rows in packs], now_ms=START_MS)
            ingest.apply(log.read(EVENTS, 0, landed[0].offset, records_max=len(packs)), now_ms=START_MS)


def _describe(state: RedisState) -> None:
    """Contents of all items, and the notes of a refresher that has embedded each."""
    lists = list(state.scan(NEIGHBOURS, 0))
    ids: U64s = np.array([node for node, _ in lists], dtype=np.uint64)
    text = ("word " * TEXT_CHARS)[:TEXT_CHARS]
    content = encode_content(Content(name="i123456", title=text[:30], text=text, ts_ms=START_MS, offset=1))
    notes = [bytes(_NOTE_BYTES + _NOTED_BYTES * min(COMPARED_MAX, (len(blob) - 8) // 16)) for _, blob in lists]
    state.commit([], [Write(NODES, 0, ids, [content] * len(ids)), Write(EMBEDDED, 0, ids, notes)])


def _measured(client: "redis.Redis", state: RedisState, prefix: str, table: str) -> Rows:
    keys = [f"{prefix}:{{{tags(1)[0]}}}:{table}:{bucket:x}" for bucket in range(BUCKETS)]
    taken = [client.memory_usage(key, samples=0) for key in keys]
    return Rows(sum(1 for _ in state.scan(table, 0)), sum(int(size or 0) for size in taken))


def _list_us(client: "redis.Redis") -> float:
    """By Redis' own clock."""
    told: Any = client
    told.hset("listed", mapping={n.to_bytes(8, "big"): b"" for n in range(LISTED_FIELDS)})
    told.config_resetstat()
    told.hkeys("listed")
    return float(told.info("commandstats")["cmdstat_hkeys"]["usec_per_call"]) / LISTED_FIELDS
