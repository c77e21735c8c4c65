"""Session-KNN against the protocol's text in plain Python, its bounds and its order of equals."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from encoders.base import F64s
from trainers.sequence_counts import ragged
from trainers.session_knn import SessionKnn

ITEMS = 6
SESSION = st.lists(st.integers(0, ITEMS - 1), min_size=1, max_size=7)


def slow(sessions: list[list[int]], prefix: list[int], *, of_item: int, kept: int) -> list[float]:
    count, length = len(sessions), len(prefix)
    weight = {item: math.exp(-(length - place) / 1.5) for place, item in enumerate(prefix, start=1)}
    overlap: dict[int, float] = {}
    for item, w in weight.items():
        for s in [s for s in range(count) if item in sessions[s]][-of_item:]:
            overlap[s] = overlap.get(s, 0.0) + w
    norm = sum(w * w for w in weight.values())
    like = {s: w / math.sqrt(len(sessions[s]) * norm) * math.exp(-(count - s) / (0.3 * count)) for s, w in overlap.items()}
    votes = [0.0] * ITEMS
    for s in sorted(like, key=lambda s: (-like[s], -s))[:kept]:
        m = max((q for q in range(len(sessions[s])) if sessions[s][q] in weight), key=lambda q: (weight[sessions[s][q]], q))
        for q, item in enumerate(sessions[s]):
            df = sum(item in session for session in sessions)
            votes[item] += like[s] * math.exp(-abs(q - m) / 2) * math.log(count / df) * (0.3 if q == m else 1.0)
    return votes


def votes(sessions: list[list[int]], prefixes: list[list[int]], *, of_item: int = 10_000, kept: int = 1_000) -> F64s:
    past = SessionKnn(ITEMS, sessions_of_item_max=of_item, neighbours_max=kept)
    for session in sessions:
        past.learn(np.array(session, dtype=np.int64))
    return past.scores(ragged([np.array(prefix, dtype=np.int64) for prefix in prefixes]))


@given(st.lists(SESSION, min_size=1, max_size=15), st.lists(SESSION, min_size=1, max_size=3))
def test_votes_equal_the_protocol(sessions: list[list[int]], prefixes: list[list[int]]) -> None:
    found = votes(sessions, prefixes)
    for row, prefix in zip(found.tolist(), prefixes, strict=True):
        assert row == pytest.approx(slow(sessions, prefix, of_item=10_000, kept=1_000))


@given(st.lists(SESSION, min_size=1, max_size=15), SESSION, st.integers(1, 4))
def test_an_item_has_only_its_newest_sessions(sessions: list[list[int]], prefix: list[int], of_item: int) -> None:
    assert votes(sessions, [prefix], of_item=of_item)[0].tolist() == pytest.approx(slow(sessions, prefix, of_item=of_item, kept=1_000))


def test_the_most_alike_are_kept_and_of_equals_the_newer() -> None:
    random = np.random.default_rng(5)
    sessions = [random.integers(0, ITEMS, size=4).tolist() for _ in range(25)]
    for kept in (1, 3, 10):
        found = votes(sessions, [[1, 2, 3]], kept=kept)
        assert found[0].tolist() == pytest.approx(slow(sessions, [1, 2, 3], of_item=10_000, kept=kept))
    aged = [[0, 1], [2], [2], [2]]
    assert votes(aged, [[0], []], kept=1).tolist()[1] == [0.0] * ITEMS, "an empty prefix has no neighbour"


def test_an_empty_session_is_none_and_nothing_learned_is_zero() -> None:
    assert not votes([], [[1]]).any()
    assert votes([[0, 1], [], [2]], [[0]]).tolist() == votes([[0, 1], [2]], [[0]]).tolist()


def test_a_very_long_prefix_is_finite() -> None:
    found = votes([[0, 1, 2]] * 3 + [[3]], [[0] + [3] * 3_000])
    assert np.isfinite(found).all() and found[0, 3] > 0
