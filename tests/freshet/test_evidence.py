"""Evidence: contenders answer the same questions before the events come, exactly as the live look-up would have."""

import numpy as np
import pytest

from freshet.learning.evidence import Answered, Contender, Known, answers, segments
from freshet.learning.job import Job
from freshet.learning.learn import Past, cut_archive, stored_contents
from freshet.learning.reading import read_for_training
from freshet.learning.walk import Walk
from freshet.version_files import BLEND_FILE, LINEAR_FILE, MODEL_FILE
from serving.lookup import COUNTING
from serving.sources import LINEAR, SOURCES
from stream.archiving import from_archive
from stream.shape import Shape
from tests.freshet.sites import site, train

EVENTS = 120


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Answered], Contender, Contender]:
    """A window of a small world, asked of a model and of counting alone."""
    folder = tmp_path_factory.mktemp("evidence")
    with site(folder / "data") as service:
        train(service, folder / "out", steps=20)
        contents = stored_contents(service.engine.state, 1)
        job = Job(str(folder), "trunk", None, blend_events=200, gate_events=200)
        cut = cut_archive(job, read_for_training(service.engine.archive).table())
    past = Past(Walk(Shape(), contents))
    past.take(past.walk.advance(from_archive(cut.training)))
    view = past.walk.view
    features, _ = view.facts((16,)).of(view.catalogue.ids, now_ms=int(past.columns().ts_ms.max()))
    files = {name: (folder / "out" / name).read_bytes() for name in (MODEL_FILE, BLEND_FILE, LINEAR_FILE)}
    candidate, rival = Contender.stored("candidate", files, features, view.index), Contender("live", COUNTING)
    return list(answers(past.walk, cut.blend.slice(0, EVENTS), [candidate, rival])), candidate, rival


def test_every_contender_is_asked_the_same_and_counts_order_known_items_alike(told: tuple[list[Answered], Contender, Contender]) -> None:
    answered, candidate, rival = told
    assert 20 < len(answered) <= EVENTS
    for one in answered:
        model, counting = one.features[candidate.name], one.features[rival.name]
        assert model.shape == counting.shape
        assert model.shape[1] == len(SOURCES)
        popular = counting[:, SOURCES.index("popular")]
        known = popular > popular.min()  # the newborn compete by content under a model, so their counts are neutral there
        for column in [n for n in range(1, len(SOURCES)) if n not in range(LINEAR.start, LINEAR.stop)]:  # which only a version has
            order = np.argsort(counting[known, column])
            assert (np.diff(model[known, column][order]) >= -1e-12).all(), SOURCES[column]
        assert np.isfinite(model).all()
        assert np.ptp(counting[:, LINEAR]) < 1e-12, "counting alone has no weights"
    linear = np.concatenate([one.features[candidate.name][:, LINEAR] for one in answered])
    assert linear.std() > 0.01, "the version's weights speak"
    neural = np.concatenate([one.features[candidate.name][:, 0] for one in answered])
    assert neural.std() > 0.01, "the model tells items apart"


def test_who_has_no_model_ranks_by_counting_alone(told: tuple[list[Answered], Contender, Contender]) -> None:
    answered, candidate, rival = told
    for one in answered:
        assert rival.name not in one.users
        assert np.ptp(one.features[rival.name][:, 0]) < 1e-12
        assert 0.99 < float(np.linalg.norm(one.users[candidate.name])) < 1.01


def test_a_rank_is_the_mid_rank_under_the_contenders_own_blend(told: tuple[list[Answered], Contender, Contender]) -> None:
    answered, candidate, _ = told
    for one in answered:
        if one.target < 0:
            continue
        features = one.features[candidate.name]
        scores = features @ candidate.blend.weights
        above, equal = int((scores > scores[one.target] + 1e-9).sum()), int((np.abs(scores - scores[one.target]) <= 1e-9).sum()) - 1
        assert one.rank(candidate) == 1 + above + equal // 2


def test_what_was_not_retrieved_ranks_behind_everything() -> None:
    one = Answered(Known("u1", 1, 1), -1, {"live": np.zeros((7, len(SOURCES)))}, {})
    assert one.rank(Contender("live", COUNTING)) == 8


def test_other_weights_leave_the_model_as_it_is(told: tuple[list[Answered], Contender, Contender]) -> None:
    _, candidate, _ = told
    other = candidate.with_blend(COUNTING)
    assert other.live is candidate.live
    assert other.blend is COUNTING
    assert candidate.blend is not COUNTING


def test_a_question_is_labelled_by_what_was_known_before_it_and_may_be_of_two_segments() -> None:
    known = [Known("a", 9, 9), Known("b", 10, 10), Known("c", 99, 0), Known("d", 100, 50)]
    found = {name: chosen.tolist() for name, chosen in segments(known).items()}
    assert found == {
        "new users": [True, False, False, False], "heavy users": [False, False, False, True], "new items": [True, False, True, False]
    }  # fmt: skip
    assert all(len(chosen) == 0 for chosen in segments([]).values())


def test_what_was_known_grows_with_the_walk(told: tuple[list[Answered], Contender, Contender]) -> None:
    answered, _, _ = told
    latest: dict[str, int] = {}
    for one in answered:
        assert one.known.had > latest.get(one.known.user_id, 0), "a question is asked of who has had something, and then they have had more"
        latest[one.known.user_id] = one.known.had
    assert len(latest) > 5
    assert max(one.known.engaged for one in answered) > min(one.known.engaged for one in answered)
