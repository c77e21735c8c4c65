"""One training, from archive to decision, on a small world."""

from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pytest

from encoders.blend import Blend
from encoders.linear import Linear
from encoders.model import Model
from freshet.learning.job import Job, Report
from freshet.learning.learn import GATE_WINDOW_MAX, Inputs, cut_archive, run, stored_contents
from freshet.learning.learn_cluster import one_stream
from freshet.learning.reading import read_for_training
from freshet.version_files import BLEND_FILE, COUNTING_FILE, LINEAR_FILE, MODEL_FILE, REPORT_FILE
from serving.sources import SOURCES
from storage.columns import ARCHIVE_SCHEMA
from storage.models import Version
from tests.freshet.sites import NOW_MS, promote, site, train


def test_a_training_leaves_a_whole_candidate_and_the_gates_words(tmp_path: Path) -> None:
    with site(tmp_path / "data") as service:
        report = train(service, tmp_path / "out")
    assert msgspec.json.decode((tmp_path / "out" / REPORT_FILE).read_bytes(), type=Report) == report
    assert report.reason.split(":")[0] in {"better", "worse"} or report.reason.startswith("not shown")
    assert {"gain", "gain_low", "gain_high", "candidate", "live", "weight_neural"} <= set(report.numbers)
    assert report.as_of_number > 0
    model = Model.from_bytes((tmp_path / "out" / MODEL_FILE).read_bytes())
    assert model.config.dim == 64
    assert Blend.from_json((tmp_path / "out" / BLEND_FILE).read_text()).sources == SOURCES
    assert Blend.from_json((tmp_path / "out" / COUNTING_FILE).read_text()).sources == SOURCES[1:]
    assert len(Linear.from_bytes((tmp_path / "out" / LINEAR_FILE).read_bytes())) > 50


def test_the_linear_weights_are_of_the_training_events_alone(tmp_path: Path) -> None:
    """What the windows hold changes nothing of them; what came before does."""
    with site(tmp_path / "data") as service:
        service.engine.flush_archive()
        whole = read_for_training(service.engine.archive).table()
        contents = stored_contents(service.engine.state, 1)
    cut = cut_archive(_job(tmp_path), whole)
    order = np.arange(whole.num_rows)
    order[cut.training.num_rows :] = order[cut.training.num_rows :][::-1]
    shuffled = whole.take(order)
    for name in ("number", "offset", "index", "append_ms"):  # the windows' events, in another order
        shuffled = shuffled.set_column(shuffled.schema.get_field_index(name), shuffled.schema.field(name), whole.column(name))
    found = []
    for n, table in enumerate((whole, shuffled, whole.slice(300))):
        job = Job(out=str(tmp_path / str(n)), kind="trunk", parent=None, blend_events=200, gate_events=200, steps_max=2)
        Path(job.out).mkdir()
        run(job, Inputs(table, None, contents))
        found.append((tmp_path / str(n) / LINEAR_FILE).read_bytes())
    assert found[0] == found[1]
    assert found[0] != found[2]


def test_a_parent_of_before_there_were_more_sources_is_gone_on_from(tmp_path: Path) -> None:
    """Its version has no linear weights, and its blends name five sources."""
    old = ("neural", "neighbours", "similar", "popular", "recent")
    with site(tmp_path / "data") as service:
        train(service, tmp_path / "one", steps=10)
        (tmp_path / "one" / LINEAR_FILE).unlink()
        (tmp_path / "one" / BLEND_FILE).write_text(Blend(old, np.array([1.0, 0.5, 0.5, 0.1, 0.1])).to_json())
        (tmp_path / "one" / COUNTING_FILE).write_text(Blend(old[1:], np.array([0.5, 0.5, 0.1, 0.1])).to_json())
        files = {name: (tmp_path / "one" / name).read_bytes() for name in (MODEL_FILE, BLEND_FILE, COUNTING_FILE)}
        service.registry.put(Version("g1-1", 1, None, NOW_MS, 1, {}), files)
        loaded = service.load("g1-1")
        service.build(loaded, now_ms=NOW_MS)
        service.promote(service.registry.version("g1-1"), loaded)
        answer = service.lookup.recommend("u1", now_ms=NOW_MS)
        assert answer.items and all(set(item.sources) == set(old) for item in answer.items)
        report = train(service, tmp_path / "two", kind="head")
    assert {"weight_linear", "weight_sessions"} <= set(report.numbers)
    assert Blend.from_json((tmp_path / "two" / BLEND_FILE).read_text()).sources == SOURCES
    assert Blend.from_json((tmp_path / "two" / COUNTING_FILE).read_text()).sources == SOURCES[1:]


