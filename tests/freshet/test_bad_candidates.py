"""Candidates that must not go live, and full disks: refused in words, the live version answers on, and the next training works.

A program in the child's place leaves what each case needs; the registry, the vectors and the service are the real ones.
"""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from encoders.model import FORMAT, MAGIC, Model
from freshet.learning.job import Outcome, Report
from freshet.learning.training import Plan, Training
from freshet.service import Service
from freshet.version_files import BLEND_FILE, MODEL_FILE, REPORT_FILE
from storage.files import DiskFull
from tests.freshet.sites import NOW_MS, site, train
from tests.freshet.stand_in import Leaving
from tests.full_disk import files_end_at
from trainers.cadence import Cadence

FULL = 20_000
"""Bytes: no model fits, records do."""
POLLS_MAX = 600


@dataclass
class Stand:
    """A service with a live version, its trainings, and the files that the next child leaves."""

    service: Service
    training: Training
    left: Leaving

    def trained(self, kind: str) -> Outcome:
        self.training.start(now_ms=NOW_MS, events=0, kind=kind)
        return self.ended()

    def ended(self) -> Outcome:
        for _ in range(POLLS_MAX):
            outcome = self.polled()
            if outcome is not None:
                return outcome
        raise AssertionError("the training did not end")

    def polled(self) -> Outcome | None:
        self.training.wait(5.0)
        return self.training.poll(now_ms=NOW_MS, events=0)

    def check_live(self, name: str) -> None:
        """It answers here, and would after a restart; nothing else is stored."""
        answer = self.service.lookup.recommend("u1", k=3, now_ms=NOW_MS)
        assert (answer.model, len(answer.items)) == (name, 3)
        record = self.service.registry.live()
        assert record is not None and record.version == name
        assert self.service.load(name).model.same_trunk(self.service.current.model)  # type: ignore[union-attr]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a real training of the small world leaves, and the gate would promote."""
    folder = tmp_path_factory.mktemp("whole")
    with site(folder / "data") as service:
        train(service, folder / "out", steps=10)
    report = msgspec.json.decode((folder / "out" / REPORT_FILE).read_bytes(), type=Report)
    promoted = msgspec.structs.replace(report, promote=True, reason="better")
    (folder / "out" / REPORT_FILE).write_bytes(msgspec.json.encode(promoted))
    return folder / "out"


@pytest.fixture
def stand(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stand]:
    with site(tmp_path / "data") as service:
        cadence = Cadence(500, 10_000, 1_000)
        made = Stand(service, Training(service, Plan(4, seconds_max=1.0), cadence=cadence), Leaving(whole, tmp_path / "left", monkeypatch))
        assert made.trained("trunk").promoted
        made.check_live("g1-1")
        yield made


def of_format(blob: bytes, number: int) -> bytes:
    """The same model under another format's number, its checksum in order."""
    rest = blob[len(MAGIC) + 32 :].replace(f'"format": {FORMAT}'.encode(), f'"format": {number}'.encode(), 1)
    return MAGIC + hashlib.sha256(rest).digest() + rest


def flipped(blob: bytes, place: float) -> bytes:
    at = min(len(blob) - 1, int(place * len(blob)))
    return blob[:at] + bytes([blob[at] ^ 1]) + blob[at + 1 :]


def infinite(blob: bytes) -> bytes:
    model = Model.from_bytes(blob)
    with torch.no_grad():
        model.tower.ids.weight[2, 0] = torch.inf
    return model.to_bytes()


