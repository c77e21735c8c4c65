"""The checker of shapes itself: what it refuses, and what it leaves to mypy."""

import numpy as np
import pytest
from jaxtyping import Float, jaxtyped

from tests.shape_checks import checked, fits

Pair = Float[np.ndarray, "2 3"]
RIGHT, WRONG = np.zeros((2, 3)), np.zeros(3)


@pytest.mark.parametrize(
    ("value", "hint", "expected"),
    [
        (RIGHT, Pair, True),
        (WRONG, Pair, False),
        (RIGHT.astype(np.int64), Pair, False),
        (None, Pair | None, True),
        (WRONG, Pair | None, False),
        ((RIGHT, RIGHT), tuple[Pair, ...], True),
        ((RIGHT, WRONG), tuple[Pair, ...], False),
        ((WRONG, 1), tuple[Pair, int], False),
        ((RIGHT, "not an int"), tuple[Pair, int], True),
    ],
)
def test_only_arrays_are_looked_at(value: object, hint: object, expected: bool) -> None:
    assert fits(value, hint) is expected


def test_a_letter_means_one_length_in_all_arguments() -> None:
    @jaxtyped(typechecker=checked)
    def total(scores: Float[np.ndarray, "B K"], weights: Float[np.ndarray, " B"]) -> float:
        return float(scores.sum() + weights.sum())

    assert total(np.ones((2, 3)), np.ones(2)) == 8
    with pytest.raises(TypeError, match="weights"):
        total(np.ones((2, 3)), np.ones(3))
