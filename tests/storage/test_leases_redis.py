"""Leases: one holder of each, fair shares, and what a holder that says nothing had goes to others."""

import uuid
from collections.abc import Callable

import pytest
import redis

from bench.services import wait_until
from storage.leases_redis import Leases
from tests.services import redis_cluster, redis_server

LONG_MS, SHORT_MS = 60_000, 300
Make = Callable[..., Leases]


@pytest.fixture(params=["one server", "a cluster"])
def make(request: pytest.FixtureRequest) -> Make:
    """Leases of one kind under a prefix of the test's own."""
    alone = request.param == "one server"
    client = redis.Redis.from_url(redis_server().url) if alone else redis.RedisCluster.from_url(redis_cluster().url)
    prefix = uuid.uuid4().hex

    def made(owner: str, *, lease_ms: int = LONG_MS, kind: str = "refresher") -> Leases:
        return Leases(client, kind, owner=owner, prefix=prefix, lease_ms=lease_ms)

    return made


def test_one_alone_has_all_and_renewing_gives_nothing_new(make: Make) -> None:
    one = make("one")
    assert one.hold(range(4), share=4) == {0, 1, 2, 3}
    assert one.hold(range(4), share=4) == set()
    assert one.held == {0, 1, 2, 3}


def test_what_one_holds_no_other_gets_and_kinds_are_apart(make: Make) -> None:
    one, two = make("one"), make("two")
    one.hold(range(3), share=2)
    assert two.hold(range(3), share=3) == {2}
    assert make("two", kind="trainer").hold([0], share=1) == {0}


def test_a_share_that_shrinks_is_given_back_and_taken_by_the_other(make: Make) -> None:
    one, two = make("one"), make("two")
    one.hold(range(6), share=6)
    assert two.hold(range(6), share=3) == set()
    assert one.hold(range(6), share=3) == set()
    assert one.held == {0, 1, 2}, "those it has it keeps"
    assert two.hold(range(6), share=3) == {3, 4, 5}
    assert one.hold(range(6), share=6) == set(), "no more is free"


def test_what_was_given_back_is_free_at_once(make: Make) -> None:
    one, two = make("one"), make("two")
    one.hold(range(2), share=2)
    one.release()
    assert one.held == set()
    assert two.hold(range(2), share=2) == {0, 1}
    one.release()
    assert two.hold(range(2), share=2) == set(), "giving back what is another's changes nothing"
    assert two.held == {0, 1}


def test_a_holder_that_dies_is_followed_by_another_and_one_that_renews_is_not(make: Make) -> None:
    dead, alive, other = make("dead", lease_ms=SHORT_MS), make("alive", lease_ms=SHORT_MS), make("other")
    dead.hold([0], share=1)
    alive.hold([1], share=1)

    def taken() -> bool:
        alive.hold([1], share=1)
        other.hold([0, 1], share=2)
        return 0 in other.held

    wait_until(taken, seconds=10)
    assert (other.held, alive.held) == ({0}, {1})
    assert dead.hold([0], share=1) == set()
    assert dead.held == set(), "it is told when it comes back"


def test_what_ran_out_and_is_taken_again_is_new(make: Make) -> None:
    """Another may have had it in between."""
    one, watch = make("one", lease_ms=SHORT_MS), make("watch", lease_ms=1)
    one.hold([0], share=1)

    def free() -> bool:
        watch.hold([0], share=1)
        return bool(watch.held)

    wait_until(free, seconds=10)
    watch.release()
    wait_until(lambda: one.hold([0], share=1) == {0}, seconds=10)
    assert one.held == {0}


def test_a_namesake_that_starts_anew_has_what_its_predecessor_had(make: Make) -> None:
    """A container that is started again has the same name and pid."""
    make("one").hold(range(2), share=2)
    again = make("one")
    assert again.hold(range(2), share=2) == {0, 1}, "new to it"


def test_while_redis_is_away_nothing_is_forgotten() -> None:
    nowhere = redis.Redis.from_url("redis://127.0.0.1:1")
    leases = Leases(nowhere, "refresher", owner="one")
    leases.held = {0, 1}
    with pytest.raises(redis.ConnectionError):
        leases.hold(range(2), share=2)
    assert leases.held == {0, 1}
