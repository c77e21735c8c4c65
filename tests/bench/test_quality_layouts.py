"""Files by layout: endings, encodings, wrong lines, files cut off, ids that are not numbers."""

from pathlib import Path

import pytest

from bench.quality.events import read_events
from bench.quality.layouts import BadData, Loo, read_loo, read_sessions
from encoders.base import Ragged


def write(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def lists(found: Ragged) -> list[list[int]]:
    return [found.values[begin:end].tolist() for begin, end in zip(found.offsets[:-1], found.offsets[1:], strict=True)]


def named(found: Loo) -> list[list[str]]:
    names = list(found.catalogue.rows)
    return [[names[row] for row in rows] for rows in lists(found.sequences)]


def test_pairs_need_not_be_adjacent_and_ids_are_opaque(tmp_path: Path) -> None:
    found = read_loo([write(tmp_path / "pairs", "u 900\r\n\r\nv\tb\r\nu 7\r\n  \nv 900")])
    assert named(found) == [["900", "7"], ["b", "900"]] and found.rows_dropped == 0 and len(found.catalogue) == 3


def test_sequences_are_a_line_a_user(tmp_path: Path) -> None:
    assert named(read_loo([write(tmp_path / "sequences", "u a b\nv c\nw a\tb c\n")])) == [["a", "b"], ["c"], ["a", "b", "c"]]


def test_a_file_that_is_not_utf8_throughout_is_latin1(tmp_path: Path) -> None:
    assert named(read_loo([write(tmp_path / "utf8", "u caf\u00e9\nu \u00e0\n".encode())])) == [["caf\u00e9", "\u00e0"]]
    mixed = "u caf\u00e9\n".encode() + "u \u00e0b\n".encode("latin-1")
    assert named(read_loo([write(tmp_path / "latin1", mixed)])) == [["caf\u00c3\u00a9", "\u00e0b"]]


@pytest.mark.parametrize("wrong", ["u", "u a b"])
def test_one_wrong_line_in_a_thousand_is_dropped_and_counted_two_are_an_error(tmp_path: Path, wrong: str) -> None:
    good = "".join(f"u{n % 50} i{n % 7}\n" for n in range(999))
    found = read_loo([write(tmp_path / "one", f"{wrong}\n{good}")])
    assert found.rows_dropped == 1 and len(found.sequences.values) == 999 and len(found.catalogue) == 7
    if wrong == "u":
        with pytest.raises(BadData, match=r"2 of 1,001 lines have a wrong field count.*at most 0\.1%"):
            read_loo([write(tmp_path / "two", f"{wrong}\n{good}{wrong}")])
    else:  # not pairs, then
        assert named(read_loo([write(tmp_path / "two", f"{wrong}\n{good}{wrong}")]))[0][:2] == ["a", "b"]


def test_side_data_adds_its_items_and_nothing_else(tmp_path: Path) -> None:
    data = write(tmp_path / "pairs", "u a\nu b\n")
    attributes, titles = write(tmp_path / "attributes", '{"b": ["red"], "c": []}'), write(tmp_path / "titles", '{"d": "A title"}')
    found = read_loo([data, attributes, titles])
    assert list(found.catalogue.rows) == ["a", "b", "c", "d"] and named(found) == [["a", "b"]]
    for bad in ('{"a": 1}', '["a"]', "{", '{"a": "title", "b": []}'):
        with pytest.raises(BadData, match="side data must be"):
            read_loo([data, write(tmp_path / "bad", bad)])


def test_what_is_no_file_or_empty_is_said(tmp_path: Path) -> None:
    with pytest.raises(BadData, match="there is no such file"):
        read_loo([tmp_path / "none"])
    with pytest.raises(BadData, match="is a directory"):
        read_loo([tmp_path])
    with pytest.raises(BadData, match="holds no lines"):
        read_loo([write(tmp_path / "blank", "\n\r\n  \n")])
    with pytest.raises(BadData, match="holds no lines"):
        read_events(write(tmp_path / "nothing", ""))


def test_sessions_and_their_test_rows(tmp_path: Path) -> None:
    train = write(tmp_path / "train", "5 7 5\r\n\r\nx 7\r\n")
    test = write(tmp_path / "test", "7\t5\textra\tfields\r\n5 7 \tnew\n")
    found = read_sessions([train, test])
    assert lists(found.train) == [[0, 1, 0], [2, 1]] and lists(found.prefixes) == [[1], [0, 1]]
    assert found.targets.tolist() == [0, 3] and len(found.catalogue) == 4 and found.rows_dropped == 0


@pytest.mark.parametrize("wrong", ["5 7", "\t5", "5\t", "5\t7 5"])
def test_a_test_row_without_one_prefix_and_one_target_is_dropped(tmp_path: Path, wrong: str) -> None:
    train = write(tmp_path / "train", "5 7\n")
    found = read_sessions([train, write(tmp_path / "many", "5\t7\n" * 999 + wrong)])
    assert found.rows_dropped == 1 and len(found.targets) == 999
    with pytest.raises(BadData, match="1 of 2 lines"):
        read_sessions([train, write(tmp_path / "few", "5\t7\n" + wrong)])


def test_sessions_take_two_paths(tmp_path: Path) -> None:
    with pytest.raises(BadData, match=r"sessions takes two paths.*not 1"):
        read_sessions([write(tmp_path / "train", "1 2\n")])


@pytest.mark.parametrize(
    "text",
    [
        "u\ta\t5\t20\nv\tb\t1\t10\nu\tb\t3\t20\n",
        "u,a,9,pv,20\r\nv,b,9,buy,10\r\nu,b,9,anything,20\r\n",
        "timestamp,item,noise,user\n20,a,,u\n10,b,,v\n20,b,,u\n",
        'item_id\tuser_id\t"time"\na\tu\t2e1\nb\tv\t10\nb\tu\t20.0\n',
    ],
)
def test_events_are_sorted_stably_by_time_in_every_layout(tmp_path: Path, text: str) -> None:
    found = read_events(write(tmp_path / "events", text))
    assert list(found.catalogue.rows) == ["b", "a"] and found.items.tolist() == [0, 1, 0]
    assert found.users.tolist() == [0, 1, 1] and found.blocks.tolist() == [0, 1, 3] and found.rows_dropped == 0


def test_times_of_nanoseconds_keep_their_order(tmp_path: Path) -> None:
    text = "u\ta\t1\t1700000000000000001\nu\tb\t1\t1700000000000000000\n"
    assert read_events(write(tmp_path / "events", text)).blocks.tolist() == [0, 1, 2]


def test_a_last_line_cut_off_is_dropped_whatever_the_share(tmp_path: Path) -> None:
    good = "u,a,9,pv,1511658000\nv,b,9,pv,1511658001\n"
    cut = read_events(write(tmp_path / "cut", good + "w,c,9,pv,15"))
    assert cut.rows_dropped == 1 and len(cut.catalogue) == 2
    whole = read_events(write(tmp_path / "whole", good + "w,c,9,pv,15\n"))
    assert whole.rows_dropped == 0 and len(whole.catalogue) == 3, "a line that ends is not cut off"
    later = read_events(write(tmp_path / "later", good + "w,c,9,pv,1511658002"))
    assert later.rows_dropped == 0, "the time is not below all others"


@pytest.mark.parametrize("wrong", ["u\ta\t5", "u\ta\tfive\t20", "u\ta\t5\tnan", "u\ta\t5\t1_0", "\ta\t5\t10"])
def test_an_event_with_a_wrong_field_is_dropped_and_counted(tmp_path: Path, wrong: str) -> None:
    good = "".join(f"u{n}\ti{n % 9}\t1\t{n}\n" for n in range(999))
    found = read_events(write(tmp_path / "one", f"{good}{wrong}\n"))
    assert found.rows_dropped == 1 and len(found.items) == 999
    with pytest.raises(BadData, match="1 of 4 lines"):
        read_events(write(tmp_path / "few", "u\ta\t1\t1\n" * 3 + wrong))


def test_an_unknown_layout_says_what_is_wanted(tmp_path: Path) -> None:
    with pytest.raises(BadData, match=r"begins 'a b c'; wanted are lines `user item rating time`"):
        read_events(write(tmp_path / "words", "a b c\n"))
