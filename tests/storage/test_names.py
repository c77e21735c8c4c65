"""Names: an id's string, kept once where its owner is kept, and the place where two of one id are noticed."""

import numpy as np
import pytest

from storage.arrays import I64s
from storage.ids import ITEM, USER, hash_id, hash_ids
from storage.names import Names, Resolved
from storage.state import NAMES, Write
from storage.state_memory import MemoryState


def zeros(count: int) -> I64s:
    return np.zeros(count, dtype=np.int64)


def commit(state: MemoryState, names: Names, kind: int, resolved: Resolved) -> None:
    state.commit([], resolved.writes)
    names.learn(kind, resolved.fresh)


def clashing(name: str, kind: int = ITEM) -> Write:
    """What the state holds when somebody else's name has this one's id."""
    return Write(NAMES, 0, np.array([hash_id(name, kind)], dtype=np.uint64), [bytes([kind]) + b"somebody else"])


def test_new_names_are_written_once_and_found_again() -> None:
    state = MemoryState()
    names = Names(state)
    first = names.resolve(ITEM, ["b", "a"], zeros(2))
    assert first.ids.tolist() == hash_ids(["b", "a"], ITEM).tolist() and first.fresh == {n: hash_id(n, ITEM) for n in "ba"}
    assert names.name(hash_id("a", ITEM), 0) is None, "not before the commit"
    assert len(names.resolve(ITEM, ["a"], zeros(1)).writes) == 1, "and not known before it either"
    commit(state, names, ITEM, first)
    for resolver in (names, Names(state)):
        again = resolver.resolve(ITEM, ["a", "c", "b"], zeros(3))
        assert [int(write.ids[0]) for write in again.writes] == [hash_id("c", ITEM)] and "c" in again.fresh
        assert again.ids.tolist() == hash_ids(["a", "c", "b"], ITEM).tolist() and not again.clashes
    assert names.resolve(ITEM, ["a", "b"], zeros(2)).writes == [] and names.resolve(ITEM, [], zeros(0)).ids.tolist() == []


def test_what_was_met_lately_is_known_without_asking_the_state() -> None:
    state = MemoryState()
    names = Names(state)
    commit(state, names, ITEM, names.resolve(ITEM, ["a", "b"], zeros(2)))
    assert names.known(ITEM, ["b", None, "c", "b"]) == [hash_id("b", ITEM), 0, 0, hash_id("b", ITEM)]
    assert names.known(USER, ["a"]) == [0] and names.known(ITEM, []) == []
    assert Names(state).known(ITEM, ["a"]) == [0]


def test_names_lie_in_the_partition_of_their_owner_and_know_their_kind() -> None:
    state = MemoryState()
    names = Names(state)
    resolved = names.resolve(USER, ["u", "v", "w"], np.array([2, 0, 2], dtype=np.int64))
    commit(state, names, USER, resolved)
    commit(state, names, ITEM, names.resolve(ITEM, ["u", "ü" * 100], np.array([2, 2], dtype=np.int64)))
    assert {name for _, name in names.scan(USER, 2)} == {"u", "w"} and {name for _, name in names.scan(USER, 0)} == {"v"}
    assert {name for _, name in names.scan(ITEM, 2)} == {"u", "ü" * 100}
    assert names.name(hash_id("w", USER), 2) == "w" and names.name(hash_id("w", USER), 0) is None


def test_a_name_whose_id_is_taken_is_a_clash_and_is_not_written() -> None:
    state = MemoryState()
    state.commit([], [clashing("a")])
    names = Names(state)
    resolved = names.resolve(ITEM, ["b", "a", "c"], zeros(3))
    assert resolved.clashes == [1] and set(resolved.fresh) == {"b", "c"}
    commit(state, names, ITEM, resolved)
    assert names.name(hash_id("a", ITEM), 0) == "somebody else"
    assert names.resolve(ITEM, ["a"], zeros(1)).clashes == [0], "each time"


def test_a_name_of_another_kind_under_the_same_id_is_a_clash_too() -> None:
    state = MemoryState()
    state.commit([], [Write(NAMES, 0, np.array([hash_id("a", ITEM)], dtype=np.uint64), [bytes([USER]) + b"a"])])
    assert Names(state).resolve(ITEM, ["a"], zeros(1)).clashes == [0]


@pytest.mark.parametrize("names_max", [1, 3])
def test_the_cache_is_bounded_and_starts_over(names_max: int) -> None:
    state = MemoryState()
    names = Names(state, names_max=names_max)
    for n in range(10):
        commit(state, names, ITEM, names.resolve(ITEM, [f"i{n}", f"i{n + 1}"][:names_max], zeros(min(2, names_max))))
    assert {name for _, name in names.scan(ITEM, 0)} >= {f"i{n}" for n in range(10)}
    held = [name for name in (f"i{n}" for n in range(11)) if not _is_read(state, names, name)]
    assert len(held) <= names_max


def _is_read(state: MemoryState, names: Names, name: str) -> bool:
    """Whether resolving asks the state: then a clash planted there is noticed."""
    key = np.array([hash_id(name, ITEM)], dtype=np.uint64)
    (before,) = state.read(NAMES, 0, key)
    state.commit([], [clashing(name)])
    noticed = bool(names.resolve(ITEM, [name], zeros(1)).clashes)
    state.commit([], [Write(NAMES, 0, key, [before])])
    return noticed
