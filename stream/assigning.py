"""Who reads which partitions: each topic shared out by itself, with as few partitions moving as can be.

kafka-python's sticky assignor balances the sum over all topics, so that one of two workers may hold all of `events` and the
other all of `edges`. Here every worker holds as many of each topic as any other, or one more. Partitions move in two rounds
(KIP-429): whoever has one gives it up in the first, and only in the second another gets it.

    KafkaConsumer(partition_assignment_strategy=[TopicByTopic])
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor
from kafka.protocol.consumer.metadata import ConsumerProtocolAssignment


class TopicByTopic(CooperativeStickyAssignor):  # type: ignore[misc]  # kafka-python has no types
    """What is written on the wire, and who owned what, is the cooperative sticky assignor's."""

    name = "topic-by-topic"

    def assign(self, cluster: Any, members: Iterable[Any]) -> dict[str, Any]:
        """Member id -> its partitions of this round."""
        known = {member.member_id: self.parse_member_metadata(member.metadata) for member in members}
        given: dict[str, dict[str, list[int]]] = {member: {} for member in known}
        load = dict.fromkeys(known, 0)
        for topic in sorted({topic for metadata in known.values() for topic in metadata.subscription}):
            owned = {
                member: [where.partition for where in metadata.partitions if where.topic == topic]
                for member, metadata in known.items()
                if topic in metadata.subscription
            }
            for member, partitions in shared(cluster.partitions_for_topic(topic) or (), owned, load).items():
                load[member] += len(partitions)
                owners = {one for other, ones in owned.items() if other != member for one in ones}
                if now := sorted(partitions - owners):
                    given[member][topic] = now
        return {member: ConsumerProtocolAssignment(self.version, sorted(topics.items()), b"") for member, topics in given.items()}


def shared(partitions: Iterable[int], owned: Mapping[str, Iterable[int]], load: Mapping[str, int]) -> dict[str, set[int]]:
    """One topic's partitions by member, once nothing moves any more.

    owned: what each has, of which it keeps up to its share; load: of other topics, so that the one more goes where less is.
    """
    left = set(partitions)
    share, more = divmod(len(left), max(len(owned), 1))
    kept = defaultdict[str, set[int]](set)
    for member in sorted(owned, key=lambda member: (-len(set(owned[member])), load[member], member)):
        mine = sorted(left.intersection(owned[member]))[: share + (more > 0)]
        more -= len(mine) > share
        kept[member].update(mine)
        left.difference_update(mine)
    for partition in sorted(left):
        least = min(owned, key=lambda member: (len(kept[member]), load[member], member))
        kept[least].add(partition)
    return dict(kept)
