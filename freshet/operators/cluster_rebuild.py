"""`freshet rebuild` over a cluster: the state forgotten, and archive and log replayed into it.

Edges are made again, into the next incarnation of their topic: what an earlier one holds, and what a paused worker still
sends under an older upstream, must not be mixed with them. Epochs are raised and never set back, so whoever held a claim
has lost it.

    events = rebuild(site, archive, partitions=None, told=advance, now_ms=now_ms)
"""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

from kafka.admin import ConfigResource, ConfigResourceType, NewTopic
from kafka.errors import TopicAlreadyExistsError, UnknownTopicOrPartitionError

from freshet.cluster import Services, admin, stored_shape
from freshet.operators.cluster_lag import entity_readers, members
from freshet.operators.cluster_losses import ClusterLoss, accepted, forget_losses, incarnation_of, put_on_record, stream_key
from freshet.operators.cluster_moving import move, moved
from storage.archive import Archive
from storage.state import TABLES, Gap
from storage.state_redis import RedisState
from stream.edges import EDGES
from stream.entities import ENTITIES
from stream.entity_writer import EntityWriter
from stream.ingest import EVENTS
from stream.kafka import KafkaUnreachable
from stream.log_kafka import KafkaLog
from stream.replay_shared import Span, Upto, replay_edges, replay_shared, shared_history

GONE_S_MAX: Final = 30.0
"""A deleted topic's name is free again after a moment."""


class CannotRebuild(RuntimeError):
    """Workers are running, or topics do not fit; the message names them and says what to do."""


def rebuild(site: Services, archive: Archive, *, told: Callable[[int], None], now_ms: int) -> int:
    """Returns how many events were replayed. Raises `CannotRebuild`, and `Gap` before anything is forgotten.

    In this order: 1. nobody may be alive, nothing may be missing, and under a new partition count events are moved to where
    they belong; 2. the state is fenced and emptied; 3. `edges` is made
    anew; 4. events, 5. edges and 6. entities are applied; 7. what was lost and now is not is off the record.
    """
    _refuse_while_alive(site)
    upto, losses, former, applied = _upto(site), accepted(site), _former(site), _applied(site)
    left = _still_lost(archive, losses)
    spans = [Span(loss.partition, loss.incarnation, loss.first, loss.end) for loss in left]
    source = shared_history(archive, site.log, upto, spans)
    _check_earlier(site, archive, upto)
    if former != site.shape.partitions:
        move(site, source, former=former, now_ms=now_ms)
        upto = _upto(site)
        source = shared_history(archive, site.log, upto, spans)
    _emptied(site, upto)
    moved(site)
    forget_losses(site)
    _made_anew(site, EDGES)
    with KafkaLog(site.kafka) as fresh:  # one that knows the new topic only
        topic = fresh.topic(EDGES)
        for partition in range(site.shape.partitions):
            site.state.accept(EDGES, partition, topic.id, 0)
        events = replay_shared(
            source, site.state, site.log, site.shape, now_ms=now_ms, edges_log=fresh, applied=applied, told=told
        )  # fmt: skip
        for partition, to in upto.items():  # where nothing is left of the newest topic too
            site.state.accept(EVENTS, partition, site.log.topic(EVENTS).id, to.below)
        ends = {partition: fresh.end_offset(EDGES, partition) for partition in range(site.shape.partitions)}
        replay_edges(fresh, site.state, site.shape, ends)
    _entities(site, now_ms)
    put_on_record(site, left)
    return events


def _refuse_while_alive(site: Services) -> None:
    with admin(site.kafka) as client:
        alive = [*members(client, site.kafka, site.group), *members(client, site.kafka, entity_readers(site.kafka))]
    if alive:
        named = ", ".join(sorted({member.name for member in alive}))
        raise CannotRebuild(f"group {site.group!r} lives ({named}): stop the workers, and wait for the session of a killed one to end")


def _upto(site: Services) -> dict[int, Upto]:
    """Up to the log's end now. A topic made anew is the next incarnation."""
    topic = site.log.topic(EVENTS)
    if topic.partitions != site.shape.partitions:
        raise CannotRebuild(
            f"{topic.name!r} has {topic.partitions} partitions, the setting says {site.shape.partitions}: "
            f"freshet rebuild --partitions {topic.partitions}, or add partitions to the topic"
        )
    before = _as_it_was(site)
    upto = {}
    for partition in range(topic.partitions):
        known = min(partition, _former(site) - 1)  # the topic's incarnation is that of all its partitions
        incarnation = incarnation_of(before, EVENTS, known) + (before.state.topic_id(EVENTS, known) not in ("", topic.id))
        upto[partition] = Upto(incarnation, site.log.end_offset(EVENTS, partition))
    return upto


