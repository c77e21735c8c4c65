"""Popularity mirrors the counts: after every commit, for every item, at any moment."""

from pathlib import Path

import numpy as np
import pytest

from serving import popularity as module
from serving.popularity import Popularity
from serving.rows import RowIndex
from storage.catalogue import Catalogue
from storage.counts import Counts
from stream.shape import Shape
from tests.serving.small_site import TITLES, Site, walk


@pytest.mark.parametrize("partitions", [1, 3])
def test_it_equals_the_counts_whether_followed_or_loaded(tmp_path: Path, partitions: int) -> None:
    site = Site(tmp_path, shape=Shape(partitions=partitions))
    site.stock(TITLES)
    walk(site)
    site.now_ms += 40 * 86_400_000
    site.take("u1", "m1", "m5")
    site.take("u2", "m1", action="hide")
    counts = Counts(site.state, partitions, site.shape.count_half_life_ms)
    expected = counts.read(site.catalogue.ids, as_of_ms=site.now_ms)
    loaded = Popularity(RowIndex(site.catalogue), counts, partitions=partitions, half_life_ms=site.shape.count_half_life_ms)
    loaded.load()
    rows = np.arange(len(site.catalogue))
    for popularity in (site.popularity, loaded):
        heat = popularity.snapshot(len(rows))
        assert heat.events.tolist() == expected.events.tolist()
        assert heat.positives.tolist() == expected.positives.tolist()
        assert np.allclose(heat.recent(rows, site.now_ms), expected.decayed, rtol=1e-9)
    site.close()


def filled(items: int) -> tuple[Popularity, Catalogue]:
    catalogue = Catalogue()
    for node in range(1, items + 1):
        catalogue.add(node, f"i{node}")
    return Popularity(RowIndex(catalogue), None, partitions=1, half_life_ms=1000, pool_max=20), catalogue  # type: ignore[arg-type]  # unread


@pytest.mark.parametrize("touched_max", [0, 7, 10_000])
def test_the_top_is_the_true_top_however_rarely_the_pool_is_drawn(touched_max: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TOUCHED_MAX", touched_max)
    popularity, catalogue = filled(300)
    generator = np.random.default_rng(1)
    table = np.zeros((300, 4), dtype=np.int64)
    for _ in range(100):
        rows = generator.choice(300, size=4, replace=False)
        table[rows, :2] += 1
        table[rows, 2] += generator.integers(1, 1 << 30)
        table[rows, 3] += generator.integers(0, 3)
        popularity.update(catalogue.ids[rows], table[rows])
        liked, hot = popularity.top(10)
        heat = popularity.snapshot(300)
        assert sorted(heat.positives[liked]) == sorted(heat.positives)[-10:]
        assert sorted(heat.heat[hot]) == sorted(heat.heat)[-10:]


def test_an_item_the_catalogue_does_not_know_is_left_out() -> None:
    popularity, catalogue = filled(3)
    popularity.update(np.array([99, 2], dtype=np.uint64), np.array([[5, 5, 1 << 20, 0]] * 2))
    assert popularity.snapshot(len(catalogue)).events.tolist() == [0, 5, 0]


def test_scores_of_very_old_and_very_new_items_are_finite() -> None:
    popularity, catalogue = filled(2)
    popularity.update(catalogue.ids, np.array([[1, 1, 1 << 62, 0], [1, 1, 1, 10**12]]))
    weights = popularity.snapshot(2).recent(np.arange(2), 5 * 10**11)
    assert np.isfinite(weights).all() and weights[0] == 0.0


def test_it_grows_with_the_catalogue_and_loads_nothing_from_an_empty_state(tmp_path: Path) -> None:
    popularity, catalogue = filled(3000)
    popularity.update(catalogue.ids[-1:], np.array([[2, 1, 1 << 20, 0]]))
    heat = popularity.snapshot(len(catalogue))
    assert heat.events[-1] == 2 and len(heat.events) == 3000
    popularity.update(np.array([5000], dtype=np.uint64), np.array([[1, 1, 1, 1]]))
    popularity.update(np.empty(0, np.uint64), np.empty((0, 4), np.int64))
    site = Site(tmp_path)
    site.popularity.load()
    assert len(site.popularity.top(5)[0]) == 0
    site.close()
