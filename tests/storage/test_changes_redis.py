"""What commits note for those who keep a copy: all of it, in order, once; and who falls behind is told."""

import uuid
from collections.abc import Iterator

import numpy as np
import pytest
import redis

from storage.arrays import U64s
from storage.changes_redis import EVENTS, Behind, ChangeFeed
from storage.ids import ITEM, USER
from storage.state import COUNTS, HISTORIES, NAMES, TALLIES, Advance, Newest, Write
from storage.state_redis import RedisState
from tests.services import redis_cluster, redis_server

PARTITIONS = 4


class Site:
    """A state and a reader of its own."""

    def __init__(self, client: "redis.Redis | redis.RedisCluster") -> None:
        self.client, self.prefix = client, uuid.uuid4().hex
        self.state = RedisState(client, partitions=PARTITIONS, prefix=self.prefix)
        self.marks = dict.fromkeys(range(PARTITIONS), 0)
        self.claims = {p: self.state.claim(EVENTS, p, "t") for p in range(PARTITIONS)}

    def feed(self) -> ChangeFeed:
        return ChangeFeed(self.client, partitions=PARTITIONS, prefix=self.prefix)

    def commit(self, partition: int, *writes: Write) -> None:
        before = self.marks[partition]
        self.marks[partition] = before + 1
        self.state.commit([Advance(self.claims[partition], before, before + 1)], list(writes))

    def like(self, partition: int, *likings: tuple[int, int, int]) -> None:
        before = self.marks[partition]
        self.marks[partition] = before + 1
        told = np.array(likings, dtype=np.uint64)
        self.state.commit([Advance(self.claims[partition], before, before + 1, told)], [])


@pytest.fixture(params=["one server", "a cluster"])
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    if request.param == "one server":
        made = Site(redis.Redis.from_url(redis_server().url))
    else:
        made = Site(redis.RedisCluster.from_url(redis_cluster().url))
    yield made
    made.state.close()


def ids(*numbers: int) -> U64s:
    return np.array(numbers, dtype=np.uint64)


def counted(partition: int, *numbers: int) -> Write:
    return Write(COUNTS, partition, ids(*numbers), [b"x" * 32] * len(numbers))


def test_counts_new_items_content_tallies_and_watermarks_are_told_once(site: Site) -> None:
    feed = site.feed()
    feed.skip()
    site.commit(1, counted(1, 5, 2), Write(TALLIES, 1, ids(1), [b"first"]))
    site.commit(1, counted(1, 7), Write(TALLIES, 1, ids(1), [b"second"]), Write(HISTORIES, 1, ids(99), [b"h"]))
    names = Write(NAMES, 3, ids(30, 31), [bytes([ITEM]) + b"new", bytes([USER]) + b"somebody"])
    site.commit(2, counted(2, 5), names)
    site.state.put_newest(0, [Newest(40, (1, 1), b"content", None)])
    found = feed.read()
    assert found.counted.tolist() == [2, 5, 7]
    assert found.nodes.tolist() == [30, 40], "users are nobody's business"
    assert found.marks == {0: 0, 1: 2, 2: 1, 3: 0}
    assert found.tallies[1] == b"second"
    again = feed.read()
    assert (len(again.counted), len(again.nodes), again.tallies) == (0, 0, {})


def test_likings_are_told_once_and_not_those_that_were_there_when_loading_ended(site: Site) -> None:
    feed = site.feed()
    feed.skip()
    site.like(1, (7, 30, 1000), (8, 31, 2000))
    feed.skip_likings()
    assert feed.read().likings.shape == (0, 3)
    site.like(1, (7, 32, 3000))
    site.commit(2, counted(2, 5))
    site.like(2, (9, 30, 4000))
    found = feed.read()
    assert sorted(found.likings.tolist()) == [[7, 32, 3000], [9, 30, 4000]]
    assert feed.read().likings.shape == (0, 3)


def test_what_came_before_skip_is_not_told(site: Site) -> None:
    site.commit(0, counted(0, 1))
    feed = site.feed()
    feed.skip()
    site.commit(0, counted(0, 2))
    assert feed.read().counted.tolist() == [2]


def test_who_falls_behind_the_list_is_told_and_goes_on_after_skip(site: Site) -> None:
    feed = site.feed()
    feed.skip()
    for n in range(400):
        site.commit(0, counted(0, n + 1))
    with pytest.raises(Behind):
        feed.read()
    feed.skip()
    site.commit(0, counted(0, 9))
    assert feed.read().counted.tolist() == [9]


def test_more_than_one_read_takes_comes_with_the_next(site: Site) -> None:
    feed = site.feed()
    feed.skip()
    for n in range(100):
        site.commit(0, counted(0, n + 1))
    first, second = feed.read(), feed.read()
    assert np.concatenate([first.counted, second.counted]).tolist() == list(range(1, 101))
    assert 0 not in first.marks and second.marks[0] == 100, "the watermark is told with the last of what it stands behind"


def test_numbers_that_were_set_back_are_noticed(site: Site) -> None:
    feed = site.feed()
    feed.skip()
    site.commit(0, counted(0, 1))
    feed.read()
    key = next(key for _, partition, key, _ in feed._feeds if partition == 0)  # what a Redis does that lost its last second
    site.client.hset(key, "s", 0)
    with pytest.raises(Behind):
        feed.read()


def test_a_list_that_is_gone_is_noticed(site: Site) -> None:
    feed = site.feed()
    feed.skip()
    site.commit(0, counted(0, 1))
    site.client.delete(next(key for _, partition, _, key in feed._feeds if partition == 0))
    with pytest.raises(Behind):
        feed.read()
