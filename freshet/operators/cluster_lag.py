"""`freshet lag` over a cluster: how far each partition is behind, who reads it, and what became of the input.

The truth is the log's end less the watermark in the state; what the group has committed says nothing about it. Entities
alone have no watermark: their readers commit to Kafka, and that is what is compared with the end.

    status = cluster_status(site); status["lag_records"]
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec
from kafka import TopicPartition
from kafka.errors import CoordinatorLoadInProgressError, CoordinatorNotAvailableError, NotCoordinatorError

from freshet.cluster import Services, admin
from storage.state import TALLIES
from stream.edges import EDGES
from stream.entities import ENTITIES
from stream.ingest import EVENTS, Tally
from stream.kafka import Kafka

APPLIED: Final = (EVENTS, EDGES)
COORDINATOR_S_MAX: Final = 10.0


@dataclass(frozen=True)
class Member:
    """A process that Kafka counts as alive: it was heard of within its session's time-out."""

    client: str
    host: str
    partitions: tuple[tuple[str, int], ...]

    @property
    def name(self) -> str:
        """For a person: the id's last digits tell two processes of one host apart."""
        return f"{self.client[-8:]}@{self.host}"


def cluster_status(site: Services) -> dict[str, Any]:
    """What `freshet lag` prints, as JSON."""
    with admin(site.kafka) as client:
        group = members(client, site.kafka, site.group)
        entity_group = entity_readers(site.kafka)
        entity_members = members(client, site.kafka, entity_group)
        committed = _of_coordinator(lambda: client.list_group_offsets({entity_group: None}))[entity_group]
    rows = [row for topic in APPLIED for row in _applied(site, topic, _readers(group))]
    rows += _entities(site, committed, _readers(entity_members))
    return {
        "partitions": rows,
        "lag_records": sum(row["lag"] for row in rows if row["topic"] == EVENTS),
        "edges_lag_records": sum(row["lag"] for row in rows if row["topic"] == EDGES),
        "group": {"name": site.group, "members": [msgspec.to_builtins(member) | {"name": member.name} for member in group]},
        "tallies": msgspec.to_builtins(tallies(site)),
    }


def members(client: Any, kafka: Kafka, group: str) -> list[Member]:
    """Who lives in the group and what each reads. A killed or paused one stays until its session has run out."""
    found = _of_coordinator(lambda: client.describe_groups([group]))[group]["members"]
    alive = []
    for member in found:
        assigned = (member["member_assignment"] or {}).get("assigned_partitions", [])
        held = [(one["topic"].removeprefix(kafka.prefix), partition) for one in assigned for partition in one["partitions"]]
        alive.append(Member(member["member_id"], member["client_host"].lstrip("/"), tuple(sorted(held))))
    return sorted(alive, key=lambda member: member.client)


def entity_readers(kafka: Kafka) -> str:
    """The group whose members read entities: faust's, named as its app in `stream/app.py`."""
    return f"{kafka.prefix}freshet-worker"


def tallies(site: Services) -> Tally:
    """What became of the input, over all partitions."""
    total = Tally()
    for partition in range(site.shape.partitions):
        for _, blob in site.state.scan(TALLIES, partition):
            tally = msgspec.json.decode(blob, type=Tally)
            for kind, count in tally.dead_letters.items():
                total.dead_letters[kind] = total.dead_letters.get(kind, 0) + count
            total.accepted += tally.accepted
            total.duplicates += tally.duplicates
            total.newest_ms = max(total.newest_ms, tally.newest_ms)
    return total


def gap_between(first: int, end: int, mark: int, *, same_topic: bool) -> str:
    """Why a reader cannot go on at `mark`; empty when it can."""
    if not same_topic:
        return "the topic was made anew"
    if mark < first:
        return f"the log begins at {first}: {first - mark} records are gone"
    return f"the log ends at {end}: it lost its tail" if mark > end else ""


def _of_coordinator(ask: Callable[[], Any]) -> Any:
    """Ask until the group's coordinator is there: a cluster in which no group ever was makes it on the first question."""
    deadline = time.monotonic() + COORDINATOR_S_MAX
    while True:
        try:
            return ask()
        except (CoordinatorNotAvailableError, CoordinatorLoadInProgressError, NotCoordinatorError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def _applied(site: Services, topic: str, readers: Mapping[tuple[str, int], str]) -> list[dict[str, Any]]:
    marks, found = site.state.watermarks(topic), site.log.topic(topic)
    rows = []
    for partition in range(site.shape.partitions):
        mark = marks.get(partition, 0)
        first, end = site.log.first_offset(topic, partition), site.log.end_offset(topic, partition)
        same = site.state.topic_id(topic, partition) in ("", found.id)
        gap = gap_between(first, end, mark, same_topic=same)
        rows.append(_row(topic, partition, mark, end, readers) | {"lag": end - mark if same else end, "gap": gap})
    return rows


def _entities(site: Services, committed: Mapping[TopicPartition, Any], readers: Mapping[tuple[str, int], str]) -> list[dict[str, Any]]:
    rows = []
    for partition in range(site.log.topic(ENTITIES).partitions):
        found = committed.get(TopicPartition(site.kafka.topic(ENTITIES), partition))
        mark = max(0, found.offset) if found is not None else site.log.first_offset(ENTITIES, partition)
        rows.append(_row(ENTITIES, partition, mark, site.log.end_offset(ENTITIES, partition), readers))
    return rows


def _row(topic: str, partition: int, mark: int, end: int, readers: Mapping[tuple[str, int], str]) -> dict[str, Any]:
    reader = readers.get((topic, partition))
    return {"topic": topic, "partition": partition, "watermark": mark, "end": end, "lag": end - mark, "reader": reader, "gap": ""}


def _readers(group: list[Member]) -> dict[tuple[str, int], str]:
    return {held: member.name for member in group for held in member.partitions}
