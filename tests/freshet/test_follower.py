"""A follower holds what a view loaded afresh holds, after any commits, and whatever went away in the middle of a round."""

import random
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
import redis

from freshet.processes.follower import COUNTED_MS, Follower
from freshet.settings import Settings
from freshet.view import View
from storage.changes_redis import ChangeFeed
from storage.names import Names
from storage.state import COUNTS
from storage.state_redis import RedisState
from stream.events import Event
from stream.ingest import EVENTS
from tests.freshet.followed import PARTITIONS, Flaky, Followed, node
from tests.freshet.sites import NOW_MS
from tests.services import redis_server

OLD_MS = NOW_MS - 86_400_000


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Followed]:
    made = Followed(tmp_path)
    yield made
    made.close()


def event(n: int, *, user: str = "u1", item: str = "i1", action: str = "like") -> Event:
    return Event(user_id=user, action=action, item_id=item, ts_ms=OLD_MS + 1000 * n, event_id=f"e{n}")


def held(view: View) -> dict[str, tuple[object, ...]]:
    """What a view knows of each item, by its name."""
    catalogue = view.catalogue
    counts = view.popularity.snapshot(len(catalogue))
    return {
        catalogue.name(row): (
            int(catalogue.ids[row]),
            catalogue.content(row),
            bool(catalogue.deleted[row]),
            float(counts.events[row]),
            float(counts.positives[row]),
            round(float(counts.heat[row]), 6),
        )
        for row in range(len(catalogue))
    }


def assert_whole(site: Followed, follower: Follower) -> None:
    fresh = View(site.state, site.shape, Names(site.state))
    fresh.load()
    assert held(follower.view) == held(fresh)
    assert follower.tallies == site.follower().tallies
    marks = site.state.watermarks(EVENTS)
    assert follower.progress.as_of.number == sum(marks.values()) - 1
    reached = [follower.progress.reached(follower.progress.number_of(p, mark - 1)) for p, mark in marks.items() if mark]
    assert all(reached)


def test_births_counts_contents_deletions_and_tallies_are_followed(site: Followed) -> None:
    follower = site.follower()
    assert (len(follower.view.catalogue), follower.accepted) == (0, 0)
    site.apply([event(1), event(2, user="u2"), event(3, user="u3", item="i2", action="view")])
    pumped = follower.pump(now_ms=NOW_MS)
    assert {node("i1"), node("i2")} == set(pumped.items)
    assert follower.accepted == 3
    site.put("i1", title="Rook")
    site.put("new", title="Pawn")
    assert set(follower.pump(now_ms=NOW_MS).items) == {node("i1"), node("new")}
    rows = follower.view.catalogue.rows(np.array([node("i1"), node("new")], dtype=np.uint64)).tolist()
    assert follower.view.catalogue.titles(rows) == ["Rook", "Pawn"]
    site.put("i2", deleted=True)
    follower.pump(now_ms=NOW_MS)
    assert follower.view.catalogue.deleted[follower.view.catalogue.row(node("i2"))]
    assert follower.pump(now_ms=NOW_MS).items == ()
    assert_whole(site, follower)


def test_a_follower_that_starts_late_has_what_was_there(site: Followed) -> None:
    site.apply([event(n, user=f"u{n}", item=f"i{n % 7}") for n in range(40)])
    site.put("i1", title="Rook")
    assert_whole(site, site.follower())


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_after_any_commits_it_equals_a_view_loaded_afresh(site: Followed, seed: int) -> None:
    chance = random.Random(seed)
    follower, made = site.follower(), 0
    for _ in range(25):
        what = chance.random()
        if what < 0.5:
            some = range(made, made + chance.randint(1, 12))
            made = some.stop
            kinds = ("like", "view", "purchase", "nonsense")
            site.apply(event(n, user=f"u{chance.randrange(9)}", item=f"i{chance.randrange(12)}", action=chance.choice(kinds)) for n in some)
        elif what < 0.8:
            name = f"i{chance.randrange(15)}"
            site.put(name, title=f"title {chance.randrange(99)}", deleted=chance.random() < 0.2, ts_ms=NOW_MS + chance.randrange(50))
        else:
            follower.pump(now_ms=NOW_MS)
    follower.pump(now_ms=NOW_MS + COUNTED_MS)
    assert_whole(site, follower)


def test_counts_are_read_a_few_times_a_second_however_often_it_is_pumped(site: Followed) -> None:
    follower = site.follower()

    def counted_after(n: int, now_ms: int) -> object:
        site.apply([event(n)])
        follower.pump(now_ms=now_ms)
        return held(follower.view)["i1"][3]

    assert [counted_after(1, NOW_MS), counted_after(2, NOW_MS + 1), counted_after(3, NOW_MS + COUNTED_MS - 1)] == [1, 1, 1]
    follower.pump(now_ms=NOW_MS + COUNTED_MS)
    assert held(follower.view)["i1"][3] == 3, "what waited is read although nothing came"
    assert counted_after(4, NOW_MS) == 4, "a clock that was set back keeps nothing waiting"


