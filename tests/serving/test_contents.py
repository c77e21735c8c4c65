"""Content neighbours: cosines of weighed words among the newest items, whoever had them; an old item's words are found too."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from encoders.text import HASHES, tokens
from serving.contents import FADE, WORDS_MAX, Contents, described
from serving.sources import SOURCES
from storage.arrays import F64s
from storage.catalogue import Catalogue, Content
from tests.serving.small_site import Site

WORDS = ["red", "blue", "old", "new", "house", "boat"]


def catalogue_of(titles: list[str]) -> Catalogue:
    catalogue = Catalogue()
    for n, title in enumerate(titles):
        catalogue.put(n + 1, Content(name=f"i{n}", title=title, ts_ms=n + 1))
    return catalogue


def contents_of(catalogue: Catalogue, *, items_max: int = 100) -> Contents:
    contents = Contents(catalogue, items_max=items_max)
    contents.load()
    return contents


def plainly(catalogue: Catalogue, liked: list[int], ring: list[int]) -> F64s:
    """The same in sets and dictionaries."""
    said = {}
    for row in {*liked, *ring}:
        text, attributes = described(catalogue.content(row))
        said[row] = set(tokens([text], [attributes], tokens_max=WORDS_MAX).values[::HASHES].tolist())
    ring = [row for row in ring if said[row]]
    having = {word: sum(word in said[row] for row in ring) for row in said for word in said[row]}
    idf = {word: np.log(1 + (len(ring) - n + 0.5) / (n + 0.5)) for word, n in having.items()}
    length = {row: np.sqrt(sum(idf[word] ** 2 for word in words)) for row, words in said.items()}
    mass = np.zeros(len(catalogue))
    for p, one in enumerate(liked):
        for other in ring:
            shared = sum(idf[word] ** 2 for word in said[one] & said[other])
            mass[other] += FADE**p * shared / (length[one] * length[other]) if shared else 0.0
    return mass


@given(st.lists(st.lists(st.sampled_from(WORDS), max_size=4).map(" ".join), min_size=1, max_size=8), st.data())
def test_masses_are_faded_sums_of_cosines_among_the_newest(titles: list[str], data: st.DataObject) -> None:
    catalogue, items_max = catalogue_of(titles), data.draw(st.integers(1, 8))
    liked = data.draw(st.lists(st.integers(0, len(titles) - 1), max_size=4, unique=True))
    contents = contents_of(catalogue, items_max=items_max)
    with_words = [n for n, title in enumerate(titles[-items_max:], start=max(0, len(titles) - items_max)) if title]
    mass = contents.near(np.array(liked, dtype=np.int64), len(titles))
    assert mass == pytest.approx(plainly(catalogue, liked, with_words))


def test_of_more_than_the_ring_holds_the_newest_stay_and_an_old_liking_still_asks() -> None:
    catalogue = catalogue_of(["red boat", *["green tree"] * 5])
    contents = contents_of(catalogue, items_max=3)
    catalogue.put(100, Content(name="late", title="a red boat", ts_ms=100))
    contents.put(np.array([6]))
    mass = contents.near(np.array([0]), 7)
    assert len(contents) == 3 and mass[6] > 0.5 and mass.argmax() == 6
    assert mass[0] == 0.0, "it left the ring, and is the other sources' now"


def test_changed_words_and_a_deletion_are_heard_at_once() -> None:
    catalogue = catalogue_of(["red boat", "red house", "blue boat"])
    contents = contents_of(catalogue)
    before = contents.near(np.array([0]), 3)
    assert before[1] > 0
    catalogue.put(2, Content(name="i1", title="green tree", ts_ms=9, offset=7))
    contents.put(np.array([1]))
    assert contents.near(np.array([0]), 3)[1] == 0.0
    assert contents.near(np.array([1]), 3)[1] == pytest.approx(1.0)
    catalogue.put(3, Content(name="i2", title="blue boat", ts_ms=10, offset=8, deleted=True))
    contents.put(np.array([2]))
    assert contents.near(np.array([0]), 3)[2] == 0.0


def test_following_each_content_is_loading_all() -> None:
    titles = [f"{one} {other}" for one in WORDS for other in WORDS]
    catalogue = Catalogue()
    follows = Contents(catalogue, items_max=10)
    for n, title in enumerate(titles):
        follows.put(np.array([catalogue.put(n + 1, Content(name=f"i{n}", title=title, ts_ms=n))]))
    loaded = contents_of(catalogue, items_max=10)
    for liked in ([0], [35], [3, 30]):
        assert follows.near(np.array(liked), 36) == pytest.approx(loaded.near(np.array(liked), 36))


def test_nothing_known_or_liked_has_no_mass() -> None:
    assert not Contents(Catalogue()).near(np.array([], dtype=np.int64), 0).any()
    catalogue = catalogue_of(["", "red"])
    contents = contents_of(catalogue)
    assert len(contents) == 1
    assert not contents.near(np.array([0]), 2).any() and not contents.near(np.array([], dtype=np.int64), 2).any()


def test_a_newborn_item_like_the_last_liking_is_lifted_by_its_content_alone(site: Site) -> None:
    site.take("u1", "m1")
    like = site.catalogue.content(site.catalogue.row(int(site.ids("m1")[0]))).title
    site.stock({"twin": like, "stranger": "qqq www"})
    context = site.lookup.context("u1", now_ms=site.now_ms)
    rows = np.array([site.catalogue.row(int(site.ids(name)[0])) for name in ("twin", "stranger")])
    for neural in (True, False):
        features = site.lookup.counting(context, rows, neural=neural)
        column = features[SOURCES.index("content") - 1]
        assert column[0] > column[1]
        assert (np.ptp(np.delete(features, SOURCES.index("content") - 1, axis=0), axis=1) == 0).all(), "nothing else tells them apart"
