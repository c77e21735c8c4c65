"""What comes in: the same thing twice, to the wrong partition, unreadable, to one partition alone, in transactions that are aborted."""

import random
import time
from collections.abc import Iterator, Sequence
from typing import Any, Final

import msgspec
from kafka import KafkaProducer

from bench.faults.judging import Verdict, Wanted, judged
from bench.faults.messages import APPEND_MS, UNREADABLE, Message, Stream, columns, make_messages
from bench.faults.plain import plain_log
from bench.faults.sites import Ground, Site
from bench.faults.workers import send
from freshet.operators.cluster_lag import cluster_status
from freshet.world.poison import poison as worlds_poison
from storage.log import PACK, Entry, Position
from stream.events import Event
from stream.ingest import EVENTS
from stream.kafka_records import PACK_HEADER
from stream.shape import Shape
from stream.wire import encode_event, encode_pack

PARTITIONS: Final = 3
WORLDS_KINDS: Final = (0, 1, 2, 3, 4, 5, 6, 8, 9, 10, 11)
"""All but the event of the year 2500: made messages are appended later still."""
HOT: Final = 100


def duplicates(ground: Ground, trial: int) -> Verdict:
    """Two of three events come again, once or more, alone or in a pack, among the next events of their users."""
    rng = random.Random(trial)
    with Site(ground, partitions=PARTITIONS, shape=Shape()) as site:
        wanted, messages = Wanted(site.shape), list(_repeated(rng, site.shape, events=1500))
        site.keep(1)
        wanted.add(messages, site.fill(messages))
        sent = time.monotonic()
        site.wait_applied()
        recovery_s = time.monotonic() - sent
        totals, repeated = site.totals(), sum(wanted.oracle.duplicates.values())
        distinct = len({event.event_id for message in messages for event in message.events.values()})
        once = totals["accepted"] - totals["duplicates"] == distinct and repeated > distinct // 2
        return judged(site, wanted, recovery_s=recovery_s).and_also(
            "" if once else f"{distinct} distinct events, {repeated} of them repeated, and {totals}"
        )


def _repeated(rng: random.Random, shape: Shape, *, events: int) -> Iterator[Message]:
    stream, told = Stream(rng, shape), list[list[Event]]([[] for _ in range(shape.partitions)])
    for n in range(events):
        partition = rng.randrange(shape.partitions)
        event = msgspec.structs.replace(stream.event(partition), event_id=f"id {n}")
        told[partition].append(event)
        yield Message(Entry(partition, encode_event(event)), {0: event})
        while rng.random() < 0.5:
            again = rng.choices(told[partition][-30:], k=rng.choice((1, 1, 5)))
            if len(again) == 1:
                yield Message(Entry(partition, encode_event(again[0])), {0: again[0]})
            else:
                yield Message(Entry(partition, encode_pack(columns(again)), PACK), dict(enumerate(again)))


def poison(ground: Ground, trial: int) -> Verdict:
    """One record of a hundred is bad, each kind of bad in turn: it becomes a dead letter, and the rest goes on."""
    rng = random.Random(trial)
    with Site(ground, partitions=PARTITIONS) as site:
        wanted, stream = Wanted(site.shape), Stream(rng, site.shape)
        bad = list(_bad(rng, site.shape, stream))
        messages = [_good(rng, site.shape, stream) for _ in range(100 * len(bad))]
        for n, message in enumerate(bad):
            messages[100 * n + rng.randrange(100)] = message
        worker = site.start()
        sent = time.monotonic()
        wanted.add(messages, site.fill(messages))
        site.wait_applied()
        verdict = judged(site, wanted, recovery_s=time.monotonic() - sent)
        return verdict.and_also("" if worker.poll() is None else f"the worker died of it: {worker.returncode}")


def _good(rng: random.Random, shape: Shape, stream: Stream) -> Message:
    partition = rng.randrange(shape.partitions)
    event = stream.event(partition)
    return Message(Entry(partition, encode_event(event)), {0: event})


def _bad(rng: random.Random, shape: Shape, stream: Stream) -> Iterator[Message]:
    """Every kind: what no reader takes for an event, what no rule lets pass, packs that are none, and packs with such rows."""

    def anywhere() -> int:
        return rng.randrange(shape.partitions)

    bodies = [*UNREADABLE, *(worlds_poison(n) for n in WORLDS_KINDS), b"\x00" * 3000, b"[" * 5000]
    yield from (Message(Entry(anywhere(), body), refused=1) for body in bodies)
    packs = [b"", b"ARROW1 no more", encode_pack([stream.event(0)])[:-40]]
    yield from (Message(Entry(anywhere(), body, PACK), refused=1) for body in packs)
    for kind in range(Stream.SPOILT):
        partition = anywhere()
        good, refused = stream.event(partition), stream.refused(partition, kind=kind)
        yield Message(Entry(partition, encode_pack(columns([good, refused])), PACK), {0: good}, refused=1)
    stray = stream.event(1)
    yield Message(Entry(0, encode_event(stray)), refused=1)


