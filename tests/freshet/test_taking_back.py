"""In the cluster an api process sees that a version fell, or that what it answers drifted; the trainer takes back, or trains a trunk."""

from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest

from encoders.blend import Blend
from freshet.learning.asking import Asking
from freshet.processes.pulse import Pulse
from freshet.processes.trainer import COUNT_MS, Trainer
from freshet.version_files import BLEND_FILE
from freshet.versions import ROLL_BACK
from freshet.world.events import World, WorldConfig
from serving.sources import SOURCES
from storage.log import JSON, Record
from storage.models import Version
from tests.freshet.cluster_trainers import EVERY, RENEW_MS, beat, events, stepped, trainer_of
from tests.freshet.followed import Followed, trained
from tests.freshet.sites import NOW_MS
from tests.freshet.stand_in import StandIn

AT_ONCE = 50
"""Events of a commit."""
LATER_MS = NOW_MS + EVERY.interval_ms_min


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Followed]:
    made = Followed(tmp_path)
    yield made
    made.close()


@pytest.fixture
def says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    yield StandIn(tmp_path / "stand-in", monkeypatch)


def live(site: Followed) -> str | None:
    record = site.registry().live()
    return record.version if record else None


def twice(site: Followed) -> None:
    """g2-2 is live, g1-1 was before."""
    for name, generation in (("g1-1", 1), ("g2-2", 2)):
        site.store(name, generation, at_ms=NOW_MS + generation)
        site.promote(name)


def leading(site: Followed) -> Trainer:
    trainer = trainer_of(site)
    assert trainer.step(now_ms=NOW_MS) is None and trainer.leading
    return trainer


def test_the_version_that_fell_is_taken_back_on_record_one_step_and_no_further(site: Followed, caplog: pytest.LogCaptureFixture) -> None:
    twice(site)
    trainer = leading(site)
    beat(site, "api-1", NOW_MS, version="g2-2")
    beat(site, "api-2", NOW_MS, version="g1-1", fallen="of another it was said")
    trainer.step(now_ms=NOW_MS + COUNT_MS)
    assert live(site) == "g2-2"
    beat(site, "api-1", NOW_MS, version="g2-2", fallen="it does worse: -.1")
    trainer.step(now_ms=NOW_MS + COUNT_MS + 1)
    assert live(site) == "g2-2", "they are asked once a second"
    trainer.step(now_ms=NOW_MS + 2 * COUNT_MS)
    assert (live(site), trainer.taken_back) == ("g1-1", 1)
    (decision,) = site.registry().decisions()
    assert (decision["kind"], decision["reason"]) == (ROLL_BACK, "rolled back from g2-2 because it does worse: -.1")
    for n in (3, 4):
        trainer.step(now_ms=NOW_MS + n * COUNT_MS)
    assert (live(site), caplog.text.count("roll_back_failed")) == ("g1-1", 1), "g1-1 has none before it, and that is told once"
    trainer.close()


def test_what_was_compared_with_the_version_that_fell_is_refused(site: Followed, says: StandIn) -> None:
    twice(site)
    trainer = leading(site)
    events(site, 20)
    assert stepped(trainer, LATER_MS) is None and site.registry().candidate() == "g3-3"
    beat(site, "refresher-1", LATER_MS, built="g3-3")
    beat(site, "api-1", LATER_MS, candidate="g3-3", version="g2-2", fallen="it does worse")
    outcome = trainer.step(now_ms=LATER_MS + COUNT_MS)
    assert outcome is not None and not outcome.promoted and outcome.reason.startswith("another version went live meanwhile")
    assert live(site) == "g1-1"
    trainer.close()


def test_a_drift_is_a_trunks_once(site: Followed, says: StandIn) -> None:
    says.better(promote=False)
    twice(site)
    trainer = leading(site)
    events(site, 1)
    assert stepped(trainer, LATER_MS) is None, "one event is not enough"
    kinds, now_ms = [], LATER_MS
    for drifted in ("fell from .3 to .1", "fell from .3 to .1", "fell from .1 to .05"):
        beat(site, "api-1", now_ms, version="g2-2", drifted=drifted)
        now_ms += EVERY.interval_ms_min
        beat(site, "api-1", now_ms, version="g2-2", drifted=drifted)
        outcome = stepped(trainer, now_ms)
        kinds.append(outcome.kind if outcome else None)
        events(site, 1, first=len(kinds))
    assert kinds == ["trunk", None, "trunk"], "the second time it had learned from it"
    trainer.close()
    taking_over = trainer_of(site, "two")
    assert stepped(taking_over, now_ms + RENEW_MS) is None and taking_over.leading, "a drift of before is none of the next one's"
    taking_over.close()


def test_an_api_process_shows_it_and_answers_from_the_version_before_again(site: Followed) -> None:
    site.fill()
    api = site.process("api", refreshes=True)
    api.whole.asking = asking = Asking(api.serving, every_ms=0, generator=np.random.default_rng(0))
    least_popular_first = Blend(SOURCES, np.array([float(name == "popular") * -1 for name in SOURCES]))
    site.registry().put(Version("g1-1", 1, None, NOW_MS, 1, {}), trained())
    site.registry().put(Version("g2-2", 2, None, NOW_MS + 1, 1, {}), trained() | {BLEND_FILE: least_popular_first.to_json().encode()})
    for name in ("g1-1", "g2-2"):
        site.promote(name)
        api.round()
    assert api.version == "g2-2"
    pulse = Pulse(api.whole, name="api")
    assert pulse._beat(NOW_MS).fallen is None
    later = list(World(WorldConfig(seed=2, users=60, items=80, events=1500)).events())
    for start in range(0, len(later), AT_ONCE):
        chunk = later[start : start + AT_ONCE]
        for n, event in enumerate(chunk, start):
            asking.before([Record(n, 0, n, NOW_MS, JSON, msgspec.json.encode(event))], now_ms=NOW_MS + n)
        site.apply(chunk)
        api.serving.step(now_ms=NOW_MS + start)
        if asking.fallen("g2-2"):
            break
    said = pulse._beat(NOW_MS)
    assert said.fallen and said.fallen.startswith("it does worse: -0.") and said.version == "g2-2"
    site.health.beat(said)
    trainer = leading(site)
    assert live(site) == "g1-1"
    api.round()
    assert api.version == "g1-1" and api.serving.predecessor is None, "it goes one step"
    assert pulse._beat(NOW_MS).fallen is None, "that was said of another"
    trainer.close()
