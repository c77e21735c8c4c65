"""Archive rows are the decoded records again, whatever was in them."""

import random
import tempfile
from itertools import pairwise
from pathlib import Path

import msgspec
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from freshet.learning.walk import Walk
from storage.archive import Archive
from storage.columns import ARCHIVE_SCHEMA
from storage.log import JSON, PACK, Record
from stream.archiving import archive_rows, from_archive, row_by_row
from stream.events import Event
from stream.replay import digests
from stream.wire import Decoded, decode, encode_event, encode_pack
from tests.stream.event_logs import APPEND_MS, THREE, columns, make_messages

EVENT = Event(user_id="u", action="view", item_id="i", ts_ms=1000, event_id="e")
UNKNOWN = b'{"user_id":"u","action":"view","item_id":"i","ts_ms":7,"mood":{"sunny":[1,2.5]},"context":{"a":null}}'
NASTY = columns([EVENT, msgspec.structs.replace(EVENT, value=float("nan"), shown=["", "\0", "é"], ts_ms=-(2**53)), EVENT])
NULLS = pa.RecordBatch.from_pylist([{}, {"shown": []}, {"shown": [None, "x"], "value": float("-inf")}], schema=NASTY.schema)
BODIES = [
    (JSON, UNKNOWN),
    (JSON, b"\xff" * 70_000),
    (PACK, encode_pack([])),
    (PACK, encode_pack([EVENT])),
    (PACK, encode_pack(NASTY)),
    (PACK, encode_pack(NULLS)),
    (PACK, b""),
    (JSON, encode_event(msgspec.structs.replace(EVENT, schema=7))),
]


@st.composite
def runs(draw: st.DrawFn) -> list[Record]:
    """Records of a log over three partitions: a seeded stream, mixed with what is unusual."""
    messages = make_messages(random.Random(draw(st.integers(0, 999))), THREE, count=draw(st.integers(0, 12)))
    entries = [(m.entry.partition, m.entry.form, m.entry.value) for m in messages]
    entries += [(draw(st.integers(0, 2)), *body) for body in draw(st.lists(st.sampled_from(BODIES), max_size=8))]
    first, ends = draw(st.integers(0, 2**40)), [draw(st.integers(0, 2**40)) for _ in range(3)]
    records = []
    for number, (partition, form, value) in enumerate(draw(st.permutations(entries)), first):
        records.append(Record(number, partition, ends[partition], APPEND_MS + number % 3, form, value))
        ends[partition] += 1
    return records


def told(decoded: Decoded) -> tuple[object, ...]:
    """Everything that decides what a batch does; NaN is like NaN."""
    records = [(r.number, r.partition, r.offset, r.append_ms) for r in decoded.records]
    bad = [(b.record, b.index, b.reason, b.raw) for b in decoded.bad]
    return records, repr(decoded.events.to_pylist()), decoded.events.schema, decoded.record.tolist(), decoded.index.tolist(), bad


@given(records=runs())
@settings(max_examples=40)
def test_rows_and_back_are_what_was_decoded(records: list[Record]) -> None:
    decoded = decode(records)
    rows = archive_rows(decoded)
    assert rows.schema == ARCHIVE_SCHEMA
    assert rows.column("number").to_pylist() == sorted(rows.column("number").to_pylist())
    back = from_archive(pa.Table.from_batches([rows]))
    assert told(back) == told(decoded)
    assert [back.records[b.record].value for b in back.bad] == [b.raw for b in decoded.bad]


@given(records=runs(), cuts=st.lists(st.integers(0, 20), max_size=3))
@settings(max_examples=20)
def test_rows_through_files_cut_anywhere_are_what_was_decoded(records: list[Record], cuts: list[int]) -> None:
    bounds = sorted({0, len(records), *(cut for cut in cuts if cut < len(records))})
    with tempfile.TemporaryDirectory() as folder:
        archive = Archive(Path(folder))
        ends = {p: min((r.offset for r in records if r.partition == p), default=0) for p in range(3)}
        for begin, end in pairwise(bounds):
            archive.add(archive_rows(decode(records[begin:end])))
            archive.flush()
        tables = list(Archive(Path(folder), read_only=True).scan())
        if records:
            assert told(from_archive(pa.concat_tables(tables))) == told(decode(records))
        for record in records:
            ends[record.partition] = record.offset + 1
        assert {p: archive.published(p) for p in range(3)} == {
            p: e if any(r.partition == p for r in records) else 0 for p, e in ends.items()
        }


@pytest.mark.parametrize("body", [encode_pack([]), b"ARROW1 no more"])
def test_every_record_has_a_row_also_one_without_events(body: bytes) -> None:
    decoded = decode([Record(5, 0, 5, APPEND_MS, PACK, body)])
    rows = archive_rows(decoded)
    assert (rows.num_rows, decoded.events.num_rows) == (1, 0)
    assert [record.offset for record in from_archive(pa.Table.from_batches([rows])).records] == [5]


def test_records_of_two_partitions_that_share_a_number_stay_apart() -> None:
    """On Kafka a record's number is its offset."""
    records = [Record(7, partition, 7, APPEND_MS, JSON, encode_event(EVENT)) for partition in (0, 1)]
    again = from_archive(pa.Table.from_batches([archive_rows(decode(records))]))
    assert [(record.partition, record.offset) for record in again.records] == [(0, 7), (1, 7)]
    assert again.record.tolist() == [0, 1]


def test_the_whole_text_of_an_event_with_unknown_fields_is_kept() -> None:
    rows = archive_rows(decode([Record(0, 0, 0, APPEND_MS, JSON, UNKNOWN)]))
    assert rows.column("extra").to_pylist() == [UNKNOWN.decode()]
    assert from_archive(pa.Table.from_batches([rows])).events.column("extra").to_pylist() == [UNKNOWN.decode()]


def test_of_a_long_unreadable_message_so_much_is_kept_as_its_dead_letter_has() -> None:
    decoded = decode([Record(0, 0, 0, APPEND_MS, JSON, b"{" * 200_000)])
    (raw,) = archive_rows(decoded).column("bad").to_pylist()
    assert raw == decoded.bad[0].raw == b"{" * 65_536


def test_nothing_is_nothing() -> None:
    rows = archive_rows(decode([]))
    assert rows.num_rows == 0
    back = from_archive(pa.Table.from_batches([rows], ARCHIVE_SCHEMA))
    assert told(back) == told(decode([]))


@given(records=runs())
@settings(max_examples=40)
def test_row_by_row_has_the_same_effects_as_in_columns(records: list[Record]) -> None:
    table = pa.Table.from_batches([archive_rows(decode(records))], ARCHIVE_SCHEMA)
    slices = [from_archive(table.slice(n, 1)) for n in range(table.num_rows)]
    rows = list(row_by_row(table))
    assert [told(one)[0] for one in rows] == [told(one)[0] for one in slices]
    assert [told(one)[3:] for one in rows] == [told(one)[3:] for one in slices]
    assert effects(rows) == effects(slices)


def effects(parts: list[Decoded]) -> tuple[object, ...]:
    """What they leave in an empty state, one commit each, and what is refused why."""
    walk = Walk(THREE, {})
    letters = [letter for part in parts for letter in walk.advance(part).dead_letters]
    return digests(walk.state, THREE.partitions), [(at.offset, at.index, at.reason) for at in letters]
