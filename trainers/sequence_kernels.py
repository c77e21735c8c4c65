"""Inner loops over sequences of items, compiled: pairs near each other, moments of decayed bags.

rows, columns, units = nearby_pairs(sequences.values, sequences.offsets, np.array([60, 30, 20, 15, 12]))
"""

import numpy as np
from numba import njit

from encoders.base import F64s, I64s


@njit(cache=True, nogil=True)
def nearby_pairs(values: I64s, offsets: I64s, units: I64s) -> tuple[I64s, I64s, I64s]:
    """(i, j, units[g - 1]) for every i before j at distance g = 1..len(units) inside a sequence: three arrays (P,)."""
    count = 0
    for s in range(len(offsets) - 1):
        length = offsets[s + 1] - offsets[s]
        for g in range(1, len(units) + 1):
            count += max(0, length - g)
    rows, columns, weights = np.empty(count, np.int64), np.empty(count, np.int64), np.empty(count, np.int64)
    at = 0
    for s in range(len(offsets) - 1):
        for here in range(offsets[s], offsets[s + 1]):
            for g in range(1, min(len(units), offsets[s + 1] - 1 - here) + 1):
                rows[at], columns[at], weights[at] = values[here], values[here + g], units[g - 1]
                at += 1
    return rows, columns, weights


@njit(cache=True, nogil=True)
def bag_moments(values: I64s, offsets: I64s, num_items: int, decays: F64s, bag_items: int) -> tuple[F64s, F64s]:  # one sum
    """A'A (D I, D I) and A'Y (D I, I) over all positions of all sequences, for D bags of the last `bag_items` items.

    A position t has, for bag d, the entries decays[d]^p at the item p places before it; Y is the item at t + 1. Instead of all pairs of
    entries at all positions, each pair of places u <= v of a sequence adds once what all positions that see both give it:
    d^(v - u) times the sum over k = 0..K of (d e)^k, K = how many positions after v still see u.
    """
    bags = len(decays)
    gram = np.zeros((bags * num_items, bags * num_items))
    cross = np.zeros((bags * num_items, num_items))
    powers = np.ones((bags, bag_items))
    for d in range(bags):
        for p in range(1, bag_items):
            powers[d, p] = powers[d, p - 1] * decays[d]
    series = np.ones((bags, bags, bag_items))
    for d in range(bags):
        for e in range(bags):
            for k in range(1, bag_items):
                series[d, e, k] = series[d, e, k - 1] + powers[d, k] * powers[e, k]
    for s in range(len(offsets) - 1):
        last = offsets[s + 1] - 2  # the last position that has a next item
        for u in range(offsets[s], last + 1):
            for v in range(u, min(last, u + bag_items - 1) + 1):
                distance = v - u
                more = min(bag_items - 1 - distance, last - v)
                for d in range(bags):
                    cross[d * num_items + values[u], values[v + 1]] += powers[d, distance]
                    for e in range(bags):
                        row, column = d * num_items + values[u], e * num_items + values[v]
                        gram[row, column] += powers[d, distance] * series[d, e, more]
                        if distance:
                            gram[column, row] += powers[d, distance] * series[d, e, more]
    return gram, cross
