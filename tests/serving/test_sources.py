"""The sequential rules read from live lists are those of the protocol, as far as the lists reach."""

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving import sources
from serving.lookup import Lookup
from serving.rows import RowIndex
from serving.sessions import Sessions
from storage.arrays import F64s, I64s, U64s
from storage.catalogue import Catalogue
from storage.log import JSON
from stream.ingest import EVENTS
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


class Meeting(Sessions):
    """Votes are made only while another thread makes some too."""

    def __init__(self, index: RowIndex) -> None:
        super().__init__(index)
        self.met = threading.Barrier(2)

    def votes(self, prefix: I64s, num_items: int) -> F64s:
        self.met.wait(20)
        return super().votes(prefix, num_items)


def test_look_ups_of_two_users_do_not_wait_for_each_other(site: Site) -> None:
    past = Meeting(RowIndex(site.catalogue))
    contexts = [replace(site.lookup.context(user, now_ms=site.now_ms), past=past) for user in ("u1", "u2")]
    with ThreadPoolExecutor(2) as pool:
        made = list(pool.map(lambda context: context.votes, contexts))
    assert [len(votes) for votes in made] == [len(contexts[0].live)] * 2
    assert contexts[0].votes is made[0], "made once"


class Growing(RowIndex):
    """An index whose catalogue learns of one more item just before each look at it, as a follower's does beside look-ups."""

    def __init__(self, catalogue: Catalogue, items: dict[str, int]) -> None:
        super().__init__(catalogue)
        self.catalogue, self.unknown = catalogue, list(items.items())

    def rows(self, ids: U64s) -> I64s:
        if self.unknown:
            name, node = self.unknown.pop()
            self.catalogue.add(node, name)
        return super().rows(ids)


def test_a_look_up_beside_a_growing_catalogue_knows_as_many_items_in_all_its_parts(site: Site) -> None:
    items = {name: int(site.ids(name)[0]) for name in ("n1", "n2", "n3", "n4")}
    site.append_events([site.event(user, name) for user in ("u1", "walker0") for name in items], JSON)
    site.ingest.apply(site.log.read_ordered(EVENTS, site.progress.as_of.number + 1), now_ms=site.now_ms)  # the catalogue learns of it later
    growing = Growing(site.catalogue, items)
    lookup = Lookup(replace(site.reader, index=growing), lambda: site.live, site.progress)
    while growing.unknown:
        context = lookup.context("u1", now_ms=site.now_ms)
        known = len(context.live)
        assert len(context.heat.events) == len(sources.neighbours(context)) == known
        assert max(context.seen.max(initial=0), context.recent.max(initial=0)) < known
        assert not set(items) & {item.item_id for item in lookup.recommend("u1", now_ms=site.now_ms).items}
    assert not set(items) & {item.item_id for item in lookup.recommend("u1", now_ms=site.now_ms).items}


@given(st.lists(st.tuples(st.integers(0, 6), st.booleans()), max_size=20), st.integers(0, 12), st.integers(0, 5))
def test_the_newest_liked_items_count_once_each(entries: list[tuple[int, bool]], entries_max: int, items_max: int) -> None:
    items, liked = np.array([item for item, _ in entries], dtype=np.uint64), np.array([liked for _, liked in entries], dtype=np.bool_)
    wanted = list(dict.fromkeys([item for item, liked in reversed(entries) if liked][:entries_max]))[:items_max]
    assert sources._newest(items, liked, entries_max, items_max).tolist() == wanted


def test_links_to_what_the_catalogue_does_not_hold_are_left_out(site: Site) -> None:
    site.take("u1", "m1", "m2", "n1", "n2")
    nodes, part = site.ids("m1", "m2", "n2"), Catalogue()
    for node in site.ids("n2", "m1").tolist():
        part.add(node, "held")
    whole = site.reader.links(nodes, now_ms=site.now_ms)
    links = replace(site.reader, index=RowIndex(part)).links(nodes, now_ms=site.now_ms)
    kept = np.isin(site.catalogue.ids[whole.rows], part.ids)
    assert part.ids[links.rows].tolist() == site.catalogue.ids[whole.rows[kept]].tolist() and 0 < len(links.rows) < len(whole.rows)
    assert links.weights.tolist() == whole.weights[kept].tolist() and links.places.tolist() == whole.places[kept].tolist()


def test_every_source_is_silent_for_an_empty_catalogue(tmp_path: Path) -> None:
    site = Site(tmp_path)
    context = site.lookup.context("u1", now_ms=0)
    assert context.cold
    for source in (sources.neighbours, sources.similar, sources.popular, sources.recent, sources.sessions):
        assert source(context).shape == (0,)
    site.close()
