"""What happens to workers: killed, stopped past their session, joined by others while they catch up, their clock or disk wrong."""

import random
import signal
import time
from typing import Final

import pyarrow as pa

from bench.faults.judging import Verdict, Wanted, judged
from bench.faults.messages import SMALL, make_messages
from bench.faults.points import POINTS
from bench.faults.sites import Ground, Process, Site
from storage.columns import ARCHIVE_SCHEMA
from stream.archiving import archive_rows
from stream.edges import EDGES
from stream.ingest import EVENTS
from stream.shape import Shape
from stream.wire import decode

KILLED: Final = -signal.SIGKILL
KILL_WITHIN_S: Final = 1.0
HIT_MAX: Final = 5
HOUR_MS: Final = 3_600_000
SMALLEST_FILE: Final = 1000
"""Bytes: any roll of the archive takes more."""


def send(site: Site, wanted: Wanted, rng: random.Random, count: int) -> None:
    """So many made messages, good and bad."""
    made = make_messages(rng, site.shape, count=count)
    wanted.add(made, site.fill(made))


def kill_worker(ground: Ground, trial: int) -> Verdict:
    """`kill -9` of `freshet worker` at a random moment, or of a worker at a named point of the commit and of the edges protocol.

    Over one partition, where the oracle knows every byte of the neighbours too, or over three.
    """
    rng, point = random.Random(trial), (None, *POINTS)[trial % (1 + len(POINTS))]
    at_random = point is None
    with Site(ground, partitions=rng.choice((1, 3)), shape=Shape() if at_random else SMALL) as site:
        wanted = Wanted(site.shape)
        send(site, wanted, rng, 500)
        first = site.worker() if at_random else site.start(point=point, hit=rng.randint(1, HIT_MAX))
        _kill_at_random(site, first, wanted, rng) if at_random else _feed_until_dead(site, first, wanted, rng)
        killed = time.monotonic()
        send(site, wanted, rng, 100)
        site.worker() if at_random else site.start()
        site.wait_applied()
        return judged(site, wanted, recovery_s=time.monotonic() - killed)


def _kill_at_random(site: Site, worker: Process, wanted: Wanted, rng: random.Random) -> None:
    site.wait(lambda: site.epochs(EVENTS) >= site.shape.partitions, alive=lambda: worker.poll() is None)
    end = time.monotonic() + rng.uniform(0, KILL_WITHIN_S)
    while time.monotonic() < end:
        send(site, wanted, rng, 20)
    worker.kill()
    worker.wait()


def _feed_until_dead(site: Site, worker: Process, wanted: Wanted, rng: random.Random) -> None:
    """More and more commits, until it has come to its point often enough."""

    def dead() -> bool:
        if worker.poll() is None and site.applied():
            send(site, wanted, rng, 20)
        return worker.poll() is not None

    site.wait(dead)
    if worker.returncode != KILLED:
        raise RuntimeError(f"the worker ended with {worker.returncode}, not at its point")


def paused_worker(ground: Ground, trial: int) -> Verdict:
    """SIGSTOP in the middle of a commit, past the session; another worker applies everything; then SIGCONT.

    The one that wakes up has lost its claim: what it still holds is not written, what it still sends has no effect.
    """
    rng, point = random.Random(trial), ("before edges", "before commit")[trial % 2]
    with Site(ground, partitions=1) as site:
        wanted = Wanted(site.shape)
        send(site, wanted, rng, 700)
        sleeper = site.start(pause=point)
        site.wait(lambda: site.stopped(sleeper), alive=lambda: sleeper.poll() is None)
        paused = time.monotonic()
        other = site.start()
        site.wait_applied()
        recovery_s = time.monotonic() - paused
        before, claimed, sent = judged(site, wanted, recovery_s=0), site.epochs(EVENTS), site.log.end_offset(EDGES, 0)
        site.stop(other)
        sleeper.send_signal(signal.SIGCONT)
        site.wait(lambda: site.epochs(EVENTS) > claimed, alive=lambda: sleeper.poll() is None)
        site.wait_applied()
        idle = "" if point != "before edges" or site.log.end_offset(EDGES, 0) > sent else "it sent no edges: nothing was tried"
        site.stop(sleeper)
        return judged(site, wanted, recovery_s=recovery_s).and_also(*before.wrong, idle)


