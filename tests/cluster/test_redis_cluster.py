"""State, registry and heartbeats over three real nodes of a Redis Cluster; the contract is in tests/storage/test_state.py."""

import random
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis

from bench.services import SLOTS, RedisCluster, RedisServer, ServiceUnavailable, free_port, wait_until
from storage.arrays import U64s
from storage.health import Beat
from storage.health_redis import RedisHealth
from storage.models import StaleRecord, Version
from storage.models_redis import RedisRegistry
from storage.places import LocalPlace
from storage.state import COUNTS, HISTORIES, NAMES, Advance, Fenced, WatermarkMoved, Write
from storage.state_redis import RedisState
from stream.edges import EDGES
from stream.ingest import EVENTS
from stream.worker import Worker
from tests.cluster.installation import Site
from tests.services import redis_cluster, redis_cluster_state, running
from tests.stream.event_logs import expected, make_messages
from tests.stream.oracle import Oracle

CLOCK_MS = 1_700_000_000_000


class ClusterSite(Site):
    """An installation whose state lies on a Redis Cluster; its worker runs in this process."""

    def __init__(self, *, partitions: int, cluster: RedisCluster) -> None:
        super().__init__(partitions=partitions)
        self.state.close()
        self._cluster = cluster
        self.state = self.opened()

    def __enter__(self) -> "ClusterSite":
        return self

    def opened(self) -> RedisState:
        """One more client of the same state."""
        return RedisState(redis.RedisCluster.from_url(self._cluster.url), partitions=self.shape.partitions, prefix=self.name)

    def work(self) -> None:
        """A worker of this process, until all is applied."""
        state = self.opened()
        worker = Worker(self.kafka, state, self.log, self.shape, group=self.name, session_ms=3000)
        rounds = iter(range(10_000))
        try:
            wait_until(lambda: bool(worker.round(now_ms=CLOCK_MS + 100 * next(rounds))) and self.applied(), seconds=60)
        finally:
            worker.close()
            state.close()

    def filled(self, *, seed: int, messages: int) -> tuple[Oracle, int]:
        """What is on the log must come to this, and costs so many dead letters."""
        made = make_messages(random.Random(seed), self.shape, count=messages)
        return expected(self.shape, made, self.fill(made)), sum(message.refused for message in made)


@pytest.fixture
def six() -> Iterator[ClusterSite]:
    with ClusterSite(partitions=6, cluster=redis_cluster()) as made:
        yield made


@pytest.fixture
def state() -> Iterator[RedisState]:
    made = redis_cluster_state(partitions=12)
    yield made
    made.close()


def ids(*values: int) -> U64s:
    return np.array(values, dtype=np.uint64)


def holders(cluster: RedisCluster, prefix: str) -> dict[str, set[int]]:
    """The nodes on which keys of each hash tag lie."""
    found: dict[str, set[int]] = {}
    for n, node in enumerate(cluster.nodes):
        with node.client() as client:
            for key in client.scan_iter(match=f"{prefix}:*", count=5000):
                found.setdefault(key.decode().split("{")[1].split("}")[0], set()).add(n)
    return found


def test_all_of_a_partition_lies_on_one_node_and_the_partitions_evenly_on_all(state: RedisState) -> None:
    keys = np.arange(64, dtype=np.uint64) << np.uint64(58)
    for partition in range(12):
        claim = state.claim("events", partition, "topic")
        writes = [Write(table, partition, keys, [b"x"] * 64) for table in (COUNTS, HISTORIES, NAMES)]
        state.commit([Advance(claim, 0, 1)], writes)
    found = holders(redis_cluster(), state._prefix)
    assert len(found) == 12 and all(len(nodes) == 1 for nodes in found.values())
    assert Counter(min(nodes) for nodes in found.values()) == {0: 4, 1: 4, 2: 4}
    assert state.watermarks("events") == dict.fromkeys(range(12), 1)


