"""What the item tower reads: content as it is, neighbours heaviest first, and nothing that is no item."""

from collections.abc import Sequence

import numpy as np
import pytest

from encoders.base import COLLECTION, ItemFeatures
from encoders.config import COLLECTIONS, NEAR, SHOWN, SIBLINGS
from encoders.text import tokens
from freshet.features import ItemFacts
from freshet.learning.walk import Walk
from storage import ids as hashing
from storage.arrays import F64s, I64s, U64s
from storage.catalogue import Catalogue, Content
from storage.ids import ITEM, hash_id, hash_ids
from storage.neighbours import Neighbours
from storage.state_memory import MemoryState
from stream.events import Event
from stream.shape import DAY_MS, Shape
from stream.wire import decode
from tests.stream.event_logs import records_of

SHAPE = Shape()
NOW_MS = 10_000


def ids(*names: str) -> U64s:
    return hash_ids(names, ITEM)


def walked(*histories: str, contents: dict[int, Content] | None = None, action: str = "view") -> Walk:
    """A walk after users with these histories, items separated by blanks."""
    walk = Walk(SHAPE, contents or {})
    events = [
        Event(user_id=f"u{n}", item_id=item, action=action, ts_ms=1000 + place)
        for n, history in enumerate(histories)
        for place, item in enumerate(history.split())
    ]
    walk.advance(decode(list(records_of(events))))
    return walk


def neighbours_of(features: ItemFeatures, row: int, relation: int = NEAR) -> list[int]:
    return [int(features.ids[other]) for other in features.neighbours[row, features.by_relation(relation)] if other >= 0]


def texts(features: ItemFeatures, row: int) -> list[int]:
    return list(features.text.values[features.text.offsets[row] : features.text.offsets[row + 1]].tolist())


def hashed(content: Content) -> list[int]:
    return list(tokens([f"{content.title} {content.text}"], [content.attributes]).values.tolist())


def test_neighbours_come_heaviest_first_with_their_weights() -> None:
    walk = walked("a b c", "b c", "c b a")
    asked = ids("a", "b")
    features, rows = walk.view.facts((8,)).of(asked, now_ms=NOW_MS)
    lists = walk.view.neighbours.read(0, asked, as_of_ms=NOW_MS)
    assert rows.tolist() == [0, 1]
    assert features.ids[:2].tolist() == asked.tolist()
    for row, (nodes, weights) in enumerate(lists):
        assert neighbours_of(features, row) == nodes.tolist()
        assert np.allclose(features.weights[row, : len(nodes)], weights)
        assert (np.diff(features.weights[row]) <= 0).all()
    assert set(features.ids.tolist()) == set(ids("a", "b", "c").tolist()), "neighbours' own features follow"
    assert (features.neighbours[2:] == -1).all() and not features.weights[2:].any()


def test_only_so_many_neighbours_are_taken_and_they_are_the_heaviest() -> None:
    walk = walked("a b c d e f")
    features, _ = walk.view.facts((2,)).of(ids("d"), now_ms=NOW_MS)
    (nodes, _), *_ = walk.view.neighbours.read(0, ids("d"), as_of_ms=NOW_MS)
    assert features.neighbours.shape == (3, 2)
    assert neighbours_of(features, 0) == nodes[:2].tolist()


@pytest.mark.parametrize("known", [{"a", "c"}, {"a", "c", "e"}, {"a"}])
def test_a_neighbour_that_is_no_item_of_the_catalogue_is_left_out_and_takes_no_place(known: set[str]) -> None:
    walk, catalogue = walked("a b c d e"), Catalogue()
    for name in sorted(known):
        catalogue.add(hash_id(name, ITEM), name)
    facts = ItemFacts(catalogue, walk.view.neighbours, ones, widths=(2,))
    features, _ = facts.of(ids("a"), now_ms=NOW_MS)
    (nodes, _), *_ = walk.view.neighbours.read(0, ids("a"), as_of_ms=NOW_MS)
    wanted = [node for node in nodes.tolist() if node in set(ids(*known).tolist())]
    assert neighbours_of(features, 0) == wanted[:2]
    assert set(features.ids.tolist()) == {hash_id("a", ITEM), *wanted[:2]}


