"""What happens to the log: it forgets what was not applied yet, or is made anew. A loud stop, and both ways out.

`freshet gap accept` puts on record what is given up; `freshet rebuild` needs an archive that has it, and gives up nothing.
"""

import random
import time
from collections.abc import Mapping

from kafka import TopicPartition
from kafka.admin import NewTopic
from kafka.errors import TopicAlreadyExistsError

from bench.faults.judging import Verdict, Wanted, judged
from bench.faults.messages import make_messages
from bench.faults.sites import TOPIC, Ground, Process, Site
from bench.faults.workers import archived, send, unlike_the_log
from bench.services import wait_until
from freshet.cluster import admin
from freshet.operators.cluster_losses import accepted
from stream.ingest import EVENTS
from stream.shape import Shape

PARTITIONS = 3
ANEW_S = 30.0


def retention(ground: Ground, trial: int) -> Verdict:
    """Retention overtakes the watermark. Once the rest is gone for good; once an old backup of Redis was put back."""
    return both(_overtaken(ground, random.Random(trial)), _put_back(ground, random.Random(trial)))


def topic_recreated(ground: Ground, trial: int) -> Verdict:
    """The topic of events is deleted and made again under running workers; new events reach histories, neighbours and archive."""
    return both(_made_anew(ground, random.Random(trial), "gap", "accept"), _made_anew(ground, random.Random(trial), "rebuild"))


def both(one: Verdict, other: Verdict) -> Verdict:
    """Of two ways out."""
    slower = max(one.recovery_s, other.recovery_s)
    return Verdict(one.lost + other.lost, one.doubled + other.doubled, slower, (*one.wrong, *other.wrong))


def _overtaken(ground: Ground, rng: random.Random) -> Verdict:
    with Site(ground, partitions=PARTITIONS, shape=Shape()) as site:
        wanted = Wanted(site.shape)
        send(site, wanted, rng, 200)
        site.keep(1)
        site.wait_applied()
        site.stop_kept()
        marks = site.state.watermarks(EVENTS)
        made = make_messages(rng, site.shape, count=200)
        positions = site.fill(made)
        gone = {0: marks[0] + rng.randint(1, 30), 2: site.log.end_offset(EVENTS, 2)}
        _forget_records(site, gone)
        wanted.add(made, positions, given_up=lambda at: at.offset < gone.get(at.partition, 0))
        loud = _stops_loudly(site, site.worker())
        began = time.monotonic()
        site.freshet("gap", "accept")
        named = {(loss.stream, loss.partition, loss.first, loss.end) for loss in accepted(site.services)}
        unnamed = "" if named == {(EVENTS, n, marks[n], end) for n, end in gone.items()} else f"on record is {named}, gone is {gone}"
        site.keep(1)
        send(site, wanted, rng, 100)
        site.wait_applied()
        return judged(site, wanted, recovery_s=time.monotonic() - began).and_also(loud, unnamed)


def _put_back(ground: Ground, rng: random.Random) -> Verdict:
    with Site(ground, partitions=PARTITIONS, shape=Shape()) as site:
        wanted = Wanted(site.shape)
        send(site, wanted, rng, 200)
        site.keep(1)
        site.wait_applied()
        backup = _backup(site)
        send(site, wanted, rng, 200)
        site.wait_applied()
        site.stop_kept()
        _forget_records(site, dict(site.state.watermarks(EVENTS)))
        _restore(site, backup)
        send(site, wanted, rng, 100)
        loud = _stops_loudly(site, site.worker())
        began = time.monotonic()
        site.freshet("rebuild")
        site.look_again()
        site.keep(1)
        send(site, wanted, rng, 100)
        site.wait_applied()
        given_up = f"given up after a rebuild: {losses}" if (losses := accepted(site.services)) else ""
        return judged(site, wanted, recovery_s=time.monotonic() - began).and_also(loud, given_up)


def _made_anew(ground: Ground, rng: random.Random, *way_out: str) -> Verdict:
    with Site(ground, partitions=PARTITIONS, shape=Shape()) as site:
        wanted = Wanted(site.shape)
        send(site, wanted, rng, 150)
        worker = site.worker()
        site.wait_applied()
        site.wait(lambda: archived(site), alive=lambda: worker.poll() is None)
        recreate(site, EVENTS)
        site.look_again()
        made = make_messages(rng, site.shape, count=rng.choice((50, 400)))  # fewer than before, or beyond where the worker reads
        wanted.add(made, site.fill(made), incarnation=1)
        loud = _stops_loudly(site, worker)
        began = time.monotonic()
        site.freshet(*way_out)
        site.look_again()
        site.keep(1)
        made = make_messages(rng, site.shape, count=100)
        wanted.add(made, site.fill(made), incarnation=1)
        site.wait_applied()
        recovery_s = time.monotonic() - began
        site.stop_kept()
        return judged(site, wanted, recovery_s=recovery_s).and_also(loud, *unlike_the_log(site, incarnation=1))


def _stops_loudly(site: Site, worker: Process) -> str:
    """It ends by itself, badly, and says what to do."""
    site.wait(lambda: worker.poll() is not None)
    said = site.said(worker)
    return "" if worker.returncode != 0 and "freshet gap accept" in said else f"no loud stop: {worker.returncode}, {said[-300:]}"


def _forget_records(site: Site, before: Mapping[int, int]) -> None:
    """As retention does."""
    with admin(site.kafka) as client:
        client.delete_records({TopicPartition(site.kafka.topic(EVENTS), n): offset for n, offset in before.items()})


def recreate(site: Site, topic: str) -> None:
    """Delete it, and make it again as it was, empty."""
    name = site.kafka.topic(topic)
    with admin(site.kafka) as client:
        client.delete_topics([name])

        def made() -> bool:
            try:
                client.create_topics([NewTopic(name, site.shape.partitions, 1, topic_configs=TOPIC)])
            except TopicAlreadyExistsError:
                return False
            return True

        wait_until(made, seconds=ANEW_S)
        client.wait_for_topics([name])


def _backup(site: Site) -> dict[bytes, bytes]:
    """Every key of the installation, as Redis dumps it."""
    client = site.state._client
    return {key: client.dump(key) for key in client.scan_iter(match=f"{site.name}:*", count=1000)}


def _restore(site: Site, backup: Mapping[bytes, bytes]) -> None:
    client = site.state._client
    for key in list(client.scan_iter(match=f"{site.name}:*", count=1000)):
        client.delete(key)
    for key, value in backup.items():
        client.restore(key, 0, value)
