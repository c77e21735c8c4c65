"""The file of linear weights: to the bit and back, and nothing that could not be asked."""

import numpy as np
import pytest

from encoders.linear import DECAYS, Linear


def small(followers: int = 2, *, ease: int = 1) -> Linear:
    shape, ease_shape = (len(DECAYS), 3, followers), (3, ease)
    places = (np.arange(np.prod(shape)).reshape(shape) % 3).astype(np.uint16)
    weights = np.linspace(-1, 1, places.size, dtype=np.float32).reshape(shape)
    return Linear(
        np.array([7, 8, 9], np.uint64), places, weights, places[0, :, :1].repeat(ease, axis=1), np.full(ease_shape, 0.5, np.float32)
    )


def test_weights_come_back_to_the_bit() -> None:
    linear = small()
    found = Linear.from_bytes(linear.to_bytes())
    for name in ("ids", "followers", "weights", "ease_followers", "ease_weights"):
        assert np.array_equal(getattr(found, name), getattr(linear, name)), name
    assert len(found) == 3 and len(Linear.from_bytes(Linear.none().to_bytes())) == 0


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda blob: b"", "no file of linear weights"),
        (lambda blob: b"nonsense" + blob[8:], "no file of linear weights"),
        (lambda blob: blob[:8] + b"\x01" + blob[9:], "format 1"),
        (lambda blob: blob[:-1], "not 137"),
        (lambda blob: blob + b"\0", "not 139"),
        (lambda blob: blob[:16] + b"\xff\xff\xff\xff" + blob[20:], "bytes, not"),
        (lambda blob: blob[:48] + b"\x03\x00" + blob[50:], "one of 3 items, not number 3"),
        (lambda blob: blob[:-4] + np.float32(np.nan).tobytes(), "NaN or infinite"),
    ],
)
def test_what_is_no_whole_file_is_refused_with_what_was_wrong(spoil: object, words: str) -> None:
    blob = small().to_bytes()
    assert len(blob) == 138
    with pytest.raises(ValueError, match=words):
        Linear.from_bytes(spoil(blob))  # type: ignore[operator]  # a function of the parameters above


def test_arrays_that_do_not_fit_together_are_refused() -> None:
    linear = small()
    with pytest.raises(ValueError, match="2 ids"):
        Linear(linear.ids[:2], linear.followers, linear.weights, linear.ease_followers[:2], linear.ease_weights[:2])
    with pytest.raises(ValueError, match="3 ids"):
        Linear(linear.ids, linear.followers, linear.weights, linear.ease_followers[:2], linear.ease_weights[:2])
    with pytest.raises(ValueError, match="as many followers"):
        small(followers=4)
    with pytest.raises(ValueError, match="as many followers"):
        small(ease=4)