def test_the_slots_are_cut_in_three_even_parts() -> None:
    with redis_cluster().nodes[0].client() as client:
        ranges = client.execute_command("CLUSTER SLOTS")
    assert sum(last - first + 1 for first, last, *_ in ranges) == SLOTS
    assert {last - first + 1 for first, last, *_ in ranges} <= {SLOTS // 3, SLOTS // 3 + 1}


def test_reads_of_many_partitions_come_back_in_the_order_asked(state: RedisState) -> None:
    for partition in range(12):
        state.commit([], [Write(COUNTS, partition, ids(1, 2), [b"%d one" % partition, b"%d two" % partition])])
    order = random.Random(1).sample(range(12), 12)
    asked = [(COUNTS, partition, ids(2, 9, 1)) for partition in order]
    assert state.read_many(asked) == [[b"%d two" % partition, None, b"%d one" % partition] for partition in order]


def test_a_commit_advances_one_partition_and_names_elsewhere_are_written_before_it(state: RedisState) -> None:
    here, there = (state.claim("events", partition, "topic") for partition in (0, 7))
    with pytest.raises(ValueError, match=r"advances one partition, not \[0, 7\]"):
        state.commit([Advance(here, 0, 1), Advance(there, 0, 1)], [])
    state.commit([Advance(here, 0, 3)], [Write(COUNTS, 0, ids(1), [b"here"]), Write(NAMES, 7, ids(2), [b"name"])])
    assert state.read(NAMES, 7, ids(2)) == [b"name"] and state.watermarks("events")[0] == 3
    state.claim("events", 0, "topic")
    with pytest.raises(Fenced):
        state.commit([Advance(here, 3, 4)], [Write(COUNTS, 0, ids(1), [b"late"])])
    assert state.read(COUNTS, 0, ids(1)) == [b"here"]


def test_effect_once_of_a_worker_over_a_redis_cluster(six: ClusterSite) -> None:
    oracle, dead = six.filled(seed=11, messages=500)
    six.work()
    six.assert_effect_once(oracle, dead)
    assert all(len(nodes) == 1 for nodes in holders(redis_cluster(), six.name).values())


def test_the_registry_and_heartbeats_over_a_redis_cluster(tmp_path: Path) -> None:
    prefix, files = uuid.uuid4().hex, {"model.pt": b"weights"}
    clients: list[Any] = [redis.RedisCluster.from_url(redis_cluster().url) for _ in range(2)]  # one of its methods has no types
    one, other = (RedisRegistry(client, LocalPlace(tmp_path), prefix, keep_max=2) for client in clients)
    for number in range(1, 5):
        one.put(Version(f"g1-h{number}", 1, None, created_ms=number, as_of_number=number, metrics={}), files)
    live = one.promote("g1-h4", expected_sequence=other.sequence())
    assert other.live() == live and other.files("g1-h4") == files
    with pytest.raises(StaleRecord):
        other.promote("g1-h3", expected_sequence=0)
    one.record({"promoted": True})
    assert [version.name for version in other.versions()] == ["g1-h3", "g1-h4"] and other.decisions() == [{"promoted": True}]
    beats = [RedisHealth(client, prefix, records_max=2) for client in clients]
    for pid in (1, 2, 3):
        beats[pid % 2].beat(Beat("serving-0", pid, at_ms=pid))
    assert [beat.pid for beat in beats[0].read()] == [2, 3]
    for client in clients:
        client.disconnect_connection_pools()


def test_effect_once_when_a_node_is_killed_and_comes_back() -> None:
    """Its append-only file has what was acknowledged: state and watermark agree, and what follows is applied once."""
    cluster = running(RedisCluster)
    with ClusterSite(partitions=6, cluster=cluster) as site:
        site.filled(seed=12, messages=300)
        site.work()
        marks = site.state.watermarks(EVENTS), site.state.watermarks(EDGES)
        victim = cluster.nodes[1]
        victim.kill()
        with pytest.raises((redis.RedisError, redis.RedisClusterException)):
            site.state.watermarks(EVENTS)
        victim.start()
        cluster.wait_well()
        site.state.close()
        site.state = site.opened()
        assert (site.state.watermarks(EVENTS), site.state.watermarks(EDGES)) == marks
        again = site.replayed()
        for partition in range(6):
            assert dict(site.state.scan(HISTORIES, partition)) == dict(again.scan(HISTORIES, partition))
        claim = site.state.claim(EVENTS, 0, site.log.topic(EVENTS).id)
        with pytest.raises(WatermarkMoved):
            site.state.commit([Advance(claim, claim.watermark - 1, claim.watermark)], [])
        site.filled(seed=13, messages=100)
        site.work()
        again = site.replayed()
        for partition in range(6):
            for table in (HISTORIES, COUNTS):
                assert dict(site.state.scan(table, partition)) == dict(again.scan(table, partition))


def test_a_cluster_that_does_not_come_up_leaves_no_server_behind(tmp_path: Path) -> None:
    redis_cluster()  # skips where it is not installed
    made: list[RedisServer] = []

    def make(folder: Path, options: Sequence[str]) -> RedisServer:
        made.append(RedisServer(folder, options=[*options, "--no-such-option", "1"] if len(made) == 2 else options))
        return made[-1]

    with pytest.raises(ServiceUnavailable, match="did not come up"):
        RedisCluster(tmp_path, make).start()
    for node in made:
        with pytest.raises(RuntimeError, match="does not run"):
            assert node.pid


def test_no_port_is_handed_out_twice() -> None:
    ports = [free_port() for _ in range(2000)]
    assert len(set(ports)) == len(ports)
