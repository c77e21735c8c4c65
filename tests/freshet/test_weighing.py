"""The live version's weights follow what is taken, survive a restart, and are what a candidate is compared with."""

from pathlib import Path

import msgspec
import numpy as np
import pytest

from encoders.blend import Blend
from freshet.learning.job import HEAD, Job
from freshet.learning.weighing import Weighing
from freshet.server import status
from freshet.service import Service
from freshet.version_files import BLEND_FILE
from serving.sources import SOURCES
from storage.learned import Learned, LearnedFile
from tests.freshet.sites import NOW_MS, promote, site, train
from tests.freshet.test_asking import a_user, fresh_like, publish, watched
from tests.freshet.test_training import training_of
from trainers.cadence import Cadence


def weights_of(service: Service) -> list[float]:
    assert service.current is not None
    weights: list[float] = service.current.live.blend.over(SOURCES).weights.tolist()
    return weights


def lean(weighing: Weighing, service: Service, questions: int = 20) -> None:
    """Learn that what is taken is what is popular."""
    generator = np.random.default_rng(0)
    for n in range(questions):
        features = generator.normal(size=(30, len(SOURCES)))
        weighing.learn(features, int(features[:, SOURCES.index("popular")].argmax()), asker=f"u{n}")


def test_a_look_up_after_a_question_answers_by_the_new_weights(tmp_path: Path) -> None:
    with site(tmp_path / "data") as service:
        train(service, tmp_path / "one")
        promote(service, tmp_path / "one", "g1-1")
        fitted, asking, user = weights_of(service), watched(service), a_user(service)
        publish(service, fresh_like(service, 1, user))
        assert weights_of(service) != fitted and asking.weighing.cases == 1
        answer = service.lookup.recommend(user, k=1, now_ms=NOW_MS + 5)
        current = service.current
        assert current is not None
        ranking = service.lookup.rank(service.lookup.context(user, now_ms=NOW_MS + 5), current.live, k=1)
        assert answer.items[0].score == ranking.scores[0]
        shown = status(service, asking)["weights"]
        assert shown == {"by_source": dict(zip(SOURCES, weights_of(service), strict=True)), "learned_from": 1}
        files = service.registry.files("g1-1")
        assert Blend.from_json(files[BLEND_FILE]).over(SOURCES).weights.tolist() == fitted, "a version's files stay as they are"


def test_without_a_model_there_is_nothing_to_weigh(tmp_path: Path) -> None:
    with site(tmp_path / "data") as service:
        weighing = Weighing(service, kept=LearnedFile(tmp_path / "weights.json"))
        lean(weighing, service)
        weighing.save()
        assert service.current is None and weighing.cases == 0 and status(service)["weights"] is None
        assert not (tmp_path / "weights.json").exists()


def test_what_was_learned_survives_a_restart_and_goes_with_its_version(tmp_path: Path) -> None:
    file = tmp_path / "weights.json"
    with site(tmp_path / "data") as service:
        train(service, tmp_path / "one")
        promote(service, tmp_path / "one", "g1-1")
        fitted, weighing = weights_of(service), Weighing(service, kept=LearnedFile(file))
        lean(weighing, service)
        weighing.save()
        learned = weights_of(service)
        assert learned != fitted
    with site(tmp_path / "data") as service:
        assert weights_of(service) == fitted, "nobody has gone on yet"
        weighing = Weighing(service, kept=LearnedFile(file))
        assert weights_of(service) == learned and weighing.cases == 20
        lean(weighing, service, 1)
        assert weighing.cases == 21
        train(service, tmp_path / "two", steps=20)
        promote(service, tmp_path / "two", "g2-2", generation=2)
        other = weights_of(service)
        assert weighing.cases == 0 and other != learned
    with site(tmp_path / "data") as service:
        Weighing(service, kept=LearnedFile(file))
        assert weights_of(service) == other, "what was kept is another version's"


def test_weights_that_answered_stay_over_a_flip_until_those_of_the_new_version_rank_better(tmp_path: Path) -> None:
    with site(tmp_path / "data") as service:
        train(service, tmp_path / "one")
        promote(service, tmp_path / "one", "g1-1")
        weighing = Weighing(service)
        lean(weighing, service, 60)
        learned, popular = weights_of(service), SOURCES.index("popular")
        promote(service, tmp_path / "one", "g1-2")
        fitted = weights_of(service)
        assert fitted[popular] < learned[popular]
        lean(weighing, service, 1)
        assert np.abs(np.subtract(weights_of(service), learned)).max() < 0.1 and weighing.cases == 1
        generator = np.random.default_rng(1)
        for n in range(5):
            features = generator.normal(size=(30, len(SOURCES)))
            weighing.learn(features, int((features @ np.array(fitted)).argmax()), asker=f"v{n}")
        assert np.abs(np.subtract(weights_of(service), fitted)).max() < 0.1


@pytest.mark.parametrize("found", [b"", b"{", b"[1]", b"\xff\xfe", b'{"version":"g1-1","cases":3,"blend":"{}"}'])
def test_a_file_that_cannot_be_used_is_passed_over(tmp_path: Path, found: bytes, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "weights.json"
    with site(tmp_path / "data") as service:
        train(service, tmp_path / "one")
        promote(service, tmp_path / "one", "g1-1")
        fitted = weights_of(service)
        file.write_bytes(found)
        assert Weighing(service, kept=LearnedFile(file)).cases == 0 and weights_of(service) == fitted
        assert "weights_not" in caplog.text and "weights.json" in caplog.text


def test_a_full_disk_is_told_and_tried_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with site(tmp_path / "data") as service:
        train(service, tmp_path / "one")
        promote(service, tmp_path / "one", "g1-1")
        weighing = Weighing(service, kept=LearnedFile(tmp_path / "there is no such folder" / "weights.json"))
        lean(weighing, service, 1)
        weighing.save()
        assert "weights_not_saved" in caplog.text
        (tmp_path / "there is no such folder").mkdir()
        weighing.save()
        assert msgspec.json.decode((tmp_path / "there is no such folder" / "weights.json").read_bytes(), type=Learned).cases == 1


def test_a_training_is_told_the_weights_that_answer(tmp_path: Path) -> None:
    with site(tmp_path / "data") as service:
        train(service, tmp_path / "one")
        promote(service, tmp_path / "one", "g1-1")
        lean(Weighing(service), service)
        training = training_of(service, cadence=Cadence(10**9, 10**9, 1000))
        training.start(now_ms=NOW_MS, events=1)
        job = msgspec.json.decode((tmp_path / "data/training/1/job.json").read_bytes(), type=Job)
        training.cancel()
        assert job.blend is not None and Blend.from_json(job.blend).over(SOURCES).weights.tolist() == weights_of(service)


def test_a_candidate_is_compared_with_the_weights_that_answer(tmp_path: Path) -> None:
    backwards = Blend(SOURCES, np.array([float(name == "neighbours") * -1 for name in SOURCES])).to_json()
    with site(tmp_path / "data") as service:
        train(service, tmp_path / "one")
        promote(service, tmp_path / "one", "g1-1")
        as_fitted = train(service, tmp_path / "two", kind=HEAD)
        worse = train(service, tmp_path / "three", kind=HEAD, blend=backwards)
        assert worse.numbers["live"] < as_fitted.numbers["live"]
