"""What the newest items say of themselves, in memory: the content neighbours of what a user liked, for items that no count knows yet.

    contents = Contents(catalogue); contents.put(rows); mass = contents.near(liked, num_items)

A ring holds the words of the items whose content came last; a word weighs its inverse document frequency among them (BM25's), and the
likeness of two items is the cosine of their words. Older items are the other sources': somebody has had them.
"""

from collections.abc import Mapping
from typing import Final

import numpy as np
from numba import njit

from encoders.text import HASHES, tokens
from encoders.text import TEXT_ROWS as WORDS
from storage.arrays import F64s, I32s, I64s
from storage.catalogue import UNBORN_MS, Catalogue, Content

ITEMS_MAX: Final = 4_096
"""About 0.6 MB, and some 50 microseconds of a look-up that asks."""
WORDS_MAX: Final = 32
"""Of an item: its attributes first, then words, then trigrams."""
FADE: Final = 0.8
CACHED_MAX: Final = 65_536
"""Items whose words are kept at hand beside the ring's."""


class Contents:
    """One thread puts, any ask; who asks meanwhile may hear an item's old words once more. Follows a catalogue."""

    def __init__(self, catalogue: Catalogue, *, items_max: int = ITEMS_MAX) -> None:
        self._catalogue = catalogue
        self._words: I32s = np.full((items_max, WORDS_MAX), -1, dtype=np.int32)
        self._rows: I64s = np.full(items_max, -1, dtype=np.int64)
        self._items_with = np.zeros(WORDS)
        self._slots: dict[int, int] = {}
        self._cached: dict[int, tuple[int, I32s]] = {}
        self._count = 0

    def __len__(self) -> int:
        return len(self._slots)

    def load(self) -> None:
        """Take the newest of all that the catalogue knows, in the order of their first content."""
        born_ms = self._catalogue.born_ms
        known = np.flatnonzero(born_ms > UNBORN_MS)
        self.put(known[np.argsort(born_ms[known], kind="stable")])

    def put(self, rows: I64s) -> None:
        """Take what the catalogue knows of these items now, oldest first; of more than the ring holds the last. Who was there stays."""
        for row in rows[-len(self._rows) :].tolist():
            self._put(row)

    def _put(self, row: int) -> None:
        words = _words(self._catalogue.content(row))
        slot = self._slots.get(row)
        if slot is None:
            if not len(words):
                return
            slot = self._count % len(self._rows)
            self._slots.pop(int(self._rows[slot]), None)
            self._slots[row] = slot
            self._count += 1
        held = self._words[slot]
        np.subtract.at(self._items_with, held[held >= 0], 1.0)
        self._rows[slot] = row
        held[:] = -1
        held[: len(words)] = words
        np.add.at(self._items_with, words, 1.0)

    def near(self, liked: I64s, num_items: int) -> F64s:
        """sum_p .8^p cos(liking p, item), newest liking first, for the first rows of the catalogue: (num_items,); beyond the ring 0."""
        if not self._slots or not len(liked):
            return np.zeros(num_items)
        said = [self._said(row) for row in liked.tolist()]
        ends = np.cumsum([len(words) for words in said])
        mass: F64s = _near(np.concatenate(said), ends, self._words, self._rows, self._items_with, float(len(self)), num_items)
        return mass

    def _said(self, row: int) -> I32s:
        content = self._catalogue.content(row)
        known = self._cached.get(row)
        if known is None or known[0] != content.offset:
            if len(self._cached) >= CACHED_MAX:
                self._cached = {}
            known = content.offset, _words(content)
            self._cached[row] = known
        return known[1]


def described(content: Content) -> tuple[str, Mapping[str, object]]:
    """An item's text, and its attributes with the collections it is in; a collection says its name as the items in it do."""
    named = [content.name] if content.kind == "collection" else content.collections
    return f"{content.title} {content.text}", {**content.attributes, "collection": named} if named else content.attributes


def _words(content: Content) -> I32s:
    """Distinct ones, the first of each token's hashes: (up to 32,). A deleted item says nothing."""
    if content.deleted:
        return np.empty(0, np.int32)
    text, attributes = described(content)
    return np.unique(tokens([text], [attributes], tokens_max=WORDS_MAX).values[::HASHES]).astype(np.int32)


@njit(cache=True, nogil=True)
def _near(said: I32s, ends: I64s, words: I32s, rows: I64s, items_with: F64s, items: float, size: int) -> F64s:  # noqa: PLR0913, PLR0917
    """said[ends[p - 1]:ends[p]] are the words of liking p; words (M, W) and rows (M,) the ring's, -1 = none; items_with (WORDS,)."""
    asked = np.zeros(len(items_with))
    begin, power = 0, 1.0
    for p in range(len(ends)):
        length = 0.0
        for n in range(begin, ends[p]):
            length += _weight(items_with[said[n]], items) ** 2
        for n in range(begin, ends[p]):
            asked[said[n]] += power * _weight(items_with[said[n]], items) / np.sqrt(length)
        begin, power = ends[p], power * FADE
    mass = np.zeros(size)
    for m in range(len(rows)):
        if not 0 <= rows[m] < size:
            continue
        product = length = 0.0
        for n in range(words.shape[1]):
            word = words[m, n]
            if word < 0:
                break
            weight = _weight(items_with[word], items)
            product += asked[word] * weight
            length += weight * weight
        if length > 0.0:
            mass[rows[m]] = product / np.sqrt(length)
    return mass


@njit(cache=True, nogil=True)
def _weight(having: float, items: float) -> float:
    """log(1 + (N - n + .5) / (n + .5)): above 0 also for a word that all say."""
    weight: float = np.log(1.0 + (max(items - having, 0.0) + 0.5) / (having + 0.5))
    return weight
