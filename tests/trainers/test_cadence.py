"""When a run is due, at the bounds."""

import pytest

from trainers.cadence import Cadence, due

RULES = Cadence(events=100, elapsed_ms=60_000, interval_ms_min=1_000)


@pytest.mark.parametrize(
    ("new_events", "waited_ms", "is_due"),
    [
        (0, None, False),
        (0, 10**9, False),
        (99, None, False),
        (100, None, True),
        (100, 999, False),
        (100, 1_000, True),
        (1, 59_999, False),
        (1, 60_000, True),
        (100, -5, False),
    ],
)
def test_a_run_is_due_by_events_or_by_time_but_never_too_soon(new_events: int, waited_ms: int | None, is_due: bool) -> None:
    last = None if waited_ms is None else 10**12 - waited_ms
    reason = due(RULES, new_events=new_events, now_ms=10**12, last_ms=last)
    assert bool(reason) is is_due
    assert not is_due or str(new_events) in reason


@pytest.mark.parametrize("wrong", [{"events": 0}, {"interval_ms_min": -1}, {"elapsed_ms": 1, "interval_ms_min": 2}])
def test_a_cadence_that_cannot_be_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="events must be"):
        Cadence(**wrong)
