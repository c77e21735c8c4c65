"""What so many users, items and events a second take: partitions, Redis, Qdrant and workers, computed from measured numbers.

    python -m bench.capacity [--from scaling.json engine.json] [--users 10000000] [--items 10000000] [--events-per-s 100000]

Bytes are measured here: a Redis of its own is filled with a partition of synthetic users and items through the product's own
ingest, and asked what each key takes (MEMORY USAGE). CPU an event is taken from files of JSON lines that `bench.scaling` and
`bench.engine --cluster` printed (the last line of each counts), or measured in a short run. `bench/planning.py` has the
arithmetic. The last line is JSON, a table comes before it.
"""

import argparse
import json
import logging
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from bench.footprint import Filling, Footprint, footprint
from bench.machine import versions
from bench.planning import Costs, Target, plan, table
from bench.services import KafkaServer, RedisServer

SHORT_EVENTS: Final = 50_000


def main(arguments: list[str] | None = None) -> None:
    """Parse, measure, compute, print."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.capacity", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--from", dest="files", type=Path, nargs="*", default=[], help="what bench.scaling and bench.engine printed")
    parser.add_argument("--users", type=int, default=Target().users)
    parser.add_argument("--items", type=int, default=Target().items)
    parser.add_argument("--events-per-s", type=int, default=Target().events_per_s)
    parser.add_argument(
        "--events-per-user", type=int, default=Filling().events_per_user, help="in all, when the state was filled (default 100)"
    )
    parser.add_argument("--filled-users", type=int, default=Filling().users, help="of the partition that is measured (default 2,000)")
    options = parser.parse_args(arguments)
    target = Target(options.users, options.items, options.events_per_s)
    filling = Filling(options.filled_users, max(1, options.filled_users * options.items // options.users), options.events_per_user)
    logging.getLogger("kafka").setLevel(logging.CRITICAL)
    with tempfile.TemporaryDirectory() as folder:
        costs = costs_of(options.files) or _measured_costs(Path(folder) / "costs", say=_say)
        with RedisServer(Path(folder) / "redis") as redis:
            _say(f"filling a partition with {filling.users:,} users of {filling.events_per_user} events ...")
            held = footprint(filling, redis)
    print(json.dumps({"bench": "capacity", **report(target, filling, held, costs, say=print), **versions()}))


def report(target: Target, filling: Filling, held: Footprint, costs: Costs, *, say: Callable[[str], None]) -> dict[str, Any]:
    """Print the table, return the figures."""
    wanted = plan(target, filling, held, costs)
    for line in table(target, filling, held, costs, wanted):
        say(line)
    return {"target": asdict(target), "filled": asdict(filling), "bytes": held.figures(), "costs": asdict(costs), "takes": asdict(wanted)}


def costs_of(files: Sequence[Path]) -> Costs | None:
    """CPU an event, from what benches printed; None where no file is given. Raises ValueError when `bench.scaling` is not among them."""
    found: dict[str, dict[str, Any]] = {}
    for line in (line for path in files for line in path.read_text().splitlines() if line.startswith("{")):
        said = json.loads(line)
        found[f"{said['bench']} {said.get('form', '')}".strip()] = said
    if not files:
        return None
    if "scaling" not in found:
        raise ValueError(f"the files hold {sorted(found)}: a line of bench.scaling is needed, which tells what an event costs Redis")
    engine = found.get("engine cluster", {}).get("full_json")
    return _costs(found["scaling"]["workers"], engine["us_per_event"] if engine else None)


def _measured_costs(folder: Path, *, say: Callable[[str], None]) -> Costs:
    from bench.scaling import Plan, throughput

    say(f"no line of bench.scaling is given: {SHORT_EVENTS:,} events through one worker ...")
    with KafkaServer(folder / "kafka") as kafka, RedisServer(folder / "redis") as redis:
        return _costs(throughput(Plan(events=SHORT_EVENTS, workers=(1,)), kafka, redis, folder, say=say), None)


def _costs(by_workers: Mapping[str, Mapping[str, Any]], json_us: float | None) -> Costs:
    """Those of the run with the fewest workers: more of them on the same cores wait for one another."""
    fewest = by_workers[min(by_workers, key=int)]
    return Costs(fewest["worker_us_per_event"], fewest["redis_us_per_event"], fewest["kafka_us_per_event"], json_us)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
