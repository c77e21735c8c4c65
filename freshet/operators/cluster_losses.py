"""What was given up, on record: gaps that an operator accepted, kept in a list of Redis until a rebuild makes them history.

`gap accept` lets a partition go on where its log goes on: at the first record still held when retention overtook it, at the
log's end when the log lost its tail, at the beginning of a topic that was made anew.

    losses = accept_gaps(site, archive, now_ms=now_ms); spans(losses)
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import msgspec

from freshet.cluster import Services
from freshet.operators.cluster_lag import APPLIED, gap_between
from storage.archive import Archive
from stream.ingest import EVENTS
from stream.replay_shared import Span

LOSSES_MAX: Final = 10_000


@dataclass(frozen=True)
class ClusterLoss:
    """Offsets [first, end) of a partition that the state will never have; `end` None: all of a lost topic from `first` on.

    `resumed` is where the partition goes on, in the log of `topic_id`.
    """

    stream: str
    partition: int
    incarnation: int
    first: int
    end: int | None
    resumed: int
    topic_id: str
    why: str
    at_ms: int


def accept_gaps(site: Services, archive: Archive, *, now_ms: int) -> list[ClusterLoss]:
    """Let every partition of events and edges go on, in this order: 1. the loss is written down, 2. the state accepts it."""
    found = []
    for stream in APPLIED:
        topic, marks = site.log.topic(stream), site.state.watermarks(stream)
        for partition in range(site.shape.partitions):
            mark, same = marks.get(partition, 0), site.state.topic_id(stream, partition) in ("", topic.id)
            first, end = site.log.first_offset(stream, partition), site.log.end_offset(stream, partition)
            why = gap_between(first, end, mark, same_topic=same)
            if not why:
                continue
            # Where the log lost its tail, what was applied of it stays applied: no record below the end comes twice.
            resumed = end if same and mark > end else first
            incarnation = incarnation_of(site, stream, partition)
            loss = ClusterLoss(
                stream,
                partition,
                incarnation,
                mark,
                max(mark, resumed) if same else None,
                resumed,
                topic_id=topic.id,
                why=why,
                at_ms=now_ms,
            )
            losses = [loss]
            if resumed and not same:
                losses.append(replace(loss, incarnation=incarnation + 1, first=0, end=resumed))
            _written(site, losses)
            site.state.accept(stream, partition, topic.id, resumed)
            if stream == EVENTS:
                _give_up(archive, partition, incarnation + (not same), resumed)
            found += losses
    return found


def accepted(site: Services) -> list[ClusterLoss]:
    """Every loss on record since the state was last built."""
    return [msgspec.json.decode(line, type=ClusterLoss) for line in site.client.lrange(_key(site.prefix), 0, -1)]


def forget_losses(site: Services) -> None:
    """A state that was built anew lacks nothing any more."""
    site.client.delete(_key(site.prefix))


def put_on_record(site: Services, losses: Sequence[ClusterLoss]) -> None:
    """Again, after a rebuild that could not find what they name either."""
    _written(site, losses)


def spans(losses: Sequence[ClusterLoss]) -> list[Span]:
    """What a replay of events leaves out, as the state had to."""
    return [Span(loss.partition, loss.incarnation, loss.first, loss.end) for loss in losses if loss.stream == EVENTS]


def incarnation_of(site: Services, stream: str, partition: int) -> int:
    """The newest accepted incarnation of the topic, as the state keeps it with the partition's watermark."""
    return int(site.client.hget(stream_key(site, stream, partition), "i") or 0)


def stream_key(site: Services, stream: str, partition: int) -> str:
    """Where the state keeps epoch, watermark, topic id and incarnation of a partition."""
    return site.state._stream(stream, partition)  # an operator's look: nobody else reads it without claiming


def _give_up(archive: Archive, partition: int, incarnation: int, resumed: int) -> None:
    """An archive that was begun must reach where the log goes on; what it never got is a file without rows."""
    if archive.parts() and incarnation >= archive.incarnation:
        archive.accept(incarnation)
        if archive.published(partition) < resumed:
            archive.give_up(partition, resumed, number=resumed)


def _written(site: Services, losses: Sequence[ClusterLoss]) -> None:
    if losses:
        site.client.rpush(_key(site.prefix), *map(msgspec.json.encode, losses))
        site.client.ltrim(_key(site.prefix), -LOSSES_MAX, -1)


def _key(prefix: str) -> str:
    return f"{prefix}:losses"
