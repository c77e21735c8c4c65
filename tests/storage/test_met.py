"""Met: a bounded set of ids with a checksum each, as a dictionary would have it."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from storage.arrays import U64s
from storage.met import SLOTS_MIN, Met

ids = st.integers(1, 40) | st.integers(1, (1 << 64) - 1)


def column(values: list[int]) -> U64s:
    return np.array(values, dtype=np.uint64)


@given(st.lists(st.dictionaries(ids, st.integers(0, 3), max_size=30), max_size=8), st.lists(st.tuples(ids, st.integers(0, 3)), max_size=30))
def test_it_knows_what_a_dictionary_would(added: list[dict[int, int]], asked: list[tuple[int, int]]) -> None:
    met, known = Met(1_000), dict[int, int]()
    for pairs in added:
        met.add(column(list(pairs)), column(list(pairs.values())))
        known |= pairs
    asked += known.items()
    strange = [row for row, (node, checksum) in enumerate(asked) if known.get(node) != checksum]
    assert met.strange(column([node for node, _ in asked]), column([checksum for _, checksum in asked])).tolist() == strange
    assert len(met) == len(known)


def test_it_grows_with_what_it_holds_and_nobody_is_never_strange() -> None:
    many = np.arange(1, 10 * SLOTS_MIN, dtype=np.uint64) << np.uint64(32)  # all at home in one slot
    met = Met(1_000_000)
    met.add(many, many)
    assert len(met) == len(many) and not len(met.strange(many, many)) and len(met.strange(many, many + np.uint64(1))) == len(many)
    assert met.strange(column([0, 5]), column([0, 0])).tolist() == [1]


def test_it_is_bounded_and_starts_over() -> None:
    met = Met(3)
    met.add(column([1, 2]), column([0, 0]))
    met.add(column([3, 4]), column([0, 0]))
    assert len(met) == 2 and met.strange(column([1, 3, 4]), column([0, 0, 0])).tolist() == [0]
    met.add(column([5, 6, 7, 8, 9]), column([0] * 5))
    assert len(met) == 3 and met.strange(column([5, 6, 7, 8]), column([0] * 4)).tolist() == [3]
    met.clear()
    assert len(met) == 0 and met.strange(column([5]), column([0])).tolist() == [0]