HARMS = {
    "an older format": (lambda blob: of_format(blob, FORMAT - 1), f"has format {FORMAT - 1}, this version reads format {FORMAT}"),
    "a flipped byte at the start": (lambda blob: flipped(blob, 0.0), "not a model"),
    "a flipped byte in the checksum": (lambda blob: flipped(blob, 12 / len(blob)), "altered or cut off"),
    "a flipped byte in the middle": (lambda blob: flipped(blob, 0.5), "altered or cut off"),
    "a flipped byte at the end": (lambda blob: flipped(blob, 1.0), "altered or cut off"),
    "half of it": (lambda blob: blob[: len(blob) // 2], "altered or cut off"),
    "nothing": (lambda _: b"", "not a model"),
    "weights that are not finite": (infinite, "holds numbers that are not finite"),
}


@pytest.mark.parametrize("kind", ["trunk", "head"])
@pytest.mark.parametrize("harm", HARMS)
def test_a_candidate_that_is_no_whole_model_is_refused_and_not_stored(stand: Stand, kind: str, harm: str) -> None:
    change, words = HARMS[harm]
    stand.left.change(MODEL_FILE, change)
    outcome = stand.trained(kind)
    assert not outcome.promoted
    assert outcome.reason.startswith("failed: ") and words in outcome.reason
    assert [version.name for version in stand.service.registry.versions()] == ["g1-1"]
    assert stand.service.folder.generations() == [1], "no collection is left of it"
    stand.check_live("g1-1")
    stand.left.mend()
    assert stand.trained(kind).promoted, "and the next one works"


def test_a_head_on_another_trunk_than_its_generations_is_refused_and_not_stored(stand: Stand) -> None:
    """Its user vectors would be compared with item vectors that another trunk made."""
    stand.left.change(MODEL_FILE, lambda blob: other_trunk(Model.from_bytes(blob)).to_bytes())
    outcome = stand.trained("head")
    assert not outcome.promoted
    assert outcome.reason.startswith("failed: g1-2 claims generation 1, but its trunk is not that of g1-1")
    assert [version.name for version in stand.service.registry.versions()] == ["g1-1"]
    stand.check_live("g1-1")
    assert stand.trained("trunk").promoted, "in a generation of its own it may go live"
    stand.check_live("g2-3")


def other_trunk(model: Model) -> Model:
    return Model.new(model.config, model.ids, seed=99)


@pytest.mark.parametrize(
    ("kind", "words"),
    [("head", r"no room to write .*g1-2: .*free some space and try again"), ("trunk", "vector engine failed on .*items-g2")],
)
def test_a_disk_that_is_full_while_the_version_is_stored_leaves_no_trace_of_it(stand: Stand, kind: str, words: str) -> None:
    stand.training.start(now_ms=NOW_MS, events=0, kind=kind)
    stand.training.wait(5.0)
    with files_end_at(FULL):
        outcome = stand.training.poll(now_ms=NOW_MS, events=0)
    assert outcome is not None and not outcome.promoted
    assert outcome.reason.startswith("failed: ") and re.search(words, outcome.reason)
    assert [version.name for version in stand.service.registry.versions()] == ["g1-1"]
    versions = stand.service.engine.settings.data / "models" / "versions"
    assert [path.name for path in versions.iterdir()] == ["g1-1"], "nothing half-written stands aside"
    assert stand.service.folder.generations() == [1]
    stand.check_live("g1-1")
    assert stand.trained(kind).promoted


def test_a_disk_that_is_full_at_the_flip_is_tried_again_and_the_live_version_answers_meanwhile(stand: Stand) -> None:
    stand.training.start(now_ms=NOW_MS, events=0, kind="trunk")
    assert stand.polled() is None, "its vectors are written, the flip comes next"
    with files_end_at(100):
        for _ in range(2):
            with pytest.raises(DiskFull, match=r"live\.json"):
                stand.polled()
            stand.check_live("g1-1")
    outcome = stand.polled()
    assert outcome is not None and outcome.promoted
    stand.check_live("g2-2")
    assert [decision["version"] for decision in stand.service.registry.decisions()] == ["g1-1", "g2-2"]


def test_a_decision_that_finds_no_room_is_recorded_once_there_is_some(stand: Stand) -> None:
    stand.left.refused()
    stand.training.start(now_ms=NOW_MS, events=0, kind="head")
    stand.training.wait(5.0)
    with files_end_at(100), pytest.raises(DiskFull, match=r"decisions\.jsonl"):
        stand.training.poll(now_ms=NOW_MS, events=0)
    assert stand.training.busy, "no other one begins before this one is on record"
    outcome = stand.training.poll(now_ms=NOW_MS + 9, events=9)
    assert outcome is not None and not outcome.promoted and outcome.at_ms == NOW_MS
    assert [decision["version"] for decision in stand.service.registry.decisions()] == ["g1-1", "g1-2"]
    stand.check_live("g1-1")


def test_a_training_that_cannot_be_started_is_a_failed_one(stand: Stand) -> None:
    with files_end_at(100):
        stand.training.start(now_ms=NOW_MS, events=0, kind="head")
    outcome = stand.training.poll(now_ms=NOW_MS, events=0)
    assert outcome is not None and not outcome.promoted
    assert outcome.reason.startswith("failed: the training process could not be started: [Errno 28] no room to write ")
    assert list((stand.service.engine.settings.data / "training").iterdir()) == []
    stand.check_live("g1-1")
    assert stand.trained("head").promoted


@pytest.mark.parametrize("file", [MODEL_FILE, BLEND_FILE])
def test_a_version_altered_between_its_storing_and_its_flip_is_refused(stand: Stand, file: str) -> None:
    stand.training.start(now_ms=NOW_MS, events=0, kind="trunk")
    assert stand.polled() is None
    path = stand.service.engine.settings.data / "models" / "versions" / "g2-2" / file
    path.write_bytes(flipped(path.read_bytes(), 0.7))
    outcome = stand.polled()
    assert outcome is not None and not outcome.promoted
    assert outcome.reason.startswith("failed: ") and file in outcome.reason and "use another version" in outcome.reason
    stand.check_live("g1-1")
    assert stand.service.folder.generations() == [1]
    assert stand.trained("trunk").promoted


def test_item_vectors_that_are_not_finite_end_a_training_and_not_the_server(stand: Stand) -> None:
    """Finite weights can still overflow: the collection refuses the vectors, the live one answers."""

    def huge(blob: bytes) -> bytes:
        model = Model.from_bytes(blob)
        with torch.no_grad():
            model.tower.ids.weight[1:] = float(np.finfo(np.float32).max)
        return model.to_bytes()

    stand.left.change(MODEL_FILE, huge)
    outcome = stand.trained("trunk")
    assert not outcome.promoted
    assert outcome.reason.startswith("failed: ") and "NaN or infinity" in outcome.reason
    stand.check_live("g1-1")
    assert stand.service.folder.generations() == [1]
