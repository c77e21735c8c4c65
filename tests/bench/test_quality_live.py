"""The product's loop over a file of timed events: the protocol's own cases, systems by name, and what was decided."""

from pathlib import Path

import numpy as np
import pytest

from bench.quality import live, prequential
from bench.quality.asking import BLEND
from bench.quality.live import FROZEN, HEADS, HEADS_ONLY, NEURAL, PASSES, RETRAINED, Pass, passes
from bench.quality.neural import Wanted
from bench.quality.progress import silent
from bench.quality.report import summary
from freshet.demo import loop
from freshet.demo.loop import in_time_order
from freshet.readers.choose import open_events
from freshet.world.events import World, WorldConfig


def still() -> float:
    return 0.0


@pytest.fixture(scope="module")
def ratings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`user item rating time` of a small world: 1,900 events, none twice in a millisecond's place."""
    folder = tmp_path_factory.mktemp("live")
    source = open_events(World(WorldConfig(seed=2, users=60, items=60, events=2600)).write_csv(folder / "world"))
    events = [row.event for row in in_time_order(source) if row.event is not None and row.event.item_id]
    path = folder / "u.data"
    path.write_text("".join(f"{e.user_id}\t{e.item_id}\t3\t{n}\n" for n, e in enumerate(events)))
    return path


def test_the_loop_is_asked_what_the_protocol_asks_and_is_the_blend(ratings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "EVENTS_MIN", 10**9)  # one training, the warm-up's
    monkeypatch.setattr(loop, "FIRST_SECONDS_MAX", 2.0)
    monkeypatch.setattr(prequential, "passes", lambda path, **given: passes(path, **given, chosen=PASSES[:1]))
    said: list[str] = []
    found = prequential.run([ratings], seed=0, clock=still, bar=silent, wanted=Wanted(tmp_path, minutes=0.1, told=said.append))
    assert {len(ranks) for ranks in found.ranks.values()} == {len(found.ranks[BLEND])} and len(found.ranks[BLEND]) > 100
    assert {*prequential.NAMES, prequential.COUNTED, BLEND, NEURAL, FROZEN} == {*found.ranks}
    assert found.singles == (*prequential.NAMES, NEURAL) and any(line.startswith("blend: ") and "gate" in line for line in said)
    assert (found.ranks[BLEND] == found.ranks[FROZEN]).all(), "no other training ran"
    assert np.median(found.ranks[BLEND]) < 30, "60 items: better than by chance"
    told = found.more["loop"]
    assert isinstance(told, dict) and set(told) == {BLEND} and told[BLEND]["refused"] + len(told[BLEND]["promoted"]) == 1
    best = summary("prequential", found, seed=0)["blend"]
    assert isinstance(best, dict) and best["above_best"]["HR@10"]["best"] in found.singles, "a variant is no single source"


def test_the_variants_train_heads_alone_or_begin_anew() -> None:
    assert [one.names["model"] for one in PASSES] == [BLEND, HEADS_ONLY, RETRAINED]
    assert PASSES[1] == Pass({"model": HEADS_ONLY}, trunk_every=HEADS) and PASSES[2].anew and not PASSES[0].anew


def test_while_the_stream_waits_for_a_training_nothing_is_applied_unasked(
    ratings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "FIRST_SECONDS_MAX", 1.0)
    monkeypatch.setattr(live, "EVENTS_MIN", 500)
    monkeypatch.setattr(live, "SECONDS_MIN", 1.0)
    found = passes(ratings, seconds=1.0, say=lambda line: None, chosen=PASSES[1:2])
    told = found.told[HEADS_ONLY]
    assert isinstance(told["refused"], int) and isinstance(told["promoted"], list)
    assert told["refused"] + len(told["promoted"]) >= 2, "the warm-up's training, and one in the stream"
