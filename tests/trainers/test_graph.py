"""Neighbour lists from event columns against a slow count."""

from dataclasses import replace

import numpy as np

from encoders.base import ItemFeatures, Ragged
from trainers.graph import Memberships, collected, rows_of, surrounded
from trainers.samples import EventColumns

IDS = np.array([30, 10, 20, 40], dtype=np.uint64)


def features_of(width: int) -> ItemFeatures:
    nothing = Ragged(np.empty(0, dtype=np.int64), np.zeros(5, dtype=np.int64))
    return ItemFeatures(IDS, nothing, np.zeros(4, np.float32), np.full((4, width), -1), np.zeros((4, width), np.float32))


def columns_of(*events: tuple[int, int]) -> EventColumns:
    users, items = (np.array(part, dtype=np.uint64) for part in zip(*events, strict=True))
    return EventColumns(users, items, np.ones(len(events), np.uint8), np.arange(len(events)))


def test_neighbours_equal_a_slow_count() -> None:
    random = np.random.default_rng(0)
    events = [(int(random.integers(1, 4)), int(random.choice([10, 20, 30, 40, 99]))) for _ in range(80)]
    found = surrounded(features_of(3), columns_of(*events))
    weights = np.zeros((4, 4))
    row = {int(item): place for place, item in enumerate(IDS)}
    for user in (1, 2, 3):
        walk = [row[item] for who, item in events if who == user and item in row]
        for later, item in enumerate(walk):
            for distance in range(1, min(10, later) + 1):
                before = walk[later - distance]
                if before != item:
                    weights[before, item] += 1 / distance
                    weights[item, before] += 0.5 / distance
    for place in range(4):
        heaviest = [other for other in np.argsort(-weights[place], kind="stable") if weights[place, other] > 0]
        assert found.neighbours[place].tolist() == heaviest[:3] + [-1] * (3 - len(heaviest))
        assert np.allclose(found.weights[place][: len(heaviest)], weights[place, heaviest[:3]], atol=1e-6)
    assert found.degree.tolist() == [sum(item == int(one) for _, item in events) for one in IDS]


def test_without_events_an_item_has_no_neighbours() -> None:
    found = surrounded(features_of(2), columns_of((1, 99)))
    assert (found.neighbours == -1).all() and found.degree.sum() == 0


def test_rows_of_unknown_items_are_none() -> None:
    columns = columns_of((1, 10), (1, 99), (1, 30), (1, 40))
    assert rows_of(features_of(1), columns).tolist() == [1, -1, 0, 3]
    nothing = features_of(1).around(np.empty(0, dtype=np.int64))
    assert rows_of(replace(nothing), columns).tolist() == [-1] * 4


def test_collections_stand_behind_the_items_with_who_else_is_in_them() -> None:
    """Items 0 and 1 share both collections, 2 is in the second alone, 3 in none."""
    members = Memberships(("blue", "red"), items=np.array([0, 1, 0, 1, 2]), collections=np.array([0, 0, 1, 1, 1]))
    found = collected(features_of(3), members, siblings=2, collections=2)
    assert found.items == 4 and found.kinds is not None and found.kinds.tolist() == [0, 0, 0, 0, 1, 1]
    assert found.widths == (3, 2, 2, 0) and found.degree.tolist() == [0, 0, 0, 0, 2, 3]
    siblings, collections = (found.neighbours[:, found.by_relation(relation)].tolist() for relation in (1, 2))
    assert siblings[:4] == [[1, 2], [0, 2], [0, 1], [-1, -1]]
    assert [set(row) for row in collections[:4]] == [{4, 5}, {4, 5}, {4, 5}, {-1}]
    assert siblings[4] == [0, 1], "a collection's items"
    assert np.diff(found.text.offsets).tolist()[4:] == [2, 2], "each says its name"
    assert len(set(found.ids.tolist())) == 6


def test_events_change_near_neighbours_and_nothing_else() -> None:
    members = Memberships(("blue",), items=np.array([0, 3]), collections=np.array([0, 0]))
    before = collected(features_of(2), members)
    after = surrounded(before, columns_of((1, 10), (1, 20), (2, 20)))
    assert after.neighbours[:, :2].tolist() == [[-1, -1], [2, -1], [1, -1], [-1, -1], [-1, -1]]
    assert (after.neighbours[:, 2:] == before.neighbours[:, 2:]).all() and (after.weights[:, 2:] == before.weights[:, 2:]).all()
    assert after.degree.tolist() == [0, 1, 2, 0, 2] and after.widths == before.widths
