"""Commits to Redis between whose look and write something happens: nothing half, nothing twice, and the next one works."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import redis

from storage import transactions_redis
from storage.state import HISTORIES, Advance, Fenced, WatermarkMoved, Write
from storage.state_redis import RedisState
from tests.services import redis_cluster_state, redis_state

IDS = np.array([1, 2**63], dtype=np.uint64)
MAKERS = {"redis": redis_state, "redis cluster": redis_cluster_state}


@pytest.fixture(params=MAKERS)
def state(request: pytest.FixtureRequest) -> RedisState:
    made: RedisState = MAKERS[request.param](partitions=1)
    request.addfinalizer(made.close)
    return made


def between(monkeypatch: pytest.MonkeyPatch, happens: Callable[[Any], object]) -> None:
    """`happens` once, with the connection, when a commit has looked and has not written yet."""
    asked, left = transactions_redis.asked, [happens]

    def asked_then(connection: Any, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        if commands[0] == ("MULTI",) and left:
            left.pop()(connection)
        return asked(connection, commands)

    monkeypatch.setattr(transactions_redis, "asked", asked_then)


def write(body: bytes) -> list[Write]:
    return [Write(HISTORIES, 0, IDS, [body] * len(IDS))]


def test_a_claim_between_look_and_write_fences_and_nothing_is_written(state: RedisState, monkeypatch: pytest.MonkeyPatch) -> None:
    claim = state.claim("events", 0, "t")
    between(monkeypatch, lambda _: state.claim("events", 0, "t"))
    with pytest.raises(Fenced):
        state.commit([Advance(claim, 0, 1)], write(b"a"))
    assert state.read(HISTORIES, 0, IDS) == [None, None]
    assert state.watermarks("events") == {0: 0}


def test_a_twin_that_commits_between_look_and_write_wins_and_nothing_is_written_over_it(
    state: RedisState, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim = state.claim("events", 0, "t")
    between(monkeypatch, lambda _: state.commit([Advance(claim, 0, 1)], write(b"twin")))
    with pytest.raises(WatermarkMoved):
        state.commit([Advance(claim, 0, 5)], write(b"a"))
    assert state.read(HISTORIES, 0, IDS) == [b"twin", b"twin"]
    assert state.watermarks("events") == {0: 1}


def test_of_commits_that_go_together_one_that_is_overtaken_is_refused_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    state = redis_state(partitions=2)
    claims = [state.claim("events", partition, "t") for partition in range(2)]
    between(monkeypatch, lambda _: state.claim("events", 0, "t"))
    first, second = state.commit_each([([Advance(claim, 0, 1)], [Write(HISTORIES, claim.partition, IDS, [b"a"] * 2)]) for claim in claims])
    assert isinstance(first, Fenced) and second is None
    assert state.read(HISTORIES, 0, IDS) == [None, None] and state.read(HISTORIES, 1, IDS) == [b"a", b"a"]
    state.close()


def test_a_connection_that_breaks_between_look_and_write_leaves_nothing_half_and_the_commit_can_be_made_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    state = redis_state(partitions=1)
    claim = state.claim("events", 0, "t")
    between(monkeypatch, lambda connection: connection._sock.shutdown(2))
    with pytest.raises(redis.ConnectionError):
        state.commit([Advance(claim, 0, 1)], write(b"a"))
    assert state.read(HISTORIES, 0, IDS) == [None, None]
    state.commit([Advance(claim, 0, 1)], write(b"a"))
    assert state.read(HISTORIES, 0, IDS) == [b"a", b"a"]
    assert state.watermarks("events") == {0: 1}
    state.close()


def test_on_a_cluster_a_connection_that_breaks_is_made_anew_and_the_commit_is_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """There a slot may have gone to another server: the client looks where it is now."""
    state = redis_cluster_state(partitions=1)
    claim = state.claim("events", 0, "t")
    between(monkeypatch, lambda connection: connection._sock.shutdown(2))
    state.commit([Advance(claim, 0, 1)], write(b"a"))
    assert state.read(HISTORIES, 0, IDS) == [b"a", b"a"]
    assert state.watermarks("events") == {0: 1}
    state.close()


def test_what_the_server_refuses_is_raised_and_the_next_commit_works(state: RedisState) -> None:
    """A key of another type, which is none of ours. Redis does the rest of the transaction all the same."""
    claim = state.claim("events", 0, "t")
    key = state._keys(HISTORIES, 0)[0][0]
    state._client.set(key, "no hash")
    with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        state.commit([Advance(claim, 0, 1)], write(b"a"))
    state._client.delete(key)
    mark = state.watermarks("events")[0]
    state.commit([Advance(claim, mark, mark + 1)], write(b"b"))
    assert state.read(HISTORIES, 0, IDS) == [b"b", b"b"]
