"""xxh3 over columns: the library's digests for every length and seed, whatever the column is a slice of; checksums are another hash."""

import numpy as np
import pyarrow as pa
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from storage.xxh3 import LENGTH_MAX, checksums, digests, laid_out

SEEDS = (0, 1, 0x9E3779B97F4A7C15, (1 << 64) - 1)


@pytest.mark.parametrize("seed", SEEDS)
def test_digests_are_the_librarys_for_every_length(seed: int) -> None:
    texts = ["".join(chr(33 + (7 * n + 13 * at) % 90) for at in range(n)) for n in range(2 * LENGTH_MAX + 50)]
    assert digests(laid_out(pa.array(texts)), seed).tolist() == [xxhash.xxh3_64_intdigest(text.encode(), seed) for text in texts]


@given(st.lists(st.none() | st.text(max_size=60), max_size=20), st.integers(0, (1 << 64) - 1), st.integers(0, 5))
def test_digests_are_the_librarys_for_any_text_and_slice(texts: list[str | None], seed: int, begin: int) -> None:
    column = pa.array(texts, pa.string()).slice(begin)
    assert digests(laid_out(column), seed).tolist() == [xxhash.xxh3_64_intdigest((text or "").encode(), seed) for text in texts[begin:]]


def test_checksums_tell_texts_apart_that_differ_by_one_bit_a_place_or_a_seed() -> None:
    texts = ["", "a", "aa", "b", "ab", "ba", "a" * 300, "a" * 299 + "b", "ü"]
    found = [checksums(*laid_out(pa.array(texts)), np.uint64(seed)).tolist() for seed in (0, 1)]
    assert len({*found[0], *found[1]}) == 2 * len(texts)
    assert found[0] == checksums(*laid_out(pa.array(["x", *texts]).slice(1)), np.uint64(0)).tolist()
    assert not {*found[0]} & {*digests(laid_out(pa.array(texts)), 0).tolist()}
