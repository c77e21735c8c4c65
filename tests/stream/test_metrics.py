"""What a worker tells of itself: what it counts, what it holds, and when it is said to stand still."""

import itertools
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from storage.log import Entry, Record
from storage.log_lmdb import LmdbLog
from storage.names import Names
from storage.state_memory import MemoryState
from stream.edges import EDGES
from stream.ingest import EVENTS, Ingest, no_fault
from stream.metrics import DELAYS_MAX, REASONS_MAX, Metrics
from stream.watching import ASK_MS, EVERY_MS, KAFKA, REDIS, Look, Progress, Standing, progressed
from stream.worker import Round
from tests.stream.event_logs import APPEND_MS, SMALL, fill, letters, make_messages, totals

Told = Callable[..., float | None]
WAITS, DONE = Standing(3, 9), Standing(9, 9)
AT = (EVENTS, 0)


def metrics_of(progress: Progress | None = None, *, now_ms: int = APPEND_MS) -> Metrics:
    """A timer whose every reading is a second later."""
    ticks = itertools.count()
    return Metrics(progress or Progress(now_ms), clock_ms=lambda: now_ms, timer=lambda: float(next(ticks)))


def told(metrics: Metrics) -> Told:
    """The value of a sample by its name and labels, as Prometheus reads it; None where there is none."""
    families = list(text_string_to_metric_families(metrics.text().decode()))
    values = {(one.name, tuple(sorted(one.labels.items()))): one.value for family in families for one in family.samples}
    return lambda name, **labels: values.get((f"freshet_worker_{name}", tuple(sorted(labels.items()))))


def applied_from(log: LmdbLog, records: list[Record], *, fault: Callable[[str], None] = no_fault) -> tuple[Ingest, Round]:
    state = MemoryState()
    ingest = Ingest(state, log, SMALL, names=Names(state), fault=fault)
    ingest.claim()
    half = len(records) // 2
    return ingest, Round(applied=tuple(ingest.apply(part, now_ms=APPEND_MS) for part in (records[:half], records[half:])))


def test_a_round_is_counted_as_the_state_counts_it(tmp_path: Path) -> None:
    metrics = metrics_of(now_ms=APPEND_MS + 250)
    with LmdbLog(tmp_path / "log", log_bytes_max=1 << 28) as log:
        fill(log, make_messages(random.Random(4), SMALL, count=400))
        ingest, done = applied_from(log, log.read(EVENTS, 0, 0, records_max=400), fault=metrics.at)
        kinds = Counter(letter.kind for letter in letters(log))
    metrics.told(done)
    value, total = told(metrics), totals(ingest)
    assert (value("events_total"), value("duplicates_total")) == (total["accepted"], total["duplicates"])
    assert len(kinds) > 2 and {kind: value("dead_letters_total", reason=kind) for kind in kinds} == dict(kinds)
    assert value("commit_seconds_count", topic=EVENTS) == value("commit_seconds_sum", topic=EVENTS) == 2
    count = value("commit_delay_seconds_count")
    assert count is not None and 2 * DELAYS_MAX <= count <= 2 * 2 * DELAYS_MAX, "some records stand for all"
    assert value("commit_delay_seconds_bucket", le="0.1") == 0 and value("commit_delay_seconds_bucket", le="0.25") == count


def test_reasons_of_dead_letters_are_bounded(tmp_path: Path) -> None:
    metrics = metrics_of()
    with LmdbLog(tmp_path / "log", log_bytes_max=1 << 28) as log:
        log.append(EVENTS, [Entry(0, b"{")], now_ms=APPEND_MS)
        (letter,) = applied_from(log, log.read(EVENTS, 0, 0))[1].applied[1].dead_letters
    names = {metrics._reason(f"{letter.kind} {n}") for n in range(REASONS_MAX + 9)}
    assert len(names) == REASONS_MAX + 1 and "other" in names


