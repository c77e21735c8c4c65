"""Shares of each topic are as even as can be, few partitions move, none has two readers, and two steps are enough."""

from collections import Counter
from collections.abc import Mapping

from hypothesis import given
from hypothesis import strategies as st
from kafka.cluster import ClusterMetadata
from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor
from kafka.structs import TopicPartition

from stream.assigning import Member, TopicByTopic, at_once, shared

TOPICS = {"events", "edges"}
Held = dict[str, set[TopicPartition]]


def of(topic: str, *partitions: int) -> set[TopicPartition]:
    return {TopicPartition(topic, partition) for partition in partitions}


def members(held: Mapping[str, set[TopicPartition]]) -> dict[str, Member]:
    return {name: Member(TOPICS, partitions) for name, partitions in held.items()}


def counts(held: Held, topic: str) -> list[int]:
    return sorted(sum(where.topic == topic for where in partitions) for partitions in held.values())


def settled(partitions: Mapping[str, range], held: Held) -> tuple[Held, int]:
    """Rebalances until nothing moves any more, as the members of a group do, and how many there were."""
    for rebalances in range(1, 10):
        given_now = at_once(shared(partitions, members(held)), members(held))
        assert max(Counter(where for one in [*given_now.values()] for where in one).values(), default=1) == 1
        for name, before in held.items():
            for where in given_now[name] - before:
                assert not any(where in other for other in held.values()), "another one still holds it"
        if given_now == held:
            return held, rebalances
        held = given_now
    raise AssertionError("it does not settle")


def test_each_topic_is_shared_out_by_itself() -> None:
    partitions = {"events": range(12), "edges": range(12)}
    for workers, each in ((1, [12]), (2, [6, 6]), (3, [4, 4, 4]), (4, [3] * 4), (5, [2, 2, 2, 3, 3]), (13, [0] + [1] * 12)):
        found = shared(partitions, members({f"w{n}": set() for n in range(workers)}))
        assert (counts(found, "events"), counts(found, "edges")) == (each, each)
        assert max(map(len, found.values())) - min(map(len, found.values())) <= 1


def test_one_who_joins_gets_its_share_and_only_that_moves() -> None:
    before, _ = settled({"events": range(12), "edges": range(12)}, {"a": set(), "b": set()})
    after, rebalances = settled({"events": range(12), "edges": range(12)}, {**before, "new": set()})
    assert counts(after, "events") == counts(after, "edges") == [4, 4, 4] and rebalances == 3, "given up, handed on, and nothing more"
    assert after["a"] < before["a"] and after["b"] < before["b"]


def test_what_one_leaves_goes_to_the_others_who_keep_theirs() -> None:
    before, _ = settled({"events": range(12), "edges": range(12)}, {"a": set(), "b": set(), "c": set()})
    left = {name: before[name] for name in ("a", "c")}
    after, _ = settled({"events": range(12), "edges": range(12)}, dict(left))
    assert counts(after, "events") == counts(after, "edges") == [6, 6]
    assert all(left[name] < after[name] for name in left)


def test_two_that_hold_one_topic_each_share_both() -> None:
    held = {"a": of("events", *range(12)), "b": of("edges", *range(12))}
    after, rebalances = settled({"events": range(12), "edges": range(12)}, held)
    assert counts(after, "events") == counts(after, "edges") == [6, 6] and rebalances == 3


def test_of_two_that_say_they_hold_a_partition_one_keeps_it() -> None:
    held = {"a": of("events", 0, 1), "b": of("events", 0)}
    found = at_once(shared({"events": range(2)}, members(held)), members(held))
    assert found == {"a": of("events", 1), "b": of("events", 0)}


def test_a_topic_goes_to_those_who_read_it() -> None:
    asked = {"a": Member({"events"}, set()), "b": Member({"events", "other"}, set())}
    assert shared({"events": range(2), "other": range(2), "nobody's": range(2)}, asked) == {
        "a": of("events", 0), "b": of("events", 1) | of("other", 0, 1),
    }  # fmt: skip


@given(st.data(), st.integers(1, 7), st.integers(0, 13), st.integers(0, 13))
def test_any_beginning_settles_in_two_steps_with_even_shares(data: st.DataObject, workers: int, events: int, edges: int) -> None:
    partitions = {"events": range(events), "edges": range(edges)}
    held: Held = {f"w{n}": set() for n in range(workers)}
    for topic, numbers in partitions.items():
        for number in numbers:
            holder = data.draw(st.sampled_from([*held, None]))
            if holder is not None:
                held[holder] |= of(topic, number)
    after, rebalances = settled(partitions, held)
    assert rebalances <= 3
    for topic, numbers in partitions.items():
        assert sum(counts(after, topic)) == len(numbers) and counts(after, topic)[-1] - counts(after, topic)[0] <= 1
    sizes = sorted(map(len, after.values()))
    assert sizes[-1] - sizes[0] <= 1


class Joined:
    """A member as the leader's client hands it over."""

    def __init__(self, member_id: str, held: set[TopicPartition]) -> None:
        assignor = TopicByTopic()
        assignor.member_assignment = list(held)
        self.member_id, self.metadata = member_id, assignor.metadata(TOPICS)


class Cluster(ClusterMetadata):  # type: ignore[misc]  # kafka-python has no types
    """Twelve partitions of each topic, but for one that is not known."""

    def partitions_for_topic(self, topic: str) -> set[int] | None:
        return set(range(12)) if topic in TOPICS else None


def test_on_the_wire_it_is_cooperative_sticky() -> None:
    given_now = TopicByTopic().assign(Cluster(), [Joined("a", of("events", *range(12))), Joined("b", of("edges", *range(12)))])
    assert TopicByTopic.name == CooperativeStickyAssignor.name
    assert {name: set(one.partitions()) for name, one in given_now.items()} == {
        "a": of("events", *range(6)), "b": of("edges", *range(6)),
    }, "the other halves are given up first"  # fmt: skip
    again = [Joined(name, set(one.partitions())) for name, one in given_now.items()]
    final = {name: set(one.partitions()) for name, one in TopicByTopic().assign(Cluster(), again).items()}
    assert final == {"a": of("events", *range(6)) | of("edges", *range(6, 12)), "b": of("events", *range(6, 12)) | of("edges", *range(6))}
