"""Neighbour lists from event columns: what the live lists looked like before the newest events, which a trainer must not see.

The live lists hold the events that validation asks about. Training on them lets a model find each answer among its question's neighbours.

    features = surrounded(features, columns.take(slice(0, split))); features = collected(features, members)
"""

from dataclasses import dataclass, replace

import numpy as np

from encoders.base import COLLECTION, ITEM, I64s, ItemFeatures, Ragged
from encoders.config import NEAR
from encoders.push import Adjacency, nearest
from encoders.text import tokens
from storage.ids import COLLECTION as COLLECTION_NAME
from storage.ids import hash_ids
from trainers.samples import EventColumns, Placed, by_user

DISTANCE_MAX = 10
BACKWARD = 0.5


def surrounded(features: ItemFeatures, columns: EventColumns) -> ItemFeatures:
    """The same items with degree and near neighbours from these events alone: as many as `features` has places for near ones.

    Other relations, and other nodes' degree, stay as they are. An item g <= 10 actions later adds 1/g to the list of the earlier one, which
    adds half of that to the list of the later. Ties by row. Events on other items are passed over. Without decay: only the order and the
    shares matter to the tower.
    """
    items, near = len(features), features.by_relation(NEAR)
    width = near.stop - near.start
    rows = rows_of(features, columns)
    order, offsets = by_user(columns)
    known = order[rows[order] >= 0]
    user = np.empty(len(columns), dtype=np.int64)
    user[order] = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    keys, weights = [], []
    for distance in range(1, DISTANCE_MAX + 1):
        earlier, later = known[:-distance], known[distance:]
        same = (user[earlier] == user[later]) & (rows[earlier] != rows[later])
        first, second = rows[earlier[same]], rows[later[same]]
        keys += [first * items + second, second * items + first]
        weights += [np.full(len(first), 1.0 / distance), np.full(len(first), BACKWARD / distance)]
    edges, where = np.unique(np.concatenate(keys), return_inverse=True)
    weight = np.bincount(where, weights=np.concatenate(weights), minlength=len(edges))
    source, target = edges // items, edges % items
    heaviest = np.lexsort((target, -weight, source))
    place = np.arange(len(edges)) - np.searchsorted(source, source)[heaviest]
    kept = heaviest[place < width]
    place = place[place < width]
    neighbours, shares = features.neighbours.copy(), features.weights.copy()
    neighbours[:, near], shares[:, near] = -1, 0.0
    neighbours[source[kept], place], shares[source[kept], place] = target[kept], weight[kept]  # near ones stand first
    degree = features.degree.copy()
    degree[: features.items] = np.bincount(rows[rows >= 0], minlength=features.items)
    return replace(features, degree=degree, neighbours=neighbours, weights=shares)


@dataclass(frozen=True)
class Memberships:
    """Which items (M,) rows are in which collections (M,), places in `names`."""

    names: tuple[str, ...]
    items: I64s
    collections: I64s


def collected(features: ItemFeatures, members: Memberships, *, siblings: int = 10, collections: int = 5) -> ItemFeatures:
    """The same items, now with the collections they are in and who else is in those; collections are nodes behind the items.

    Of both the nearest by forward push over the memberships alone: a relation by itself keeps its places however rare it is (papers, 1.4).
    A collection is known by its name, hashed as the items' text hashes it; no image.
    """
    items, count = len(features), len(members.names)
    kinds = np.repeat(np.array([ITEM, COLLECTION], dtype=np.uint8), [items, count])
    both = np.concatenate([members.items, items + members.collections]), np.concatenate([items + members.collections, members.items])
    graph = Adjacency.of(*both, np.ones(2 * len(members.items)), nodes=items + count)
    rows, weights = nearest(graph, np.arange(items + count), kinds, {ITEM: siblings, COLLECTION: collections})
    near = features.neighbours.shape[1]
    words = tokens([""] * count, [{"attribute": [name]} for name in members.names])
    return ItemFeatures(
        np.concatenate([features.ids, hash_ids(members.names, COLLECTION_NAME)]),
        text=Ragged(
            np.concatenate([features.text.values, words.values]),
            np.concatenate([features.text.offsets, features.text.offsets[-1] + words.offsets[1:]]),
        ),
        degree=np.concatenate([features.degree, np.bincount(members.collections, minlength=count).astype(np.float32)]),
        neighbours=np.concatenate([np.pad(features.neighbours, ((0, count), (0, 0)), constant_values=-1), rows], axis=1),
        weights=np.concatenate([np.pad(features.weights, ((0, count), (0, 0))), weights], axis=1),
        image=None if features.image is None else np.pad(features.image, ((0, count), (0, 0))),
        kinds=kinds,
        widths=(near, siblings, collections, 0),
    )


def rows_of(features: ItemFeatures, columns: EventColumns) -> I64s:
    """(E,) row of each event's item in the features; -1 where there is none."""
    if not len(features):
        return np.full(len(columns), -1, dtype=np.int64)
    order = np.argsort(features.ids)
    place = np.searchsorted(features.ids, columns.items, sorter=order).clip(max=len(features) - 1)
    rows = order[place]
    return np.where(features.ids[rows] == columns.items, rows, -1)


def placed(features: ItemFeatures, columns: EventColumns) -> Placed:
    """The events on items the features know, with their rows; others are left out."""
    rows = rows_of(features, columns)
    known = np.flatnonzero(rows >= 0)
    return Placed(columns.take(known), rows[known])
