"""The demo, small: everything in is accounted for, two digests agree, and its last line is what it promises."""

import json
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from freshet.demo.loop import Told, in_time_order
from freshet.demo.prequential import SYSTEMS
from freshet.demo.run import Demo, DemoOutcome
from freshet.readers.choose import open_events
from freshet.readers.source import Row, Source
from freshet.settings import Settings
from freshet.world.events import World, WorldConfig
from stream.events import Event

NEVER = 10**9
KEYS = {
    "bench", "data", "events", "accepted", "dead_letters", "events_per_s", "hit_at_10", "visible_ms", "lookup_ms", "promotions", "refusals",
    "digest_live", "digest_replay", "model_version", "seconds", "rss_mb",
}  # fmt: skip
EXTRAS = {"ranked", "gain_over"}


@dataclass
class Heard:
    """What the demo said."""

    lines: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def told(self) -> Told:
        return Told(line=self.lines.append, note=self.notes.append)


def run(source: Source, folder: Path, heard: Heard, *, events_max: int | None = None) -> DemoOutcome:
    """One demo with its first training and no other."""
    settings = Settings(data=folder / "data", train_events_min=NEVER, train_seconds_max=2)
    return Demo(settings, source, data_name="a test", terms="", told=heard.told(), events_max=events_max, out=folder / "out").run()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[DemoOutcome, Heard, Source]:
    """A world whose first fifth is just enough to train on."""
    folder, heard = tmp_path_factory.mktemp("demo"), Heard()
    source = open_events(World(WorldConfig(seed=2, users=60, items=60, events=2600)).write_csv(folder / "world"))
    return run(source, folder, heard), heard, source


def test_every_line_is_accepted_or_a_dead_letter(world: tuple[DemoOutcome, Heard, Source]) -> None:
    outcome, _, source = world
    figures = outcome.figures
    assert figures.events == source.rows
    assert figures.accepted + figures.dead_letters == source.rows
    assert figures.dead_letters == sum(row.event is None for row in source) + sum(
        row.event is not None and not row.event.item_id and row.event.action != "search" for row in source
    )


def test_the_replay_gives_the_live_digest(world: tuple[DemoOutcome, Heard, Source]) -> None:
    outcome, _, _ = world
    assert outcome.figures.digest_live == outcome.figures.digest_replay
    assert len(outcome.figures.digest_live) == 32


def test_the_last_line_has_every_figure_and_is_one_line(world: tuple[DemoOutcome, Heard, Source]) -> None:
    outcome, _, _ = world
    text = outcome.figures.json()
    assert "\n" not in text
    told = json.loads(text)
    assert set(told) == KEYS | EXTRAS
    assert told["bench"] == "demo"
    assert tuple(told["hit_at_10"]) == SYSTEMS
    assert all(0 <= hit <= 1 for hit in told["hit_at_10"].values())
    assert set(told["visible_ms"]) == set(told["lookup_ms"]) == {"p50", "p99"}
    assert 0 < told["visible_ms"]["p50"] <= told["visible_ms"]["p99"]
    assert 0 < told["lookup_ms"]["p50"] <= told["lookup_ms"]["p99"]
    assert told["events_per_s"] > 0
    assert told["ranked"] > 100
    for low, mean, high in told["gain_over"].values():
        assert low <= mean <= high


def test_the_first_training_is_decided_in_public_and_the_model_says_so(world: tuple[DemoOutcome, Heard, Source]) -> None:
    outcome, heard, _ = world
    figures = outcome.figures
    assert figures.promotions + figures.refusals == len(outcome.outcomes) == 1
    decision = outcome.outcomes[0]
    assert not decision.reason.startswith("failed"), decision.reason
    assert figures.model_version == (decision.version if decision.promoted else None)
    assert any(decision.reason in note for note in heard.notes)
    assert any("training the first model" in line for line in heard.lines)


def test_the_report_is_written(world: tuple[DemoOutcome, Heard, Source]) -> None:
    outcome, _, _ = world
    page = outcome.report.read_text()
    assert outcome.report.name == "demo.html"
    for name in SYSTEMS:
        assert name in page
    assert outcome.outcomes[0].version in page
    assert outcome.figures.digest_live[:16] in page


def test_a_cut_off_last_line_is_the_dead_letter_and_is_named(tmp_path: Path) -> None:
    """Taobao's layout; too little for a model, which is told, and everything else goes on without one."""
    lines = [f"u{n % 8},{1000 + n % 17},464116,{('pv', 'buy', 'cart', 'fav')[n % 4]},{1511658000 + n}" for n in range(120)]
    (tmp_path / "UserBehavior.csv").write_text("\n".join([*lines, "u3,1004,4641"]))
    source, heard = open_events(tmp_path / "UserBehavior.csv"), Heard()
    assert source.name == "Taobao CSV"
    outcome = run(source, tmp_path, heard)
    assert (outcome.figures.events, outcome.figures.accepted, outcome.figures.dead_letters) == (121, 120, 1)
    assert outcome.figures.digest_live == outcome.figures.digest_replay
    assert outcome.figures.model_version is None
    assert outcome.outcomes[0].reason.startswith("failed: ")
    assert "at least 300 are needed" in outcome.outcomes[0].reason
    assert any("line 121" in note and "u3,1004,4641" in note for note in heard.notes), "the cut-off line is named"


def row(n: int, ts_ms: int | None) -> Row:
    event = None if ts_ms is None else Event(user_id="u", item_id=f"i{n}", action="view", ts_ms=ts_ms)
    return Row(n, event, b"" if event else b"bad")


def test_rows_are_ordered_by_time_and_bad_ones_stay_behind_their_neighbour(tmp_path: Path) -> None:
    rows = [row(1, 50), row(2, None), row(3, 10), row(4, 10), row(5, None), row(6, 50), row(7, 20)]
    source = Source(tmp_path, "made up", len(rows), True, lambda: iter(rows), lambda: iter(()))
    assert [one.line_number for one in in_time_order(source)] == [3, 4, 5, 7, 1, 2, 6]
    assert [one.line_number for one in in_time_order(source, 3)] == [3, 1, 2]
