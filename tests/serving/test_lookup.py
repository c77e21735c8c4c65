"""Look-ups over real state: what was just consumed is gone, what is deleted stays away, and every answer explains itself."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from qdrant_client import QdrantClient

from encoders.blend import Blend
from encoders.linear import Linear
from serving.answers import Answer, Asked, NotFound, SimilarAnswer
from serving.linear import LinearSource
from serving.lookup import blended
from serving.neural import aimed
from serving.sessions import PAUSE_MS, PREFIX_MAX
from serving.sources import SOURCES
from storage.arrays import F32s
from storage.ids import USER, hash_id
from storage.vectors_local import VectorServer
from stream.shape import Shape
from tests.serving.small_site import TITLES, Site, walk


def names(answer: Answer | SimilarAnswer) -> list[str]:
    return [item.item_id for item in answer.items]


def test_what_was_just_consumed_is_gone_at_the_next_look_up_and_as_of_moved(site: Site) -> None:
    site.take("u1", "m1")
    before = site.lookup.recommend("u1", now_ms=site.now_ms)
    assert "m1" not in names(before) and before.as_of.ts_ms == site.now_ms
    (position,) = site.take("u1", names(before)[0])
    after = site.lookup.recommend("u1", now_ms=site.now_ms)
    assert names(before)[0] not in names(after)
    assert after.as_of.number == position.number > before.as_of.number


def test_the_neighbour_lists_lead_where_everybody_went(site: Site) -> None:
    site.take("u1", "m1")
    site.live = None
    answer = site.lookup.recommend("u1", k=3, now_ms=site.now_ms)
    assert names(answer)[0] == "m2" and answer.model is None and answer.index is None
    assert max(answer.items[0].sources, key=lambda source: answer.items[0].sources[source]) == "neighbours"


def test_seen_items_come_back_only_when_asked_for(site: Site) -> None:
    site.take("u1", *TITLES)
    assert names(site.lookup.recommend("u1", now_ms=site.now_ms)) == []
    assert len(names(site.lookup.recommend("u1", now_ms=site.now_ms, exclude_seen=False))) == len(TITLES)


def test_a_hidden_item_leads_nowhere_and_stays_away(site: Site) -> None:
    site.take("u1", "m1", action="hide")
    context = site.lookup.context("u1", now_ms=site.now_ms)
    assert len(context.recent) == 0 and not context.cold
    assert "m1" not in names(site.lookup.recommend("u1", now_ms=site.now_ms))


def test_a_deleted_item_is_never_answered_even_while_its_vector_is_there(site: Site) -> None:
    site.stock({"m2": ""}, deleted=True)
    for user in ("u1", "walker0", "nobody"):
        assert "m2" not in names(site.lookup.recommend(user, now_ms=site.now_ms, exclude_seen=False))
    assert "m2" not in names(site.lookup.similar("m1", now_ms=site.now_ms))
    with pytest.raises(NotFound, match="deleted"):
        site.lookup.similar("m2", now_ms=site.now_ms)


def test_a_user_nobody_knows_gets_what_is_popular(site: Site) -> None:
    site.live = None
    answer = site.lookup.recommend("nobody", k=6, now_ms=site.now_ms)
    assert set(names(answer)[:4]) == {"m1", "m2", "m3", "m4"} and names(answer)[4:] == ["m5", "m6"]


def test_an_empty_site_answers_with_nothing(tmp_path: Path) -> None:
    site = Site(tmp_path)
    answer = site.lookup.recommend("u1", now_ms=site.now_ms)
    assert answer.items == [] and answer.as_of.number == -1
    site.close()


def test_the_sources_of_an_item_sum_to_one_and_scores_fall(site: Site) -> None:
    site.take("u1", "m1", "m3")
    answer = site.lookup.recommend("u1", now_ms=site.now_ms)
    scores = [item.score for item in answer.items]
    assert scores == sorted(scores, reverse=True)
    for item in answer.items:
        assert set(item.sources) == set(SOURCES) and min(item.sources.values()) >= 0
        assert sum(item.sources.values()) == pytest.approx(1.0)
        assert item.title == TITLES[item.item_id]
    assert site.live is not None
    assert (answer.model, answer.generation, answer.index) == ("g1-h0", 1, f"items-g1@{site.live.vectors.revision_max()}")


def test_a_blend_may_name_fewer_sources(site: Site) -> None:
    live = site.go_live("g1-h1")
    context = site.lookup.context("walker1", now_ms=site.now_ms)
    ranking = site.lookup.rank(context, live)
    few = Blend(("popular", "neural"), np.array([2.0, 0.5]))
    assert np.allclose(blended(few, ranking.features), 2.0 * ranking.features[:, 3] + 0.5 * ranking.features[:, 0])


def test_the_first_k_of_a_ranking_are_those_of_the_whole(site: Site) -> None:
    context = site.lookup.context("nobody", now_ms=site.now_ms)
    whole = site.lookup.rank(context, site.live)
    for k in range(1, 7):
        part = site.lookup.rank(context, site.live, k=k)
        assert part.rows[:k].tolist() == whole.rows[:k].tolist() and sorted(part.rows) == sorted(whole.rows)


def test_the_neural_column_is_a_log_softmax_of_scaled_cosines(site: Site) -> None:
    site.take("u1", "m1", "m3")
    live = site.live
    assert live is not None
    ranking = site.lookup.rank(site.lookup.context("u1", now_ms=site.now_ms), live)
    history = site.reader.histories.read(hash_id("u1", USER), 0)
    vectors, _ = live.vectors.get(history.items)
    query = live.model.encode_user(vectors, history.actions, history.ts_ms, site.now_ms)
    logits = live.vectors.get(site.catalogue.ids[ranking.rows])[0] @ query * live.model.temperature
    assert np.allclose(np.exp(ranking.features[:, 0]).sum(), 1.0)
    assert np.allclose(ranking.features[:, 0] - ranking.features[0, 0], logits - logits[0], atol=1e-4)


def test_a_model_whose_user_vector_is_not_finite_says_nothing(site: Site) -> None:
    class Broken:
        temperature = 10.0

        def encode_user(self, item_vectors: object, actions: object, ts_ms: object, now_ms: int) -> F32s:
            return np.full(16, np.nan, dtype=np.float32)

    live = site.go_live()
    broken = type(live)("broken", 1, live.collection, model=Broken(), blend=live.blend, vectors=live.vectors)
    ranking = site.lookup.rank(site.lookup.context("u1", now_ms=site.now_ms), broken)
    assert np.isfinite(ranking.scores).all() and np.ptp(ranking.features[:, 0]) == 0


def test_a_model_and_a_collection_of_another_generation_do_not_go_together(site: Site) -> None:
    live = site.go_live()
    with pytest.raises(ValueError, match="items-g2"):
        type(live)("g2-h0", 2, "items-g2", model=live.model, blend=live.blend, vectors=live.vectors)


def test_an_item_without_a_vector_is_ranked_by_the_others(site: Site) -> None:
    site.stock({"m9": "newer"})
    answer = site.lookup.recommend("walker0", k=20, now_ms=site.now_ms)
    assert set(names(answer)) == {"m6", "m9"} and all(np.isfinite(item.score) for item in answer.items)


def test_an_item_born_a_moment_ago_is_found_similar_by_its_content(site: Site) -> None:
    site.stock({"m7": "red fox hides"})
    site.refresh(site.ids("m7"))
    assert "m7" in names(site.lookup.similar("m1", k=3, now_ms=site.now_ms))
    answer = site.lookup.similar("m7", k=2, now_ms=site.now_ms)
    assert set(names(answer)) == {"m1", "m2"} and all(item.sources["neural"] == pytest.approx(1.0) for item in answer.items)


def test_similar_without_a_model_reads_the_neighbour_list(site: Site) -> None:
    site.live = None
    assert names(site.lookup.similar("m1", k=1, now_ms=site.now_ms)) == ["m2"]
    assert names(site.lookup.similar("m6", now_ms=site.now_ms)) == []


def test_similar_to_an_unknown_item_is_not_found(site: Site) -> None:
    with pytest.raises(NotFound, match="'no such' is not known"):
        site.lookup.similar("no such", now_ms=site.now_ms)


def test_a_freshness_not_met_is_said(site: Site) -> None:
    number = site.progress.as_of.number
    assert site.lookup.recommend("u1", now_ms=site.now_ms, asked=Asked(number)).fresh
    late = site.lookup.recommend("u1", now_ms=site.now_ms, asked=Asked(number + 1, wait_ms=1))
    assert not late.fresh and late.as_of.number == number


def test_a_large_catalogue_is_cut_to_what_the_sources_propose(tmp_path: Path) -> None:
    site = Site(tmp_path, candidates_max=27)
    site.stock({**TITLES, **{f"x{n}": f"filler {n}" for n in range(80)}})
    walk(site)
    live = site.go_live()
    site.take("u1", "m1")
    ranking = site.lookup.rank(site.lookup.context("u1", now_ms=site.now_ms), live)
    assert len(ranking.rows) <= 27 < len(site.catalogue)
    assert {"m2", "m3", "m4"} <= {site.catalogue.name(row) for row in ranking.rows.tolist()}
    assert "m1" not in {site.catalogue.name(row) for row in ranking.rows.tolist()}
    site.close()


def test_linear_weights_and_sessions_propose_what_no_other_source_would(tmp_path: Path) -> None:
    site = Site(tmp_path, candidates_max=14)
    site.stock({**TITLES, **{f"x{n}": f"filler {n}" for n in range(60)}})
    walk(site)
    live = site.go_live()
    site.take("u1", "m1")
    ids = site.ids("m1", "x21", "x20")
    weights, ease = np.zeros((2, 3, 1), np.float32), np.zeros((3, 1), np.float32)
    weights[:, 0] = ease[0] = 1.0
    weighed = Linear(ids, np.ones((2, 3, 1), np.uint16), weights, np.full((3, 1), 2, np.uint16), ease)
    linear = LinearSource(weighed, site.reader.index)
    liked, late = site.ids("m1", "x22"), site.now_ms + 100
    site.sessions.take(np.array([77, 77], np.uint64), liked, np.array([late, late]))
    context = site.lookup.context("u1", now_ms=site.now_ms)
    rows = {name: site.catalogue.row(int(site.ids(name)[0])) for name in ("x20", "x21", "x22")}
    ranking = site.lookup.rank(context, replace(live, linear=linear))
    assert set(rows.values()) <= set(ranking.rows.tolist())
    for name, source in (("x20", "ease"), ("x21", "linear"), ("x22", "sessions")):
        (column,) = ranking.features[ranking.rows == rows[name], SOURCES.index(source)]
        assert column > ranking.features[:, SOURCES.index(source)].min(), source
    unnamed = {rows["x20"], rows["x21"]}
    assert not unnamed & set(site.lookup.rank(context, live).rows.tolist()), "without weights nobody names them"


def test_a_source_of_no_weight_is_not_asked_and_the_ranking_is_the_same(site: Site) -> None:
    site.take("u1", "m1", "m3")
    live = site.go_live(weights=(1.0, 0.0, 0.5, 0.1, 0.0, 0.0, 0.0, 0.0, 0.0))
    context = site.lookup.context("u1", now_ms=site.now_ms)
    ranking = site.lookup.rank(context, live)
    whole = site.lookup.features(context, aimed(context.history, live, now_ms=context.now_ms), ranking.rows)
    for column, weight in enumerate(live.blend.weights):
        if weight:
            assert np.allclose(ranking.features[:, column], whole[:, column]), SOURCES[column]
        else:
            assert np.ptp(ranking.features[:, column]) == 0.0, SOURCES[column]
    assert np.ptp(whole[:, SOURCES.index("sessions")]) > 0 < np.ptp(whole[:, SOURCES.index("neighbours")])
    assert np.allclose(ranking.scores, blended(live.blend, whole))
    fresh = site.lookup.context("u1", now_ms=site.now_ms)
    site.lookup.rank(fresh, live)
    assert "votes" not in vars(fresh), "what is not weighed is not counted"


def test_a_look_up_sees_no_session_or_liking_that_comes_after_it(site: Site) -> None:
    site.take("u1", "m3")
    before = site.lookup.context("u1", now_ms=site.now_ms)
    votes = site.sessions.votes(before.session, len(before.live))
    assert [site.catalogue.name(row) for row in before.liked.tolist()] == ["m3"]
    site.take("u2", "m3", "m6")
    site.take("u1", "m5")
    assert [site.catalogue.name(row) for row in before.session.tolist()] == ["m3"]
    after = site.lookup.context("u1", now_ms=site.now_ms)
    assert [site.catalogue.name(row) for row in after.session.tolist()] == ["m3", "m5"]
    assert [site.catalogue.name(row) for row in after.liked.tolist()] == ["m5", "m3"]
    m6 = site.catalogue.row(int(site.ids("m6")[0]))
    assert votes[m6] == 0.0 < after.votes[m6]


def test_a_users_session_ends_at_a_long_pause_and_not_at_what_is_hidden(site: Site) -> None:
    site.take("u1", "m1", "m2")
    site.now_ms += PAUSE_MS
    site.take("u1", "m3")
    site.now_ms += PAUSE_MS - 1000
    site.take("u1", "m4", action="hide")
    site.take("u1", "m5")
    session = site.lookup.context("u1", now_ms=site.now_ms).session
    assert [site.catalogue.name(row) for row in session.tolist()] == ["m5"]
    site.take("u1", "m6")
    session = site.lookup.context("u1", now_ms=site.now_ms + 10 * PAUSE_MS).session
    assert [site.catalogue.name(row) for row in session.tolist()] == ["m5", "m6"], "also for who comes back later"
    site.take("u1", *[f"n{n}" for n in range(PREFIX_MAX)])
    assert len(site.lookup.context("u1", now_ms=site.now_ms).session) == PREFIX_MAX


def test_answers_are_the_same_whichever_way_vectors_are_kept(site: Site, tmp_path: Path) -> None:
    other = Site(tmp_path / "other", collections=VectorServer(QdrantClient(":memory:")))
    other.stock(TITLES)
    walk(other)
    other.go_live()
    for user in ("walker0", "nobody"):
        here, there = (s.lookup.recommend(user, now_ms=s.now_ms, exclude_seen=False) for s in (site, other))
        assert names(here) == names(there)
        assert [item.score for item in here.items] == pytest.approx([item.score for item in there.items], abs=1e-4)
    other.close()


def test_several_partitions_answer_like_one(site: Site, tmp_path: Path) -> None:
    other = Site(tmp_path / "other", shape=Shape(partitions=4))
    other.stock(TITLES)
    walk(other)
    other.go_live()
    for user in ("walker0", "walker5", "nobody"):
        here, there = (s.lookup.recommend(user, now_ms=s.now_ms, exclude_seen=False) for s in (site, other))
        assert {i.item_id: i.score for i in here.items} == pytest.approx({i.item_id: i.score for i in there.items}, rel=1e-6)
    other.close()
