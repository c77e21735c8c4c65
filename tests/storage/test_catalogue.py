"""The catalogue in memory: a row, once given, keeps its item; newer content replaces older; deletion hides."""

import numpy as np
import pyarrow as pa
import pytest

from storage.catalogue import Catalogue, Content, decode_content, encode_content
from storage.ids import COLLECTION, ITEM, hash_id
from storage.names import Named, Names
from storage.state import NODES, Write
from storage.state_memory import MemoryState

FULL = Content(
    name="m1", title="Film", text="about", image=b"\x00\xff", attributes={"year": 1999, "genres": ["a", "b"], "none": None},
    collections=["c"], ts_ms=5, offset=7, deleted=True,
)  # fmt: skip


@pytest.mark.parametrize("content", [Content(), FULL, Content(kind="query", name="q"), Content(name="v", image=[0.5, -1.0])])
def test_content_survives_its_own_format(content: Content) -> None:
    back = decode_content(encode_content(content))
    assert back.name == content.name and encode_content(back) == encode_content(content)


def test_rows_are_given_in_order_and_kept() -> None:
    catalogue = Catalogue()
    assert [catalogue.add(node, f"n{node}") for node in (7, 3, 7, 9)] == [0, 1, 0, 2]
    assert len(catalogue) == 3 and catalogue.ids.tolist() == [7, 3, 9] and catalogue.deleted.tolist() == [False] * 3
    assert catalogue.rows(np.array([9, 4, 7], dtype=np.uint64)).tolist() == [2, -1, 0]
    assert (catalogue.row(3), catalogue.row(4), catalogue.name(1), catalogue.content(1).name) == (1, -1, "n3", "n3")
    assert catalogue.rows(np.empty(0, dtype=np.uint64)).tolist() == []


def test_content_is_put_replaced_and_deleted() -> None:
    catalogue = Catalogue()
    assert catalogue.put(5, Content(name="a", title="old")) == 0 and catalogue.put(6, FULL) == 1
    catalogue.put(5, Content(name="a", title="new"))
    assert catalogue.titles([0, 1]) == ["new", "Film"] and catalogue.deleted.tolist() == [False, True]
    catalogue.put(6, Content(name="m1", title="back"))
    assert catalogue.deleted.tolist() == [False, False]


def test_it_grows_beyond_its_first_room_and_views_taken_before_stay() -> None:
    catalogue = Catalogue()
    for node in range(1, 1025):
        catalogue.add(node, str(node))
    early = catalogue.ids
    for node in range(1025, 5000):
        catalogue.put(node, Content(name=str(node), deleted=node % 2 == 0))
    assert np.array_equal(catalogue.ids, np.arange(1, 5000)) and np.array_equal(early, np.arange(1, 1025))
    assert catalogue.deleted[1024:].tolist() == [node % 2 == 0 for node in range(1025, 5000)] and not catalogue.deleted[:1024].any()


def test_it_loads_every_item_the_state_knows_and_nothing_else() -> None:
    state = MemoryState()
    names = Names(state)
    state.commit([], names.resolve(Named.of(ITEM, pa.array(["a", "b"])), np.array([0, 1], dtype=np.int64)).writes)
    state.commit([], names.resolve(Named.of(COLLECTION, pa.array(["board"])), np.array([0], dtype=np.int64)).writes)
    nodes = [
        (ITEM, Content(name="b", title="B", deleted=True)),
        (COLLECTION, Content(kind="collection", name="board")),
        (ITEM, Content(name="unseen")),
    ]
    for kind, content in nodes:
        state.commit([], [Write(NODES, 1, np.array([hash_id(content.name, kind)], dtype=np.uint64), [encode_content(content)])])
    catalogue = Catalogue()
    catalogue.load(state, names, 2)
    found = {catalogue.name(row): (catalogue.content(row).title, bool(catalogue.deleted[row])) for row in range(len(catalogue))}
    assert found == {"a": ("", False), "b": ("B", True), "unseen": ("", False)}
