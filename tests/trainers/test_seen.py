"""What a user had before each question, against a slow look."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from trainers.samples import EventColumns, windows
from trainers.seen import seen_before


@given(
    st.lists(st.tuples(st.integers(1, 2), st.integers(0, 5)), min_size=1, max_size=30), st.lists(st.integers(0, 5), unique=True, min_size=1)
)
def test_marks_are_what_the_user_had_and_no_more(events: list[tuple[int, int]], pool: list[int]) -> None:
    users, rows = (np.array(part) for part in zip(*events, strict=True))
    columns = EventColumns(users.astype(np.uint64), rows.astype(np.uint64), np.ones(len(rows), np.uint8), np.arange(len(rows)))
    cut = windows(columns, 4)
    column_of = np.full(6, -1, dtype=np.int64)
    column_of[pool] = np.arange(len(pool))
    marks = seen_before(cut, rows, column_of=column_of, width=len(pool)).numpy()
    assert marks.shape == (len(cut), 4, len(pool))
    for window, slot in np.argwhere(cut.targets >= 0):
        target = cut.targets[window, slot]
        had = set(rows[(users == users[target]) & (np.arange(len(rows)) < target)].tolist())
        assert marks[window, slot].tolist() == [item in had for item in pool]
