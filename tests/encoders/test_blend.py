"""The blend: its score, its JSON, what it refuses."""

import numpy as np
import pytest

from encoders.blend import Blend


def test_the_score_is_the_weighted_sum_by_source_order() -> None:
    blend = Blend(("a", "b"), np.array([2.0, -1.0]))
    assert blend.score(np.array([[1.0, 1.0], [0.5, 3.0]])).tolist() == [1.0, -2.0]


def test_json_round_trip_to_the_bit() -> None:
    blend = Blend(("a", "b"), np.array([1 / 3, 1e-300]))
    again = Blend.from_json(blend.to_json())
    assert again.sources == blend.sources and (again.weights == blend.weights).all()


@pytest.mark.parametrize("text", ['{"sources": ["a"]}', '{"sources": ["a"], "weights": [1], "more": 1}', "[]"])
def test_unknown_and_missing_keys_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="keys"):
        Blend.from_json(text)


@pytest.mark.parametrize(("sources", "weights"), [(("a", "a"), [1.0, 1.0]), (("a",), [1.0, 2.0]), (("a",), [float("nan")])])
def test_a_blend_that_does_not_add_up_is_refused(sources: tuple[str, ...], weights: list[float]) -> None:
    with pytest.raises(ValueError, match="sources"):
        Blend(sources, np.array(weights))


def test_a_blend_over_more_sources_ranks_as_before_and_needs_all_of_its_own() -> None:
    blend = Blend(("a", "b"), np.array([1.0, 0.5]))
    wider = blend.over(("b", "new", "a"))
    assert (wider.sources, wider.weights.tolist()) == (("b", "new", "a"), [0.5, 0.0, 1.0])
    features = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    assert wider.score(features).tolist() == blend.score(features[:, [2, 0]]).tolist()
    with pytest.raises(ValueError, match="cannot do without"):
        blend.over(("a", "new"))
