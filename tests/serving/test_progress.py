"""How far ingest has come: of one log, and of partitions that count apart."""

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.progress import AsOf, PartitionProgress, Progress


def test_the_newest_append_and_event_time_only_grow() -> None:
    progress = Progress()
    assert progress.as_of == AsOf(-1, 0)
    progress.advance(number=4, ts_ms=100, now_ms=1)
    progress.advance(number=3, ts_ms=50, now_ms=2)
    assert (progress.as_of, progress.moved_ms) == (AsOf(4, 100), 2)
    assert progress.reached(4) and not progress.reached(5)


@given(st.integers(1, 50), st.data())
def test_a_number_stands_for_one_place_and_is_reached_with_it(partitions: int, data: st.DataObject) -> None:
    progress = PartitionProgress(partitions)
    partition, offset = data.draw(st.integers(0, partitions - 1)), data.draw(st.integers(0, 2**40))
    number = progress.number_of(partition, offset)
    assert divmod(number, partitions) == (offset, partition)
    progress.move({p: 2**41 for p in range(partitions) if p != partition}, ts_ms=0, now_ms=1)
    assert not progress.reached(number), "other partitions say nothing of it"
    progress.move({partition: offset}, ts_ms=0, now_ms=2)
    assert not progress.reached(number)
    progress.move({partition: offset + 1}, ts_ms=0, now_ms=3)
    assert progress.reached(number)


def test_as_of_counts_what_is_applied_in_all() -> None:
    progress = PartitionProgress(3)
    assert progress.as_of.number == -1
    progress.move({0: 5, 2: 7}, ts_ms=100, now_ms=1)
    progress.move({1: 1}, ts_ms=90, now_ms=2)
    assert progress.as_of == AsOf(12, 100)


def test_a_watermark_goes_back_after_a_rebuild_and_what_it_stood_for_is_no_longer_reached() -> None:
    progress = PartitionProgress(2)
    progress.move({0: 10, 1: 4}, ts_ms=0, now_ms=1)
    number = progress.number_of(0, 9)
    assert progress.reached(number)
    progress.move({0: 0}, ts_ms=0, now_ms=2)
    assert not progress.reached(number)
    assert (progress.as_of.number, progress.moved_ms) == (3, 2)


def test_only_a_watermark_that_changed_is_movement() -> None:
    progress = PartitionProgress(2)
    progress.move({0: 1}, ts_ms=0, now_ms=5)
    progress.move({0: 1}, ts_ms=0, now_ms=9)
    assert progress.moved_ms == 5


@pytest.mark.parametrize("partitions", [1, 4])
def test_who_waits_is_woken_by_its_own_partition(partitions: int) -> None:
    progress = PartitionProgress(partitions)
    number = progress.number_of(partitions - 1, 2)
    found: list[bool] = []
    waiting = threading.Thread(target=lambda: found.append(progress.wait(number, timeout_s=30)))
    waiting.start()
    progress.move({partitions - 1: 2}, ts_ms=0, now_ms=1)
    assert not progress.wait(number, timeout_s=0), "its offset itself is not applied yet"
    progress.move({partitions - 1: 3}, ts_ms=0, now_ms=2)
    waiting.join(30)
    assert found == [True]


def test_waiting_ends_with_its_time() -> None:
    progress = PartitionProgress(2)
    assert not progress.wait(progress.number_of(0, 0), timeout_s=0.01)
    assert not progress.wait(progress.number_of(1, 0), timeout_s=-1)
