"""Trainings beside the server: when one starts, what becomes of it, and that nothing of a bad one is ever used.

The child is the real one where its work matters; elsewhere a stand-in program leaves the files that a real training left.
"""

import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest
import torch

from encoders.model import Model
from freshet.learning.job import Job, Outcome, Report
from freshet.learning.training import Plan, Training
from freshet.service import BUILD_ITEMS, Service
from freshet.version_files import BLEND_FILE, COUNTING_FILE, LINEAR_FILE, MODEL_FILE, OPTIMISER_FILE, REPORT_FILE
from freshet.world.events import WorldConfig
from serving.shadow import STOOD_MS, Shadow
from stream.events import Entity
from tests.freshet.sites import NOW_MS, site, train
from trainers.cadence import Cadence

POLLS_MAX = 600
EVERY = Cadence(500, 10_000, 1_000)
LESS_THAN_TAUGHT = WorldConfig(seed=1, users=20, items=30, events=120, poison=0)


def training_of(service: Service, *, trunk_every: int = 2, cadence: Cadence = EVERY) -> Training:
    return Training(service, Plan(trunk_every, seconds_max=1.0), cadence=cadence)


def busy(training: Training) -> bool:
    """Asked anew each time: a checker of types takes a property for unchanging."""
    return training.busy


def ended(training: Training, *, now_ms: int = NOW_MS, events: int = 0) -> Outcome:
    """Poll as the server does until the training has ended."""
    for _ in range(POLLS_MAX):
        outcome = training.poll(now_ms=now_ms, events=events)
        if outcome is not None:
            return outcome
        training.wait(0.2)
    raise AssertionError("the training did not end")


