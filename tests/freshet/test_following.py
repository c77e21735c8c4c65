"""Versions followed by many processes: loaded and built before the flip, answered from afterwards, let go of in the end.

A refreshing and a non-refreshing process share one Qdrant client in its local mode, as they would share a server.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import redis

from encoders.model import Model
from freshet.processes.following import TOLD_MS
from freshet.processes.serving import ALIVE_MS
from freshet.version_files import MODEL_FILE
from serving.answers import Asked
from storage.leases_redis import LEASE_MS
from storage.models import Version
from storage.places import LocalPlace
from storage.state import DIRTY
from storage.vectors import collection_of
from storage.vectors_local import VectorServer
from stream.events import Event
from stream.ingest import EVENTS
from tests.freshet.followed import PARTITIONS, Followed, dirty, node, refreshed, settled, trained
from tests.freshet.sites import NOW_MS


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Followed]:
    made = Followed(tmp_path)
    made.fill()
    yield made
    made.close()


@pytest.fixture
def live(site: Followed) -> Followed:
    """The first version is stored and live, nothing of it is embedded yet."""
    site.store("g1-1", 1)
    site.promote("g1-1")
    return site


def collections(site: Followed) -> list[int]:
    return VectorServer(site.qdrant).generations()


def embedded(site: Followed, generation: int) -> int:
    return site.qdrant.count(collection_of(generation)).count


def test_a_proposed_version_is_built_by_one_and_loaded_by_all_before_anybody_answers_from_it(site: Followed) -> None:
    api, refresher = site.process("api", refreshes=False), site.process("refresher", refreshes=True)
    for process in (refresher, api):
        process.round()
    assert api.version is None
    site.store("g1-1", 1)
    site.registry().propose("g1-1")
    api.following.step(now_ms=NOW_MS)
    assert (api.following.candidate, api.following.built, api.version) == ("g1-1", None, None), "loaded, and built by another"
    assert refresher.following.step(now_ms=NOW_MS) is False, "256 items a step, and there are 80"
    assert refresher.following.built == "g1-1"
    assert embedded(site, 1) == len(refresher.serving.view.catalogue)
    assert refresher.version is None
    site.promote("g1-1")
    for process in (api, refresher):
        process.following.step(now_ms=NOW_MS)
        assert (process.version, process.following.candidate) == ("g1-1", None)
    answer = api.serving.lookup.recommend("u1", k=3, now_ms=NOW_MS, asked=Asked(None, 0))
    assert answer.model == "g1-1" and answer.items


def test_items_born_get_vectors_by_the_refresher_and_the_other_process_answers_with_them(live: Followed) -> None:
    api, refresher = live.process("api", refreshes=False), live.process("refresher", refreshes=True)
    now_ms = refreshed(live, refresher, NOW_MS)
    title = api.serving.view.catalogue.content(3).title
    live.put("newborn", title=title)
    api.round(now_ms)
    assert api.serving.lookup.similar("newborn", k=3, now_ms=now_ms).index is not None
    rows, found = api.serving.current.live.vectors.get(np.array([node("newborn")], dtype=np.uint64))  # type: ignore[union-attr]
    assert not found[0], "nobody has embedded it yet"
    refresher.round(now_ms)
    rows, found = api.serving.current.live.vectors.get(np.array([node("newborn")], dtype=np.uint64))  # type: ignore[union-attr]
    assert found[0] and np.linalg.norm(rows[0]) == pytest.approx(1, abs=1e-3)
    assert api.serving.lookup.similar("newborn", k=3, now_ms=now_ms).items
    live.put("newborn", deleted=True)
    refresher.round(now_ms)
    assert not api.serving.current.live.vectors.get(np.array([node("newborn")], dtype=np.uint64))[1][0]  # type: ignore[union-attr]


def test_what_a_refresher_does_is_told_births_included(live: Followed) -> None:
    refresher = live.process("refresher", refreshes=True)
    now_ms = refreshed(live, refresher, NOW_MS)
    told: list[int] = []
    refresher.serving.told = lambda done: told.append(done.embedded)
    live.put("newborn", title="Rook")
    refresher.whole.step(now_ms=now_ms)
    assert sum(told) == 1


def test_a_head_shares_its_generations_collection_and_is_built_at_once(live: Followed) -> None:
    api, refresher = live.process("api", refreshes=False), live.process("refresher", refreshes=True)
    now_ms = refreshed(live, refresher, NOW_MS)
    live.store("g1-2", 1, at_ms=NOW_MS + 1)
    live.registry().propose("g1-2")
    written = refresher.serving.current.live.vectors.revision_max()  # type: ignore[union-attr]
    for process in (api, refresher):
        process.round(now_ms)
    assert (refresher.following.built, api.following.candidate) == ("g1-2", "g1-2")
    live.promote("g1-2")
    for process in (api, refresher):
        process.round(now_ms)
        assert process.version == "g1-2"
    assert refresher.serving.current.live.vectors.revision_max() == written, "no vector was written anew"  # type: ignore[union-attr]
    assert collections(live) == [1]


def test_a_candidate_on_another_trunk_than_its_generations_is_never_loaded(live: Followed, caplog: pytest.LogCaptureFixture) -> None:
    api, refresher = live.process("api", refreshes=False), live.process("refresher", refreshes=True)
    now_ms = refreshed(live, refresher, NOW_MS)
    model = Model.from_bytes(trained()[MODEL_FILE])
    other = Model.new(model.config, model.ids, seed=99).to_bytes()
    live.registry().put(Version("g1-2", 1, "g1-1", NOW_MS + 1, 1, {}), {**trained(), MODEL_FILE: other})
    live.registry().propose("g1-2")
    for process in (api, refresher):
        process.round(now_ms)
        assert (process.following.candidate, process.following.built, process.version) == (None, None, "g1-1")
    assert "g1-2 claims generation 1, but its trunk is not that of g1-1" in caplog.text


def test_a_new_generation_is_built_beside_the_old_and_the_old_goes_when_nobody_names_it(live: Followed) -> None:
    api, refresher = live.process("api", refreshes=False), live.process("refresher", refreshes=True)
    now_ms = refreshed(live, refresher, NOW_MS)
    live.put("late")
    for process in (api, refresher):
        process.round(now_ms)
    for generation in (2, 3):
        name = f"g{generation}-{generation}"
        live.store(name, generation, at_ms=NOW_MS + generation)
        live.registry().propose(name)
        refresher.round(now_ms)
        assert refresher.following.built == name
        assert embedded(live, generation) == len(refresher.serving.view.catalogue)
        live.put(f"born before the flip to {name}")
        refresher.round(now_ms)
        live.promote(name)
        refresher.round(now_ms)
        live.registry().propose(None)
        now_ms = refreshed(live, refresher, now_ms)
        item = np.array([node(f"born before the flip to {name}")], dtype=np.uint64)
        assert refresher.serving.current.live.vectors.get(item)[1][0], "an item born between building and flip"  # type: ignore[union-attr]
    assert api.version == "g1-1"
    assert collections(live) == [1, 2, 3], "the api names the first still, and the second is for a roll-back"
    api.round(now_ms)
    assert api.version == "g3-3"
    live.store("g4-4", 4, at_ms=NOW_MS + 4)
    live.promote("g4-4")
    refresher.round(now_ms)
    assert collections(live) == [3, 4], "what nobody names any more went with the next flip"


def test_a_withdrawn_proposal_is_forgotten_and_its_collection_goes(live: Followed) -> None:
    api, refresher = live.process("api", refreshes=False), live.process("refresher", refreshes=True)
    live.store("g2-2", 2, at_ms=NOW_MS + 1)
    live.registry().propose("g2-2")
    for process in (refresher, api):
        process.round()
    assert collections(live) == [1, 2]
    live.registry().propose(None)
    for process in (api, refresher):
        process.round()
        assert (process.following.candidate, process.following.built, process.version) == (None, None, "g1-1")
    assert collections(live) == [1]


def test_one_proposal_replaced_by_another_is_the_new_one_from_its_first_item_on(live: Followed) -> None:
    refresher = live.process("refresher", refreshes=True)
    refresher.round()
    for generation in (2, 3):
        live.store(f"g{generation}-{generation}", generation, at_ms=NOW_MS + generation)
        live.registry().propose(f"g{generation}-{generation}")
        refresher.round()
        assert refresher.following.built == f"g{generation}-{generation}"
        assert embedded(live, generation) == len(refresher.serving.view.catalogue)
    assert collections(live) == [1, 3]


def test_a_version_that_is_live_before_it_was_loaded_here_is_loaded_then(site: Followed) -> None:
    api = site.process("api", refreshes=False)
    api.round()
    site.store("g1-1", 1)
    site.promote("g1-1")
    site.registry().propose("g1-1")
    api.round()
    assert (api.version, api.following.candidate) == ("g1-1", None), "what is live is nobody's candidate"


def broken(site: Followed, name: str, generation: int) -> None:
    """A version whose model is no model."""
    files = {**trained(), "model.bin": b"nonsense"}
    site.registry().put(Version(name, generation, None, NOW_MS + generation, 1, {}), files)


def test_an_unusable_proposal_is_told_once_a_minute_and_the_last_whole_version_answers(
    live: Followed, caplog: pytest.LogCaptureFixture
) -> None:
    api = live.process("api", refreshes=False)
    broken(live, "g2-2", 2)
    live.registry().propose("g2-2")
    for n in range(5):
        api.round(NOW_MS + n)
    assert (api.version, api.following.candidate) == ("g1-1", None)
    assert caplog.text.count("version_unusable") == 1
    api.round(NOW_MS + TOLD_MS)
    assert caplog.text.count("version_unusable") == 2
    assert api.serving.lookup.recommend("u1", k=3, now_ms=NOW_MS).model == "g1-1"


def test_a_live_version_that_is_unusable_does_not_keep_the_next_from_being_loaded(live: Followed) -> None:
    """It is the only way out."""
    api, refresher = live.process("api", refreshes=False), live.process("refresher", refreshes=True)
    refresher.round()
    live.store("g2-2", 2, at_ms=NOW_MS + 2)
    live.promote("g2-2")
    for path in (live.folder / "models").iterdir():
        if path.name.startswith("g2-2"):
            path.write_bytes(b"damaged")
    live.store("g3-3", 3, at_ms=NOW_MS + 3)
    live.registry().propose("g3-3")
    for process in (refresher, api):
        process.round()
        assert (process.version, process.following.candidate) == ("g1-1", "g3-3")
    assert refresher.following.built == "g3-3"
    live.promote("g3-3")
    api.round()
    assert api.version == "g3-3"


def test_of_two_refreshers_each_has_a_share_and_one_that_leaves_is_followed(live: Followed) -> None:
    one, two = live.process("refresher-1", refreshes=True), live.process("refresher-2", refreshes=True)
    now_ms = refreshed(live, one, NOW_MS)
    assert one.serving.refresher.partitions == list(range(PARTITIONS))
    two.round(now_ms)
    assert two.serving.refresher.partitions == [], "until the other has seen it"
    now_ms += LEASE_MS // 3
    for process in (one, two):
        process.round(now_ms)
    assert (one.serving.refresher.partitions, two.serving.refresher.partitions) == ([0, 1], [2])
    one.whole.leave(one.beat(now_ms))
    for n in range(30):
        live.put(f"late {n}")
    now_ms = refreshed(live, two, now_ms + ALIVE_MS)
    assert two.serving.refresher.partitions == list(range(PARTITIONS))
    late = np.array([node(f"late {n}") for n in range(30)], dtype=np.uint64)
    assert two.serving.current.live.vectors.get(late)[1].all()  # type: ignore[union-attr]


def test_who_takes_over_looks_through_what_the_dead_one_left_at_a_flip(live: Followed) -> None:
    """The one that goes had not flipped yet: its items are those of the old generation."""
    one, two = live.process("refresher-1", refreshes=True), live.process("refresher-2", refreshes=True)
    now_ms = refreshed(live, one, NOW_MS)
    two.round(now_ms)
    now_ms += LEASE_MS // 3
    for process in (one, two):
        process.round(now_ms)
    live.store("g2-2", 2, at_ms=NOW_MS + 2)
    live.promote("g2-2")
    two.round(now_ms)
    one.whole.leave(one.beat(now_ms))
    refreshed(live, two, now_ms + ALIVE_MS)
    assert embedded(live, 2) == len(two.serving.view.catalogue)


def test_without_its_lease_nobody_refreshes_and_is_told_so(live: Followed, caplog: pytest.LogCaptureFixture) -> None:
    first, second = live.process("api-1", refreshes=True), live.process("api-2", refreshes=True)
    first.round()
    before = dirty(live)
    second.round()
    assert second.serving.refresher.partitions == []
    assert dirty(live) == before
    assert "not_refreshing" in caplog.text


def test_a_redis_that_is_away_at_the_first_lease_leaves_nobody_refreshing(live: Followed) -> None:
    refresher = live.process("refresher", refreshes=True)
    leases = refresher.whole.leases
    assert leases is not None
    working, leases._take = leases._take, redis.Redis.from_url("redis://127.0.0.1:1").register_script("return 1")
    with pytest.raises(redis.ConnectionError):
        refresher.whole.step(now_ms=NOW_MS)
    assert list(refresher.serving.refresher.partitions) == []
    leases._take = working
    refresher.whole.step(now_ms=NOW_MS + 1)
    assert refresher.serving.refresher.partitions == list(range(PARTITIONS)), "it is asked again at once, not after a third of a lease"


def test_an_api_process_writes_no_vector_and_no_mark(live: Followed) -> None:
    api = live.process("api", refreshes=False)
    before = dirty(live)
    live.put("newborn")
    live.apply([Event(user_id="u1", action="like", item_id="i1", ts_ms=NOW_MS - 1000)])
    for n in range(3):
        api.round(NOW_MS + 1000 * n)
    assert (embedded(live, 1), dirty(live)) == (0, before + dirty_of(live, "newborn"))
    assert api.serving.view.progress.as_of.number == sum(live.state.watermarks(EVENTS).values()) - 1


def dirty_of(site: Followed, name: str) -> int:
    return sum(found == node(name) for partition in range(PARTITIONS) for found, _ in site.state.scan(DIRTY, partition))


def test_a_pruned_proposal_is_unusable_and_no_more(live: Followed) -> None:
    live.store("g2-2", 2, at_ms=NOW_MS + 2)
    live.registry().propose("g2-2")
    live.registry(keep_max=1).put(Version("g3-3", 3, None, NOW_MS + 3, 1, {}), trained())
    api = live.process("api", refreshes=False)
    api.round()
    assert (api.version, api.following.candidate) == ("g1-1", None)


def test_settled_is_reached(live: Followed) -> None:
    """With items that change all the time nothing stays dirty for ever."""
    refresher = live.process("refresher", refreshes=True)
    now_ms = [NOW_MS]

    def act() -> None:
        now_ms[0] += 500
        live.put("i1", title=str(now_ms[0]))
        refresher.round(now_ms[0])

    settled(lambda: dirty(live) == 0, act)
    assert LocalPlace(live.folder / "models").names()
