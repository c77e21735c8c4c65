"""Ragged lists and item features: rows taken, neighbours brought along, unequal parts refused."""

from collections.abc import Callable

import numpy as np
import pytest

from encoders.base import ItemFeatures, Ragged


def test_take_gives_the_lists_asked_for_in_order() -> None:
    ragged = Ragged(np.array([1, 2, 3, 4, 5, 6]), np.array([0, 2, 2, 5, 6]))
    taken = ragged.take(np.array([2, 1, 0, 2]))
    assert taken.values.tolist() == [3, 4, 5, 1, 2, 3, 4, 5]
    assert taken.offsets.tolist() == [0, 3, 3, 5, 8]


def test_offsets_must_span_the_values() -> None:
    with pytest.raises(AssertionError, match="offsets must run"):
        Ragged(np.array([1, 2]), np.array([0, 1]))


def test_around_brings_the_neighbours_and_renames_the_rows(catalogue: Callable[..., ItemFeatures]) -> None:
    features = catalogue(image_dim=2)
    rows = np.array([7, 2, 5])
    part = features.around(rows)
    assert part.ids[:3].tolist() == features.ids[rows].tolist()
    assert len(set(part.ids.tolist())) == len(part)
    for place, row in enumerate(rows):
        named = [int(part.ids[at]) if at >= 0 else -1 for at in part.neighbours[place]]
        assert named == [int(features.ids[at]) if at >= 0 else -1 for at in features.neighbours[row]]
    assert (part.neighbours[3:] == -1).all()


def test_features_of_unequal_length_are_refused(catalogue: Callable[..., ItemFeatures]) -> None:
    features = catalogue()
    with pytest.raises(AssertionError, match="degree"):
        ItemFeatures(features.ids, features.text, features.degree[:-1], features.neighbours, features.weights)
