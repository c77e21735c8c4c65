"""Neighbour lists from event columns: what the live lists looked like before the newest events, which a trainer must not see.

The live lists hold the events that validation asks about. Training on them lets a model find each answer among its question's neighbours.

    features = surrounded(features, columns.take(slice(0, split)))
"""

from dataclasses import replace

import numpy as np

from encoders.base import I64s, ItemFeatures
from trainers.samples import EventColumns, Placed, by_user

DISTANCE_MAX = 10
BACKWARD = 0.5


def surrounded(features: ItemFeatures, columns: EventColumns) -> ItemFeatures:
    """The same items with degree and neighbours from these events alone: as many neighbours as `features` has places.

    An item g <= 10 actions later adds 1/g to the list of the earlier one, which adds half of that to the list of the later. Ties by row.
    Events on other items are passed over. Without decay: only the order and the shares matter to the tower.
    """
    items, width = len(features), features.neighbours.shape[1]
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
    neighbours = np.full((items, width), -1, dtype=np.int64)
    shares = np.zeros((items, width), dtype=np.float32)
    neighbours[source[kept], place], shares[source[kept], place] = target[kept], weight[kept]
    degree = np.bincount(rows[rows >= 0], minlength=items).astype(np.float32)
    return replace(features, degree=degree, neighbours=neighbours, weights=shares)


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
