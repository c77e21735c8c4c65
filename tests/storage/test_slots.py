"""Where keys lie: even over a Redis Cluster, as Redis itself computes it, and for ever the same."""

import pytest
from redis.crc import key_slot

from storage.slots import PARTITIONS_MAX, SLOTS, tags


@pytest.mark.parametrize("partitions", [1, 3, 12, 1000, PARTITIONS_MAX])
def test_each_tag_lies_in_the_middle_of_its_partitions_share_of_the_slots(partitions: int) -> None:
    found = [key_slot(f"freshet:{{{tag}}}:histories:0".encode()) for tag in tags(partitions)]
    assert found == [(2 * p + 1) * SLOTS // (2 * partitions) for p in range(partitions)]
    assert len(set(tags(partitions))) == partitions


def test_three_servers_get_a_third_of_the_partitions_each() -> None:
    owners = [key_slot(tag.encode()) * 3 // SLOTS for tag in tags(12)]
    assert [owners.count(server) for server in range(3)] == [4, 4, 4]


def test_tags_are_those_that_were_stored_before() -> None:
    assert tags(3) == PINNED


def test_a_partition_count_beyond_the_bounds_is_refused() -> None:
    with pytest.raises(ValueError, match=r"outside 1\.\.4096"):
        tags(0)


PINNED = ("015q", "0bku", "0hzb")
