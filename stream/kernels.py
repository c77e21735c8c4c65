"""The reducers' inner loops, compiled: what is stored goes in end to end, and comes out as it is then.

`stream/reducers.py` says what each does; this file is how, and is typed by numba.
"""

import numpy as np
from numba import njit

from storage import decay
from storage.counts import DECAYED, EVENTS, LANDMARK, POSITIVES
from storage.histories import RING, load_histories, load_seen, store_histories, store_seen
from storage.neighbours import CO_ENGAGED, IN_COLLECTION, SALTS, SHOWN_NEXT_TO, load_neighbours, store_neighbours
from storage.ragged import group
from stream.shape import DISTANCE_UNIT


@njit(cache=True, nogil=True)
def apply_events(
    rows, items, stamps, event_ids, collections, sources, has_item, weight,
    h_flat, h_begin, s_flat, s_begin, positive, history_max, seen_max, window,
    ids, numbers,
):  # fmt: skip
    """Events (N,) over stored histories and seen-sets, each end to end and where its R rows begin (R + 1,).

    Returns both as they are then, each as it came; which events counted (N,); how many edges they made, E. Those stand first in
    ids (3, room): nodes, list ids, targets, and numbers (3, room): amounts, times, rows of their events.
    """
    added = np.zeros(len(h_begin) - 1, dtype=np.int64)
    for row in rows:
        added[row] += 1
    held = load_histories(h_flat, h_begin, added, history_max)
    start, h_items, h_stamps, size, ring_start, ring, ring_size, ring_next = held
    seen = load_seen(s_flat, s_begin, added, seen_max)
    seen_start, s_items, s_ts, s_size = seen
    applied = np.zeros(len(rows), dtype=np.bool_)
    count = 0
    for n in range(len(rows)):
        row = rows[n]
        if _known(ring[ring_start[row] :], ring_size[row], event_ids[n]):
            continue
        applied[n] = True
        turn = ring_next[row] if ring_size[row] == RING else ring_size[row]  # one that is not full goes on where it ends
        ring[ring_start[row] + turn] = event_ids[n]
        ring_next[row], ring_size[row] = (turn + 1) % RING, min(ring_size[row] + 1, RING)
        base, end, item, ts = start[row], start[row] + size[row], items[n], np.int64(stamps[n] >> np.uint64(16))
        at = size[row]
        while at > 0 and np.int64(h_stamps[base + at - 1] >> np.uint64(16)) > ts:
            at -= 1
        if weight[n] > 0:
            count = _pair(ids, numbers, count, n, item, ts, weight[n], h_items[base:end], h_stamps[base:end], at, positive, window)
            if collections[n] != 0:
                count = _emit(ids, numbers, count, n, item, collections[n], weight[n] * DISTANCE_UNIT, ts, IN_COLLECTION)
            if sources[n] != 0 and sources[n] != item:
                count = _emit(ids, numbers, count, n, sources[n], item, weight[n] * DISTANCE_UNIT, ts, SHOWN_NEXT_TO)
        size[row] = _insert(h_items, h_stamps, base, size[row], at, item, stamps[n], history_max)
        if has_item[n]:
            s_size[row] = _see(s_items, s_ts, seen_start[row], s_size[row], item, ts, seen_max)
    return store_histories(held), store_seen(seen), applied, count


@njit(cache=True, nogil=True, inline="always")
def _pair(ids, numbers, count, n, item, ts, weight, items, stamps, at, positive, window):
    """Edges between an event and the entries around position `at`, its own, of a history."""
    for g in range(1, min(window, at) + 1):
        other, stamp = items[at - g], stamps[at - g]
        if positive[np.int64((stamp >> np.uint64(8)) & np.uint64(255))] and other != item:
            count = _emit(ids, numbers, count, n, other, item, weight * (DISTANCE_UNIT // g), ts, CO_ENGAGED)
    for g in range(1, min(window, len(items) - at) + 1):
        other, stamp = items[at + g - 1], stamps[at + g - 1]
        if positive[np.int64((stamp >> np.uint64(8)) & np.uint64(255))] and other != item:
            count = _emit(ids, numbers, count, n, item, other, weight * (DISTANCE_UNIT // g), np.int64(stamp >> np.uint64(16)), CO_ENGAGED)
    return count


@njit(cache=True, nogil=True, inline="always")
def _known(ring, size, event_id):
    for i in range(size):
        if ring[i] == event_id:
            return True
    return False


@njit(cache=True, nogil=True, inline="always")
def _emit(ids, numbers, count, n, earlier, later, amount, ts, relation):
    """Both directions of one pair; the way back weighs half."""
    ids[0, count], ids[1, count], ids[2, count] = earlier, earlier ^ SALTS[relation], later
    numbers[0, count], numbers[1, count], numbers[2, count] = amount, ts, n
    count += 1
    ids[0, count], ids[1, count], ids[2, count] = later, later ^ SALTS[relation], earlier
    numbers[0, count], numbers[1, count], numbers[2, count] = amount // 2, ts, n
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
def apply_edges(flat, begin, rows, targets, amounts, times, neighbours_max, half_life_ms, table):
    """Edges (E,), each with its list's row, over stored lists, end to end and where their R rows begin (R + 1,).

    Returns the lists as they are then, as they came.
    """
    order, first = group(rows, len(begin) - 1)
    held = load_neighbours(flat, begin, first[1:] - first[:-1], neighbours_max)
    nodes, weights = held.nodes, held.weights
    for row in range(len(held.size)):
        base, size, landmark = held.start[row], held.size[row], held.landmark[row]
        for k in range(first[row], first[row + 1]):
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
        held.size[row], held.landmark[row] = size, landmark
    return store_neighbours(held)


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
