"""Names: an id's string, kept once where its owner is kept, and the place where two of one id are noticed."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pytest

from storage.ids import ITEM, USER, hash_id, hash_ids
from storage.names import Named, Names, Resolved
from storage.state import NAMES, Write
from storage.state_memory import MemoryState


def resolve(names: Names, kind: int, texts: Sequence[str | None], partitions: Sequence[int] | None = None) -> Resolved:
    """In partition 0 unless told."""
    return names.resolve(Named.of(kind, pa.array(texts, pa.string())), np.array(partitions or [0] * len(texts), dtype=np.int64))


def commit(state: MemoryState, names: Names, kind: int, resolved: Resolved) -> None:
    state.commit([], resolved.writes)
    names.learn(kind, resolved.fresh)


def clashing(name: str, kind: int = ITEM) -> Write:
    """What the state holds when somebody else's name has this one's id."""
    return Write(NAMES, 0, np.array([hash_id(name, kind)], dtype=np.uint64), [bytes([kind]) + b"somebody else"])


def test_new_names_are_written_once_and_found_again() -> None:
    state = MemoryState()
    names = Names(state)
    first = resolve(names, ITEM, ["b", "a"])
    assert first.fresh == {n: hash_id(n, ITEM) for n in "ba"}
    assert names.name(hash_id("a", ITEM), 0) is None, "not before the commit"
    assert len(resolve(names, ITEM, ["a"]).writes) == 1, "and not known before it either"
    commit(state, names, ITEM, first)
    for resolver in (names, Names(state)):
        again = resolve(resolver, ITEM, ["a", "c", "b"])
        assert [int(write.ids[0]) for write in again.writes] == [hash_id("c", ITEM)] and "c" in again.fresh
        assert not again.clashes
    assert resolve(names, ITEM, ["a", "b"]).writes == [] == resolve(names, ITEM, []).writes


def test_a_column_has_the_ids_of_its_names_and_0_where_there_is_none() -> None:
    texts = pa.array(["b", None, "a", "b", ""], pa.string())
    assert Named.of(ITEM, texts).ids.tolist() == [hash_id("b", ITEM), 0, hash_id("a", ITEM), hash_id("b", ITEM), hash_id("", ITEM)]
    assert Named.of(USER, texts.slice(2, 2)).ids.tolist() == hash_ids(["a", "b"], USER).tolist()


def test_none_costs_nothing_and_a_name_that_stands_twice_is_written_once() -> None:
    found = resolve(Names(MemoryState()), ITEM, [None, "a", None, "a", "b"])
    assert set(found.fresh) == {"a", "b"} and [len(write.ids) for write in found.writes] == [2] and not found.clashes


def test_what_was_met_lately_is_known_without_asking_the_state() -> None:
    state = MemoryState()
    names = Names(state)
    commit(state, names, ITEM, resolve(names, ITEM, ["a", "b"]))
    assert _is_read(state, Names(state), "a") and not _is_read(state, names, "a")
    assert resolve(names, USER, ["a"]).fresh == {"a": hash_id("a", USER)}, "another kind's name is another name"
    names.forget()
    assert _is_read(state, names, "a")


def test_names_lie_in_the_partition_of_their_owner_and_know_their_kind() -> None:
    state = MemoryState()
    names = Names(state)
    resolved = resolve(names, USER, ["u", "v", "w"], [2, 0, 2])
    commit(state, names, USER, resolved)
    commit(state, names, ITEM, resolve(names, ITEM, ["u", "ü" * 100], [2, 2]))
    assert {name for _, name in names.scan(USER, 2)} == {"u", "w"} and {name for _, name in names.scan(USER, 0)} == {"v"}
    assert {name for _, name in names.scan(ITEM, 2)} == {"u", "ü" * 100}
    assert names.name(hash_id("w", USER), 2) == "w" and names.name(hash_id("w", USER), 0) is None


def test_a_name_whose_id_is_taken_is_a_clash_and_is_not_written() -> None:
    state = MemoryState()
    state.commit([], [clashing("a")])
    names = Names(state)
    resolved = resolve(names, ITEM, ["b", "a", "c", "a"])
    assert resolved.clashes == [1, 3] and set(resolved.fresh) == {"b", "c"}
    commit(state, names, ITEM, resolved)
    assert names.name(hash_id("a", ITEM), 0) == "somebody else"
    assert resolve(names, ITEM, ["a"]).clashes == [0], "each time"


def test_a_name_of_another_kind_under_the_same_id_is_a_clash_too() -> None:
    state = MemoryState()
    state.commit([], [Write(NAMES, 0, np.array([hash_id("a", ITEM)], dtype=np.uint64), [bytes([USER]) + b"a"])])
    assert resolve(Names(state), ITEM, ["a"]).clashes == [0]


@pytest.mark.parametrize("names_max", [1, 3])
def test_the_cache_is_bounded_and_starts_over(names_max: int) -> None:
    state = MemoryState()
    names = Names(state, names_max=names_max)
    for n in range(10):
        commit(state, names, ITEM, resolve(names, ITEM, [f"i{n}", f"i{n + 1}"][:names_max]))
    assert {name for _, name in names.scan(ITEM, 0)} >= {f"i{n}" for n in range(10)}
    held = [name for name in (f"i{n}" for n in range(11)) if not _is_read(state, names, name)]
    assert len(held) <= names_max


def _is_read(state: MemoryState, names: Names, name: str) -> bool:
    """Whether resolving asks the state: then a clash planted there is noticed."""
    key = np.array([hash_id(name, ITEM)], dtype=np.uint64)
    (before,) = state.read(NAMES, 0, key)
    state.commit([], [clashing(name)])
    noticed = bool(resolve(names, ITEM, [name]).clashes)
    state.commit([], [Write(NAMES, 0, key, [before])])
    return noticed
