"""Both wire formats: what goes out comes back, and what is not an event is a ValueError that says why."""

from collections.abc import Sequence
from contextlib import suppress

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.columns import EVENT_SCHEMA
from storage.log import JSON, PACK, VALUE_BYTES_MAX, Record
from stream.events import Event
from stream.wire import PACK_BYTES_MAX, PACK_EVENTS_MAX, decode, decode_event, decode_pack, encode_event, encode_pack

EVENT = Event(user_id="u", action="view", item_id="i", ts_ms=5)
FULL = Event(
    user_id="u", action="search", ts_ms=7, item_id="i", event_id="e", surface="home", session_id="s", collection_id="c",
    source_item_id="j", shown=["k", "l"], query="q", dwell_ms=-3, value=0.25, context={"a": 1, "b": None, "c": "x", "d": 2**70}, schema=1,
)  # fmt: skip
texts = st.none() | st.text(max_size=20)


def records(*values: tuple[int, bytes]) -> list[Record]:
    return [Record(n, 0, n, 100, form, value) for n, (form, value) in enumerate(values)]


def stream_of(batches: Sequence[pa.RecordBatch], schema: pa.Schema = EVENT_SCHEMA, compression: str | None = None) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema, options=pa.ipc.IpcWriteOptions(compression=compression)) as writer:
        for batch in batches:
            writer.write_batch(batch)
    body: bytes = sink.getvalue().to_pybytes()
    return body


def long_text(size: int) -> pa.RecordBatch:
    columns = [pa.array(["\0" * size], pa.string()) if field.name == "extra" else pa.nulls(1, field.type) for field in EVENT_SCHEMA]
    return pa.record_batch(columns, schema=EVENT_SCHEMA)


@given(
    st.builds(
        Event, user_id=st.text(max_size=9), action=st.text(max_size=9), ts_ms=st.integers(-(2**53), 2**53), item_id=texts, query=texts,
        shown=st.lists(st.text(max_size=5), max_size=3), value=st.none() | st.floats(allow_nan=False, allow_infinity=False),
        context=st.dictionaries(st.text(max_size=4), st.none() | st.booleans() | st.integers() | st.text(max_size=4), max_size=3),
    )
)  # fmt: skip
def test_a_pack_and_json_hold_the_same_columns(event: Event) -> None:
    assert msgspec.structs.asdict(decode_event(encode_event(event))) == msgspec.structs.asdict(event)
    assert decode(records((JSON, encode_event(event)))).events.equals(decode_pack(encode_pack([event])))


def test_every_field_survives_both_formats() -> None:
    for form, body in ((JSON, encode_event(FULL)), (PACK, encode_pack([FULL]))):
        (row,) = decode(records((form, body))).events.to_pylist()
        context = row.pop("context")
        assert msgspec.json.decode(context) == FULL.context
        assert row == {name: value for name, value in msgspec.structs.asdict(FULL).items() if name != "context"}


def test_rows_know_the_record_they_came_from_and_their_place_in_it() -> None:
    pack = encode_pack([EVENT, EVENT])
    decoded = decode(
        records((JSON, encode_event(EVENT)), (PACK, pack), (JSON, b"{"), (PACK, b"?"), (PACK, pack), (JSON, encode_event(FULL)))
    )
    assert decoded.record.tolist() == [0, 1, 1, 4, 4, 5]
    assert decoded.index.tolist() == [0, 0, 1, 0, 1, 0]
    assert [(bad.record, bad.index, bad.raw) for bad in decoded.bad] == [(2, 0, b"{"), (3, 0, b"?")]
    assert decoded.events.schema.equals(EVENT_SCHEMA) and decoded.events.column("action")[5].as_py() == "search"


def test_nothing_and_empty_packs_hold_no_event() -> None:
    empty = encode_pack([])
    for values in ([], [(PACK, empty)], [(PACK, empty), (PACK, empty)], [(PACK, empty), (JSON, encode_event(EVENT)), (PACK, empty)]):
        decoded = decode(records(*values))
        assert decoded.events.num_rows == len(decoded.record) == len(decoded.index) == sum(form == JSON for form, _ in values)
        assert decoded.events.schema.equals(EVENT_SCHEMA) and not decoded.bad


