"""The demo's producer: in order, one group ahead and no more, and what cannot be appended is told when it is due."""

import threading

import pytest

from freshet.demo.publishing import LINGER_EVENTS, Clock, published
from freshet.readers.source import Row
from stream.events import Event
from stream.wire import BAD_BYTES_MAX

WAIT_S = 30.0


def row(n: int) -> Row:
    return Row(n, Event(event_id=f"e{n}", user_id="u", item_id="i", action="like", ts_ms=n + 1), b"")


@pytest.mark.parametrize("count", [0, 1, LINGER_EVENTS, 4 * LINGER_EVENTS + 1])
def test_every_row_is_on_the_log_before_it_is_given_and_at_most_one_group_besides(count: int) -> None:
    rows, appended, given = [row(n) for n in range(count)], list[bytes](), list[Row]()
    for group in published(appended.extend, rows):
        given += group.rows
        assert len(given) <= len(appended) <= len(given) + LINGER_EVENTS
    assert given == rows
    assert [body.count(b'"e%d"' % n) for n, body in enumerate(appended)] == [1] * count


def test_a_group_is_appended_while_the_one_before_is_looked_at() -> None:
    second = threading.Event()
    calls = list[int]()

    def append(bodies: list[bytes]) -> None:
        calls.append(len(bodies))
        if len(calls) == 2:
            second.set()

    groups = published(append, [row(n) for n in range(2 * LINGER_EVENTS)])
    next(groups)
    assert second.wait(WAIT_S), "nobody has asked for the second group yet"
    assert len(list(groups)) == 1


def test_no_event_is_published_before_its_time() -> None:
    now, appended = [0.0], list[tuple[float, int]]()
    clock = Clock(lambda: int(now[0] * 1e9), lambda seconds: now.__setitem__(0, now[0] + seconds))
    groups = published(
        lambda bodies: appended.append((now[0], len(bodies))), [row(n) for n in range(5 * LINGER_EVENTS)], events_per_s=10.0, clock=clock
    )  # fmt: skip
    sent = [group.sent_ns / 1e9 for group in groups]
    due = [LINGER_EVENTS * n / 10 for n in range(5)]
    assert sent == pytest.approx(due) and [when for when, _ in appended] == pytest.approx(due)


def test_what_is_no_event_is_published_as_its_bytes() -> None:
    appended = list[bytes]()
    bad = [Row(1, None, b"x" * (BAD_BYTES_MAX + 1), "cut off"), Row(2, None, b"", "empty")]
    assert len(list(published(appended.extend, bad))) == 1
    assert appended == [b"x" * BAD_BYTES_MAX, b" "]


def test_an_append_that_fails_is_told_when_its_group_is_due() -> None:
    def append(bodies: list[bytes]) -> None:
        if b'"e%d"' % LINGER_EVENTS in bodies[0]:
            raise OSError("the disk is full")

    groups = published(append, [row(n) for n in range(2 * LINGER_EVENTS)])
    assert len(next(groups).rows) == LINGER_EVENTS
    with pytest.raises(OSError, match="the disk is full"):
        next(groups)
