"""Shares of topics: each topic by itself is even, and nothing moves that need not."""

from types import SimpleNamespace

from hypothesis import given
from hypothesis import strategies as st
from kafka.protocol.consumer.metadata import ConsumerProtocolSubscription
from kafka.structs import TopicPartition

from stream.assigning import TopicByTopic, shared

TOPICS = ("edges", "events")
MEMBERS = st.integers(1, 6)


@st.composite
def groups(draw: st.DrawFn) -> tuple[int, dict[str, set[int]], dict[str, int]]:
    """Partitions, what each member owns of them (never two the same), and how much it holds of other topics."""
    partitions, members = draw(st.integers(0, 16)), [f"m{n}" for n in range(draw(MEMBERS))]
    owner = draw(st.lists(st.sampled_from([None, *members]), min_size=partitions, max_size=partitions))
    owned = {member: {n for n, one in enumerate(owner) if one == member} for member in members}
    return partitions, owned, {member: draw(st.integers(0, 4)) for member in members}


@given(groups())
def test_a_topic_is_shared_evenly_and_no_more_moves_than_must(group: tuple[int, dict[str, set[int]], dict[str, int]]) -> None:
    partitions, owned, load = group
    found = shared(range(partitions), owned, load)
    assert sorted(n for mine in found.values() for n in mine) == list(range(partitions)), "each is given once"
    sizes = [len(found[member]) for member in owned]
    assert max(sizes) - min(sizes) <= 1
    share = partitions // len(owned)
    stay = sum(len(found[member] & mine) for member, mine in owned.items())
    most = sum(min(len(mine), share) for mine in owned.values())
    most += min(partitions % len(owned), sum(len(mine) > share for mine in owned.values()))
    assert stay == most, "as many stay where they are as an even share allows"
    assert shared(range(partitions), found, load) == found, "and then nothing moves"


@given(groups(), st.integers(1, 16))
def test_no_partition_is_given_while_another_has_it_and_two_rounds_settle_it(
    group: tuple[int, dict[str, set[int]], dict[str, int]], others: int
) -> None:
    partitions, owned, _ = group
    cluster = SimpleNamespace(partitions_for_topic={"events": set(range(partitions)), "edges": set(range(others))}.get)
    held = {member: {("events", n) for n in mine} for member, mine in owned.items()}
    for turn in range(3):
        before = held
        held = assigned(cluster, before)
        for member, mine in held.items():
            assert not any(mine & theirs for other, theirs in before.items() if other != member)
        assert turn < 2 or held == before
    for topic, count in (("events", partitions), ("edges", others)):
        sizes = [sum(name == topic for name, _ in mine) for mine in held.values()]
        assert sum(sizes) == count and max(sizes) - min(sizes) <= 1


def test_the_one_more_of_each_topic_goes_to_different_members() -> None:
    cluster = SimpleNamespace(partitions_for_topic={"events": {0}, "edges": {0}}.get)
    held = assigned(cluster, {"a": set(), "b": set()})
    assert sorted(map(len, held.values())) == [1, 1]


def assigned(cluster: SimpleNamespace, held: dict[str, set[tuple[str, int]]]) -> dict[str, set[tuple[str, int]]]:
    """One round, over the wire's own forms."""
    members = []
    for member, mine in held.items():
        assignor = TopicByTopic()
        assignor.member_assignment = [TopicPartition(*one) for one in sorted(mine)]
        metadata = ConsumerProtocolSubscription.decode(assignor.metadata(TOPICS).encode())
        members.append(SimpleNamespace(member_id=member, metadata=metadata))
    given_now = TopicByTopic().assign(cluster, members)
    return {member: {(topic, n) for topic, ns in one.assigned_partitions for n in ns} for member, one in given_now.items()}