def _applied(site: Services) -> dict[int, Upto] | None:
    """What the state had applied: its dead letters are sent. None under another partition count: what moves is misrouted where it was."""
    if _former(site) != site.shape.partitions:
        return None
    marks = site.state.watermarks(EVENTS)
    return {partition: Upto(incarnation_of(site, EVENTS, partition), mark) for partition, mark in marks.items()}


def _former(site: Services) -> int:
    """The partition count the state was built with."""
    return int(stored_shape(site.client, site.prefix).get("partitions", site.shape.partitions))


def _as_it_was(site: Services) -> Services:
    """The same services, with the state's keys of the former partition count."""
    return replace(site, state=RedisState(site.client, partitions=_former(site), prefix=site.prefix))


def _still_lost(archive: Archive, losses: list[ClusterLoss]) -> list[ClusterLoss]:
    """Of what was given up the part that the archive does not have: the rest comes back."""
    ends: dict[tuple[int, int], int] = {}
    for part in archive.parts():
        ends[part.incarnation, part.partition] = max(part.end, ends.get((part.incarnation, part.partition), 0))
    left = []
    for loss in losses:
        first = max(loss.first, ends.get((loss.incarnation, loss.partition), 0))
        if loss.stream == EVENTS and (loss.end is None or first < loss.end):
            left.append(replace(loss, first=first))
    return left


def _check_earlier(site: Services, archive: Archive, upto: dict[int, Upto]) -> None:
    """Raise `Gap` when the state has applied what neither log nor archive can give back."""
    before, topic = _as_it_was(site), site.log.topic(EVENTS)
    for partition, mark in before.state.watermarks(EVENTS).items():
        if before.state.topic_id(EVENTS, partition) in ("", topic.id):
            continue
        earlier = upto[partition].incarnation - 1
        archived = max((part.end for part in archive.parts() if (part.incarnation, part.partition) == (earlier, partition)), default=0)
        if archived < mark:
            raise Gap(
                f"partition {partition} of {EVENTS!r} was made anew, and of what was applied before only offsets below {archived} of "
                f"{mark} are archived: rebuild would lose the rest. Keep the state, and accept on record what the old topic still "
                "held (freshet gap accept)"
            )


def _emptied(site: Services, upto: dict[int, Upto]) -> None:
    """Fence everybody, then remove every blob; of the streams the epochs stay."""
    topic = site.log.topic(EVENTS)
    for partition, to in upto.items():
        key, held = stream_key(site, EVENTS, partition), incarnation_of(site, EVENTS, partition)
        site.client.hdel(key, "t")
        for n in range(to.incarnation - held):  # a partition that is new counts the same topics as the others
            site.state.accept(EVENTS, partition, f"earlier {n}", 0)
        site.state.accept(EVENTS, partition, topic.id, 0)
    for partitions in {site.shape.partitions, _former(site)}:
        there = RedisState(site.client, partitions=partitions, prefix=site.prefix)
        for partition in range(partitions):
            for table in TABLES:
                for key, _ in there._keys(table, partition):
                    site.client.unlink(key)
    site.client.delete(f"{site.prefix}:shape")
    site.state.shape(site.shape.record())


def _made_anew(site: Services, name: str) -> None:
    """Delete the topic and make it again, set up as it was, with the state's partitions."""
    full = site.kafka.topic(name)
    with admin(site.kafka) as client:
        (described,) = client.describe_topics([full])
        if described["error_code"] or not described["partitions"]:
            raise KafkaUnreachable(f"there is no topic {full!r}: make it (freshet topics create)")
        replicas = len(described["partitions"][0]["replica_nodes"])
        found = client.describe_configs([ConfigResource(ConfigResourceType.TOPIC, full)])["topic"][full]
        settings = {key: value["value"] for key, value in found.items() if not value["is_sensitive"]}
        client.delete_topics([full])
        wanted = NewTopic(full, site.shape.partitions, replicas, topic_configs=settings)
        _tried(lambda: client.create_topics([wanted]), f"topic {full!r} is still being deleted")
        client.wait_for_topics([full])


def _tried(act: Callable[[], Any], late: str) -> None:
    deadline = time.monotonic() + GONE_S_MAX
    while True:
        try:
            act()
        except (TopicAlreadyExistsError, UnknownTopicOrPartitionError) as error:
            if time.monotonic() > deadline:
                raise KafkaUnreachable(f"{late} after {GONE_S_MAX:.0f} s: run this again") from error
            time.sleep(0.2)
        else:
            return


def _entities(site: Services, now_ms: int) -> None:
    """All of them again, from a topic that keeps the newest of each for ever."""
    writer = EntityWriter(site.state, site.log, site.shape)
    for partition in range(site.log.topic(ENTITIES).partitions):
        offset, end = site.log.first_offset(ENTITIES, partition), site.log.end_offset(ENTITIES, partition)
        while offset < end and (records := site.log.read(ENTITIES, partition, offset)):
            offset = records[-1].offset + 1
            for record in records:
                writer.apply(record, now_ms=now_ms)