def test_a_head_moves_no_item_vector(tmp_path: Path) -> None:
    with site(tmp_path / "data") as service:
        train(service, tmp_path / "trunk")
        loaded = promote(service, tmp_path / "trunk", "g1-1")
        train(service, tmp_path / "head", kind="head")
        tuned = Model.from_bytes((tmp_path / "head" / MODEL_FILE).read_bytes())
        assert tuned.trunk_digest() == loaded.model.trunk_digest()
        assert any(
            not np.array_equal(a.detach(), b.detach()) for a, b in zip(tuned.head.parameters(), loaded.model.head.parameters(), strict=True)
        )


def test_the_windows_follow_the_training_events_and_do_not_overlap(tmp_path: Path) -> None:
    with site(tmp_path / "data") as service:
        service.engine.flush_archive()
        cut = cut_archive(_job(tmp_path), read_for_training(service.engine.archive).table())
    numbers = [table.column("number").to_numpy() for table in (cut.training, cut.gate, cut.blend)]
    assert max(numbers[0]) < min(numbers[1])
    assert max(numbers[1]) < min(numbers[2])
    assert cut.learned_to == max(numbers[0])


def test_a_window_that_is_one_pack_is_the_gates(tmp_path: Path) -> None:
    numbers = [*range(300), *[300] * 100]
    cut = cut_archive(_job(tmp_path), pa.table({"number": numbers}))
    assert (cut.training.num_rows, cut.gate.num_rows, cut.blend.num_rows) == (300, 100, 0)
    apart = cut_archive(_job(tmp_path), pa.table({"number": [*range(300), *[300] * 50, *[350] * 50]}))
    assert (apart.training.num_rows, apart.gate.num_rows, apart.blend.num_rows) == (300, 50, 50)


@pytest.mark.parametrize(("rows", "window"), [(1_000, 125), (2_400, 240), (10_000, 1_000), (1_000_000, GATE_WINDOW_MAX)])
def test_the_gates_window_grows_with_the_archive_up_to_a_bound(tmp_path: Path, rows: int, window: int) -> None:
    """It asks the same number of questions then, of more people."""
    cut = cut_archive(_job(tmp_path), pa.table({"number": np.arange(rows)}))
    blend = 200 if rows > 1_000 else 125
    assert (cut.gate.num_rows, cut.blend.num_rows) == (window, blend), "a quarter of the archive at most, for both"
    assert cut.training.num_rows == rows - window - blend


def test_too_small_an_archive_is_refused_with_the_number_it_has(tmp_path: Path) -> None:
    with site(tmp_path / "data") as service:
        assert service.engine.applied_number > 1
        with pytest.raises(ValueError, match="at least 300 are needed"):
            run(_job(tmp_path), Inputs(read_for_training(service.engine.archive, below=1).table(), None, {}))


def test_rows_of_many_partitions_become_one_stream_that_is_always_the_same() -> None:
    rows = [(5, 1, 7, 0, 200), (6, 1, 8, 0, 300), (6, 1, 8, 1, 300), (0, 0, 0, 0, 250), (1, 0, 1, 0, 300)]
    names = ("number", "partition", "offset", "index", "append_ms")
    blank = dict.fromkeys(ARCHIVE_SCHEMA.names)
    tables = [
        pa.Table.from_pylist([{**blank, **dict(zip(names, row, strict=True))} for row in order], ARCHIVE_SCHEMA)
        for order in (rows, rows[3:] + rows[:3])
    ]
    first, second = (one_stream(table) for table in tables)
    assert first.equals(second)
    assert first.schema.equals(ARCHIVE_SCHEMA)
    found = [tuple(row[name] for name in ("append_ms", "number", "offset", "partition", "index")) for row in first.to_pylist()]
    assert found == [(200, 0, 0, 0, 0), (250, 1, 1, 0, 0), (300, 2, 2, 0, 0), (300, 3, 3, 0, 0), (300, 3, 3, 0, 1)]


def _job(tmp_path: Path) -> Job:
    return Job(out=str(tmp_path), kind="trunk", parent=None, blend_events=200, gate_events=200)
