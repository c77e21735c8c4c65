"""The causal transformer over one short history, compiled: in numpy its two hundred small steps cost more than their arithmetic.

All weights come as one array; row n of `places` says where the n-th matrix begins in it, and its rows and columns. In this order: the
item's layer, start, actions, the layer of gaps; the last norm's scale and shift, the head's two layers; each block's query, key_value,
joined, inner, outer. A layer is weight (in, out) and bias (1, out). Not for batches.

    user = encoded(item_vectors, actions, ts_ms, now_ms, weights=weights, places=places, bias=bias)      # (D,)
"""

from typing import Final

import numpy as np
from numba import njit

from encoders.base import GAP_MS_MAX, GAP_STEP_MS, F32s, I64s, U8s

START: Final = 2
ACTIONS: Final = 3
GAPS: Final = 4
NORM: Final = 6
HEAD: Final = 8
BLOCKS: Final = 12
IN_BLOCK: Final = 10
EPSILON: Final = np.float32(1e-5)  # torch's LayerNorm


@njit(cache=True, nogil=True)
def encoded(  # noqa: PLR0913, PLR0917  # a kernel takes arrays, not objects
    item_vectors: F32s, actions: U8s, ts_ms: I64s, now_ms: int, weights: F32s, places: I64s, bias: F32s
) -> F32s:
    """(L, D) vectors, (L,) actions and times, oldest first -> the user's vector (D,), unit length; bias (H, L + 1, L + 1)."""
    start = _matrix(weights, places, START)
    x = np.empty((len(actions) + 1, start.shape[1]), dtype=np.float32)
    x[0] = start[0]
    if len(actions):
        x[1:] = _affine(item_vectors, weights, places, 0)
        place_actions(x[1:], _matrix(weights, places, ACTIONS), actions, ts_ms, now_ms, _matrix(weights, places, GAPS))
        x[1:] += _matrix(weights, places, GAPS + 1)
    for first in range(BLOCKS, len(places), IN_BLOCK):  # every block but the last computes all of its positions
        x = _block(x, bias, weights, places, first, x.shape[0] if first + IN_BLOCK < len(places) else 1)
    user = unit(standardised(x) * _matrix(weights, places, NORM) + _matrix(weights, places, NORM + 1))
    moved = _affine(np.maximum(_affine(user, weights, places, HEAD), np.float32(0)), weights, places, HEAD + 2)
    vector: F32s = unit(user + moved)[0] if np.any(moved != 0) else user[0]
    return vector


@njit(cache=True, nogil=True)
def _matrix(weights: F32s, places: I64s, n: int) -> F32s:
    """The n-th matrix: a view."""
    start, rows, columns = places[n]
    return weights[start : start + rows * columns].reshape(rows, columns)


@njit(cache=True, nogil=True)
def _affine(x: F32s, weights: F32s, places: I64s, n: int) -> F32s:
    """x @ weight + bias of the layer whose weight is the n-th matrix and whose bias the next."""
    out: F32s = np.dot(x, _matrix(weights, places, n))
    bias = _matrix(weights, places, n + 1)
    for row in range(out.shape[0]):
        for column in range(out.shape[1]):
            out[row, column] += bias[0, column]
    return out


@njit(cache=True, nogil=True)
def unit(x: F32s) -> F32s:
    """Rows of length 1; a row of zeros stays."""
    out = np.empty_like(x)
    for row in range(x.shape[0]):
        length = np.float32(0)
        for column in range(x.shape[1]):
            length += x[row, column] * x[row, column]
        length = max(np.sqrt(length), np.float32(1e-12))
        for column in range(x.shape[1]):
            out[row, column] = x[row, column] / length
    return out


@njit(cache=True, nogil=True)
def place_actions(  # noqa: PLR0913, PLR0917  # a kernel takes arrays, not objects
    x: F32s, action: F32s, actions: U8s, ts_ms: I64s, now_ms: int, gap: F32s
) -> None:
    """Add to each position (T, D) what was done there, and how long before the next: log(1 + gap) / 10 and whether there was one."""
    for row in range(len(actions)):
        until = ts_ms[row + 1] if row + 1 < len(actions) else now_ms
        held = min(max(until - ts_ms[row], 0), GAP_MS_MAX)
        length = np.log1p(np.float32(held) / np.float32(GAP_STEP_MS)) / np.float32(10)
        some = np.float32(1 if held > 0 else 0)
        for column in range(x.shape[1]):
            x[row, column] += action[actions[row], column] + length * gap[0, column] + some * gap[1, column]


@njit(cache=True, nogil=True)
def standardised(x: F32s) -> F32s:
    """Rows with mean 0 and variance 1."""
    out = np.empty_like(x)
    width = np.float32(x.shape[1])
    for row in range(x.shape[0]):
        mean = np.float32(0)
        for column in range(x.shape[1]):
            mean += x[row, column]
        mean /= width
        spread = np.float32(0)
        for column in range(x.shape[1]):
            centred = x[row, column] - mean
            out[row, column] = centred
            spread += centred * centred
        scale = np.float32(1) / np.sqrt(spread / width + EPSILON)
        for column in range(x.shape[1]):
            out[row, column] *= scale
    return out


@njit(cache=True, nogil=True)
def _block(  # noqa: PLR0913, PLR0917  # a kernel takes arrays, not objects
    x: F32s, bias: F32s, weights: F32s, places: I64s, n: int, asked: int
) -> F32s:
    """The last `asked` positions (A, D) of a block's output, its first matrix the n-th; x (T, D), bias (H, T, T)."""
    first = x.shape[0] - asked
    normed = standardised(x)
    query = _affine(normed[first:], weights, places, n)
    pair = _affine(normed, weights, places, n + 2)
    heard = np.empty_like(query)
    dim = x.shape[1]
    width = dim // bias.shape[0]
    for head in range(bias.shape[0]):
        low, high = head * width, (head + 1) * width
        keys, values = np.ascontiguousarray(pair[:, low:high].T), np.ascontiguousarray(pair[:, dim + low : dim + high])
        logits = np.dot(np.ascontiguousarray(query[:, low:high]), keys)
        _attend(logits, bias[head, first:])
        heard[:, low:high] = np.dot(logits, values)
    out = x[first:] + _affine(heard, weights, places, n + 4)
    inner = np.maximum(_affine(standardised(out), weights, places, n + 6), np.float32(0))
    out += _affine(inner, weights, places, n + 8)
    return out


@njit(cache=True, nogil=True)
def _attend(logits: F32s, bias: F32s) -> None:
    """Softmax of logits + bias (A, T) in place; row a is the position T - A + a and hears none after it."""
    asked, length = logits.shape
    for row in range(asked):
        heard = length - asked + row + 1
        top = np.float32(-np.inf)
        for column in range(heard):
            logits[row, column] += bias[row, column]
            top = max(top, logits[row, column])
        total = np.float32(0)
        for column in range(heard):
            logits[row, column] = np.exp(logits[row, column] - top)
            total += logits[row, column]
        for column in range(heard):
            logits[row, column] /= total
        logits[row, heard:] = 0
