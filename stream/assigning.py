"""Who reads which partitions: each topic is shared out by itself, and nothing that stays where it is stands still meanwhile.

kafka-python's assignor balances the topics together, so of two workers one may get all of `events` and the other all of
`edges`. Here everybody gets as many of each topic, and what is left over of one goes to who has least of those before. Who
holds a partition keeps it where that is fair; another one's is given up first and handed on in the next rebalance. Only the
group's leader decides, and on the wire this is cooperative-sticky: members of both kinds may share a group.

    shared({"events": {0, 1, 2}}, {"a": Member({"events"}, {TopicPartition("events", 0)}), "b": Member({"events"}, set())})
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor
from kafka.protocol.consumer.metadata import ConsumerProtocolAssignment
from kafka.structs import TopicPartition


@dataclass(frozen=True)
class Member:
    """What it reads, and what it holds now."""

    topics: AbstractSet[str]
    held: AbstractSet[TopicPartition]


class TopicByTopic(CooperativeStickyAssignor):  # type: ignore[misc]  # kafka-python has no types
    """kafka-python's cooperative assignor with other shares."""

    def assign(self, cluster: Any, members: Iterable[Any]) -> dict[str, ConsumerProtocolAssignment]:
        """By member; called where this client is the group's leader."""
        told = {member.member_id: self.parse_member_metadata(member.metadata) for member in members}
        found = {name: Member(set(one.subscription), set(one.partitions)) for name, one in told.items()}
        topics = set[str]().union(*(member.topics for member in found.values()))
        given = at_once(shared({topic: cluster.partitions_for_topic(topic) or () for topic in topics}, found), found)
        return {name: ConsumerProtocolAssignment(self.version, _by_topic(partitions), b"") for name, partitions in given.items()}


def shared(partitions: Mapping[str, Collection[int]], members: Mapping[str, Member]) -> dict[str, set[TopicPartition]]:
    """What each member is to hold in the end."""
    given: dict[str, set[TopicPartition]] = {name: set() for name in members}
    holder = _holders(members)
    for topic in sorted(partitions):
        readers = [name for name in sorted(members) if topic in members[name].topics]
        if not readers:
            continue
        everywhere = [TopicPartition(topic, partition) for partition in sorted(partitions[topic])]
        mine: dict[str, list[TopicPartition]] = {name: [] for name in readers}
        for where in everywhere:
            if holder.get(where) in mine:
                mine[holder[where]].append(where)
        readers.sort(key=lambda name: (len(given[name]), -len(mine[name])))
        share, over = divmod(len(everywhere), len(readers))
        fair = {name: share + (n < over) for n, name in enumerate(readers)}
        kept = {name: mine[name][: fair[name]] for name in readers}
        free = iter(sorted(set(everywhere).difference(*kept.values())))
        for name in readers:
            given[name].update(kept[name], (next(free) for _ in range(fair[name] - len(kept[name]))))
    return given


def at_once(wanted: Mapping[str, set[TopicPartition]], members: Mapping[str, Member]) -> dict[str, set[TopicPartition]]:
    """What may be given now: not what another still holds, who will give it up when it is not among what it is given."""
    holder = _holders(members)
    return {name: {where for where in partitions if holder.get(where, name) == name} for name, partitions in wanted.items()}


def _holders(members: Mapping[str, Member]) -> dict[TopicPartition, str]:
    """By partition. Of two who say they hold it one is believed, the same one each time: the other is fenced by the state."""
    return {where: name for name in sorted(members) for where in members[name].held}


def _by_topic(partitions: Iterable[TopicPartition]) -> list[tuple[str, list[int]]]:
    found = defaultdict(list)
    for where in sorted(partitions):
        found[where.topic].append(where.partition)
    return sorted(found.items())