@pytest.mark.parametrize("late", [0, 30, 200])
def test_recent_sessions_are_those_of_a_view_that_saw_the_events(site: Followed, late: int) -> None:
    """Whether told by notes, or loaded from histories up to some event and told from there on."""
    chance = random.Random(late)
    events = [
        event(90 * n, user=f"u{chance.randrange(9)}", item=f"i{chance.randrange(12)}", action=chance.choice(("like", "view")))
        for n in range(200)
    ]
    site.apply(events[:late])
    follower = site.follower()
    for begin in range(late, len(events), 13):
        site.apply(events[begin : min(begin + 13, len(events))])
        follower.pump(now_ms=NOW_MS)
    loaded = View(site.state, site.shape, Names(site.state))
    loaded.load()
    assert len(follower.view.sessions) == len(loaded.sessions) > 20
    rows = follower.view.catalogue.rows(loaded.catalogue.ids)
    for row in range(len(rows)):
        told, read = follower.view.sessions.votes(rows[[row]], len(rows)), loaded.sessions.votes(np.array([row]), len(rows))
        assert set(np.flatnonzero(told)) == set(rows[np.flatnonzero(read)]), "its order differs by the partitions, its content does not"


def test_an_old_log_is_replayed_with_what_was_lately_then(site: Followed) -> None:
    follower, long_ago_ms = site.follower(), NOW_MS - 28 * 365 * 86_400_000
    site.apply(msgspec.structs.replace(event(n, item=f"i{n % 3}"), ts_ms=long_ago_ms + n) for n in range(9))
    follower.pump(now_ms=NOW_MS)
    heat = follower.view.popularity.snapshot(3).recent(np.arange(3), long_ago_ms)
    assert heat == pytest.approx(np.full(3, 9.0), rel=1e-3), "three likings each, of weight three"
    assert_whole(site, follower)


def test_who_only_refreshes_keeps_no_sessions(site: Followed) -> None:
    site.apply([event(1), event(2, item="i2")])
    feed = ChangeFeed(site.client, partitions=PARTITIONS, prefix=site.prefix)
    follower = Follower(Settings(data=site.folder, partitions=PARTITIONS), site.shape, site.state, feed, keeps_sessions=False)
    site.apply([event(3, item="i3")])
    follower.pump(now_ms=NOW_MS)
    assert len(follower.view.sessions) == 0


def test_one_that_fell_behind_loads_everything_again(site: Followed, caplog: pytest.LogCaptureFixture) -> None:
    follower = site.follower()
    for n in range(300):
        site.put("i1", title=f"title {n}")
    follower.pump(now_ms=NOW_MS)
    assert "view_loaded_again" in caplog.text
    assert_whole(site, follower)
    site.put("later")
    assert follower.pump(now_ms=NOW_MS).items == (node("later"),)


def test_a_state_that_was_set_back_is_loaded_again_and_counts_that_are_gone_are_gone(site: Followed) -> None:
    site.apply([event(1), event(2, item="i2")])
    follower = site.follower()
    before = held(follower.view)["i1"]
    for partition in range(PARTITIONS):  # what a rebuild begins with
        site.state.accept(EVENTS, partition, site.log.topic(EVENTS).id, 0)
        for key, _ in site.state._keys(COUNTS, partition):
            site.client.delete(key)
    follower.pump(now_ms=NOW_MS)
    assert follower.progress.as_of.number == -1
    counts = follower.view.popularity.snapshot(2)
    assert before[3] == 1
    assert not counts.events.any() and np.isneginf(counts.heat).all()


@pytest.mark.parametrize("at", range(1, 8))
def test_a_redis_that_goes_away_in_the_middle_of_a_round_leaves_nothing_out(site: Followed, at: int) -> None:
    flaky = Flaky.of(redis_server())
    follower = site.follower(flaky, RedisState(flaky, partitions=PARTITIONS, prefix=site.prefix))
    site.apply([event(1), event(2, user="u2", item="i2")])
    site.put("i3", title="Pawn")
    flaky.away_at = at
    failed = 0
    for _ in range(3):
        try:
            follower.pump(now_ms=NOW_MS)
        except redis.ConnectionError:
            failed += 1
    assert failed == (flaky.away_at <= 0), "as often as it was away"
    assert_whole(site, follower)
    flaky.close()


def test_after_redis_was_away_everything_is_loaded_again_whoever_noticed(site: Followed, caplog: pytest.LogCaptureFixture) -> None:
    follower = site.follower()
    site.put("i1")
    follower.distrust()
    follower.pump(now_ms=1)
    assert "view_loaded_again" in caplog.text
    assert_whole(site, follower)
    caplog.clear()
    follower.pump(now_ms=2)
    assert not caplog.text, "once"


def test_one_that_goes_away_while_everything_is_loaded_again_is_made_good(site: Followed) -> None:
    flaky = Flaky.of(redis_server())
    follower = site.follower(flaky, RedisState(flaky, partitions=PARTITIONS, prefix=site.prefix))
    for n in range(300):
        site.put("i1", title=f"title {n}")
    flaky.away_at = 3  # after the read that finds it is behind, and the numbers where to go on
    with pytest.raises(redis.ConnectionError):
        follower.pump(now_ms=NOW_MS)
    follower.pump(now_ms=NOW_MS)
    assert_whole(site, follower)
    flaky.close()