def test_commits_are_timed_by_topic_and_refusals_counted_from_nought() -> None:
    metrics = metrics_of()
    assert told(metrics)("refused_commits_total", topic=EDGES) == told(metrics)("commit_seconds_count", topic=EDGES) == 0
    for point in ("before dead letters", "before edges commit", "before commit", "after commit", "after edges commit", f"refused {EDGES}"):
        metrics.at(point)
    value = told(metrics)
    assert (value("commit_seconds_sum", topic=EVENTS), value("commit_seconds_sum", topic=EDGES)) == (1, 3)
    assert (value("refused_commits_total", topic=EDGES), value("refused_commits_total", topic=EVENTS)) == (1, 0)


def test_what_is_held_is_listed_and_what_is_given_away_is_not() -> None:
    progress = Progress(APPEND_MS)
    progress.sees(Look(APPEND_MS, {AT: DONE, (EVENTS, 11): Standing(5, 7, behind_ms=1500)}))
    value = told(metrics_of(progress))
    assert value("lag_records", topic=EVENTS, partition="11") == 2 and value("lag_records", topic=EVENTS, partition="0") == 0
    assert value("watermark_offset", topic=EVENTS, partition="11") == 5
    assert value("behind_seconds", topic=EVENTS, partition="11") == 1.5
    assert (value("partitions", topic=EVENTS), value("partitions", topic=EDGES)) == (2, 0)
    progress.sees(Look(APPEND_MS, {(EDGES, 0): DONE}))
    value = told(metrics_of(progress))
    assert value("lag_records", topic=EVENTS, partition="11") is None and value("partitions", topic=EDGES) == 1


@pytest.mark.parametrize(
    ("before", "after", "moved"),
    [
        ({AT: WAITS}, {AT: WAITS}, False),
        ({AT: WAITS}, {AT: Standing(3, 12)}, False),
        ({AT: WAITS}, {AT: Standing(4, 12)}, True),
        ({AT: Standing(9, 12)}, {AT: WAITS}, True),  # claimed again after Redis lost its last second
        ({AT: DONE}, {AT: DONE}, True),
        ({}, {}, True),
        ({}, {AT: WAITS}, True),  # just given to us
        ({AT: WAITS, (EVENTS, 1): WAITS}, {AT: WAITS, (EVENTS, 1): Standing(4, 9)}, True),
    ],
)
def test_progress_is_a_watermark_that_moves_or_nothing_that_waits(
    before: dict[tuple[str, int], Standing], after: dict[tuple[str, int], Standing], moved: bool
) -> None:
    assert progressed(Look(0, before), Look(1, after)) is moved


def test_records_that_wait_while_nothing_moves_make_it_stuck_until_something_does() -> None:
    progress = Progress(0)
    progress.sees(Look(EVERY_MS, {AT: WAITS}))
    for n in range(2, 6):
        progress.sees(Look(n * EVERY_MS, {AT: Standing(3, 9 + n)}))
    assert progress.stuck_ms(5 * EVERY_MS) == 4 * EVERY_MS and progress.away(5 * EVERY_MS) is None
    assert told(metrics_of(progress, now_ms=5 * EVERY_MS))("stuck_seconds") == 4 * EVERY_MS / 1000
    progress.sees(Look(6 * EVERY_MS, {AT: Standing(4, 90)}))
    assert progress.stuck_ms(6 * EVERY_MS) == 0


def test_a_service_that_does_not_answer_is_away_and_nothing_is_known_of_progress() -> None:
    progress, late = Progress(0), EVERY_MS + ASK_MS + 1
    progress.sees(Look(0, {AT: DONE}))
    progress.asks(REDIS)
    assert progress.away(1) is None and progress.away(late) == REDIS, "it hangs"
    progress.asks(KAFKA)
    progress.fails()
    progress.asks(REDIS)
    assert progress.away(late) == KAFKA and progress.stuck_ms(late) == late
    value = told(metrics_of(progress, now_ms=late))
    assert (value("service_away", service=KAFKA), value("service_away", service=REDIS)) == (1, 0)
    progress.sees(Look(late, {AT: DONE}))
    assert progress.away(late) is None and progress.stuck_ms(late) == 0
