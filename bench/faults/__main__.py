"""Harm the cluster form in every way it must survive, and count what is lost and what is doubled.

    python -m bench.faults [--only kill_worker,poison] [--trials N]

Starts a Kafka and a Redis of its own. `recovery_s` is the median of a fault's trials; a trial that never recovers ends the
bench. Exits with 1 when anything is lost, doubled or wrong. The last line is JSON.
"""

import argparse
import json
import logging
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Final

from bench.faults.catalogue import FAULTS, measure
from bench.faults.sites import Ground
from bench.machine import versions
from bench.services import KafkaServer, RedisServer

TRIALS: Final = {"kill_worker": 100}
TRIALS_OF_OTHERS: Final = 3


def main(arguments: list[str] | None = None) -> int:
    """Parse, harm, print."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.faults", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", type=_names, default=list(FAULTS), metavar="NAME,...", help=f"of {', '.join(FAULTS)}")
    parser.add_argument("--trials", type=int, help=f"of each fault (default {TRIALS_OF_OTHERS}; of kill_worker {TRIALS['kill_worker']})")
    options = parser.parse_args(arguments)
    if options.trials is not None and options.trials < 1:
        parser.error(f"--trials {options.trials}: at least 1")
    logging.getLogger("kafka").setLevel(logging.CRITICAL)
    with tempfile.TemporaryDirectory(prefix="freshet-faults-") as name:
        folder = Path(name)
        with KafkaServer(folder / "kafka") as kafka, RedisServer(folder / "redis") as redis:
            (folder / "sites").mkdir()
            ground = Ground(kafka, redis, folder / "sites")
            found = {
                name: measure(name, ground, trials=options.trials or TRIALS.get(name, TRIALS_OF_OTHERS), told=_say) for name in options.only
            }
    print(json.dumps({"bench": "faults", "faults": {name: asdict(figures) for name, figures in found.items()}, **versions()}))
    return int(any(figures.lost or figures.doubled or figures.wrong for figures in found.values()))


def _names(given: str) -> list[str]:
    names = given.split(",")
    unknown = sorted(set(names) - set(FAULTS))
    if unknown:
        raise argparse.ArgumentTypeError(f"no such fault: {', '.join(unknown)}; there are {', '.join(FAULTS)}")
    return names


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
