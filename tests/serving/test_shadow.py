"""A candidate in shadow sees a share of the look-ups, answers none, and is told apart from what is live."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient

from encoders.blend import Blend
from encoders.model import Model
from serving.api import create_app
from serving.live import LiveModel
from serving.metrics import Metrics
from serving.shadow import STEP_LOOKUPS, WAITING_MAX, Shadow
from serving.sources import SOURCES
from tests.serving.small_site import Site


@pytest.fixture
def live(tmp_path: Path) -> Site:
    site = Site(tmp_path)
    site.stock({f"i{n}": f"title {n % 3}" for n in range(40)})
    for user in range(8):
        site.take(f"u{user}", *(f"i{(user + step) % 40}" for step in range(5)))
    site.go_live()
    return site


def shadow_of(site: Site, share: float = 1.0, metrics: Metrics | None = None) -> Shadow:
    return Shadow(site.lookup, lambda: site.now_ms, share=share, metrics=metrics)


def candidate(site: Site, *, weights: tuple[float, ...] = (1.0, 1.0, 0.5, 0.1, 0.1, 0.5, 0.5, 0.5, 0.5), broken: bool = False) -> LiveModel:
    """The live model under another name; `broken`: its users' vectors are not finite."""
    assert site.live is not None and isinstance(site.live.model, Model)
    model = site.live.model
    if broken:
        model = model.with_head({name: torch.full_like(part, float("nan")) for name, part in model.head.state_dict().items()})
    return replace(site.live, version="g1-h9", model=model, blend=Blend(SOURCES, np.array(weights)))


def stepped(shadow: Shadow, steps: int = WAITING_MAX) -> None:
    for _ in range(steps):
        shadow.step()


def test_an_answer_is_the_same_with_a_candidate_in_shadow_and_the_same_model_agrees_with_itself(live: Site) -> None:
    shadow, before = shadow_of(live), live.lookup.recommend("u1", k=5, now_ms=live.now_ms)
    shadow.begin(candidate(live))
    shadow.note("u1", 5)
    after = live.lookup.recommend("u1", k=5, now_ms=live.now_ms)
    assert [item.item_id for item in after.items] == [item.item_id for item in before.items] and after.model == before.model
    stepped(shadow)
    told = shadow.end()
    assert (told.compared, told.failed, told.dropped, told.overlap) == (1, 0, 0, 1.0) and told.mean_ms > 0


def test_another_candidate_agrees_less(live: Site) -> None:
    shadow = shadow_of(live)
    shadow.begin(candidate(live, weights=(0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0)))
    for user in range(8):
        shadow.note(f"u{user}", 5)
    stepped(shadow)
    told = shadow.end()
    assert told.compared == 8 and 0 <= told.overlap < 1
    assert told.numbers["shadow_lookups"] == 8 and told.numbers["shadow_overlap"] == told.overlap


@pytest.mark.parametrize(("share", "noted"), [(0.0, 0), (0.05, 2), (0.25, 10), (1.0, 40)])
def test_the_share_of_look_ups_is_even_and_always_the_same(live: Site, share: float, noted: int) -> None:
    shadow = shadow_of(live, share)
    shadow.begin(candidate(live))
    for n in range(40):
        shadow.note(f"u{n % 8}", 3)
    stepped(shadow)
    assert shadow.ranked == noted == shadow.end().compared


def test_without_a_candidate_nothing_waits_and_nothing_is_ranked(live: Site) -> None:
    shadow = shadow_of(live)
    shadow.note("u1", 5)
    shadow.begin(candidate(live))
    stepped(shadow)
    assert shadow.ranked == 0
    shadow.note("u1", 5)
    assert shadow.end().compared == 0, "what waits at the end is not ranked"
    shadow.note("u1", 5)
    shadow.step()
    assert shadow.ranked == 0


def test_what_does_not_fit_is_dropped_and_counted_and_a_step_ranks_a_few(live: Site) -> None:
    metrics = Metrics()
    shadow = shadow_of(live, metrics=metrics)
    shadow.begin(candidate(live))
    for _ in range(WAITING_MAX + 7):
        shadow.note("u1", 3)
    shadow.step()
    assert shadow.ranked == STEP_LOOKUPS
    stepped(shadow)
    told = shadow.end()
    assert (told.compared, told.dropped) == (WAITING_MAX, 7)
    text = metrics.text().decode()
    assert f'freshet_shadow_lookups_total{{outcome="compared"}} {WAITING_MAX}.0' in text
    assert 'freshet_shadow_lookups_total{outcome="dropped"} 7.0' in text and "freshet_shadow_overlap_ratio 1.0" in text


def test_a_vector_that_is_not_finite_is_a_failure_not_an_answer(live: Site) -> None:
    shadow = shadow_of(live)
    shadow.begin(candidate(live, broken=True))
    shadow.note("u1", 5)
    shadow.note("nobody", 5)
    stepped(shadow)
    told = shadow.end()
    assert (told.compared, told.failed) == (0, 2)


def test_the_api_tells_whom_it_has_answered(live: Site) -> None:
    told: list[tuple[str, int]] = []
    services = replace(live.services(), answered=lambda user_id, k: told.append((user_id, k)))
    with TestClient(create_app(services)) as client:
        assert client.get("/v1/users/u1/recommendations?k=4").status_code == 200
        assert client.get("/v1/users/u1/recommendations?k=0").status_code == 422
    assert told == [("u1", 4)]
