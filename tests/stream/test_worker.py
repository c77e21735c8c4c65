"""How a worker cuts what it was given; what it does with Kafka and Redis is in tests/cluster."""

from hypothesis import given
from hypothesis import strategies as st

from storage.log import JSON, PACK, Record
from stream.consuming import Batch
from stream.events import Event
from stream.wire import encode_event, encode_pack
from stream.worker import EVENTS_AT_ONCE, PACK_WEIGHT, REST_MAX_S, TOGETHER_BYTES, pieces, rest_after
from tests.stream.event_logs import APPEND_MS

EVENT = Event(user_id="u", action="view", item_id="i", ts_ms=1)
BODIES = {JSON: encode_event(EVENT), PACK: encode_pack([EVENT, EVENT])}


def batch(forms: list[int], *, beyond: int = 0) -> Batch:
    records = [Record(n, 3, n, APPEND_MS, form, BODIES[form]) for n, form in enumerate(forms)]
    return Batch("events", 3, records, len(forms) + beyond)


@given(st.lists(st.sampled_from([JSON, PACK]), max_size=400), st.integers(0, 2))
def test_pieces_are_the_whole_batch_in_order_and_end_where_it_ends(forms: list[int], beyond: int) -> None:
    given_batch = batch(forms, beyond=beyond)
    found = list(pieces(given_batch))
    assert [record for decoded, _ in found for record in decoded.records] == list(given_batch.records)
    assert [end for _, end in found[:-1]] == [decoded.records[-1].offset + 1 for decoded, _ in found[:-1]]
    assert found[-1][1] == given_batch.end
    weights = [sum(PACK_WEIGHT if record.form == PACK else 1 for record in decoded.records) for decoded, _ in found]
    assert all(EVENTS_AT_ONCE <= weight < EVENTS_AT_ONCE + PACK_WEIGHT for weight in weights[:-1])


def test_a_batch_of_many_packs_behind_one_event_is_cut() -> None:
    assert len(list(pieces(batch([JSON] + [PACK] * 300)))) == 3


def test_a_batch_without_records_still_says_where_the_reader_stands() -> None:
    ((decoded, end),) = pieces(batch([], beyond=1))
    assert len(decoded) == 0 and end == 1


@given(st.floats(0, 60), st.integers(0, 4 * TOGETHER_BYTES))
def test_a_rest_is_shorter_than_the_round_before_it_and_there_is_none_while_more_waits(worked_s: float, size: int) -> None:
    rest_s = rest_after(worked_s, size=size)
    if 0 < size <= TOGETHER_BYTES:
        assert rest_s == min(REST_MAX_S, worked_s / 2)
    else:
        assert rest_s == 0
