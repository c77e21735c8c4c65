"""Votes of past sessions for what comes next, compiled: one formula for the bench's index of all sessions and for the live one.

    votes = session_votes(inputs, offsets, (items, begins, ends, count), (heads, session_of, before), frequency, (10_000, 1_000), overlap)

Prefix of length L. Each distinct item of it, last at position p (1..L), weighs w = exp(-(L - p) / 1.5) and votes in the newest sessions
holding it: sim(s) = (sum of w) / sqrt(len(s) * sum of w^2) * exp(-age / (0.3 S)), age = 1 for the newest of the S sessions. The most alike
are kept (ties: newer). In each, m = position of the prefix item with the largest w (ties: later), and each position q adds sim(s) *
exp(-|q - m| / 2) * ln(S / df), times .3 if q = m, to its item; df = sessions holding the item, len counts repeats.

Source: the evaluation protocol, section 3, after V-STAN (Ludewig and others, "Empirical analysis of session-based recommendation
algorithms"). Constants are the protocol's.
"""

from typing import Final, TypeAlias

import numpy as np
from numba import njit

from encoders.base import F64s, I32s, I64s

PREFIX_DECAY: Final = 1.5
AGE_SHARE: Final = 0.3
PLACE_DECAY: Final = 2.0
MATCH_DAMPING: Final = 0.3
_FADES: Final = 64
Rows: TypeAlias = I64s | I32s


@njit(cache=True, nogil=True)
def _weights(prefix: I64s) -> F64s:
    """e^(-(L - p) / 1.5) at the last place p of each item, 0 at its earlier ones."""
    length = len(prefix)
    weights = np.zeros(length)
    for place in range(length):
        last = True
        for later in range(place + 1, length):
            if prefix[later] == prefix[place]:
                last = False
        if last:
            weights[place] = np.exp(-(length - 1 - place) / PREFIX_DECAY)
    return weights


@njit(cache=True, nogil=True)
def _most_alike(likeness: F64s, numbers: I64s, kept_max: int) -> I64s:
    """Where the `kept_max` highest are, in no order; of equals the higher number is kept."""
    found = len(likeness)
    if found <= kept_max:
        return np.arange(found)
    least = np.partition(likeness, found - kept_max)[found - kept_max]
    kept = np.empty(kept_max, np.int64)
    above = 0
    for n in range(found):
        if likeness[n] > least:
            kept[above] = n
            above += 1
    equal = np.flatnonzero(likeness == least)
    newest = np.argsort(-numbers[equal])
    kept[above:] = equal[newest[: kept_max - above]]
    return kept


@njit(cache=True, nogil=True)
def session_votes(  # noqa: C901, PLR0913, PLR0917  # a kernel takes arrays, not objects
    inputs: I64s,
    offsets: I64s,
    sessions: tuple[Rows, I64s, I64s, int],
    postings: tuple[Rows, Rows, Rows],
    frequency: I64s,
    limits: tuple[int, int],
    overlap: F64s,
) -> F64s:
    """Votes for every item (B, I); zeros for an empty prefix.

    sessions: items, where each begins and ends in them, and how many there were in all: session n lies in slot n % room, over the one that
    lay there, room = len(overlap). postings: an item's newest posting, each posting's slot, and the item's posting before it (-1: none).
    limits: newest sessions of an item that are looked at, sessions that vote. overlap (room,): zeros, and zeros again when it returns.

    The live index changes while it is read: what is read may be of two moments, so no place is believed to be in bounds.
    """
    items, begins, ends, count = sessions
    heads, session_of, before = postings
    looked_at_max, kept_max = limits
    room, alive = len(overlap), min(count, len(overlap))
    fades = np.exp(-np.arange(_FADES) / PLACE_DECAY)
    votes = np.zeros((len(offsets) - 1, len(frequency)))
    for row in range(len(offsets) - 1):
        prefix = inputs[offsets[row] : offsets[row + 1]]
        length = len(prefix)
        weight_of = _weights(prefix)
        norm = (weight_of * weight_of).sum()
        found = 0
        size = 0
        for place in range(length):
            if weight_of[place] > 0.0:
                size += min(looked_at_max, frequency[prefix[place]])
        touched = np.empty(size, np.int64)  # by number, which grows as slots do not
        for place in range(length):
            if weight_of[place] > 0.0:
                posting, looked_at = heads[prefix[place]], 0
                while posting >= 0 and looked_at < looked_at_max:
                    slot = session_of[posting]
                    if overlap[slot] == 0.0:
                        if found == size:
                            break
                        touched[found] = count - 1 - (count - 1 - slot) % room
                        found += 1
                    overlap[slot] += weight_of[place]
                    posting, looked_at = before[posting], looked_at + 1
        likeness = np.empty(found)
        for n in range(found):
            slot = touched[n] % room
            long = max(1, ends[slot] - begins[slot])
            likeness[n] = overlap[slot] / np.sqrt(long * norm) * np.exp(-(count - touched[n]) / (AGE_SHARE * alive))
            overlap[slot] = 0.0
        for n in _most_alike(likeness, touched, kept_max):
            begin, end = begins[touched[n] % room], ends[touched[n] % room]
            match, heaviest = begin, 0.0
            for q in range(begin, end):
                for place in range(length):
                    if prefix[place] == items[q] and weight_of[place] >= heaviest and weight_of[place] > 0.0:
                        match, heaviest = q, weight_of[place]
            for q in range(begin, end):
                distance, item = abs(q - match), items[q]
                if item < len(frequency):
                    fade = fades[distance] if distance < _FADES else np.exp(-distance / PLACE_DECAY)
                    votes[row, item] += likeness[n] * fade * (MATCH_DAMPING if q == match else 1.0)
        for item in range(len(frequency)):
            if votes[row, item] != 0.0:
                votes[row, item] *= np.log(alive / max(1, frequency[item]))
    return votes
