"""Whether `freshet lag --json` tells the truth: ends less watermarks, read without it just before and just after.

    found = lag_truth(site, workers, order); found["paused"]["difference_max"]

While records flow both reads differ, and what the command says must lie between them; otherwise they are equal, and so must it
be. `difference_max` is the most by which a partition's lag was outside, `wrong` how many partitions were; both ought to be 0.
"""

import json
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.installation import APPLIED, START_S, Installation, Program
from bench.loading import Load, Order
from bench.services import wait_until
from stream.edges import EDGES
from stream.ingest import EVENTS

BURST_S = 1.0


@dataclass(frozen=True)
class Truth:
    """Ends and watermarks of both topics, read at one time."""

    ends: Mapping[tuple[str, int], int]
    marks: Mapping[tuple[str, int], int]


def lag_truth(site: Installation, workers: Sequence[Program], order: Order) -> dict[str, dict[str, int]]:
    """Of workers that work, that have nothing to do, one that stands still, and none. None of them lives afterwards."""
    found = {}
    with Load(order) as load:
        _wait_sent(load, order)
        found["live"] = _compared(site)
    site.wait_applied(workers)
    found["idle"] = _compared(site)
    paused = workers[0]
    paused.send(signal.SIGSTOP)
    wait_until(lambda: _state(paused.pid) == "T", seconds=START_S)
    with Load(order) as load:
        _wait_sent(load, order)
    found["paused"] = _compared(site)
    for worker in workers:
        worker.kill()
    with Load(order) as load:
        _wait_sent(load, order)
    found["dead"] = _compared(site)
    return found


def difference(told: Mapping[str, Any], before: Truth, after: Truth) -> int:
    """By how much a row's lag lies outside of what it can have been between the two reads; its end less its watermark must be it.

    >>> at = ("events", 0)
    >>> row = {"topic": "events", "partition": 0, "end": 10, "watermark": 7, "lag": 3}
    >>> difference(row, Truth({at: 10}, {at: 6}), Truth({at: 11}, {at: 8}))
    0
    >>> difference(row | {"lag": 9}, Truth({at: 10}, {at: 6}), Truth({at: 11}, {at: 8}))
    6
    """
    at, lag = (told["topic"], told["partition"]), int(told["lag"])
    least, most = before.ends[at] - after.marks[at], after.ends[at] - before.marks[at]
    outside = max(least - lag, lag - most, 0)
    return max(outside, abs(int(told["end"]) - int(told["watermark"]) - lag))


def _compared(site: Installation) -> dict[str, int]:
    before = _truth(site)
    told = json.loads(site.run("lag", "--json"))
    after = _truth(site)
    rows = [row for row in told["partitions"] if row["topic"] in APPLIED]
    differences = [difference(row, before, after) for row in rows]
    sums = {topic: sum(row["lag"] for row in rows if row["topic"] == topic) for topic in APPLIED}
    assert (told["lag_records"], told["edges_lag_records"]) == (sums[EVENTS], sums[EDGES]), "the sums are those of the rows"
    return {
        "partitions": len(rows), "readers": len({row["reader"] for row in rows} - {None}), "lag_records": sums[EVENTS],
        "edges_lag_records": sums[EDGES], "true_lag_min": _least(before, after), "true_lag_max": _least(after, before),
        "difference_max": max(differences), "wrong": sum(one > 0 for one in differences),
    }  # fmt: skip


def _least(ends: Truth, marks: Truth) -> int:
    """Lag of events by the ends of one read and the watermarks of the other, never below 0 in a partition."""
    return sum(max(end - marks.marks[at], 0) for at, end in ends.ends.items() if at[0] == EVENTS)


def _truth(site: Installation) -> Truth:
    marks = {(topic, n): mark.watermark for topic in APPLIED for n, mark in enumerate(site.marks(topic))}
    return Truth({(topic, n): end for topic in APPLIED for n, end in enumerate(site.ends(topic))}, marks)


def _wait_sent(load: Load, order: Order) -> None:
    """Until BURST_S of the load is there."""
    wait_until(lambda: load.sent >= BURST_S * order.rate, seconds=START_S)


def _state(pid: int) -> str:
    """As /proc has it: T stands still."""
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
