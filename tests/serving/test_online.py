"""The figures of the newest cases: against plain sums while there are few, by system and segment."""

import math
import sys
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving import online
from serving.online import Case, Online

CASES = st.lists(
    st.builds(
        Case, st.fixed_dictionaries({"model": st.integers(1, 40), "popular": st.integers(1, 40)}), st.integers(0, 150), st.floats(0, 20)
    ),
    max_size=60,
)


@given(CASES)
def test_figures_are_the_plain_means_of_their_segment(cases: list[Case]) -> None:
    statistics = Online()
    for case in cases:
        statistics.add(case)
    members = {
        "all": cases,
        "new_users": [case for case in cases if case.had < 10],
        "heavy_users": [case for case in cases if case.had >= 100],
        "new_items": [case for case in cases if case.engaged < 10],
    }
    figures = statistics.figures()
    for system in ("model", "popular"):
        for segment, those in members.items():
            if not those:
                assert segment not in figures.get(system, {})
                continue
            ranks, found = [case.ranks[system] for case in those], figures[system][segment]
            assert found["cases"] == len(those)
            assert found["hit_at_10"] == pytest.approx(sum(rank <= 10 for rank in ranks) / len(ranks))
            assert found["ndcg_at_10"] == pytest.approx(sum(1 / math.log2(rank + 1) for rank in ranks if rank <= 10) / len(ranks))
            assert found["reciprocal_rank"] == pytest.approx(sum(1 / rank for rank in ranks) / len(ranks))
    assert statistics.cases == len(cases)


def test_old_cases_fade() -> None:
    statistics = Online()
    for n in range(8 * online.WINDOW):
        statistics.add(Case({"model": 1 if n < online.WINDOW else 100}, 10, 10.0))
    assert statistics.figures()["model"]["all"]["hit_at_10"] < 0.001


def test_coverage_and_novelty_are_of_the_newest_answers() -> None:
    statistics = Online()
    statistics.add(Case({"model": 1}, 10, 10.0, top=(1, 2), shares=(0.5, 0.25)))
    assert (statistics.coverage(8), statistics.novelty()) == (0.25, 1.5)
    for _ in range(online.LISTS_MAX):
        statistics.add(Case({"model": 1}, 10, 10.0, top=(3,), shares=(0.125,)))
    assert (statistics.coverage(8), statistics.novelty()) == (0.125, 3.0)


def test_nothing_asked_is_nothing_shown() -> None:
    assert Online().summary(0) == {"cases": 0, "coverage": 0.0, "novelty_bits": 0.0, "figures": {}}


def test_a_rank_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="'model': 0"):
        Online().add(Case({"model": 0}, 1, 1.0))


def test_figures_may_be_asked_for_while_cases_come() -> None:
    statistics, failed = Online(), list[RuntimeError]()

    def come() -> None:
        for n in range(4000):
            statistics.add(Case({f"source {n % 40}": 1}, n % 150, 1.0, tuple(range(n, n + 10)), (0.1,) * 10))

    def ask() -> None:
        try:
            while coming.is_alive():
                statistics.summary(100)
        except RuntimeError as error:  # what is iterated over was changed
            failed.append(error)

    coming, asking, interval_s = threading.Thread(target=come), threading.Thread(target=ask), sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        coming.start()
        asking.start()
        coming.join()
        asking.join()
    finally:
        sys.setswitchinterval(interval_s)
    assert not failed and statistics.summary(100)["cases"] == 4000
