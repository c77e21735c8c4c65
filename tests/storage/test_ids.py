"""Ids: the same everywhere and for ever, never 0, apart by kind."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from storage.ids import COLLECTION, EVENT, ITEM, KINDS, QUERY, USER, hash_id, hash_ids

ALL = (ITEM, COLLECTION, QUERY, USER, EVENT)


def test_ids_are_those_of_every_state_written_so_far() -> None:
    """xxh3-64 seeded by kind; another value here means that every stored state must be rebuilt."""
    assert hash_id("", ITEM) == 0x2D06800538D394C2, "xxh3's own published value"
    assert [hash_id("m1", kind) for kind in ALL] == [
        17648950212955296413, 17105104894858736160, 2514661120161420557, 1670753961555949191, 2881520163433232396,
    ]  # fmt: skip


@given(st.lists(st.text(max_size=12), max_size=12), st.sampled_from(ALL))
def test_many_are_hashed_like_one(names: list[str], kind: int) -> None:
    ids = hash_ids(names, kind)
    assert ids.dtype == np.uint64 and ids.tolist() == [hash_id(name, kind) for name in names]
    assert all(0 < node < 1 << 64 for node in ids.tolist())


def test_short_names_of_different_kinds_do_not_meet() -> None:
    """Whoever numbers users and items from 1 must not get collisions: small seeds would give some."""
    names = [str(n) for n in range(3000)] + [chr(c) for c in range(32, 127) if not chr(c).isdigit()]
    assert len({hash_id(name, kind) for name in names for kind in ALL}) == len(names) * len(ALL)


def test_a_lone_surrogate_has_an_id_and_kinds_have_names() -> None:
    assert hash_id("\ud800", ITEM) != hash_id("?", ITEM)
    assert KINDS == {"item": ITEM, "collection": COLLECTION, "query": QUERY, "user": USER}