def rebalance_catch_up(ground: Ground, trial: int) -> Verdict:
    """Workers join one after the other while there is much to catch up with; one leaves in order, one is killed."""
    rng = random.Random(trial)
    with Site(ground, partitions=6) as site:
        wanted = Wanted(site.shape)
        send(site, wanted, rng, 1500)
        first = site.start()
        site.wait(site.begun)
        joined, claimed = time.monotonic(), site.epochs(EVENTS)
        second, _ = site.start(), site.start()
        send(site, wanted, rng, 500)
        site.wait(lambda: site.epochs(EVENTS) > claimed + 1)
        site.stop(first)
        send(site, wanted, rng, 300)
        second.kill()
        second.wait()
        send(site, wanted, rng, 200)
        site.wait_applied()
        return judged(site, wanted, recovery_s=time.monotonic() - joined)


def clock_skew(ground: Ground, trial: int) -> Verdict:
    """The clock of one of two workers is an hour behind, or ahead; then it is left alone with everything."""
    rng, wrong_ms = random.Random(trial), (-HOUR_MS, HOUR_MS)[trial % 2]
    with Site(ground, partitions=4) as site:
        wanted, store = Wanted(site.shape), str(site.folder / "store" / "archive")
        send(site, wanted, rng, 400)
        right = site.start(archive=store)
        site.wait(site.begun)
        claimed = site.epochs(EVENTS)
        wrong = site.start(archive=store, clock_wrong_ms=wrong_ms)
        site.wait(lambda: site.epochs(EVENTS) > claimed, alive=lambda: wrong.poll() is None)
        send(site, wanted, rng, 300)
        site.wait_applied()
        began = time.monotonic()
        site.stop(right)
        send(site, wanted, rng, 300)
        site.wait_applied()
        recovery_s = time.monotonic() - began
        site.stop(wrong)
        return judged(site, wanted, recovery_s=recovery_s).and_also(*unlike_the_log(site))


def archive_disk_full(ground: Ground, trial: int) -> Verdict:
    """The disk of the archive is full for a while: events are applied all the same, and afterwards the archive is whole."""
    rng = random.Random(trial)
    with Site(ground, partitions=2, shape=Shape()) as site:
        wanted = Wanted(site.shape)
        send(site, wanted, rng, 200)
        worker = site.worker()
        site.wait_applied()
        site.wait(lambda: archived(site), alive=lambda: worker.poll() is None)
        site.may_write(worker, SMALLEST_FILE)
        files = len(site.archive.parts())
        send(site, wanted, rng, 400)
        site.wait_applied()
        site.wait(lambda: "archive_waits" in site.said(worker), alive=lambda: worker.poll() is None)
        behind = "" if len(site.archive.parts()) == files else "the archive was written to a full disk"
        site.may_write(worker)
        freed = time.monotonic()
        site.wait(lambda: archived(site), alive=lambda: worker.poll() is None)
        recovery_s = time.monotonic() - freed
        site.stop(worker)
        return judged(site, wanted, recovery_s=recovery_s).and_also(behind, *unlike_the_log(site))


def archived(site: Site) -> bool:
    """Whether the archive has everything of the log that is there now."""
    archive = site.archive
    newest = {part.partition: part.end for part in archive.parts()}
    return all(newest.get(n, 0) == site.log.end_offset(EVENTS, n) for n in range(site.shape.partitions))


def unlike_the_log(site: Site, *, incarnation: int = 0) -> list[str]:
    """Each record of the log is in the archive once."""
    tables = [table for of, table in site.archive.rolls() if of == incarnation]
    rows = pa.concat_tables([ARCHIVE_SCHEMA.empty_table(), *tables]).to_pylist()
    wrong = []
    for partition in range(site.shape.partitions):
        records = site.log.read(EVENTS, partition, 0, records_max=1_000_000)
        logged = pa.Table.from_batches([archive_rows(decode(records))]).to_pylist()
        found = [row for row in rows if row["partition"] == partition]
        if repr(found) != repr(logged):
            wrong.append(f"the archive of partition {partition} has {len(found)} rows, the log {len(logged)}")
    return wrong