def misrouted(ground: Ground, trial: int) -> Verdict:
    """Half the records lie on wrong partitions: all dead letters; one `dead-letters redrive`, and all is right, also when repeated."""
    rng = random.Random(trial)
    with Site(ground, partitions=PARTITIONS, shape=Shape()) as site:
        stream, wanted = Stream(rng, site.shape), Wanted(site.shape)
        messages = []
        for n in range(1000):
            message = _good(rng, site.shape, stream)
            wrong = (message.entry.partition + 1 + n % 2) % PARTITIONS
            messages.append(message if n % 2 else Message(Entry(wrong, message.entry.value), refused=1))
        wanted.add(messages, site.fill(messages))
        site.keep(1)
        site.wait_applied()
        before = judged(site, wanted, recovery_s=0)
        began = time.monotonic()
        told = [site.freshet("dead-letters", "redrive", "--reason", "misrouted") for _ in range(2)]
        site.wait_applied()
        recovery_s = time.monotonic() - began
        right = "" if "500 redriven, 0 stay" in told[0] and "0 redriven" in told[1] else f"redrive said {told}"
        return judged(site, plain_log(site), recovery_s=recovery_s).and_also(*before.wrong, right)


def hot_partition(ground: Ground, trial: int) -> Verdict:
    """One partition gets a hundred times what all others get; those do not wait for it."""
    rng = random.Random(trial)
    with Site(ground, partitions=4, shape=Shape()) as site:
        wanted, stream = Wanted(site.shape), Stream(rng, site.shape)
        made = [_from(stream, 0 if n % (HOT + 1) else 1 + n // (HOT + 1) % 3) for n in range(60 * (HOT + 1))]
        wanted.add(made, site.fill(made))
        site.keep(2)
        site.wait(lambda: site.epochs(EVENTS) >= site.shape.partitions)
        began = time.monotonic()
        site.wait(lambda: not any(site.left(EVENTS, n) for n in (1, 2, 3)))
        cold_s = time.monotonic() - began
        site.wait_applied()
        recovery_s = time.monotonic() - began
        late = "" if cold_s <= recovery_s / 2 + 5 else f"the others waited {cold_s:.1f} s"
        return judged(site, wanted, recovery_s=recovery_s).and_also(late)


def _from(stream: Stream, partition: int) -> Message:
    event = stream.event(partition)
    return Message(Entry(partition, encode_event(event)), {0: event})


def aborted_transaction(ground: Ground, trial: int) -> Verdict:
    """Transactions of a producer of somebody else's: committed, aborted, left open by one that died. No false gap."""
    rng = random.Random(trial)
    with Site(ground, partitions=PARTITIONS) as site:
        wanted, worker = Wanted(site.shape), site.start()
        first = _transacting(site)
        for n in range(8):
            committed = n % 2 == 0
            send(site, wanted, rng, 40)
            made = make_messages(rng, site.shape, count=60)
            first.begin_transaction()
            positions = _sent(site, first, made)
            first.commit_transaction() if committed else first.abort_transaction()
            if committed:
                wanted.add(made, positions)
        first.begin_transaction()
        _sent(site, first, make_messages(rng, site.shape, count=60))
        second = _transacting(site)  # of the same name: it ends what the first one left open, and the first one is told so
        began = time.monotonic()
        site.wait_applied()
        alive = "" if worker.poll() is None else "a false gap: the worker ended"
        site.stop(worker)
        site.start()
        send(site, wanted, rng, 40)
        site.wait_applied()
        recovery_s = time.monotonic() - began
        gaps = {row["gap"] for row in cluster_status(site.services)["partitions"]} - {"", None}
        first.close(timeout=1)
        second.close(timeout=1)
        return judged(site, wanted, recovery_s=recovery_s).and_also(alive, f"false gaps: {gaps}" if gaps else "")


def _transacting(site: Site) -> Any:  # kafka-python has no types
    made = KafkaProducer(bootstrap_servers=site.kafka.bootstrap, transactional_id=site.name, metrics_enabled=False)
    made.init_transactions()
    return made


def _sent(site: Site, producer: Any, messages: Sequence[Message]) -> list[Position]:
    sent = [
        producer.send(
            site.kafka.topic(EVENTS),
            message.entry.value,
            partition=message.entry.partition,
            timestamp_ms=APPEND_MS,
            headers=[PACK_HEADER] if message.entry.form == PACK else [],
        )
        for message in messages
    ]
    producer.flush()
    return [Position(at.partition, at.offset, at.offset) for at in (future.get() for future in sent)]
