"""Readers: the layout is told by content, every line becomes a row, and what is not understood is said with a way out."""

from pathlib import Path

import msgspec
import pyarrow
import pyarrow.parquet
import pytest

from freshet.readers import lines, own
from freshet.readers.choose import open_events
from freshet.readers.entities import read_entities
from freshet.readers.source import EXAMPLES, BrokenFile, Row, UnknownLayout
from stream.events import Entity, Event

UDATA = "196\t242\t3\t881250949\n186\t302\t3\t891717742\n196\t51\t2\t881250949\n"


def write(path: Path, body: str | bytes) -> Path:
    """A file under a name that says nothing."""
    path.write_bytes(body if isinstance(body, bytes) else body.encode())
    return path


def events(path: Path) -> list[Event]:
    """The good rows' events."""
    return [row.event for row in open_events(path) if row.event is not None]


def bad(path: Path) -> list[Row]:
    """The rows without an event."""
    return [row for row in open_events(path) if row.event is None]


def test_movielens_rows_are_likes_with_their_rating_and_times_in_ms(tmp_path: Path) -> None:
    source = open_events(write(tmp_path / "anything.bin", UDATA))
    rows = list(source)
    assert (source.name, source.rows, source.timed) == ("MovieLens u.data", 3, True)
    assert rows[0] == Row(
        1, Event(user_id="196", item_id="242", action="like", value=3.0, ts_ms=881_250_949_000), b"196\t242\t3\t881250949"
    )
    assert [row.line_number for row in rows] == [1, 2, 3]
    assert source.catalogue() == ["242", "302", "51"]


def test_u_item_beside_gives_titles_in_latin_1(tmp_path: Path) -> None:
    flags = "|".join("1" if place in {1, 5} else "0" for place in range(19))
    write(tmp_path / "u.item", f"242|Caf\xe9 (1997)|01-Jan-1997||http://x|{flags}\n302|broken\n".encode("latin-1"))
    source = open_events(write(tmp_path / "u.data", UDATA))
    (entity,) = source.entities()
    assert (entity.id, entity.title, entity.text) == ("242", "Café (1997)", "Action Comedy")
    assert entity.collections == ["genre:Action", "genre:Comedy"]


def test_recbole_reads_typed_columns_in_any_order_and_the_items_beside(tmp_path: Path) -> None:
    path = write(tmp_path / "x.inter", "item_id:token\ttimestamp:float\tuser_id:token\n7\t100.5\tu1\n8\t101\tu1\n")
    write(tmp_path / "x.item", "item_id:token\tmovie_title:token_seq\tyear:token\tclass:token_seq\n7\tToy Story\t1995\tComedy Drama\n")
    source = open_events(path)
    assert source.name == "RecBole .inter"
    assert [event.ts_ms for event in events(path)] == [100_500, 101_000]
    (entity,) = source.entities()
    assert entity.title == "Toy Story"
    assert entity.attributes == {"year": "1995", "class": ["Comedy", "Drama"]}
    assert entity.collections == ["class:Comedy", "class:Drama"]
    assert source.catalogue() == ["7", "8"]


def test_recbole_without_times_is_taken_in_line_order(tmp_path: Path) -> None:
    path = write(tmp_path / "x", "user_id:token\titem_id:token\nu1\t7\nu2\t8\n")
    assert not open_events(path).timed
    first, second = events(path)
    assert second.ts_ms > first.ts_ms


TAOBAO = "1,10,5,pv,1511658000\n2,11,5,fav,1511658001\n3,12,5,cart,1511658002\n4,13,5,buy,1511658003\n"


def test_taobao_behaviours_become_actions(tmp_path: Path) -> None:
    path = write(tmp_path / "x", TAOBAO)
    assert [event.action for event in events(path)] == ["view", "like", "cart", "purchase"]
    assert events(path)[0].context == {"category": "5"}


def test_a_last_line_cut_off_in_its_time_is_a_bad_row_that_says_so(tmp_path: Path) -> None:
    source = open_events(write(tmp_path / "x", TAOBAO + "5,14,5,pv,15"))
    assert source.rows == 5
    *good, cut = source
    assert all(row.event is not None for row in good)
    assert cut.line_number == 5
    assert cut.raw == b"5,14,5,pv,15"
    assert cut.reason is not None
    assert "cut off" in cut.reason


