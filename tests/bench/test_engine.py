"""The stopwatch of the engine prints one line for machines, last, whatever the form."""

import json

import numpy as np
import pytest

from bench import engine, synthetic


@pytest.mark.parametrize(("form", "events"), [("packs", 3000), ("json", 600)])
def test_the_last_line_is_the_whole_report(capsys: pytest.CaptureFixture[str], form: str, events: int) -> None:
    engine.main(["--embedded", "--events", str(events), "--form", form])
    said = capsys.readouterr()
    lines = said.out.splitlines()
    assert len(lines) == 1, "people read standard error"
    report = json.loads(lines[-1])
    assert (report["bench"], report["form"], report["events"]) == ("engine", form, events)
    for part in ("histories", "full"):
        assert report[part]["events_per_s"] > 0
        assert report[part]["us_per_event"] > 0
    assert report["bytes_per_user"] > 0
    assert report["bytes_per_node"] > 0
    assert 0 < report["users"] <= events
    assert 0 < report["nodes"] <= events
    assert {"commit", "versions", "cores", "peak_rss_mb"} <= set(report)
    assert "events/s" in said.err


def test_events_are_zipf_over_the_named_sizes() -> None:
    """Exponent 1: rank r is drawn in proportion to 1/r."""
    drawn = synthetic.zipf(np.random.default_rng(0), 1000, 50_000)
    share = np.bincount(drawn, minlength=1000) / 50_000
    weights = 1 / np.arange(1, 1001)
    wanted = weights / weights.sum()
    assert abs(share[0] - wanted[0]) < 0.01
    assert abs(share[:10].sum() - wanted[:10].sum()) < 0.01
    assert drawn.max() < 1000


def test_the_form_must_be_chosen(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        engine.main(["--events", "100"])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert "--embedded" in said
    assert "--cluster" in said
