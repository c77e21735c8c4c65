"""Windows: every event asked once, with the past and nothing of the future."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from trainers.samples import EventColumns, by_user, gaps_to_next, later, windows

EVENTS = st.lists(st.tuples(st.integers(1, 4), st.integers(1, 9), st.integers(0, 6)), min_size=1, max_size=60)


def columns_of(events: list[tuple[int, int, int]]) -> EventColumns:
    users, items, times = (np.array(part) for part in zip(*events, strict=True))
    return EventColumns(users.astype(np.uint64), items.astype(np.uint64), np.ones(len(events), dtype=np.uint8), times.astype(np.int64))


@given(EVENTS, st.integers(1, 7), st.booleans())
def test_every_event_is_asked_exactly_once_with_the_users_past_before_it(
    events: list[tuple[int, int, int]], length: int, mixed: bool
) -> None:
    columns = columns_of(events)
    cut = windows(columns, length, generator=np.random.default_rng(0) if mixed else None)
    assert cut.inputs.shape == cut.targets.shape == (len(cut), length)
    asked = cut.targets[cut.targets >= 0]
    assert sorted(asked.tolist()) == list(range(len(events)))
    order, _ = by_user(columns, np.random.default_rng(0) if mixed else None)
    place = np.empty(len(order), dtype=np.int64)
    place[order] = np.arange(len(order))
    for window, slot in np.argwhere(cut.targets >= 0):
        target = cut.targets[window, slot]
        within = cut.inputs[window, : slot + 1]
        history = np.concatenate([cut.earlier(int(window)), within[within >= 0]])
        past = [at for at in range(len(events)) if columns.users[at] == columns.users[target] and place[at] < place[target]]
        assert history.tolist() == sorted(past, key=lambda at: place[at]), "all of the user's past, oldest first, and nothing else"
        assert (columns.ts_ms[history] <= columns.ts_ms[target]).all()
        assert len(within[within >= 0]) >= min(len(past), length // 2), "context is never less than half a window"


@given(EVENTS, st.integers(2, 7))
def test_only_the_events_asked_for_are_targets(events: list[tuple[int, int, int]], length: int) -> None:
    columns = columns_of(events)
    asked = np.arange(len(events)) % 3 == 0
    cut = windows(columns, length, asked=asked)
    assert sorted(cut.targets[cut.targets >= 0].tolist()) == np.flatnonzero(asked).tolist()


@given(EVENTS, st.integers(2, 7))
def test_what_comes_later_changes_no_window_before_it(events: list[tuple[int, int, int]], length: int) -> None:
    columns = columns_of(events)
    first = [at for at in range(len(events)) if columns.ts_ms[at] <= 3]
    early = columns.take(np.array(first, dtype=np.int64))

    def histories(of: EventColumns, number: list[int]) -> dict[int, list[int]]:
        cut = windows(of, length)
        found = {}
        for window, slot in np.argwhere(cut.targets >= 0):
            within = cut.inputs[window, : slot + 1]
            history = [*cut.earlier(int(window)).tolist(), *within[within >= 0].tolist()]
            found[number[cut.targets[window, slot]]] = [number[at] for at in history]
        return found

    everything = histories(columns, list(range(len(events))))
    if first:
        for target, history in histories(early, first).items():
            assert everything[target] == history


def test_equal_times_keep_log_order_unless_shuffled() -> None:
    columns = columns_of([(1, item, 5) for item in range(1, 41)])
    assert by_user(columns)[0].tolist() == list(range(40))
    shuffled = by_user(columns, np.random.default_rng(0))[0]
    assert shuffled.tolist() != list(range(40)) and sorted(shuffled.tolist()) == list(range(40))


def test_gaps_lead_to_the_question() -> None:
    columns = columns_of([(1, 1, 0), (1, 2, 3), (1, 3, 10)])
    cut = windows(columns, 4)
    assert cut.inputs.tolist() == [[-1, -1, 0, 1]] and cut.targets.tolist() == [[-1, 0, 1, 2]]
    assert gaps_to_next(cut, columns.ts_ms).tolist() == [[0, 0, 3, 7]]


def test_no_events_give_no_windows() -> None:
    nothing = EventColumns(np.empty(0, np.uint64), np.empty(0, np.uint64), np.empty(0, np.uint8), np.empty(0, np.int64))
    assert len(windows(nothing, 4)) == 0


def test_the_largest_user_id_is_a_user_like_any() -> None:
    columns = columns_of([(1, 1, 0), (1, 2, 1)])
    columns = EventColumns(np.array([2**64 - 1, 0], dtype=np.uint64), columns.items, columns.actions, columns.ts_ms)
    assert by_user(columns)[1].tolist() == [0, 1, 2]


@given(EVENTS, st.integers(1, 7))
def test_windows_end_to_end_ask_every_event_once_with_nothing_of_the_future(events: list[tuple[int, int, int]], length: int) -> None:
    columns = columns_of(events)
    cut = windows(columns, length, phases=np.random.default_rng(1))
    assert sorted(cut.targets[cut.targets >= 0].tolist()) == list(range(len(events)))
    order, _ = by_user(columns)
    place = np.empty(len(order), dtype=np.int64)
    place[order] = np.arange(len(order))
    for window, slot in np.argwhere(cut.targets >= 0):
        target, within = cut.targets[window, slot], cut.inputs[window, : slot + 1]
        history = np.concatenate([cut.earlier(int(window)), within[within >= 0]])
        past = [at for at in range(len(events)) if columns.users[at] == columns.users[target] and place[at] < place[target]]
        assert history.tolist() == sorted(past, key=lambda at: place[at])
        assert not past or within[-1] == max(past, key=lambda at: place[at]), "the newest action is always heard"


def test_windows_end_to_end_lie_elsewhere_in_another_pass_and_are_fewer() -> None:
    columns, phases = columns_of([(1, 1, time) for time in range(60)]), np.random.default_rng(0)
    passes = [windows(columns, 8, phases=phases) for _ in range(4)]
    assert len({tuple(cut.firsts.tolist()) for cut in passes}) > 1
    assert max(len(cut) for cut in passes) <= 1 + 60 // 8 + 1 < len(windows(columns, 8))


@given(EVENTS, st.integers(2, 9))
def test_trimming_takes_off_what_nobody_uses(events: list[tuple[int, int, int]], length: int) -> None:
    cut = windows(columns_of(events), length)
    short = cut.trimmed()
    kept = short.inputs.shape[1]
    assert kept == cut.lengths().max() and (short.inputs == cut.inputs[:, -kept:]).all() and (short.targets == cut.targets[:, -kept:]).all()
    assert (cut.inputs[:, :-kept] == -1).all() and (cut.targets[:, :-kept] == -1).all()
    assert ((short.inputs[:, 0] >= 0) | (short.targets[:, 0] >= 0)).any()


@given(EVENTS, st.integers(1, 7), st.integers(1, 8), st.booleans())
def test_a_later_action_is_the_same_users_behind_the_windows_end_and_within_the_span(
    events: list[tuple[int, int, int]], length: int, span: int, mixed: bool
) -> None:
    columns = columns_of(events)
    cut = windows(columns, length, generator=np.random.default_rng(0) if mixed else None, phases=np.random.default_rng(1))
    found = later(cut, columns, span_ms=span, generator=np.random.default_rng(2))
    place = np.argsort(cut.order)
    for window, last in enumerate(cut.inputs[:, -1].tolist()):
        used = cut.inputs[window] >= 0
        wanted = [
            at
            for at in range(len(events))
            if last >= 0
            and columns.users[at] == columns.users[last]
            and place[at] > place[last]
            and columns.ts_ms[at] < columns.ts_ms[last] + span
        ]
        assert (found[window][~used] == -1).all(), "padding asks for nothing"
        assert set(found[window][used].tolist()) <= (set(wanted) or {-1})


def test_each_later_action_is_as_likely() -> None:
    columns = columns_of([(1, item, item) for item in range(1, 9)])
    cut = windows(columns, 4)
    first = cut.take(np.flatnonzero(cut.inputs[:, -1] == 2))
    drawn = np.concatenate([later(first, columns, span_ms=4, generator=np.random.default_rng(seed))[0] for seed in range(500)])
    counts = np.bincount(drawn[drawn >= 0], minlength=8)
    assert counts[:3].sum() == 0 and counts[6:].sum() == 0 and (counts[3:6] > 400).all(), "1,500 draws among three"
