"""What happens to Kafka and Redis: killed and started again, away for longer than anybody waits, in the middle of a commit."""

import os
import random
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec

from bench.faults.judging import Verdict, Wanted, judged, unlike_a_replay
from bench.faults.messages import Stream
from bench.faults.plain import plain_log
from bench.faults.sites import Ground, Site
from bench.faults.workers import send
from freshet.operators.cluster_verify import Moving
from stream.events import Event
from stream.kafka import DELIVERY_MS
from stream.producer import Limits, Producer
from stream.producer_kafka import KafkaSink
from stream.shape import Shape

DELIVERY_S: Final = 2.0
"""Of the producer: then what is not acknowledged is told, and sent again."""
GIVEN_UP_S: Final = DELIVERY_MS / 1000 + 60


def redis_restart(ground: Ground, trial: int) -> Verdict:
    """Redis is killed and comes back without the last of what it had written: state and watermark agree, the log gives the rest."""
    rng = random.Random(trial)
    with Site(ground, partitions=3, shape=Shape()) as site:
        wanted = Wanted(site.shape)
        site.keep(2)
        send(site, wanted, rng, 300)
        site.wait_applied()
        synced = _append_only(ground).stat().st_size
        applied = site.totals()["accepted"]
        send(site, wanted, rng, 300)
        site.wait(lambda: site.totals()["accepted"] > applied)
        ground.redis.kill()
        _forget_the_last(_append_only(ground), synced, rng)
        ground.redis.start()
        back = time.monotonic()
        disagree = _disagreement(site)
        send(site, wanted, rng, 100)
        site.wait_applied()
        return judged(site, wanted, recovery_s=time.monotonic() - back).and_also(*disagree)


def _append_only(ground: Ground) -> Path:
    (found,) = (ground.redis.folder / "appendonlydir").glob("*.incr.aof")
    return found


def _forget_the_last(path: Path, synced: int, rng: random.Random) -> None:
    """What a power cut may take: anything behind what was synced, and half a commit at its end."""
    os.truncate(path, rng.randint(synced, path.stat().st_size))


def _disagreement(site: Site) -> list[str]:
    """Against a replay up to the watermarks that came back; nothing where workers are already ahead of this look."""
    try:
        return unlike_a_replay(site)
    except Moving:
        return []


def kafka_restart(ground: Ground, trial: int) -> Verdict:
    """The broker is killed while workers are at work, and comes back."""
    rng = random.Random(trial)
    with Site(ground, partitions=3, shape=Shape()) as site:
        wanted = Wanted(site.shape)
        site.keep(2)
        send(site, wanted, rng, 200)
        site.wait(site.begun)
        send(site, wanted, rng, 400)
        ground.kafka.kill()
        ground.kafka.start()
        back = time.monotonic()
        site.look_again()
        send(site, wanted, rng, 200)
        site.wait_applied()
        return judged(site, wanted, recovery_s=time.monotonic() - back)


def kafka_unreachable(ground: Ground, trial: int) -> Verdict:
    """The broker stands still in the middle of a commit, for longer than a send may take: the worker ends without writing.

    Its edges lie in the broker's socket and come to the log once the broker goes on; the next worker's are the same ones.
    """
    rng, point = random.Random(trial), ("before edges", "before dead letters")[trial % 2]
    with Site(ground, partitions=1) as site:
        wanted = Wanted(site.shape)
        send(site, wanted, rng, 400)
        worker = site.start(pause=point, hit=2)

        def stopped() -> bool:
            if not site.stopped(worker) and site.applied():
                send(site, wanted, rng, 20)
            return site.stopped(worker)

        site.wait(stopped, alive=lambda: worker.poll() is None)
        marks = dict(site.state.watermarks("events"))
        with _standing_still(ground):
            worker.send_signal(signal.SIGCONT)
            site.wait(lambda: worker.poll() is not None, seconds=GIVEN_UP_S)
            loud = "" if worker.returncode != 0 else "the worker ended as if all were well"
            kept = "" if site.state.watermarks("events") == marks else "it committed what it could not send"
        back = time.monotonic()
        site.start()
        send(site, wanted, rng, 100)
        site.wait_applied()
        return judged(site, wanted, recovery_s=time.monotonic() - back).and_also(loud, kept)


def producer_retry(ground: Ground, trial: int) -> Verdict:
    """The broker stands still for longer than the producer's delivery time: what it tells has failed is sent again, with its ids."""
    rng, told = random.Random(trial), list[Event]()
    with Site(ground, partitions=3, shape=Shape()) as site:
        stream = Stream(rng, site.shape)
        events = [msgspec.structs.replace(stream.event(n % 3), event_id=None) for n in range(1500)]
        site.keep(1)

        def keep(what: Event | bytes, error: Exception) -> None:
            assert isinstance(what, Event), f"an event was sent, not {what!r} ({error})"
            told.append(what)

        with Producer(KafkaSink(site.kafka, delivery_s=DELIVERY_S), limits=Limits(linger_events=20), on_error=keep) as producer:
            ids = {producer.send(event).event_id for event in events[:500]}
            producer.flush()
            with _standing_still(ground):
                ids |= {producer.send(event).event_id for event in events[500:1000]}
                producer.flush()
            back, first = time.monotonic(), len(told)
            ids |= {producer.send(event).event_id for event in events[1000:]}
            producer.flush()
            while told:  # also what fails once more: a broker that has just come back is slow
                again, told[:] = list(told), []
                ids |= {producer.send(event).event_id for event in again}
                producer.flush()
        retried = "" if first else "nothing had to be sent again"
        site.wait_applied()
        recovery_s, wanted, totals = time.monotonic() - back, plain_log(site), site.totals()
        once = "" if totals["accepted"] - totals["duplicates"] == len(ids) else f"{len(ids)} ids were sent, and {totals}"
        return judged(site, wanted, recovery_s=recovery_s).and_also(retried, once)


@contextmanager
def _standing_still(ground: Ground) -> Iterator[None]:
    ground.kafka.pause()
    try:
        yield
    finally:
        ground.kafka.resume()
