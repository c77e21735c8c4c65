"""How many events a second one process applies: bare histories, and the whole state.

    python -m bench.engine --embedded [--events 1000000] [--form packs|json]
    python -m bench.engine --cluster [--peer quix] [--events 400000] [--rounds 2]

Synthetic events, Zipf (exponent 1) over 200,000 users and 100,000 items, packs of 250. `full` is what the product does:
histories, seen-sets, counts, dedup, up to ten directed edges an event, neighbours, archive, watermark; it is timed until
nothing is pending. The product looks ten entries back by default, not five: `--edge-window 10` measures that. `--cluster` takes
both forms through one broker into one Redis, beside a peer (`bench/cluster.py` says how).
The last line is JSON.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from bench.bare import rewritten
from bench.machine import versions
from bench.synthetic import EDGE_WINDOW, PACK_EVENTS, START_MS, draw, event, pack
from freshet.engine import Engine
from freshet.settings import Settings
from storage.log import JSON, PACK, Entry
from storage.log_lmdb import LmdbLog
from storage.names import Names
from storage.partitioned import read_rows, write_rows
from storage.state import HISTORIES, NEIGHBOURS, SEEN, Advance
from storage.state_lmdb import LmdbState, boot_id
from stream.hashing import hash_events
from stream.ingest import EVENTS
from stream.shape import Shape
from stream.wire import decode, encode_event, encode_pack


def main(arguments: list[str] | None = None) -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.engine", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--embedded", action="store_true", help="measure the embedded form (LMDB)")
    which.add_argument("--cluster", action="store_true", help="measure the cluster form (Kafka, Redis), both as JSON and as packs")
    parser.add_argument("--events", type=int, help="events in each run (default 1,000,000; of the cluster form 400,000)")
    parser.add_argument("--form", choices=("packs", "json"), default="packs", help="embedded: how the events are encoded")
    parser.add_argument(
        "--batch-events",
        type=int,
        default=256_000,
        help="embedded: events applied in one commit at most (default: the 1,024 records of the settings)",
    )
    parser.add_argument(
        "--edge-window",
        type=int,
        default=EDGE_WINDOW,
        help=f"entries looked back for edges, two directed ones each (default {EDGE_WINDOW})",
    )
    parser.add_argument("--peer", choices=("quix",), help="cluster: measure this peer on the same broker, in turns with us")
    parser.add_argument("--rounds", type=int, default=2, help="cluster: so many turns; figures are medians (default 2)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    report = _embedded(options) if options.embedded else _cluster(options)
    print(json.dumps({"bench": "engine", **report, **versions()}))


def _cluster(options: argparse.Namespace) -> dict[str, object]:
    from bench.cluster import Plan, measure

    plan = Plan(
        events=options.events or 400_000, rounds=options.rounds, peer=options.peer == "quix", edge_window=options.edge_window,
        seed=options.seed,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        return measure(plan, Path(folder), say=_say)


def _embedded(options: argparse.Namespace) -> dict[str, object]:
    options.events = options.events or 1_000_000
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
    plan = {"form": options.form, "events": options.events, "edge_window": options.edge_window}
    return {**plan, "histories": histories, "full": full, **sizes}


def _histories(settings: Settings, folder: Path) -> dict[str, float]:
    """Events to last-128 lists and a watermark, nothing else: no names."""
    log, shape = LmdbLog(settings.data / "log", log_bytes_max=settings.log_bytes_max), Shape()
    state = LmdbState(folder, boot_id=boot_id())
    names, claim = Names(state), state.claim(EVENTS, 0, log.topic(EVENTS).id)
    number, mark, applied, spent = 0, 0, 0, time.process_time()
    began = time.perf_counter()
    while records := log.read_ordered(EVENTS, number, records_max=settings.batch_records_max, bytes_max=256 << 20):
        hashed = hash_events(decode(records).source, str, names, shape)
        hashed = hashed.named([[None] * len(strange) for strange in hashed.strange])
        users, blobs = rewritten(hashed.columns, lambda users: read_rows(state, HISTORIES, np.zeros(len(users), np.int64), users), shape)
        writes = write_rows(HISTORIES, np.zeros(len(users), np.int64), users, blobs)
        state.commit([Advance(claim, mark, records[-1].offset + 1)], writes)
        for kind, fresh in hashed.fresh:
            names.learn(kind, fresh)
        number, mark, applied = records[-1].number + 1, records[-1].offset + 1, applied + len(hashed.columns)
    wall, cpu = time.perf_counter() - began, time.process_time() - spent
    state.close()
    log.close()
    return {"events_per_s": applied / wall, "us_per_event": 1e6 * cpu / applied}


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
    users, items = draw(events, seed=seed)
    for start in range(0, events, 40 * PACK_EVENTS):
        rows = np.arange(start, min(events, start + 40 * PACK_EVENTS))
        if form == "packs":
            packs = [rows[at : at + PACK_EVENTS] for at in range(0, len(rows), PACK_EVENTS)]
            yield [Entry(0, encode_pack(pack(users, items, part)), PACK) for part in packs]
        else:
            yield [Entry(0, encode_event(event(users, items, n)), JSON) for n in rows.tolist()]


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