def ones(nodes: U64s) -> F64s | I64s:
    return np.ones(len(nodes))


def test_a_batch_says_of_each_item_what_it_says_alone() -> None:
    walk = walked("a b c d", "d b", "c a")
    facts = walk.view.facts((4,))
    together, rows = facts.of(walk.view.catalogue.ids, now_ms=NOW_MS)
    for row in rows.tolist():
        alone, _ = facts.of(together.ids[row : row + 1], now_ms=NOW_MS)
        assert neighbours_of(alone, 0) == neighbours_of(together, row)
        assert (texts(alone, 0), alone.degree[0]) == (texts(together, row), together.degree[row])


def test_time_passing_fades_weights_and_changes_no_order() -> None:
    walk = walked("a b c", "a c")
    facts = walk.view.facts((4,))
    now, _ = facts.of(ids("a"), now_ms=NOW_MS)
    later, _ = facts.of(ids("a"), now_ms=NOW_MS + SHAPE.edge_half_life_ms)
    assert neighbours_of(now, 0) == neighbours_of(later, 0)
    assert np.allclose(now.weights[0], 2 * later.weights[0])
    ancient, _ = facts.of(ids("a"), now_ms=NOW_MS + 400_000 * DAY_MS)
    assert np.isfinite(ancient.weights).all()


def test_text_follows_the_content() -> None:
    first = Content(name="a", title="red fox", offset=3, attributes={"colour": "red"})
    second = Content(name="a", title="blue fox", text="at sea", offset=4)
    node = hash_id("a", ITEM)
    walk = walked("a b", contents={node: first})
    facts = walk.view.facts((2,))
    assert texts(facts.of(ids("a"), now_ms=NOW_MS)[0], 0) == hashed(first)
    walk.view.put({node: second})
    assert texts(facts.of(ids("a"), now_ms=NOW_MS)[0], 0) == hashed(second) != hashed(first)
    assert texts(facts.of(ids("b", "a"), now_ms=NOW_MS)[0], 1) == hashed(second), "of a neighbour, or in another batch, too"


def test_collections_are_part_of_the_text() -> None:
    node = hash_id("a", ITEM)
    alone, shelved = Content(name="a", title="fox"), Content(name="a", title="fox", collections=["animals"])
    found = []
    for content in (alone, shelved):
        features, _ = walked("a", contents={node: content}).view.facts((2,)).of(ids("a"), now_ms=NOW_MS)
        found.append(texts(features, 0))
    assert len(found[1]) > len(found[0]) > 0


def test_a_picture_reaches_no_tower_whatever_its_numbers() -> None:
    node = hash_id("a", ITEM)
    plain, pictured = Content(name="a", title="fox"), Content(name="a", title="fox", image=[1e308, -1e308])
    found = [walked("a", contents={node: one}).view.facts((2,)).of(ids("a"), now_ms=NOW_MS)[0] for one in (plain, pictured)]
    assert found[1].image is None
    assert texts(found[0], 0) == texts(found[1], 0)


def test_a_degree_is_the_likings_an_item_had() -> None:
    walk = walked("a a b", "a")
    features, _ = walk.view.facts((2,)).of(ids("a", "b", "unheard of"), now_ms=NOW_MS)
    assert features.degree[:3].tolist() == [3.0, 1.0, 0.0]
    assert features.degree.dtype == np.float32
    disliked = walked("a b", action="hide")
    assert disliked.view.facts((2,)).of(ids("a"), now_ms=NOW_MS)[0].degree.tolist() == [0.0]


@pytest.mark.parametrize("asked", [(), ("unheard of",)])
def test_an_empty_catalogue_gives_empty_features(asked: Sequence[str]) -> None:
    state = MemoryState()
    facts = ItemFacts(Catalogue(), Neighbours(state, 1, 1000), ones, widths=(3,))
    features, rows = facts.of(ids(*asked), now_ms=NOW_MS)
    assert (len(features.ids), features.neighbours.shape, rows.tolist()) == (len(asked), (len(asked), 3), list(range(len(asked))))
    assert features.text.offsets.tolist() == [0] * (len(asked) + 1)


