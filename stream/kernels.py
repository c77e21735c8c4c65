"""The reducers' inner loops, compiled: arrays in, arrays changed in place.

`stream/reducers.py` says what each does; this file is how, and is typed by numba.
"""

import numpy as np
from numba import njit

from storage import decay
from storage.counts import DECAYED, EVENTS, LANDMARK, POSITIVES
from storage.histories import RING
from storage.neighbours import CO_ENGAGED, IN_COLLECTION, SHOWN_NEXT_TO
from stream.shape import DISTANCE_UNIT


@njit(cache=True, nogil=True)
def apply_events(
    rows, items, stamps, event_ids, collections, sources, has_item, weight,
    start, h_items, h_stamps, h_size, ring, ring_size, ring_next,
    seen_start, s_items, s_ts, s_size,
    positive, history_max, seen_max, window, salts, applied,
    e_nodes, e_lists, e_targets, e_amounts, e_ts, emitted,
):  # fmt: skip
    count = 0
    for n in range(len(rows)):
        emitted[n] = count
        row = rows[n]
        if _known(ring[row], ring_size[row], event_ids[n]):
            continue
        applied[n] = True
        ring[row, ring_next[row]] = event_ids[n]
        ring_next[row] = (ring_next[row] + 1) % RING
        ring_size[row] = min(ring_size[row] + 1, RING)
        base, size, item, ts = start[row], h_size[row], items[n], np.int64(stamps[n] >> np.uint64(16))
        at = size
        while at > 0 and np.int64(h_stamps[base + at - 1] >> np.uint64(16)) > ts:
            at -= 1
        if weight[n] > 0:
            for g in range(1, min(window, at) + 1):
                other = base + at - g
                if positive[np.int64((h_stamps[other] >> np.uint64(8)) & np.uint64(255))] and h_items[other] != item:
                    amount = weight[n] * (DISTANCE_UNIT // g)
                    count = _emit(e_nodes, e_lists, e_targets, e_amounts, e_ts, count, h_items[other], item, amount, ts, CO_ENGAGED, salts)
            for g in range(1, min(window, size - at) + 1):
                other = base + at + g - 1
                if positive[np.int64((h_stamps[other] >> np.uint64(8)) & np.uint64(255))] and h_items[other] != item:
                    amount, later = weight[n] * (DISTANCE_UNIT // g), np.int64(h_stamps[other] >> np.uint64(16))
                    count = _emit(
                        e_nodes, e_lists, e_targets, e_amounts, e_ts, count, item, h_items[other], amount, later, CO_ENGAGED, salts
                    )
            amount = weight[n] * DISTANCE_UNIT
            if collections[n] != 0:
                count = _emit(e_nodes, e_lists, e_targets, e_amounts, e_ts, count, item, collections[n], amount, ts, IN_COLLECTION, salts)
            if sources[n] != 0 and sources[n] != item:
                count = _emit(e_nodes, e_lists, e_targets, e_amounts, e_ts, count, sources[n], item, amount, ts, SHOWN_NEXT_TO, salts)
        h_size[row] = _insert(h_items, h_stamps, base, size, at, item, stamps[n], history_max)
        if has_item[n]:
            s_size[row] = _see(s_items, s_ts, seen_start[row], s_size[row], item, ts, seen_max)
    emitted[len(rows)] = count
    return count


@njit(cache=True, nogil=True, inline="always")
def _known(ring, size, event_id):
    for i in range(size):
        if ring[i] == event_id:
            return True
    return False


@njit(cache=True, nogil=True, inline="always")
def _emit(nodes, lists, targets, amounts, times, count, earlier, later, amount, ts, relation, salts):
    """Both directions of one pair; the way back weighs half."""
    nodes[count], lists[count], targets[count], amounts[count], times[count] = earlier, earlier ^ salts[relation], later, amount, ts
    count += 1
    nodes[count], lists[count], targets[count], amounts[count], times[count] = later, later ^ salts[relation], earlier, amount // 2, ts
    return count + 1


@njit(cache=True, nogil=True, inline="always")
def _insert(items, stamps, base, size, at, item, stamp, history_max):
    """Put an entry at position `at`; a full history forgets its oldest, and ignores what is older still."""
    if size == history_max:
        if at == 0:
            return size
        for i in range(base, base + at - 1):
            items[i], stamps[i] = items[i + 1], stamps[i + 1]
        items[base + at - 1], stamps[base + at - 1] = item, stamp
        return size
    for i in range(base + size, base + at, -1):
        items[i], stamps[i] = items[i - 1], stamps[i - 1]
    items[base + at], stamps[base + at] = item, stamp
    return size + 1


@njit(cache=True, nogil=True, inline="always")
def _see(items, times, base, size, item, ts, seen_max):
    """Remember an item with its latest time, ascending by item; a full set forgets the item longest ago (ties: larger id)."""
    low, high = base, base + size
    while low < high:
        middle = (low + high) >> 1
        if items[middle] < item:
            low = middle + 1
        else:
            high = middle
    if low < base + size and items[low] == item:
        times[low] = max(times[low], ts)
        return size
    if size == seen_max:
        oldest = base
        for i in range(base + 1, base + size):
            if times[i] <= times[oldest]:
                oldest = i
        if ts < times[oldest] or (ts == times[oldest] and item > items[oldest]):
            return size
        for i in range(oldest, base + size - 1):
            items[i], times[i] = items[i + 1], times[i + 1]
        if oldest < low:
            low -= 1
        size -= 1
    for i in range(base + size, low, -1):
        items[i], times[i] = items[i - 1], times[i - 1]
    items[low], times[low] = item, ts
    return size + 1


@njit(cache=True, nogil=True)
def apply_edges(starts, nodes, weights, sizes, landmarks, order, begin, targets, amounts, times, neighbours_max, half_life_ms, table):
    for row in range(len(sizes)):
        base, size, landmark = starts[row], sizes[row], landmarks[row]
        for k in range(begin[row], begin[row + 1]):
            edge = order[k]
            weight, whole = decay.decayed_amount(amounts[edge], times[edge], half_life_ms, table)
            if size == 0:
                landmark = whole
            elif whole > landmark:
                for i in range(base, base + size):
                    weights[i] = decay.shifted(weights[i], whole - landmark)
                landmark = whole
            weight = decay.shifted(weight, landmark - whole)
            if weight == 0:
                continue
            target, at = targets[edge], base
            while at < base + size and nodes[at] != target:
                at += 1
            if at < base + size:
                weights[at] = min(weights[at] + weight, decay.WEIGHT_MAX)
                continue
            nodes[at], weights[at] = target, weight
            size += 1
            if size == 2 * neighbours_max:
                size = _trim(nodes[base : base + size], weights[base : base + size], neighbours_max)
        sizes[row], landmarks[row] = size, landmark


@njit(cache=True, nogil=True)
def _trim(nodes, weights, keep):
    """Keep the heaviest `keep`, ties by smaller id, in their order of arrival."""
    ranked = np.sort(weights)
    limit = ranked[len(weights) - keep]
    spare = keep
    for weight in weights:
        if weight > limit:
            spare -= 1
    tied = np.sort(nodes[weights == limit])
    last = tied[spare - 1]
    size = 0
    for i in range(len(nodes)):
        if weights[i] > limit or (weights[i] == limit and nodes[i] <= last):
            nodes[size], weights[size] = nodes[i], weights[i]
            size += 1
    return size


@njit(cache=True, nogil=True)
def count(table, rows, stamps, has_item, weight, applied, half_life_ms, decay_table):
    for n in range(len(rows)):
        if not applied[n] or not has_item[n]:
            continue
        row = table[rows[n]]
        row[EVENTS] += 1
        if weight[n] == 0:
            continue
        row[POSITIVES] += 1
        amount, whole = decay.decayed_amount(weight[n], np.int64(stamps[n] >> np.uint64(16)), half_life_ms, decay_table)
        if row[DECAYED] == 0 or whole > row[LANDMARK]:
            row[DECAYED] = decay.shifted(row[DECAYED], whole - row[LANDMARK]) if row[DECAYED] else 0
            row[LANDMARK] = whole
        row[DECAYED] = min(row[DECAYED] + decay.shifted(amount, row[LANDMARK] - whole), decay.WEIGHT_MAX)
