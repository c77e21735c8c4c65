"""A candidate stands in the shadow of every process that answers before the cluster flips to it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from serving.shadow import STOOD_MS, Shadow, Shadowed
from tests.freshet.cluster_trainers import beat, events, stepped, trainer_of
from tests.freshet.followed import Followed, refreshed
from tests.freshet.sites import NOW_MS
from tests.freshet.stand_in import StandIn


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Followed]:
    made = Followed(tmp_path)
    yield made
    made.close()


@pytest.fixture
def live(site: Followed) -> Followed:
    """The first version is stored and live, nothing of it is embedded yet."""
    site.fill()
    site.store("g1-1", 1)
    site.promote("g1-1")
    return site


@pytest.fixture
def says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StandIn:
    return StandIn(tmp_path / "stand-in", monkeypatch)


def test_a_process_that_answers_is_ready_for_a_whole_version_that_has_stood_in_its_shadow(live: Followed) -> None:
    api, refresher = live.process("api", refreshes=False), live.process("refresher", refreshes=True)
    now_ms = refreshed(live, refresher, NOW_MS)
    api.round(now_ms)
    shadow = api.following.shadow = Shadow(api.serving.lookup, lambda: NOW_MS, share=1.0)
    live.store("g2-2", 2, at_ms=NOW_MS + 1)
    live.registry().propose("g2-2")
    api.round(now_ms)
    api.round(now_ms)
    assert (shadow.candidate, api.following.candidate) == (None, None), "loaded; its collection is not filled"
    refresher.round(now_ms)
    api.round(now_ms)
    assert shadow.candidate is not None
    assert (shadow.candidate.version, api.following.candidate) == ("g2-2", None)
    for user in ("u1", "u2", "u3"):
        shadow.note(user, 5)
    api.round(now_ms + STOOD_MS - 1)
    assert (api.following.candidate, api.version) == (None, "g1-1")
    api.round(now_ms + STOOD_MS)
    seen = api.following.shadowed
    assert seen is not None
    assert (seen.compared, seen.failed, api.following.candidate) == (3, 0, "g2-2")
    assert [beat.shadow["compared"] for beat in live.health.read() if beat.shadow] == [3]
    live.promote("g2-2")
    api.round(now_ms + STOOD_MS)
    assert (api.version, api.following.candidate) == ("g2-2", None)
    assert [beat.shadow for beat in live.health.read() if beat.process == "api"] == [None]


def test_a_version_that_is_withdrawn_leaves_the_shadow_and_the_next_one_stands_anew(live: Followed) -> None:
    api, refresher = live.process("api", refreshes=False), live.process("refresher", refreshes=True)
    now_ms = refreshed(live, refresher, NOW_MS)
    shadow = api.following.shadow = Shadow(api.serving.lookup, lambda: NOW_MS, share=1.0)
    for number in (2, 3):
        live.store(f"g1-{number}", 1, at_ms=NOW_MS + number)
        live.registry().propose(f"g1-{number}")
        for process in (api, refresher, api):
            process.round(now_ms)
        assert shadow.candidate is not None and shadow.candidate.version == f"g1-{number}"
    live.registry().propose(None)
    api.round(now_ms)
    assert shadow.candidate is None and api.following.candidate is None


def no_answer(*given: object, **options: object) -> None:
    raise ConnectionError("away")


def test_a_store_that_is_away_while_a_candidate_ranks_is_no_fault_of_the_candidates(
    live: Followed, monkeypatch: pytest.MonkeyPatch
) -> None:
    away = live.process("api", refreshes=False)
    away.round()
    away.following.shadow = Shadow(away.serving.lookup, lambda: NOW_MS, share=1.0, away=(ConnectionError,))
    refresher = live.process("refresher", refreshes=True)
    now_ms = refreshed(live, refresher, NOW_MS)
    live.store("g1-2", 1, at_ms=NOW_MS + 1)
    live.registry().propose("g1-2")
    for process in (refresher, away):
        process.round(now_ms)
    assert away.following.shadow.candidate is not None

    with monkeypatch.context() as patched:
        patched.setattr(away.following.shadow.candidate.model, "encode_user", no_answer)
        away.following.shadow.note("u1", 5)
        with pytest.raises(ConnectionError):
            away.following.stand(now_ms=now_ms)
    away.following.shadow.note("u1", 5)
    away.following.stand(now_ms=now_ms + STOOD_MS)
    assert away.following.shadowed is not None and (away.following.shadowed.failed, away.following.shadowed.compared) == (0, 1)


@pytest.mark.parametrize(("failed", "promoted"), [(0, True), (1, False)])
def test_one_failure_in_the_shadow_of_any_process_refuses_a_proposal(site: Followed, says: StandIn, failed: int, promoted: bool) -> None:
    trainer = trainer_of(site)
    events(site, 20)
    beat(site, "api-1", NOW_MS)
    assert stepped(trainer, NOW_MS) is None
    beat(site, "refresher-1", NOW_MS, candidate="g1-1", built="g1-1")
    beat(site, "api-1", NOW_MS, candidate="g1-1", shadow=Shadowed(30, failed, 1, 0.5, 2.0))
    beat(site, "api-2", NOW_MS, candidate="g1-1", shadow=Shadowed(10 - failed, 0, 0, 0.9, 4.0))
    outcome = trainer.step(now_ms=NOW_MS)
    record = site.registry().live()
    assert outcome is not None and outcome.promoted is promoted and (record is not None) is promoted
    assert outcome.reason.startswith("better" if promoted else "failed in shadow: 1 of 40 look-ups had an error")
    assert outcome.numbers["shadow_lookups"] == 40 and outcome.numbers["shadow_dropped"] == 1
    assert outcome.numbers["shadow_mean_ms"] == pytest.approx(2.5 if promoted else (31 * 2 + 9 * 4) / 40)
    assert site.registry().candidate() is None
    trainer.close()