def test_an_item_of_a_single_user_who_did_nothing_else_has_no_neighbours() -> None:
    features, _ = walked("a").view.facts((3,)).of(ids("a"), now_ms=NOW_MS)
    assert neighbours_of(features, 0) == []
    assert not features.weights.any()


def shelved(*events: tuple[str, str | None, str | None]) -> Walk:
    """A walk after (item, its collection, the item it was shown next to), each by another user; the collection "animals" has a title."""
    node = hash_id("animals", hashing.COLLECTION)
    walk = Walk(SHAPE, {node: Content(kind="collection", name="animals", title="All animals", offset=1)})
    made = [
        Event(user_id=f"u{n}", item_id=item, action="save", ts_ms=1000 + n, collection_id=collection, source_item_id=source)
        for n, (item, collection, source) in enumerate(events)
    ]
    walk.advance(decode(list(records_of(made))))
    return walk


def test_siblings_and_collections_are_the_nearest_over_what_collections_hold() -> None:
    walk = shelved(("fox", "animals", None), ("owl", "animals", None), ("fox", "red", None), ("rose", "red", None), ("fir", "green", None))
    features, _ = walk.view.facts((2, 3, 2, 1)).of(ids("fox", "fir"), now_ms=NOW_MS)
    groups = {hash_id(name, hashing.COLLECTION) for name in ("animals", "red")}
    assert set(neighbours_of(features, 0, SIBLINGS)) == set(ids("owl", "rose").tolist()) and neighbours_of(features, 1, SIBLINGS) == []
    assert set(neighbours_of(features, 0, COLLECTIONS)) == groups
    assert neighbours_of(features, 1, COLLECTIONS) == [hash_id("green", hashing.COLLECTION)]
    assert neighbours_of(features, 0) == [] == neighbours_of(features, 0, SHOWN)
    assert features.kinds is not None and features.items == 4, "fox, fir and two siblings, then three collections"
    assert {int(node) for node in features.ids[features.kinds == COLLECTION]} == groups | {hash_id("green", hashing.COLLECTION)}


def test_a_collection_says_its_name_as_its_items_do_and_its_title() -> None:
    walk = shelved(("fox", "animals", None), ("owl", "green", None))
    features, _ = walk.view.facts((1, 1, 1, 0)).of(ids("fox", "owl"), now_ms=NOW_MS)
    rows = {int(node): row for row, node in enumerate(features.ids)}
    told = texts(features, rows[hash_id("animals", hashing.COLLECTION)])
    assert told == list(tokens(["All animals "], [{"collection": ["animals"]}]).values)
    assert texts(features, rows[hash_id("green", hashing.COLLECTION)]) == [], "nobody has said anything of it"


def test_what_was_shown_next_to_an_item_has_places_of_its_own() -> None:
    walk = shelved(("owl", None, "fox"), ("fir", None, "fox"), ("owl", None, "fox"))
    features, _ = walk.view.facts((2, 0, 0, 1)).of(ids("fox"), now_ms=NOW_MS)
    assert neighbours_of(features, 0, SHOWN) == ids("owl").tolist() and neighbours_of(features, 0) == []
    assert features.neighbours.shape[1] == 3


def test_typed_features_of_a_batch_say_of_each_item_what_they_say_alone() -> None:
    walk = shelved(("fox", "animals", None), ("owl", "animals", "fox"), ("fox", "red", None), ("rose", "red", "owl"))
    facts = walk.view.facts((2, 2, 2, 2))
    together, rows = facts.of(walk.view.catalogue.ids, now_ms=NOW_MS)
    for row in rows.tolist():
        alone, _ = facts.of(together.ids[row : row + 1], now_ms=NOW_MS)
        for relation in (NEAR, SIBLINGS, COLLECTIONS, SHOWN):
            assert neighbours_of(alone, 0, relation) == neighbours_of(together, row, relation)
        assert (alone.weights[0] == together.weights[row]).all()
