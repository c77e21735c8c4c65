"""What followers are told of likings: all of a few; of many, whole sessions of an even part of the users."""

import numpy as np
import pytest

from storage.arrays import U64s
from storage.ids import USER, hash_id
from stream.likings import LIKINGS_MAX, likings
from stream.reducers import Columns


def columns(users: U64s, *, weight: int = 1) -> Columns:
    n = len(users)
    numbers, none = np.arange(1, n + 1, dtype=np.uint64), np.zeros(n, dtype=np.uint64)
    return Columns(users, numbers, numbers << np.uint64(16), none, none, none, np.ones(n, dtype=np.bool_), np.full(n, weight))


def hashed(n: int, *, users: int) -> U64s:
    return np.array([hash_id(f"u{k % users}", USER) for k in range(n)], dtype=np.uint64)


def test_of_a_few_all_are_told_in_their_order_but_what_is_no_liking_or_came_twice() -> None:
    users = hashed(6, users=6)
    kept = np.array([True, True, False, True, True, True])
    told = columns(users)
    told.weight[4] = 0
    assert likings(told, kept).tolist() == [[int(users[n]), n + 1, n + 1] for n in (0, 1, 3, 5)]
    assert likings(columns(users, weight=0), kept).shape == (0, 3)


def test_as_many_as_there_may_be_are_all_told() -> None:
    users = hashed(LIKINGS_MAX, users=50)
    assert len(likings(columns(users), np.ones(len(users), dtype=np.bool_))) == LIKINGS_MAX


@pytest.mark.parametrize("n", [LIKINGS_MAX + 1, 3000, 50_000])
def test_of_many_some_users_are_told_with_all_they_liked_and_those_of_more_among_those_of_fewer(n: int) -> None:
    users = hashed(n, users=n // 4)
    everyone = np.ones(n, dtype=np.bool_)
    told, of_more = likings(columns(users), everyone), likings(columns(hashed(4 * n, users=n // 4)), np.ones(4 * n, dtype=np.bool_))
    assert LIKINGS_MAX / 8 < len(told) <= LIKINGS_MAX
    for user in np.unique(told[:, 0]):
        assert (told[:, 0] == user).sum() == (users == user).sum(), "a session is whole, or not there"
    assert set(of_more[:, 0].tolist()) <= set(told[:, 0].tolist())


def test_one_user_who_fills_a_commit_is_told_of_the_newest() -> None:
    low = np.zeros(5000, dtype=np.uint64)
    assert likings(columns(low), np.ones(5000, dtype=np.bool_))[:, 1].tolist() == list(range(5001 - LIKINGS_MAX, 5001))
