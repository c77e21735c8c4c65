"""A training of a long archive: bounded, the newest events whole, older ones of the same users each time."""

from pathlib import Path

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from freshet.learning.reading import Reservoir, read_for_training
from storage.archive import Archive
from storage.columns import ARCHIVE_SCHEMA

MOST = 40


def rows(users: list[str | None], *, first: int = 0) -> pa.Table:
    """A row each, numbered from `first`."""
    numbers = range(first, first + len(users))
    held = {
        "number": list(numbers), "partition": [0] * len(users), "offset": list(numbers), "index": [0] * len(users),
        "append_ms": list(numbers), "user_id": users,
    }  # fmt: skip
    blank = {name: [None] * len(users) for name in ARCHIVE_SCHEMA.names if name not in held}
    return pa.table(held | blank, schema=ARCHIVE_SCHEMA)


def filled(tables: list[pa.Table]) -> Reservoir:
    reservoir = Reservoir(MOST)
    for table in tables:
        reservoir.add(table)
    return reservoir


def numbers(reservoir: Reservoir) -> list[int]:
    found: list[int] = reservoir.table().column("number").to_pylist()
    return found


some_users = st.lists(st.sampled_from([f"u{n}" for n in range(200)]), max_size=400)


@given(some_users, st.lists(st.integers(0, 60), max_size=20))
def test_what_is_kept_is_bounded_ordered_and_of_whole_older_users(users: list[str], cuts: list[int]) -> None:
    tables, first = [], 0
    for cut in [*cuts, len(users)]:
        tables.append(rows(list(users[first : first + cut]), first=first))
        first += tables[-1].num_rows
    reservoir = filled(tables)
    kept = numbers(reservoir)
    newest = list(range(max(0, len(users) - MOST // 2), len(users)))
    assert len(kept) <= MOST and kept == sorted(kept)
    assert kept[len(kept) - len(newest) :] == newest
    older = kept[: len(kept) - len(newest)]
    chosen = {users[n] for n in older}
    assert older == [n for n in range(len(users) - len(newest)) if users[n] in chosen], "a user's older events stay all, or none does"
    assert reservoir.share == 1 or len(users) > MOST


@given(some_users, st.integers(1, 60))
def test_how_the_archive_was_cut_into_rolls_makes_no_difference(users: list[str], size: int) -> None:
    in_rolls = filled([rows(list(users[at : at + size]), first=at) for at in range(0, len(users), size)])
    assert numbers(in_rolls) == numbers(filled([rows(list(users))]))


def test_all_of_a_short_archive_is_read_bad_rows_too() -> None:
    assert numbers(filled([rows(["a", None, "b"]), rows([None, "a"], first=3)])) == [0, 1, 2, 3, 4]


def test_as_the_archive_grows_the_sample_of_what_was_older_only_loses_users() -> None:
    users, most = [f"u{n}" for n in range(6000)], 500
    reservoir, before, shares = Reservoir(most), set(users), list[float]()
    for first in range(0, len(users), most):
        was_older = set(users[: max(0, first - most // 2)])
        reservoir.add(rows(list(users[first : first + most]), first=first))
        older = {users[n] for n in numbers(reservoir)[: -(most // 2)]}
        assert older & was_older <= before
        assert first < 2 * most or len(older) > most / 2 * 0.35, "not much more than half of the room stays empty"
        before, shares = older, [*shares, reservoir.share]
    assert shares == sorted(shares, reverse=True) and shares[-1] < shares[0] == 1


def test_one_user_who_is_all_of_it_does_not_break_the_bound() -> None:
    reservoir = filled([rows(["a"] * 500)])
    assert len(numbers(reservoir)) <= MOST
    assert numbers(reservoir)[-20:] == list(range(480, 500))


def test_it_reads_the_archive_up_to_an_append(tmp_path: Path) -> None:
    archive = Archive(tmp_path / "archive", roll_rows_max=10)
    for first in range(0, 100, 5):
        archive.add(rows([f"u{n % 7}" for n in range(first, first + 5)], first=first).combine_chunks().to_batches()[0])
    archive.flush()
    read = read_for_training(archive, most=30, below=80)
    assert read.table().num_rows <= 30 and read.share < 1
    assert read.table().column("number").to_pylist()[-15:] == list(range(65, 80))
    assert read_for_training(archive, most=100, below=80).table().num_rows == 80