@dataclass
class StandIn:
    """A program in the interpreter's place: it does what a child would do to the folder of its job."""

    folder: Path
    monkeypatch: pytest.MonkeyPatch

    def says(self, shell: str) -> None:
        """Have children run these lines; $out is the job's folder, $whole that of a real training's files."""
        program = self.folder / "stand-in"
        program.write_text(f'#!/bin/sh\nout="$(dirname "$3")"\nwhole="{self.folder}"\n{shell}\n')
        program.chmod(0o755)
        self.monkeypatch.setattr(sys, "executable", str(program))

    def report(self, *, promote: bool, reason: str) -> None:
        """Have children leave a whole training with this decision."""
        made = msgspec.json.decode((self.folder / REPORT_FILE).read_bytes(), type=Report)
        told = msgspec.structs.replace(made, promote=promote, reason=reason, numbers={"gain": 0.5})
        (self.folder / "told.json").write_bytes(msgspec.json.encode(told))
        names = " ".join(f'"$whole/{name}"' for name in (MODEL_FILE, BLEND_FILE, COUNTING_FILE, OPTIMISER_FILE, LINEAR_FILE))
        self.says(f'cp {names} "$out" && cp "$whole/told.json" "$out/{REPORT_FILE}"')


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a real training of the small world leaves."""
    folder = tmp_path_factory.mktemp("whole")
    with site(folder / "data") as service:
        train(service, folder / "out", steps=20)
    return folder / "out"


@pytest.fixture
def stand_in(whole: Path, monkeypatch: pytest.MonkeyPatch) -> StandIn:
    return StandIn(whole, monkeypatch)


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    with site(tmp_path / "data") as opened:
        yield opened


def test_a_real_child_trains_from_the_folder_that_is_being_served(service: Service) -> None:
    """Whichever way the gate decides, it is told with its numbers, recorded, and nothing is left lying about."""
    training = training_of(service)
    assert training.poll(now_ms=NOW_MS, events=499) is None
    assert not busy(training), "not enough events yet"
    training.poll(now_ms=NOW_MS, events=500)
    assert busy(training)
    outcome = ended(training, events=500)
    assert (outcome.version, outcome.kind, outcome.events) == ("g1-1", "trunk", 500)
    assert not outcome.reason.startswith("failed"), outcome.reason
    assert {"cases", "candidate", "live", "weight_neural"} <= set(outcome.numbers)
    assert service.registry.decisions() == [msgspec.to_builtins(outcome)]
    assert (service.current is not None) == outcome.promoted
    assert not list((service.engine.settings.data / "training").iterdir())
    assert not busy(training)


def test_a_real_child_with_too_little_to_learn_from_fails_in_words_and_changes_nothing(tmp_path: Path) -> None:
    with site(tmp_path / "data", LESS_THAN_TAUGHT) as service:
        training = training_of(service)
        training.start(now_ms=NOW_MS, events=0)
        outcome = ended(training)
        assert not outcome.promoted
        assert outcome.reason.startswith("failed: ")
        assert "at least 300 are needed to train" in outcome.reason
        assert [decision["reason"] for decision in service.registry.decisions()] == [outcome.reason]
        assert service.current is None
        assert service.registry.versions() == []
        assert service.lookup.recommend("u1", k=3, now_ms=NOW_MS).items, "look-ups go on"


def test_a_device_that_is_not_there_fails_a_training_in_words_and_changes_nothing(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # the child's, wherever this runs
    training = Training(service, Plan(2, seconds_max=1.0, device="cuda", precision="bfloat16"), cadence=EVERY)
    training.start(now_ms=NOW_MS, events=0)
    job = msgspec.json.decode((service.engine.settings.data / "training" / "1" / "job.json").read_bytes(), type=Job)
    assert (job.device, job.precision) == ("cuda", "bfloat16")
    outcome = ended(training)
    assert outcome.reason.startswith("failed: ") and "FRESHET_TRAIN_DEVICE is cuda, but torch" in outcome.reason
    assert service.current is None and service.lookup.recommend("u1", k=3, now_ms=NOW_MS).items, "look-ups go on"


def test_what_the_gate_refuses_is_recorded_and_not_stored(service: Service, stand_in: StandIn) -> None:
    stand_in.report(promote=False, reason="worse: gain -0.1")
    training = training_of(service)
    training.start(now_ms=NOW_MS, events=700)
    outcome = ended(training, now_ms=NOW_MS + 5, events=710)
    assert outcome == Outcome("g1-1", "trunk", False, "worse: gain -0.1", {"gain": 0.5}, NOW_MS + 5, 710)
    assert service.registry.decisions() == [msgspec.to_builtins(outcome)]
    assert service.registry.versions() == []
    assert service.current is None
    assert service.folder.generations() == []


def test_a_promoted_trunk_is_live_then_heads_follow_until_the_next_trunk(service: Service, stand_in: StandIn) -> None:
    stand_in.report(promote=True, reason="better: gain +0.5")
    training = training_of(service, trunk_every=3)
    told = []
    for n in range(4):
        training.start(now_ms=NOW_MS + n, events=n)
        told.append(ended(training, now_ms=NOW_MS + n, events=n))
    assert [(one.version, one.kind) for one in told] == [("g1-1", "trunk"), ("g1-2", "head"), ("g1-3", "head"), ("g2-4", "trunk")]
    assert all(one.promoted for one in told)
    assert [decision["version"] for decision in service.registry.decisions()] == [one.version for one in told]
    parents = {version.name: version.parent for version in service.registry.versions()}
    assert parents == {"g1-1": None, "g1-2": "g1-1", "g1-3": "g1-2", "g2-4": "g1-3"}
    answer = service.lookup.recommend("u1", k=3, now_ms=NOW_MS)
    assert (answer.model, answer.generation) == ("g2-4", 2)


def test_the_cadence_counts_from_the_last_start(service: Service, stand_in: StandIn) -> None:
    stand_in.report(promote=False, reason="worse")
    training = training_of(service)
    training.poll(now_ms=NOW_MS, events=600)
    ended(training, events=600)
    assert training.poll(now_ms=NOW_MS + 999, events=5000) is None
    assert not busy(training), "too soon after the last"
    training.poll(now_ms=NOW_MS + 1_000, events=1099)
    assert not busy(training), "499 new events"
    training.poll(now_ms=NOW_MS + 1_000, events=1100)
    assert busy(training)
    training.cancel()


def test_a_new_generation_is_built_in_steps_and_only_then_answers(service: Service, stand_in: StandIn) -> None:
    more = 2 * BUILD_ITEMS
    born = [Entity(kind="item", id=f"more{n}", title=f"one more, number {n}") for n in range(more)]
    service.engine.append_entities([msgspec.json.encode(entity) for entity in born], now_ms=NOW_MS)
    service.step(now_ms=NOW_MS)
    stand_in.report(promote=True, reason="better")
    training = training_of(service)
    training.start(now_ms=NOW_MS, events=0)
    steps = 0
    while busy(training):
        training.wait(5)
        if training.poll(now_ms=NOW_MS, events=0) is not None:
            break
        assert service.current is None
        assert service.registry.live() is None
        assert service.lookup.recommend("u1", k=3, now_ms=NOW_MS).model is None
        if steps == 1:  # born while the generation is being built: it must not be forgotten
            late = Entity(kind="item", id="late", title="born late")
            service.engine.append_entities([msgspec.json.encode(late)], now_ms=NOW_MS)
            service.step(now_ms=NOW_MS)
        steps += 1
    assert steps >= 3
    assert service.current is not None
    _, found = service.current.live.vectors.get(service.view.catalogue.ids)
    assert found.all()


@pytest.mark.parametrize(
    ("shell", "words"),
    [
        ('echo "something broke" >&2; exit 3', "failed: the training process ended with 3: something broke"),
        (
            'echo "ValueError: too little" >&2; echo terminated >&2; exit 134',
            "failed: the training process ended with 134: ValueError: too little",
        ),
        ("exit 0", "failed: the training process ended with 0: it said nothing"),
        ("kill -9 $$", "failed: the training process ended with -9: it said nothing"),
    ],
)
def test_a_child_that_fails_is_told_and_the_live_model_stays(service: Service, stand_in: StandIn, shell: str, words: str) -> None:
    stand_in.report(promote=True, reason="better")
    training = training_of(service)
    training.start(now_ms=NOW_MS, events=0)
    ended(training)
    before = service.current
    stand_in.says(shell)
    training.start(now_ms=NOW_MS, events=0)
    outcome = ended(training)
    assert (outcome.promoted, outcome.reason) == (False, words)
    assert service.current is before
    assert [version.name for version in service.registry.versions()] == ["g1-1"]
    assert [decision["promoted"] for decision in service.registry.decisions()] == [True, False]


@pytest.mark.parametrize("name", [MODEL_FILE, BLEND_FILE, REPORT_FILE])
def test_a_candidate_whose_files_are_broken_is_a_failed_training(service: Service, stand_in: StandIn, name: str) -> None:
    stand_in.report(promote=True, reason="better")
    program = Path(sys.executable)
    program.write_text(program.read_text() + f'\nprintf nonsense > "$out/{name}"\n')
    training = training_of(service)
    training.start(now_ms=NOW_MS, events=0)
    outcome = ended(training)
    assert not outcome.promoted
    assert outcome.reason.startswith("failed: ")
    assert service.current is None
    assert service.registry.live() is None
    assert service.registry.versions() == [], "what cannot be loaded is not stored"


def test_failures_leave_no_folders_behind(service: Service, stand_in: StandIn) -> None:
    stand_in.says("exit 1")
    training = training_of(service)
    for _ in range(3):
        training.start(now_ms=NOW_MS, events=0)
        ended(training)
    assert not list((service.engine.settings.data / "training").iterdir())


def test_cancel_ends_the_child_and_uses_nothing_of_it(service: Service, stand_in: StandIn) -> None:
    stand_in.says('echo $$ > "$whole/pid"; exec cat /dev/zero > /dev/null')
    training = training_of(service)
    training.start(now_ms=NOW_MS, events=0)
    training.wait(0.2)
    assert busy(training)
    training.cancel()
    assert not busy(training)
    assert training.poll(now_ms=NOW_MS, events=0) is None
    assert not (service.engine.settings.data / "training").exists()
    assert service.registry.decisions() == []


def test_what_a_killed_server_left_is_swept(service: Service) -> None:
    left = service.engine.settings.data / "training" / "7"
    left.mkdir(parents=True)
    (left / REPORT_FILE).write_text("{}")
    training_of(service)
    assert not left.parent.exists()


def test_the_job_names_everything_the_child_needs(service: Service, stand_in: StandIn) -> None:
    stand_in.says('cp "$3" "$whole/job.json"; exit 1')
    training = training_of(service)
    training.start(now_ms=NOW_MS, events=0)
    ended(training)
    job = msgspec.json.decode((stand_in.folder / "job.json").read_bytes(), type=Job)
    assert Path(job.data or "").is_absolute()
    assert Path(job.out).is_absolute()
    assert (job.kind, job.parent, job.below) == ("trunk", None, service.engine.applied_number)
    assert service.engine.archive_lag == 0, "all that is to be learned from is in the archive"


def test_a_candidate_stands_in_shadow_before_it_goes_live(service: Service, stand_in: StandIn) -> None:
    shadow = Shadow(service.lookup, lambda: NOW_MS, share=1.0)
    training = Training(service, Plan(2, seconds_max=1.0), cadence=EVERY, shadow=shadow)
    stand_in.report(promote=True, reason="better: made up")
    training.start(now_ms=NOW_MS, events=0)
    outcome, asked, now_ms = None, 0, NOW_MS
    while outcome is None:
        outcome = training.poll(now_ms=now_ms, events=0)
        if outcome is None:
            assert service.current is None, "nothing is live before it has stood"
            training.wait(0.2)
            if asked < 5 and shadow_has_begun(shadow):
                shadow.note("u1", 10)
                asked += 1
            now_ms += 100 * shadow_has_begun(shadow)
    assert outcome.promoted and outcome.numbers["shadow_lookups"] == 5 and 0 <= outcome.numbers["shadow_overlap"] <= 1
    recorded = service.registry.decisions()[-1]["numbers"]
    assert isinstance(recorded, dict) and recorded["shadow_failed"] == 0
    assert now_ms - NOW_MS >= STOOD_MS, "few were asked: the time ends it"


def shadow_has_begun(shadow: Shadow) -> bool:
    return shadow.candidate is not None


def test_a_candidate_that_fails_in_shadow_is_refused_with_the_numbers(service: Service, stand_in: StandIn) -> None:
    shadow = Shadow(service.lookup, lambda: NOW_MS, share=1.0)
    training = Training(service, Plan(2, seconds_max=1.0), cadence=EVERY, shadow=shadow)
    stand_in.report(promote=True, reason="better: made up")
    training.start(now_ms=NOW_MS, events=0)
    outcome, now_ms = None, NOW_MS
    while outcome is None:
        outcome = training.poll(now_ms=now_ms, events=0)
        training.wait(0.2)
        if shadow.candidate is not None:
            assert isinstance(shadow.candidate.model, Model)
            with torch.no_grad():
                shadow.candidate.model.train().head.residual.outer.bias.fill_(float("nan"))
            shadow.candidate.model.eval()
            shadow.note("u1", 10)
            now_ms += 1000
    assert not outcome.promoted and outcome.reason.startswith("failed in shadow") and outcome.numbers["shadow_failed"] > 0
    assert service.current is None and service.registry.decisions()[-1]["promoted"] is False


def test_a_trunk_whose_vectors_are_not_finite_is_refused_and_ends_nothing(
    service: Service, stand_in: StandIn, tmp_path: Path, whole: Path
) -> None:
    model = Model.from_bytes((whole / MODEL_FILE).read_bytes())
    with torch.no_grad():
        for parameter in model.tower.parameters():
            parameter.fill_(float("nan"))
    stand_in.folder = tmp_path / "broken"
    shutil.copytree(whole, stand_in.folder)
    (stand_in.folder / MODEL_FILE).write_bytes(model.to_bytes())
    stand_in.report(promote=True, reason="better: made up")
    training = training_of(service)
    training.start(now_ms=NOW_MS, events=0)
    outcome = ended(training)
    assert not outcome.promoted and outcome.reason.startswith("failed: ") and "not finite" in outcome.reason
    assert service.current is None and not busy(training)
