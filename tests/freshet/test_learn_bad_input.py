"""A training from an archive that teaches little or nothing: it says so, promotes nothing, and what is live answers on."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec
import numpy as np
import pytest

from encoders.model import Model
from freshet.engine import Engine
from freshet.learning.job import Report
from freshet.service import Service
from freshet.settings import Settings
from freshet.version_files import MODEL_FILE, REPORT_FILE
from storage.files import DiskFull
from storage.log import Entry
from stream.events import Entity, Event
from stream.ingest import EVENTS
from stream.producer import Producer
from tests.freshet.sites import NOW_MS, promote, site, train
from tests.full_disk import files_end_at

BEGIN_MS = 1_700_000_000_000
COUNT = 600


@contextmanager
def served(folder: Path, events: Sequence[Event], entities: Sequence[Entity] = ()) -> Iterator[Service]:
    """A service over these and nothing else, all of it applied and archived."""
    with Engine(Settings(data=folder)) as engine:
        service = Service(engine)
        try:
            if entities:
                engine.append_entities([msgspec.json.encode(entity) for entity in entities], now_ms=NOW_MS)

            def append(entries: list[Entry]) -> object:
                return engine.log.append(EVENTS, entries, now_ms=NOW_MS)

            producer = Producer(append)  # type: ignore[arg-type]  # the positions are not looked at
            for event in events:
                producer.send(event)
            producer.flush()
            engine.drain(now_ms=NOW_MS)
            engine.flush_archive()
            yield service
        finally:
            service.close()


def acts(*, users: int, items: int, begin_ms: int = BEGIN_MS, gap_ms: int = 1000, action: str = "like") -> list[Event]:
    random = np.random.default_rng(0)
    pairs = zip(random.integers(users, size=COUNT).tolist(), random.integers(items, size=COUNT).tolist(), strict=True)
    return [
        Event(user_id=f"u{user}", item_id=f"i{item}", action=action, ts_ms=begin_ms + gap_ms * n) for n, (user, item) in enumerate(pairs)
    ]


@pytest.mark.parametrize(
    ("events", "words"),
    [
        ([], "the archive holds 0 events; at least 300 are needed to train"),
        (acts(users=20, items=20, action="hide"), r"none of the \d+ oldest events is a liking; at least one is needed"),
    ],
    ids=["nothing", "dislikes alone"],
)
def test_an_archive_without_anything_to_learn_is_refused_in_words(tmp_path: Path, events: list[Event], words: str) -> None:
    with served(tmp_path / "data", events) as service:
        with pytest.raises(ValueError, match=words):
            train(service, tmp_path / "out")
        assert list((tmp_path / "out").iterdir()) == [], "nothing half-written"
        assert service.lookup.recommend("u1", now_ms=NOW_MS).model is None, "look-ups go on"


@pytest.mark.parametrize(("users", "items"), [(1, 100), (100, 1), (1, 1)], ids=["one user", "one item", "one of each"])
def test_an_archive_of_one_user_or_one_item_is_too_little_evidence(tmp_path: Path, users: int, items: int) -> None:
    """Also for a head, on a trunk that was put live by hand; items have no text, nobody ever described one."""
    with served(tmp_path / "data", acts(users=users, items=items)) as service:
        trunk = train(service, tmp_path / "trunk", steps=3)
        promote(service, tmp_path / "trunk", "g1-1")
        head = train(service, tmp_path / "head", kind="head")
        for report in (trunk, head):
            assert not report.promote and report.reason.startswith("too little evidence: ")
        assert Model.from_bytes((tmp_path / "head" / MODEL_FILE).read_bytes()).same_trunk(service.current.model)  # type: ignore[union-attr]
        answer = service.lookup.recommend("somebody new", k=3, now_ms=NOW_MS)
        assert answer.model == "g1-1" and 1 <= len(answer.items) <= 3


@pytest.mark.parametrize("begin_ms", [0, BEGIN_MS])
def test_an_archive_of_one_moment_is_judged_as_any_other(tmp_path: Path, begin_ms: int) -> None:
    with served(tmp_path / "data", acts(users=40, items=60, begin_ms=begin_ms, gap_ms=0)) as service:
        for n, kind in enumerate(("trunk", "head")):
            report = train(service, tmp_path / kind, kind=kind, steps=3)
            assert {"cases", "candidate", "live"} <= set(report.numbers) and np.isfinite(list(report.numbers.values())).all()
            loaded = promote(service, tmp_path / kind, f"g1-{n + 1}")
            vectors, found = loaded.live.vectors.get(service.view.catalogue.ids)
            assert found.all() and np.isfinite(vectors).all()
            answer = service.lookup.recommend("u1", k=3, now_ms=NOW_MS)
            assert answer.model == f"g1-{n + 1}" and len(answer.items) == 3


def test_an_item_whose_picture_is_no_number_is_a_dead_letter_and_the_rest_is_learned(tmp_path: Path) -> None:
    """Of what can be written, JSON has no NaN; and no tower looks at pictures yet."""
    described = [Entity(kind="item", id=f"i{n}", title=f"item {n}", image=[1e308] * 4) for n in range(30)]
    with served(tmp_path / "data", acts(users=40, items=60), described) as service:
        service.engine.append_entities([b'{"kind":"item","id":"i31","title":"broken","image":[NaN]}'], now_ms=NOW_MS)
        service.engine.drain(now_ms=NOW_MS)
        assert "broken" not in {service.view.catalogue.content(row).title for row in range(len(service.view.catalogue))}
        train(service, tmp_path / "out", steps=3)
        loaded = promote(service, tmp_path / "out", "g1-1")
        vectors, found = loaded.live.vectors.get(service.view.catalogue.ids)
        assert found.all() and np.isfinite(vectors).all()


def test_a_disk_that_is_full_under_a_training_leaves_no_report_of_it(tmp_path: Path) -> None:
    """The report is what says that the rest is whole."""
    with site(tmp_path / "data") as service:
        with files_end_at(20_000), pytest.raises(DiskFull, match=rf"no room to write .*{MODEL_FILE}"):
            train(service, tmp_path / "out", steps=2)
        assert not (tmp_path / "out" / REPORT_FILE).exists() and not (tmp_path / "out" / MODEL_FILE).exists()
        report = train(service, tmp_path / "again", steps=2)
        assert msgspec.json.decode((tmp_path / "again" / REPORT_FILE).read_bytes(), type=Report) == report
