"""How many events a second one process applies: bare histories, and the whole state.

    python -m bench.engine --embedded [--events 1000000] [--form packs|json]

Synthetic events, Zipf (exponent 1) over 200,000 users and 100,000 items, packs of 250. `full` is what the product does:
histories, seen-sets, counts, dedup, up to twenty directed edges an event, neighbours, archive, watermark; it is timed until
nothing is pending. The last line is JSON.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa

from bench.machine import versions
from freshet.engine import Engine
from freshet.settings import Settings
from storage.arrays import I64s
from storage.columns import EVENT_SCHEMA
from storage.histories import load_histories, load_seen, store_histories
from storage.log import JSON, PACK, Entry
from storage.log_lmdb import LmdbLog
from storage.names import Names
from storage.partitioned import distinct_rows, read_rows, write_rows
from storage.state import HISTORIES, NEIGHBOURS, SEEN, Advance
from storage.state_lmdb import LmdbState, boot_id
from stream.events import Event
from stream.hashing import hash_events
from stream.ingest import EVENTS
from stream.reducers import Columns, reduce_users
from stream.shape import Shape
from stream.wire import decode, encode_event, encode_pack

USERS: Final = 200_000
ITEMS: Final = 100_000
PACK_EVENTS: Final = 250
START_MS: Final = 1_700_000_000_000


def main(arguments: list[str] | None = None) -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.engine", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--embedded", action="store_true", required=True, help="measure the embedded form (LMDB)")
    parser.add_argument("--events", type=int, default=1_000_000, help="events in each run (default 1,000,000)")
    parser.add_argument("--form", choices=("packs", "json"), default="packs", help="how the events are encoded")
    parser.add_argument(
        "--batch-events",
        type=int,
        default=256_000,
        help="events applied in one commit at most (default: the 1,024 records of the settings)",
    )
    parser.add_argument(
        "--edge-window", type=int, default=Shape().edge_window, help="entries looked back for edges (two directed ones each)"
    )
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    records_max = max(1, options.batch_events // PACK_EVENTS) if options.form == "packs" else options.batch_events
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        settings = Settings(data=root / "data", batch_records_max=min(records_max, 65_536), log_bytes_max=16 << 30)
        _say(f"compiling, and writing {options.events:,} events as {options.form} ...")
        _warm_up(root / "warm", options)
        _fill(settings.data / "log", options)
        histories = _histories(settings, root / "histories")
        _say(f"histories: {histories['events_per_s']:,.0f} events/s")
        full, sizes = _full(settings, Shape(edge_window=options.edge_window))
        _say(f"full: {full['events_per_s']:,.0f} events/s")
    report = {
        "bench": "engine",
        "form": options.form,
        "events": options.events,
        "histories": histories,
        "full": full,
        **sizes,
        **versions(),
    }
    print(json.dumps(report))


def _histories(settings: Settings, folder: Path) -> dict[str, float]:
    """Events to last-128 lists and a watermark, nothing else: no names; zero weights switch off seen-sets, counts and edges."""
    log, shape = LmdbLog(settings.data / "log", log_bytes_max=settings.log_bytes_max), Shape()
    state = LmdbState(folder, boot_id=boot_id())
    names, claim = Names(state), state.claim(EVENTS, 0, log.topic(EVENTS).id)
    number, mark, applied, spent = 0, 0, 0, time.process_time()
    began = time.perf_counter()
    while records := log.read_ordered(EVENTS, number, records_max=settings.batch_records_max, bytes_max=256 << 20):
        hashed = hash_events(decode(records).source, str, names, shape)
        users, rows = distinct_rows(hashed.columns.users)
        where = np.zeros(len(users), dtype=np.int64)
        held = load_histories(read_rows(state, HISTORIES, where, users), np.bincount(rows), history_max=shape.history_max)
        seen = load_seen([None] * len(users), np.zeros(len(users), np.int64), seen_max=shape.seen_max)
        reduce_users(rows, _only_histories(hashed.columns), held, seen, shape)
        state.commit([Advance(claim, mark, records[-1].offset + 1)], write_rows(HISTORIES, where, users, store_histories(held)))
        for kind, fresh in hashed.fresh:
            names.learn(kind, fresh)
        number, mark, applied = records[-1].number + 1, records[-1].offset + 1, applied + len(hashed.columns)
    wall, cpu = time.perf_counter() - began, time.process_time() - spent
    state.close()
    log.close()
    return {"events_per_s": applied / wall, "us_per_event": 1e6 * cpu / applied}


def _only_histories(columns: Columns) -> Columns:
    nothing = np.zeros(len(columns), dtype=np.int64)
    return Columns(
        users=columns.users, items=columns.items, stamps=columns.stamps, event_ids=columns.event_ids, collections=columns.collections,
        sources=columns.sources, has_item=nothing.astype(np.bool_), weight=nothing,
    )  # fmt: skip


def _full(settings: Settings, shape: Shape) -> tuple[dict[str, float], dict[str, float]]:
    with Engine(settings, shape) as engine:
        spent, began = time.process_time(), time.perf_counter()
        applied = engine.drain(now_ms=START_MS)
        engine.flush_archive()
        wall, cpu = time.perf_counter() - began, time.process_time() - spent
        users = sum(1 for _ in engine.state.scan(HISTORIES, 0))
        nodes = sum(1 for _ in engine.state.scan(NEIGHBOURS, 0))
        pages = {table: engine.state.used_bytes(table) for table in (HISTORIES, SEEN, NEIGHBOURS)}
        edges = applied * 2 * engine.shape.edge_window
    figures = {"events_per_s": applied / wall, "us_per_event": 1e6 * cpu / applied, "directed_edges_max": edges}
    return figures, {
        "bytes_per_user": (pages[HISTORIES] + pages[SEEN]) / users,
        "bytes_per_node": pages[NEIGHBOURS] / nodes,
        "users": users,
        "nodes": nodes,
    }


def _warm_up(folder: Path, options: argparse.Namespace) -> None:
    """Compile the kernels outside the measurement."""
    with Engine(Settings(data=folder)) as engine:
        for entries in _messages(1000, options.form, 1):
            engine.log.append(EVENTS, entries, now_ms=START_MS)
        engine.drain(now_ms=START_MS)


def _fill(folder: Path, options: argparse.Namespace) -> None:
    with LmdbLog(folder, log_bytes_max=16 << 30) as log:
        for entries in _messages(options.events, options.form, options.seed):
            log.append(EVENTS, entries, now_ms=START_MS)


def _messages(events: int, form: str, seed: int) -> Iterator[list[Entry]]:
    generator = np.random.default_rng(seed)
    users, items = _zipf(generator, USERS, events), _zipf(generator, ITEMS, events)
    for start in range(0, events, 40 * PACK_EVENTS):
        ends = range(start, min(events, start + 40 * PACK_EVENTS), PACK_EVENTS)
        if form == "packs":
            yield [Entry(0, encode_pack(_pack(users, items, at)), PACK) for at in ends]
        else:
            rows = range(start, min(events, start + 40 * PACK_EVENTS))
            yield [Entry(0, encode_event(_event(int(users[n]), int(items[n]), n)), JSON) for n in rows]


def _zipf(generator: np.random.Generator, size: int, draws: int) -> I64s:
    weights = 1.0 / np.arange(1, size + 1)
    return generator.choice(size, draws, p=weights / weights.sum())


def _pack(users: I64s, items: I64s, at: int) -> pa.RecordBatch:
    part = slice(at, at + PACK_EVENTS)
    size = len(users[part])
    given = {
        "event_id": [f"e{n}" for n in range(at, at + size)],
        "user_id": [f"u{user}" for user in users[part]],
        "action": ["click"] * size,
        "ts_ms": list(range(START_MS + at, START_MS + at + size)),
        "item_id": [f"i{item}" for item in items[part]],
        "schema": [1] * size,
    }
    columns = [pa.array(given[f.name], f.type) if f.name in given else pa.nulls(size, f.type) for f in EVENT_SCHEMA]
    return pa.record_batch(columns, schema=EVENT_SCHEMA)


def _event(user: int, item: int, n: int) -> Event:
    return Event(event_id=f"e{n}", user_id=f"u{user}", action="click", ts_ms=START_MS + n, item_id=f"i{item}")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
