"""Refresh: what changed enough is embedded again, newer over older, and a mark is cleared only when nothing moved meanwhile."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.arrays import F32s, U64s
from storage.catalogue import Catalogue, Content
from storage.decay import SCALE_BITS
from storage.neighbours import Neighbours, node_partition
from storage.partitioned import write_rows
from storage.state import DIRTY, EMBEDDED, NEIGHBOURS, Advance, Write
from storage.state_memory import MemoryState
from storage.vectors_memory import MemoryVectors
from stream.refresh import Refreshed, Refresher, Target
from stream.shape import Shape

HALF_LIFE_MS = 1000
DIM = 4


class Shop:
    """Items in a state, and an embedding that counts: the n-th batch embedded gives rows full of n."""

    def __init__(self, partitions: int = 1) -> None:
        self.shape = Shape(partitions=partitions, edge_half_life_ms=HALF_LIFE_MS)
        self.state, self.catalogue = MemoryState(), Catalogue()
        self.vectors = MemoryVectors(DIM, collection="items-g1")
        self.embedded: list[list[int]] = []
        self.meanwhile: Callable[[], None] = lambda: None
        self.refresher = self.begin(epoch=1)

    def begin(self, *, epoch: int, state: MemoryState | None = None) -> Refresher:
        neighbours = Neighbours(self.state, self.shape.partitions, HALF_LIFE_MS)
        return Refresher(state or self.state, neighbours, self.catalogue, self.shape, epoch=epoch)

    def put(self, *nodes: int, offset: int = 0, deleted: bool = False, mark: bytes = b"m") -> None:
        for node in nodes:
            self.catalogue.put(node, Content(name=f"item {node}", offset=offset, deleted=deleted))
        self.mark(*nodes, mark=mark)

    def mark(self, *nodes: int, mark: bytes = b"m") -> None:
        ids = np.array(nodes, dtype=np.uint64)
        self.state.commit([], write_rows(DIRTY, node_partition(ids, self.shape.partitions), ids, [mark] * len(ids)))

    def connect(self, node: int, weights: dict[int, float]) -> None:
        words = [0, *(word for other, weight in weights.items() for word in (other, int(weight * (1 << SCALE_BITS))))]
        ids = np.array([node], dtype=np.uint64)
        blob = np.array(words, dtype=np.uint64).tobytes()
        self.state.commit([], write_rows(NEIGHBOURS, node_partition(ids, self.shape.partitions), ids, [blob]))

    def embed(self, ids: U64s, now_ms: int) -> F32s:
        self.embedded.append(ids.tolist())
        self.meanwhile()
        return np.full((len(ids), DIM), len(self.embedded), dtype=np.float32)

    def target(self, generation: int = 1, vectors: MemoryVectors | None = None) -> Target:
        return Target(generation, self.vectors if vectors is None else vectors, self.embed)

    def step(self, *targets: Target, refresher: Refresher | None = None, items_max: int = 64) -> Refreshed:
        return (refresher or self.refresher).step(targets or [self.target()], now_ms=5, items_max=items_max)

    def dirty(self) -> list[int]:
        return sorted(node for p in range(self.shape.partitions) for node, _ in self.state.scan(DIRTY, p))

    def vector(self, node: int, vectors: MemoryVectors | None = None) -> float | None:
        rows, there = (self.vectors if vectors is None else vectors).get(np.array([node], dtype=np.uint64))
        return float(rows[0, 0]) if there[0] else None


@pytest.mark.parametrize("partitions", [1, 3])
def test_a_dirty_item_is_embedded_and_its_mark_cleared(partitions: int) -> None:
    shop = Shop(partitions)
    shop.put(*range(1, 8))
    assert shop.refresher.pending() == 7
    assert shop.step() == Refreshed(7, 7)
    assert (shop.dirty(), shop.refresher.pending()) == ([], 0)
    assert sorted(node for nodes in shop.embedded for node in nodes) == list(range(1, 8))
    assert all(shop.vector(node) for node in range(1, 8))
    assert shop.step() == Refreshed(0, 0)


def test_a_change_during_the_embedding_keeps_the_mark_and_embeds_again() -> None:
    shop = Shop()
    shop.put(1, 2)
    shop.meanwhile = lambda: shop.mark(2, mark=b"n")
    assert shop.step() == Refreshed(2, 2)
    assert shop.dirty() == [2]


def test_content_that_comes_during_the_embedding_is_embedded_by_the_next_step() -> None:
    shop = Shop()
    shop.put(1, offset=3)
    shop.meanwhile = lambda: shop.put(1, offset=4, mark=b"n")
    shop.step()
    assert shop.dirty() == [1]
    shop.meanwhile = lambda: None
    assert shop.step() == Refreshed(1, 1)
    assert (shop.dirty(), shop.vector(1)) == ([], 2.0)


def test_neighbours_that_come_during_the_embedding_are_seen_by_the_next_step() -> None:
    shop = Shop()
    shop.put(1)
    shop.connect(1, {7: 1})

    def changes() -> None:
        shop.connect(1, {8: 1})
        shop.mark(1, mark=b"n")

    shop.meanwhile = changes
    shop.step()
    shop.meanwhile = lambda: None
    assert shop.step() == Refreshed(1, 1)


@pytest.mark.parametrize(
    ("weights", "embeds"),
    [
        ({7: 0.5, 8: 0.5}, False),
        ({7: 50, 8: 50}, False),
        ({7: 0.59, 8: 0.41}, False),
        ({7: 0.62, 8: 0.38}, True),
        ({7: 1.0}, True),
        ({9: 0.5, 6: 0.5}, True),
        ({7: 0.46, 8: 0.46, 9: 0.08}, False),
    ],
)
def test_only_a_large_change_of_the_neighbourhood_embeds(weights: dict[int, float], embeds: bool) -> None:
    shop = Shop()
    shop.put(1)
    shop.connect(1, {7: 0.5, 8: 0.5})
    shop.step()
    shop.connect(1, weights)
    shop.mark(1)
    assert shop.step() == Refreshed(1, int(embeds))
    assert shop.dirty() == [], "looked at and cleared either way"


def test_small_changes_add_up() -> None:
    shop = Shop()
    shop.put(1)
    embedded = 0
    for share in (0.50, 0.56, 0.62, 0.68, 0.74):
        shop.connect(1, {7: share, 8: 1 - share})
        shop.mark(1)
        embedded += shop.step().embedded
    assert embedded == 3, "the comparison is with what was embedded, not with what was last looked at"


def test_new_content_embeds_and_the_same_content_does_not() -> None:
    shop = Shop()
    shop.put(1, offset=3)
    assert shop.step().embedded == 1
    shop.put(1, offset=3)
    assert shop.step().embedded == 0
    shop.put(1, offset=4)
    assert shop.step().embedded == 1


def test_a_deleted_item_becomes_a_tombstone_and_comes_back_with_new_content() -> None:
    shop = Shop()
    shop.put(1, 2, offset=1)
    shop.step()
    shop.put(1, offset=2, deleted=True)
    assert shop.step() == Refreshed(1, 1)
    assert (shop.vector(1), len(shop.vectors)) == (None, 1)
    assert shop.embedded == [[1, 2]], "what is gone is not embedded"
    shop.vectors.upsert(np.array([1], np.uint64), np.ones((1, DIM), np.float32), revision=1)
    assert shop.vector(1) is None, "a write in flight does not revive it"
    shop.put(1, offset=3)
    shop.step()
    assert shop.vector(1) == 2.0


def test_the_mark_of_an_item_that_the_catalogue_does_not_know_yet_waits_for_it() -> None:
    shop = Shop()
    shop.put(1)
    shop.mark(1, 2)
    assert shop.step() == Refreshed(1, 1)
    assert shop.dirty() == [2]
    shop.catalogue.put(2, Content(name="item 2"))
    assert shop.step() == Refreshed(1, 1)
    assert shop.vector(2) == 2.0 and shop.dirty() == []


def test_content_that_the_catalogue_learns_of_after_its_mark_was_cleared_is_embedded() -> None:
    shop = Shop()
    shop.put(1, offset=3)
    shop.step()
    shop.mark(1, mark=b"n")  # of content 4, which a follower reads a moment later
    shop.step()
    shop.catalogue.put(1, Content(name="item 1", offset=4))
    learned = np.array([1], dtype=np.uint64)
    assert shop.dirty() == [] and shop.refresher.step_on([shop.target()], learned, now_ms=5) == Refreshed(1, 1)
    assert shop.vector(1) == 2.0
    assert shop.refresher.step_on([shop.target()], learned, now_ms=5) == Refreshed(1, 0)


def test_both_targets_get_vectors_and_the_first_is_noted() -> None:
    shop, kept = Shop(), MemoryVectors(DIM, collection="items-g0")
    shop.put(1)
    shop.step(shop.target(1), shop.target(0, kept))
    assert (shop.vector(1), shop.vector(1, kept)) == (1.0, 2.0)
    shop.mark(1)
    assert shop.step(shop.target(1), shop.target(0, kept)).embedded == 0
    shop.put(1, offset=9, deleted=True)
    shop.step(shop.target(1), shop.target(0, kept))
    assert (shop.vector(1), shop.vector(1, kept)) == (None, None)


def test_a_kept_generation_gets_births_and_deletions_but_not_every_drift() -> None:
    shop, kept = Shop(), MemoryVectors(DIM, collection="items-g0")
    targets = [shop.target(), Target(0, kept, shop.embed, kept=True)]
    shop.put(7, 8)
    shop.refresher.step(targets, now_ms=0)
    assert len(kept) == 2
    before = kept.get(np.array([7], dtype=np.uint64))[0].copy()
    shop.connect(7, {8: 1.0})
    shop.mark(7)
    assert shop.refresher.step(targets, now_ms=0).embedded == 1
    assert (kept.get(np.array([7], dtype=np.uint64))[0] == before).all()
    assert (shop.vectors.get(np.array([7], dtype=np.uint64))[0] != before).all()
    shop.put(7, offset=1)
    shop.put(8, offset=1, deleted=True)
    shop.refresher.step(targets, now_ms=0)
    assert (kept.get(np.array([7], dtype=np.uint64))[0] != before).all() and len(kept) == 1


@pytest.mark.parametrize("partitions", [1, 3])
def test_a_flip_marks_everything_that_is_not_of_the_new_generation(partitions: int) -> None:
    shop, other = Shop(partitions), MemoryVectors(DIM, collection="items-g2")
    shop.put(*range(1, 9))
    shop.step()
    shop.refresher.mark_all(1)
    assert shop.dirty() == []
    shop.refresher.embed_all([shop.target(2, other)], np.array([1, 2, 3], dtype=np.uint64), now_ms=5)
    shop.refresher.mark_all(2)
    assert shop.dirty() == [4, 5, 6, 7, 8]
    assert shop.step(shop.target(2, other)) == Refreshed(5, 5)
    assert len(other) == 8


def test_what_was_built_for_a_generation_is_not_embedded_again() -> None:
    shop, other = Shop(), MemoryVectors(DIM, collection="items-g2")
    shop.put(1, 2)
    shop.refresher.embed_all([shop.target(2, other)], np.array([1, 2], dtype=np.uint64), now_ms=5)
    assert shop.dirty() == [1, 2], "marks stay"
    assert shop.step(shop.target(2, other)) == Refreshed(2, 0)
    shop.refresher.embed_all([shop.target(3, other)], np.array([], dtype=np.uint64), now_ms=5)
    shop.refresher.mark_all(2)
    assert shop.dirty() == []


def test_a_revision_is_newer_than_all_the_collection_holds_even_when_the_epoch_was_lost() -> None:
    shop = Shop()
    shop.put(1)
    shop.step(refresher=shop.begin(epoch=9))
    held = shop.vectors.revision_max()
    for epoch in (1, 9, 10):
        shop.put(1, offset=epoch)
        shop.step(refresher=shop.begin(epoch=epoch))
        assert shop.vectors.revision_max() > held
        held = shop.vectors.revision_max()
        assert shop.vector(1) == len(shop.embedded), "so the newest vector is there"
    shop.put(1, deleted=True, offset=99)
    shop.step(refresher=shop.begin(epoch=1))
    assert shop.vector(1) is None


def test_a_refresher_that_was_passed_by_writes_nothing_over_the_newer() -> None:
    shop = Shop()
    shop.put(1)
    old = shop.begin(epoch=1)
    shop.step(refresher=old)
    new = shop.begin(epoch=2)
    shop.put(1, offset=1)
    shop.step(refresher=new)
    newest = shop.vector(1)
    shop.put(1, offset=2)
    shop.step(refresher=old)
    assert shop.vector(1) == newest, "it was paused, and does not know"
    old.claim(3)
    shop.put(1, offset=3)
    shop.step(refresher=old)
    assert shop.vector(1) == len(shop.embedded)


class PulledPlug(Exception):
    """The process dies here."""


class Busy(MemoryState):
    """A state to which something happens just before the next commit."""

    def __init__(self) -> None:
        super().__init__()
        self.meanwhile: Callable[[], None] = lambda: None

    def commit(self, advances: Sequence[Advance], writes: Sequence[Write]) -> None:
        meanwhile, self.meanwhile = self.meanwhile, lambda: None
        meanwhile()
        super().commit(advances, writes)


def pull_the_plug() -> None:
    raise PulledPlug


def test_a_crash_between_upsert_and_clear_embeds_again() -> None:
    shop = Shop()
    shop.state = state = Busy()
    shop.put(1, 2)
    state.meanwhile = pull_the_plug
    with pytest.raises(PulledPlug):
        shop.step(refresher=shop.begin(epoch=1))
    assert (shop.vector(1), shop.dirty()) == (1.0, [1, 2])
    assert shop.step(refresher=shop.begin(epoch=2)) == Refreshed(2, 2)
    assert (shop.vector(1), shop.dirty()) == (2.0, [])


def test_a_mark_that_moves_just_before_the_clearing_stays() -> None:
    shop = Shop()
    shop.state = state = Busy()
    shop.put(1, 2)
    refresher = shop.begin(epoch=1)
    state.meanwhile = lambda: shop.put(1, offset=1, mark=b"n")
    assert shop.step(refresher=refresher) == Refreshed(2, 2)
    assert shop.dirty() == [1]
    shop.step(refresher=refresher)
    assert (shop.vector(1), shop.dirty()) == (2.0, [])


def test_an_embedding_that_fails_keeps_the_marks() -> None:
    shop = Shop()
    shop.put(1)
    shop.meanwhile = pull_the_plug
    with pytest.raises(PulledPlug):
        shop.step()
    assert (shop.dirty(), len(shop.vectors)) == ([1], 0)
    assert dict(shop.state.scan(EMBEDDED, 0)) == {}


def test_all_items_are_reached_though_low_ids_keep_getting_dirty() -> None:
    shop = Shop()
    shop.put(*range(1, 41))
    shop.connect(1, {7: 1})
    for _ in range(14):
        shop.step(items_max=3)
        shop.mark(1, 2, 3, mark=b"again")
    assert {node for nodes in shop.embedded for node in nodes} == set(range(1, 41))


@given(marked=st.lists(st.sets(st.integers(1, 12), max_size=6), min_size=1, max_size=6), items_max=st.integers(1, 5))
@settings(max_examples=30)
def test_a_step_looks_at_as_many_as_it_may_and_in_turn(marked: list[set[int]], items_max: int) -> None:
    shop = Shop()
    for node in range(1, 13):
        shop.catalogue.put(node, Content(name=str(node)))
    waited: dict[int, int] = {}
    for nodes in [*marked, *[set[int]()] * 12]:
        if nodes:
            shop.mark(*sorted(nodes))
        before = shop.dirty()
        assert shop.step(items_max=items_max).looked_at == min(items_max, len(before))
        waited = {node: waited.get(node, 0) + 1 for node in shop.dirty()}
        assert max(waited.values(), default=0) <= 12 // items_max + 1, "nobody is passed over twice"
    assert shop.dirty() == []


def test_the_highest_id_there_is_does_not_stop_the_turn() -> None:
    shop = Shop()
    top = 2**64 - 1
    shop.put(top, 1)
    assert shop.step(items_max=1).looked_at == 1
    assert shop.step(items_max=1).looked_at == 1
    shop.mark(1, top)
    assert shop.step(items_max=2).looked_at == 2
    assert shop.dirty() == []


def test_of_a_long_list_only_the_heaviest_are_compared() -> None:
    shop = Shop()
    shop.put(1)
    shop.connect(1, dict.fromkeys(range(100, 164), 100.0))
    shop.step()
    shop.connect(1, dict.fromkeys(range(100, 164), 100.0) | dict.fromkeys(range(200, 264), 1.0))
    shop.mark(1)
    assert shop.step() == Refreshed(1, 0)
