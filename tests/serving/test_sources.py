"""The sequential rules read from live lists are those of the protocol, as far as the lists reach."""

from pathlib import Path

import numpy as np
import pytest

from serving import sources
from storage.arrays import I64s
from stream.shape import DAY_MS, Shape
from tests.serving.small_site import Site
from trainers.baselines import seq_rules


def test_the_neighbours_source_is_seq_rules_when_nothing_decays(tmp_path: Path) -> None:
    site = Site(tmp_path, shape=Shape(edge_window=10, edge_half_life_ms=3650 * DAY_MS, neighbours_max=1024))
    names = [f"i{n}" for n in range(30)]
    site.stock(dict.fromkeys(names, ""))
    row = {name: site.catalogue.row(int(site.ids(name)[0])) for name in names}
    rules = seq_rules(len(names))
    generator = np.random.default_rng(3)
    taken: dict[str, list[str]] = {}
    for _ in range(200):
        user = f"u{generator.integers(10)}"
        left = sorted(set(names) - set(taken.setdefault(user, [])))
        item = left[generator.integers(len(left))]
        rules.learn(_newest_first(taken[user], row), row[item])
        site.take(user, item, action="view")
        taken[user].append(item)
    for user, had in taken.items():
        context = site.lookup.context(user, now_ms=site.now_ms)
        expected = rules.scores(_newest_first(had, row))
        mass = sources.neighbours(context)
        # 60 units a liking; 60 / distance is rounded down to whole units, and so is half of an odd one
        assert mass / 60 == pytest.approx(expected, rel=0.05, abs=2e-3)
    site.close()


def _newest_first(had: list[str], row: dict[str, int]) -> I64s:
    return np.array([row[name] for name in reversed(had)], dtype=np.int64)


def test_a_context_is_bounded_and_counts_an_item_once(site: Site) -> None:
    for _ in range(3):
        site.take("u1", *[f"n{n}" for n in range(12)], "m1", "m1", "m2")
    context = site.lookup.context("u1", now_ms=site.now_ms)
    newest = [site.catalogue.name(row) for row in context.recent.tolist()]
    assert newest == ["m2", "m1", *[f"n{n}" for n in range(11, 3, -1)]] and len(newest) == sources.RECENT_MAX


def test_every_source_is_silent_for_an_empty_catalogue(tmp_path: Path) -> None:
    site = Site(tmp_path)
    context = site.lookup.context("u1", now_ms=0)
    assert context.cold
    for source in (sources.neighbours, sources.similar, sources.popular, sources.recent):
        assert source(context).shape == (0,)
    site.close()
