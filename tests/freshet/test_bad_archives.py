"""Archives that teach nothing, or too much of one thing: a refusal in words, or a candidate with finite weights that the gate refuses."""

import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from encoders.model import Model
from freshet.learning.job import Job, Report
from freshet.learning.learn import Inputs, run
from freshet.version_files import MODEL_FILE
from stream.archiving import archive_rows
from stream.events import Event
from stream.wire import decode
from tests.freshet.sites import NOW_MS
from tests.stream.event_logs import records_of

RANDOM = np.random.default_rng(0)


def events(count: int, *, users: int, items: int, step_ms: int = 1000, action: str = "click") -> list[Event]:
    chosen = zip(RANDOM.integers(0, users, count).tolist(), RANDOM.integers(0, items, count).tolist(), range(count), strict=True)
    return [Event(user_id=f"u{user}", item_id=f"i{item}", action=action, ts_ms=NOW_MS + step_ms * n) for user, item, n in chosen]


def learned(out: Path, found: list[Event]) -> Report:
    """A short training on these events, without any content of the items."""
    table = pa.Table.from_batches([archive_rows(decode(list(records_of(found))))])
    job = Job(out=str(out), kind="trunk", parent=None, blend_events=200, gate_events=200, steps_max=4, seconds_max=600.0)
    return run(job, Inputs(table, None, {}))


@pytest.mark.parametrize(
    ("found", "words"),
    [
        ([], "holds 0 events; at least 300"),
        (events(800, users=20, items=30, action="hide"), "of 600 events to learn from none is positive"),
        ([*events(1, users=1, items=1), *events(800, users=20, items=30, action="hide")], "1 events on known items are too few"),
    ],
    ids=["empty", "nobody likes anything", "one liking"],
)
def test_an_archive_that_teaches_nothing_is_refused_in_words(found: list[Event], words: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=words):
        learned(tmp_path, found)
    assert list(tmp_path.iterdir()) == [], "nothing is left that could be taken for a candidate"


@pytest.mark.parametrize(
    "found",
    [
        events(800, users=1, items=40),
        events(800, users=50, items=1),
        events(800, users=1, items=1),
        events(800, users=30, items=40, step_ms=0),
        [*events(100_000, users=1, items=200, step_ms=1), *events(400, users=20, items=200, step_ms=1)],
    ],
    ids=["one user", "one item", "one of both", "one moment", "a user of 100,000 events"],
)
def test_an_archive_of_too_much_alike_gives_a_finite_candidate_that_is_refused(found: list[Event], tmp_path: Path) -> None:
    began = time.process_time()
    report = learned(tmp_path, found)
    assert not report.promote and report.reason and all(np.isfinite(figure) for figure in report.numbers.values())
    model = Model.from_bytes((tmp_path / MODEL_FILE).read_bytes())
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())
    assert time.process_time() - began < 120, "bounded work, whatever one user did"