@pytest.mark.parametrize("last", ["5,14,5,pv,15\n", "5,14,5,pv,1511658000"])
def test_a_last_line_is_whole_with_a_newline_or_with_a_time_among_the_others(tmp_path: Path, last: str) -> None:
    assert not bad(write(tmp_path / "x", TAOBAO + last))


def test_a_headed_csv_reads_its_columns_by_name(tmp_path: Path) -> None:
    body = (
        "Item,user,ts_ms,behaviour,event_id,dwell_ms,rating,colour\n"
        '"a, b",u1,5,pv,e1,30,4.5,red\n'
        "c,u1,6,save,,,,\n"
        ",u1,7,save,,,,\n"
        "d,u1,8,save,e2,x,,\n"
    )
    path = write(tmp_path / "x", "\ufeff" + body)
    assert open_events(path).name == "headed CSV"
    first, second = events(path)
    assert first == Event(user_id="u1", item_id="a, b", action="view", ts_ms=5, event_id="e1", dwell_ms=30, value=4.5)
    assert second == Event(user_id="u1", item_id="c", action="save", ts_ms=6)
    assert [row.reason for row in bad(path)] == ["empty item", "dwell_ms 'x' is not a number"]


def test_pairs_and_sequences_are_told_apart_by_all_lines(tmp_path: Path) -> None:
    pairs = open_events(write(tmp_path / "x", "1 10\n1 11\r\n\n2\t10\n"))
    assert (pairs.name, pairs.rows, pairs.timed) == ("user item pairs", 3, False)
    sequences = open_events(write(tmp_path / "y", "1 10\n2 10 11 12\n3\n"))
    assert (sequences.name, sequences.rows) == ("user item sequences", 5)
    rows = list(sequences)
    assert [row.event.item_id for row in rows if row.event] == ["10", "10", "11", "12"]
    times = [row.event.ts_ms for row in rows if row.event]
    assert times == sorted(set(times))
    assert rows[-1] == Row(3, None, b"3", "a user without items")


def test_lines_that_cannot_be_read_are_rows_with_reason_and_bytes(tmp_path: Path) -> None:
    path = write(tmp_path / "x", UDATA + "1\t2\t3\n1\t2\tx\t5\n1\t2\t3\tnan\n1\t2\t3\t1_000\n\t2\t3\t4\n1\t2\t3\t1e300\n1\t2")
    source = open_events(path)
    assert source.rows == len(list(source)) == 10
    reasons = [row.reason or "" for row in bad(path)]
    wanted = ["3 fields where 4", "rating 'x'", "time 'nan'", "time '1_000'", "empty user", "time '1e300'", "without a newline"]
    assert len(reasons) == len(wanted)
    for reason, part in zip(reasons, wanted, strict=True):
        assert part in reason


def test_a_file_that_is_not_utf8_is_latin_1_as_a_whole(tmp_path: Path) -> None:
    assert [event.item_id for event in events(write(tmp_path / "x", "u1 caf\xe91\nu1 \xa02\n".encode("latin-1")))] == ["café1", "\xa02"]
    assert [event.item_id for event in events(write(tmp_path / "y", "u1 café1\nu1 à2\n"))] == ["café1", "à2"]


def test_an_overlong_line_is_one_bad_row_and_the_rest_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "LINE_BYTES_MAX", 40)
    path = write(tmp_path / "x", UDATA + "9\t" + "7" * 200 + "\t1\t2\n" + UDATA)
    source = open_events(path)
    rows = list(source)
    assert source.rows == len(rows) == 7
    assert [row.event is None for row in rows] == [False] * 3 + [True] + [False] * 3
    assert rows[3].raw == ("9\t" + "7" * 38).encode()


def test_json_lines_round_trip_and_poison_costs_its_own_line(tmp_path: Path) -> None:
    good = Event(user_id="u\u00e9", item_id="i1", action="view", ts_ms=5, shown=["a"], context={"k": 1})
    lines_in = [b"{broken", b"\xff\xfe", msgspec.json.encode(good), b"[" * 100_000, b'{"user_id":"u","action":"view","ts_ms":"x"}']
    path = write(tmp_path / "x", b"\n".join(lines_in))
    source = open_events(path)
    assert (source.name, source.rows) == ("freshet JSON lines", 5)
    assert events(path) == [good]
    assert [row.raw for row in bad(path)] == [lines_in[place] for place in (0, 1, 3, 4)]
    assert all(row.reason for row in bad(path))


