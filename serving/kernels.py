"""The inner loops of a look-up, compiled: over two thousand candidates numpy's many small passes cost more than the sums themselves.

mass = spread(links.rows, links.weights, links.places, scale_of_list=scale, likings=likings, rooted=False)
"""

from typing import Final

import numpy as np
from numba import njit

from storage.arrays import F32s, F64s, I64s, U16s, U64s

LEAST_POWER: Final = 1e-9
"""A decay raised to less than this is not added: .5 ends thirty likings back."""


@njit(cache=True, nogil=True)
def spread(  # noqa: PLR0913, PLR0917  # a kernel takes arrays, not objects
    rows: I64s, weights: F64s, places: I64s, per_list: F64s, likings: F64s, rooted: bool
) -> F64s:
    """The sum over entries of weight * per_list[place] by row, divided by the root of the row's likings: (I,).

    `rooted`: of the weights' roots, divided by the fourth root.
    """
    mass = np.zeros(len(likings))
    for n in range(len(rows)):
        if rows[n] < len(mass):
            mass[rows[n]] += (np.sqrt(weights[n]) if rooted else weights[n]) * per_list[places[n]]
    for row in range(len(mass)):
        if mass[row] != 0.0:
            root = np.sqrt(likings[row])
            mass[row] /= np.sqrt(root) if rooted else root
    return mass


@njit(cache=True, nogil=True)
def gathered(sources: tuple[F64s, ...], rows: I64s) -> F64s:
    """Each source's masses at these rows: (S, C)."""
    table = np.empty((len(sources), len(rows)))
    for s in range(len(sources)):
        for n in range(len(rows)):
            table[s, n] = sources[s][rows[n]]
    return table


@njit(cache=True, nogil=True)
def shares(masses: F64s, epsilon: float, least: float, most: float) -> F64s:
    """Each row of masses (S, C) divided by its sum, plus epsilon / C; what is not a number between `least` and `most` counts as 0."""
    out = np.empty_like(masses)
    count = masses.shape[1]
    for s in range(masses.shape[0]):
        total = 0.0
        for n in range(count):
            mass = masses[s, n]
            held = mass if least < mass < most else 0.0
            out[s, n] = held
            total += held
        for n in range(count):
            out[s, n] = out[s, n] / (total if total > 0 else 1.0) + epsilon / max(1, count)
    return out


@njit(cache=True, nogil=True)
def placed(products: F32s, at: I64s, size: int, rows: I64s, temperature: float) -> F64s:
    """Product i belongs to catalogue row at[i], -1 to none: those of the rows asked, times temperature, -inf without one (C,)."""
    scores = np.full(size, -np.inf)
    for n in range(len(at)):
        if 0 <= at[n] < size:
            scores[at[n]] = products[n]
    asked = np.empty(len(rows))
    for n in range(len(rows)):
        asked[n] = scores[rows[n]] * temperature
    return asked


@njit(cache=True, nogil=True)
def find(ids: U64s, keys: U64s, places: I64s) -> I64s:
    """The place of each id in an open hash table whose size is a power of two, -1 where there is none; 0 is no id."""
    mask = np.uint64(len(keys) - 1)
    rows = np.full(len(ids), -1, dtype=np.int64)
    for n in range(len(ids)):
        slot = ids[n] & mask
        while keys[slot] != 0 and keys[slot] != ids[n]:
            slot = (slot + np.uint64(1)) & mask
        if ids[n] != 0 and keys[slot] == ids[n]:
            rows[n] = places[slot]
    return rows


@njit(cache=True, nogil=True)
def follow(  # noqa: PLR0913, PLR0917  # a kernel takes arrays, not objects
    liked: I64s, places: I64s, rows: I64s, decays: F64s, followers: U16s, weights: F32s, size: int
) -> F64s:
    """The sum over likings p and bags b of decays[b]^p * weights[b, place, k] at each follower's row, (size,); below 0 it is 0.

    liked: catalogue rows, newest first; places: a row's place among the weights, -1 without; rows: a place's row, -1 without.
    """
    sums = np.zeros(len(rows))
    for b in range(len(decays)):
        power = 1.0
        for p in range(len(liked)):
            if power < LEAST_POWER:
                break
            place = places[liked[p]] if liked[p] < len(places) else -1
            if place >= 0:
                for k in range(weights.shape[2]):
                    sums[followers[b, place, k]] += power * weights[b, place, k]
            power *= decays[b]
    mass = np.zeros(size)
    for place in range(len(rows)):
        if 0 <= rows[place] < size and sums[place] > 0.0:
            mass[rows[place]] = sums[place]
    return mass
