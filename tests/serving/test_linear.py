"""The linear source scores as the bench's ridge does, by catalogue row, and clips what is below nothing."""

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from encoders.base import F64s, Ragged
from encoders.linear import EASE_FOLLOWERS_MAX, FOLLOWERS_MAX, Linear
from serving.linear import NOTHING, LinearSource
from serving.rows import RowIndex
from storage.catalogue import Catalogue
from storage.ids import ITEM, hash_id
from trainers.ease import Ease
from trainers.linear import Ridge, heaviest
from trainers.sequence_counts import ragged

ITEMS = 12
NODES = np.array([hash_id(f"i{n}", ITEM) for n in range(ITEMS)], dtype=np.uint64)


def sequences() -> Ragged:
    random = np.random.default_rng(2)
    return ragged([random.integers(0, ITEMS, size=random.integers(2, 30)) for _ in range(20)])


def ridge() -> Ridge:
    return Ridge.fit(sequences(), ITEMS)


def weights_of(followers_max: int) -> Linear:
    next_item = heaviest(ridge().weights.reshape(2, ITEMS, ITEMS), followers_max)
    return Linear(NODES, *next_item, *heaviest(Ease.fit(sequences(), ITEMS).weights, followers_max))


def catalogue_of(order: list[int]) -> Catalogue:
    catalogue = Catalogue()
    for n in order:
        catalogue.add(int(NODES[n]), f"i{n}")
    return catalogue


def expected(history: list[int]) -> F64s:
    scores: F64s = np.maximum(ridge().scores(ragged([np.array(history, dtype=np.int64)]))[0], 0.0)
    return scores


@given(st.permutations(range(ITEMS)), st.lists(st.integers(0, ITEMS - 1), max_size=90))
def test_where_all_followers_are_kept_masses_are_the_ridges_scores(order: list[int], history: list[int]) -> None:
    source = LinearSource(weights_of(ITEMS), RowIndex(catalogue_of(order)))
    row = np.argsort(order)
    liked = np.array([row[n] for n in history[::-1]], dtype=np.int64)
    mass = source.next_item(liked, ITEMS)
    assert mass[row] == pytest.approx(expected(history), abs=1e-6)
    assert (mass >= 0).all()


@given(st.permutations(range(ITEMS)), st.sets(st.integers(0, ITEMS - 1)))
def test_eases_masses_are_its_scores_whatever_the_order(order: list[int], had: set[int]) -> None:
    source, row = LinearSource(weights_of(ITEMS), RowIndex(catalogue_of(order))), np.argsort(order)
    scores = np.maximum(Ease.fit(sequences(), ITEMS).scores(ragged([np.array(sorted(had), dtype=np.int64)]))[0], 0.0)
    assert source.ease(row[sorted(had)], ITEMS)[row] == pytest.approx(scores, abs=1e-6)


def test_items_that_the_catalogue_learns_later_are_found_then() -> None:
    catalogue = catalogue_of([3, 4])
    source = LinearSource(weights_of(ITEMS), RowIndex(catalogue))
    first = source.next_item(np.array([0]), 2)
    assert first == pytest.approx(expected([3])[[3, 4]], abs=1e-6)
    for n in (0, 1, 2):
        catalogue.add(int(NODES[n]), f"i{n}")
    assert source.next_item(np.array([0]), 5) == pytest.approx(expected([3])[[3, 4, 0, 1, 2]], abs=1e-6)


def test_an_empty_history_a_newborn_item_and_no_weights_have_no_mass() -> None:
    catalogue = catalogue_of(list(range(ITEMS)))
    source = LinearSource(weights_of(3), RowIndex(catalogue))
    newborn = catalogue.add(hash_id("newborn", ITEM), "newborn")
    assert not source.next_item(np.empty(0, np.int64), ITEMS + 1).any()
    assert not source.next_item(np.array([newborn]), ITEMS + 1).any(), "a liking without weights leads nowhere"
    mass = source.next_item(np.array([0, 1]), ITEMS + 1)
    assert mass[newborn] == 0.0 and mass.any()
    assert not NOTHING and not NOTHING.next_item(np.array([0, 1]), 4).any()


def test_fewer_followers_are_the_heaviest_of_each() -> None:
    weights = ridge().weights.reshape(2, ITEMS, ITEMS)
    few = weights_of(4)
    assert few.weights.shape == (2, ITEMS, 4)
    for bag in range(2):
        for item in range(ITEMS):
            kept = set(few.followers[bag, item].tolist())
            left_out = [abs(weights[bag, item, n]) for n in range(ITEMS) if n not in kept]
            assert max(left_out) <= abs(few.weights[bag, item]).min() + 1e-7


def test_a_look_up_of_many_likings_among_many_items_takes_its_bounded_time() -> None:
    items, random = 2_000, np.random.default_rng(7)
    catalogue = Catalogue()
    for n in range(items):
        catalogue.add(n + 1, "")
    followers = random.integers(0, items, size=(2, items, FOLLOWERS_MAX)).astype(np.uint16)
    weights = random.normal(size=followers.shape).astype(np.float32)
    ease_followers = random.integers(0, items, size=(items, EASE_FOLLOWERS_MAX)).astype(np.uint16)
    ease_weights = random.normal(size=ease_followers.shape).astype(np.float32)
    source = LinearSource(Linear(catalogue.ids.copy(), followers, weights, ease_followers, ease_weights), RowIndex(catalogue))
    liked = random.integers(0, items, size=128)
    source.next_item(liked, items)
    began = time.process_time()
    for _ in range(200):
        masses = source.next_item(liked, items), source.ease(liked, items)
    assert (time.process_time() - began) / 200 < 0.002, "measured .0001; two milliseconds would be no bound"
    assert masses[0].any() and masses[1].any()
