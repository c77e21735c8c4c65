"""Publishing a file: every line becomes an event or a dead letter, in order, and the counts add up."""

from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest

from freshet.commands.producing import FLUSH_LINES, produce_entities, produce_events, publishing
from freshet.opened import LocalSite
from freshet.readers.choose import open_events
from freshet.settings import Settings
from storage.log import JSON, Entry, LogFull, Position, Record
from stream.producer import Producer
from stream.wire import decode


class Shelf:
    """A place that keeps what it is given."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.bodies: list[list[bytes]] = []
        self.calls = 0

    def producer(self) -> Producer:
        """One that appends here."""
        return Producer(self.append)

    def append(self, entries: Sequence[Entry]) -> list[Position]:
        """Keep them."""
        self.calls += 1
        self.entries += entries
        return [Position(0, n, n) for n in range(len(entries))]

    def append_entities(self, bodies: Sequence[bytes]) -> None:
        """Keep them."""
        self.bodies.append(list(bodies))

    def settle(self) -> None:
        """Not asked here."""
        raise AssertionError


def told(shelf: Shelf) -> list[tuple[str, str | None]]:
    """User and item of every event, in order."""
    decoded = decode([Record(0, n, n, 1_900_000_000_000, one.form, one.value) for n, one in enumerate(shelf.entries)])
    rows = decoded.events.select(["user_id", "item_id"]).to_pylist()
    return [(row["user_id"], row["item_id"]) for row in rows]


def test_lines_keep_their_order_and_bad_ones_their_bytes(tmp_path: Path) -> None:
    path, shelf, moves = tmp_path / "u.data", Shelf(), list[int]()
    path.write_bytes(b"u1\ti1\t5\t881250949\nthis is no line\nu2\ti2\t4\t881250950\nu1\ti3\t4\n\xff\xfe\nu3\ti1\t1\t881250951\n")
    assert produce_events(shelf, open_events(path), moves.append) == (3, 3)
    assert told(shelf) == [("u1", "i1"), ("u2", "i2"), ("u3", "i1")]
    raw = [one.value for one in shelf.entries if one.form == JSON and not one.value.startswith(b"{")]
    assert raw == [b"this is no line", b"u1\ti3\t4", b"\xff\xfe"]
    assert sum(moves) == 6


def test_a_long_file_goes_in_bounded_pieces_and_the_bar_ends_at_its_length(tmp_path: Path) -> None:
    path, shelf, moves = tmp_path / "u.data", Shelf(), list[int]()
    lines = 2 * FLUSH_LINES + 7
    path.write_text("".join(f"u{n % 50}\ti{n % 70}\t5\t{881250949 + n}\n" for n in range(lines)))
    assert produce_events(shelf, open_events(path), moves.append) == (lines, 0)
    assert moves == [FLUSH_LINES, FLUSH_LINES, 7]
    assert shelf.calls == 3
    assert told(shelf) == [(f"u{n % 50}", f"i{n % 70}") for n in range(lines)]


def test_the_same_file_twice_has_ids_of_its_own_each_time(tmp_path: Path) -> None:
    """Ids made here differ between runs; a file that has its own keeps them, so producing it again changes nothing."""
    path = tmp_path / "own.jsonl"
    path.write_text('{"event_id":"e1","user_id":"u1","item_id":"i1","action":"view","ts_ms":1704067200000}\n')
    ids = []
    for _ in range(2):
        shelf = Shelf()
        produce_events(shelf, open_events(path), lambda _: None)
        ids.append(msgspec.json.decode(shelf.entries[0].value)["event_id"])
    assert ids == ["e1", "e1"]


def test_entities_go_five_hundred_at_a_time(tmp_path: Path) -> None:
    path, shelf, moves = tmp_path / "entities.jsonl", Shelf(), list[int]()
    path.write_text("".join(f'{{"kind":"item","id":"i{n}","title":"title {n}"}}\n' for n in range(1100)))
    assert produce_entities(shelf, path, moves.append) == 1100
    assert [len(bodies) for bodies in shelf.bodies] == [500, 500, 100] == moves
    assert msgspec.json.decode(shelf.bodies[0][7])["title"] == "title 7"


def test_a_folder_of_several_partitions_gets_each_event_where_its_user_belongs(tmp_path: Path) -> None:
    path = tmp_path / "u.data"
    path.write_text("".join(f"u{n % 9}\ti{n}\t5\t{881250949 + n}\n" for n in range(90)))
    with publishing(Settings(data=tmp_path / "data", partitions=3), None) as place:
        assert produce_events(place, open_events(path), lambda _: None) == (90, 0)
        place.settle()
        assert isinstance(place, LocalSite)
        tallies = place.status()["tallies"]
    assert (tallies["accepted"], tallies["dead_letters"]) == (90, {})


def test_a_full_log_is_told_as_itself(tmp_path: Path) -> None:
    class Full(Shelf):
        def append(self, entries: Sequence[Entry]) -> list[Position]:
            raise LogFull(f"no room for {len(entries)}")

    path = tmp_path / "u.data"
    path.write_text("u1\ti1\t5\t881250949\n")
    with pytest.raises(LogFull, match="no room") as refused:
        produce_events(Full(), open_events(path), lambda _: None)
    assert "1 events were not acknowledged" in refused.value.__notes__[0]