def parquet(path: Path, columns: dict[str, list[object]]) -> Path:
    """A Parquet file of these columns."""
    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    return path


def test_parquet_rows_take_seconds_numbers_and_missing_cells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own, "BATCH_ROWS", 2)
    columns: dict[str, list[object]] = {
        "user_id": [1, 2, None], "item_id": ["a", "b", "c"], "action": ["pv", None, "save"], "timestamp": [100.0, 200.0, 300.0],
        "shown": [["x"], None, None], "unknown": [1, 2, 3],
    }  # fmt: skip
    source = open_events(parquet(tmp_path / "x", columns))
    rows = list(source)
    assert (source.name, source.rows) == ("freshet Parquet", 3)
    assert rows[0].event == Event(user_id="1", item_id="a", action="view", ts_ms=100_000, shown=["x"])
    assert rows[1].event == Event(user_id="2", item_id="b", action="like", ts_ms=200_000)
    assert rows[2].event is None
    assert "user_id" in (rows[2].reason or "")


def test_parquet_timestamps_become_milliseconds(tmp_path: Path) -> None:
    path = tmp_path / "x"
    table = pyarrow.table({"user": ["u"], "item": ["i"], "time": pyarrow.array([1_700_000_000_123_456], pyarrow.timestamp("us"))})
    pyarrow.parquet.write_table(table, path)
    assert events(path)[0].ts_ms == 1_700_000_000_123


def test_damaged_parquet_is_named(tmp_path: Path) -> None:
    whole = parquet(tmp_path / "x", {"user_id": ["u"] * 5000, "item_id": [f"i{n}" for n in range(5000)]}).read_bytes()
    with pytest.raises(UnknownLayout, match="begins like Parquet"):
        open_events(write(tmp_path / "cut", whole[:200]))
    with pytest.raises(UnknownLayout, match="without user_id"):
        open_events(parquet(tmp_path / "other", {"a": [1]}))
    with pytest.raises(BrokenFile, match="after row"):
        list(open_events(write(tmp_path / "flipped", whole[:50] + b"\xff" * 400 + whole[450:])))


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"", "is empty"),
        (b"\n\r\n\n", "is empty"),
        (b"\x89PNG\r\n\x1a\n\x00\x00", "is binary"),
        (b"\x7fELF\x02\x01\x01\x00\x00 1 2 3\n", "is binary"),
        (b"The quick brown fox\njumps over the lazy dog\n", "the layout is not known"),
        (b'{"kind":"item","id":"i1"}\n', "JSON without a user_id"),
        (b"item_id:token\tmovie_title:token_seq\n1\tToy Story\n", "the .inter holds events"),
        (b"user_id,item_id,time\n", "a header and no rows"),
    ],
)
def test_what_is_not_understood_is_named_with_everything_that_is(tmp_path: Path, body: bytes, why: str) -> None:
    path = write(tmp_path / "u.data", body)
    with pytest.raises(UnknownLayout) as raised:
        open_events(path)
    message = str(raised.value)
    assert why in message
    assert str(path) in message
    assert all(name in message for name in EXAMPLES)


def test_a_directory_and_a_missing_file_are_named(tmp_path: Path) -> None:
    with pytest.raises(UnknownLayout, match="is a directory"):
        open_events(tmp_path)
    with pytest.raises(UnknownLayout, match="no such file"):
        open_events(tmp_path / "absent")


def test_entities_of_json_lines_skip_what_is_broken_and_other_files_are_refused(tmp_path: Path) -> None:
    entity = Entity(kind="item", id="i1", image=b"\x89PNG")
    path = write(tmp_path / "entities.jsonl", msgspec.json.encode(entity) + b"\n{oops\n\xff{\n")
    assert list(read_entities(path)) == [entity]
    with pytest.raises(UnknownLayout, match=r"neither a RecBole \.item"):
        read_entities(write(tmp_path / "x", "1,2,3\n"))
