"""Hashed text: what becomes a token, in which order, and never too much of it."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from encoders.text import HASHES, TEXT_ROWS, hashed_rows, pieces, tokens


def test_attributes_words_and_trigrams_in_that_order() -> None:
    assert pieces("Heat, heat!", {"genre": ["Crime", "Drama"], "year": 1995, "gone": None}) == [
        *("genre=crime", "genre=drama", "year=1995"),
        "heat",
        *("3#he", "3hea", "3eat", "3at#"),
    ]


def test_a_long_text_loses_its_trigrams_before_its_words() -> None:
    found = pieces("alpha beta gamma", {"genre": "x"}, tokens_max=4)
    assert found == ["genre=x", "alpha", "beta", "gamma"]


def test_rows_stay_the_same_for_ever() -> None:
    assert hashed_rows("genre=drama") == hashed_rows("genre=drama")
    assert len(set(hashed_rows("heat"))) == HASHES


@settings(deadline=None, max_examples=50)
@given(st.lists(st.text(), max_size=5), st.integers(1, 8))
def test_any_text_gives_bounded_rows_in_range(texts: list[str], tokens_max: int) -> None:
    ragged = tokens(texts, tokens_max=tokens_max)
    assert len(ragged) == len(texts)
    assert (np.diff(ragged.offsets) <= tokens_max * HASHES).all()
    assert ((ragged.values >= 0) & (ragged.values < TEXT_ROWS)).all()