def test_the_text_of_an_event_with_unknown_fields_is_kept() -> None:
    body = b'{"user_id":"u","action":"view","item_id":"i","ts_ms":5,"colour":{"deep":[1]}}'
    assert decode_event(body).extra == body.decode()
    assert decode_event(encode_event(EVENT)).extra is None


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "truncated"),
        (b'{"user_id":"u"', "truncated"),
        (b"[]", "Expected `object`, got `array`"),
        (b'{"action":"view","ts_ms":5}', "missing required field `user_id`"),
        (b'{"user_id":7,"action":"view","ts_ms":5}', "user_id"),
        (b'{"user_id":"u","action":"view","ts_ms":"5"}', "ts_ms"),
        (b'{"user_id":"u","action":"view","ts_ms":1e400}', "out of range"),
        (b'{"user_id":"u","action":"view","ts_ms":' + b"9" * 5000 + b"}", "ts_ms"),
        (b'{"user_id":"u","action":"view","ts_ms":5,"value":NaN}', "malformed"),
        (b'{"user_id":"u","action":"view","ts_ms":5,"value":1e999}', "out of range"),
        (b'{"user_id":"\xff","action":"view","ts_ms":5}', "utf-8"),
        (b'{"user_id":"u","action":"view","ts_ms":5,"new":"\xff"}', "utf-8"),
        (b'{"user_id":"\\ud800","action":"view","ts_ms":5}', "truncated|surrogate"),
        (b'{"user_id":"u","action":"view","ts_ms":5,"context":{"a":{}}}', "context"),
        (b'{"user_id":"u","action":"view","ts_ms":5,"new":' + b"[" * 200_000 + b"]" * 200_000 + b"}", "nested too deeply"),
        (b"[" * 200_000, "unreadable|Expected|nested|malformed|truncated"),
        (b" " * (VALUE_BYTES_MAX + 1), "bound"),
    ],
)
def test_what_is_no_event_is_refused_with_a_reason(body: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        decode_event(body)
    (bad,) = decode(records((JSON, body))).bad
    assert bad.reason.startswith("unreadable event: ") and len(bad.reason) <= 500 and len(bad.raw) <= 65_536


def other_schemas() -> list[pa.Schema]:
    fields = list(EVENT_SCHEMA)
    wider = [pa.field(field.name, pa.int32()) if field.name == "ts_ms" else field for field in fields]
    required = [field.with_nullable(False) if field.name == "user_id" else field for field in fields]
    return [pa.schema(fields[:-1]), pa.schema(fields[::-1]), pa.schema(wider), pa.schema(required), pa.schema([])]


@pytest.mark.parametrize("schema", other_schemas(), ids=["shorter", "reversed", "narrow time", "required user", "empty"])
def test_a_pack_of_another_schema_is_refused(schema: pa.Schema) -> None:
    rows = {"user_id": "u", "action": "view", "item_id": "i", "ts_ms": 5}
    batch = pa.RecordBatch.from_pylist([rows], schema=schema)
    with pytest.raises(ValueError, match="not the event schema"):
        decode_pack(stream_of([batch], schema))


def test_a_pack_that_only_names_its_parts_otherwise_goes_with_the_others() -> None:
    shown = EVENT_SCHEMA.get_field_index("shown")
    schema = EVENT_SCHEMA.set(shown, pa.field("shown", pa.list_(pa.field("element", pa.string())))).with_metadata({"made": "elsewhere"})
    batch = decode_pack(encode_pack([FULL]))
    foreign = pa.record_batch([column.cast(field.type) for column, field in zip(batch.columns, schema, strict=True)], schema=schema)
    both = decode(records((PACK, stream_of([foreign], schema)), (PACK, encode_pack([FULL]))))
    assert not both.bad and both.events.schema.equals(EVENT_SCHEMA, check_metadata=True)
    assert both.events.slice(0, 1).equals(both.events.slice(1, 1))


def test_a_pack_is_bounded_in_events_and_bytes() -> None:
    events = [EVENT] * (PACK_EVENTS_MAX + 1)
    with pytest.raises(ValueError, match=r"1001 events in one pack, the bound is 1000"):
        encode_pack(events)
    assert decode_pack(encode_pack(events[:-1])).num_rows == PACK_EVENTS_MAX
    thousand = decode_pack(encode_pack(events[:-1]))
    table = pa.Table.from_batches([thousand, thousand.slice(0, 1)]).combine_chunks()
    with pytest.raises(ValueError, match=r"1001 events, the bound is 1000"):
        decode_pack(stream_of(table.to_batches()))
    with pytest.raises(ValueError, match="put fewer events in it"):
        encode_pack(long_text(VALUE_BYTES_MAX))
    with pytest.raises(ValueError, match=r"bytes, the bound is"):
        decode_pack(stream_of([long_text(VALUE_BYTES_MAX)]))


def test_a_pack_of_two_batches_is_refused_rather_than_half_read() -> None:
    batch = decode_pack(encode_pack([EVENT]))
    with pytest.raises(ValueError, match="it holds 2 batches, not one"):
        decode_pack(stream_of([batch, batch]))
    with pytest.raises(ValueError, match="it holds 0 batches, not one"):
        decode_pack(stream_of([]))


@pytest.mark.parametrize("compression", ["lz4", "zstd"])
def test_a_compressed_pack_is_read(compression: str) -> None:
    batch = decode_pack(encode_pack([EVENT, FULL] * 300))
    assert decode_pack(stream_of([batch], compression=compression)).equals(batch)


@pytest.mark.parametrize("compression", ["lz4", "zstd"])
def test_a_pack_that_would_grow_beyond_its_bound_is_refused_before_it_is_decompressed(compression: str) -> None:
    body = stream_of([long_text(4 * PACK_BYTES_MAX)], compression=compression)
    assert len(body) < VALUE_BYTES_MAX
    with pytest.raises(ValueError, match="once decompressed, the bound is"):
        decode_pack(body)


def test_offsets_that_lead_out_of_a_pack_are_refused() -> None:
    """Each of the pack's 4-byte words in turn becomes large, small and negative: none may be followed."""
    body = encode_pack([FULL, EVENT, FULL])
    survived = 0
    for at in range(0, len(body) - 4, 4):
        for value in (0x7FFFFFFF, 0xFFFFFFFF, 4096, 0):
            spoilt = body[:at] + value.to_bytes(4, "little") + body[at + 4 :]
            with suppress(ValueError):
                survived += len(str(decode_pack(spoilt).to_pylist())) > 0
    assert survived > 0


def test_columns_keep_log_order_across_formats() -> None:
    rng = np.random.default_rng(3)
    values, times = [], []
    for n in range(60):
        rows = [Event(user_id="u", action="view", item_id="i", ts_ms=100 * n + k) for k in range(int(rng.integers(0, 4)))]
        pack = rng.random() < 0.5
        values += [(PACK, encode_pack(rows))] if pack else [(JSON, encode_event(row)) for row in rows]
        times += [row.ts_ms for row in rows]
    assert decode(records(*values)).events.column("ts_ms").to_pylist() == times
