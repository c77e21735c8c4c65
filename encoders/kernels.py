"""The causal transformer over one short history, compiled: in numpy its two hundred small steps cost more than their arithmetic.

`Layer` is (weight (in, out), bias (out,)); a block is its five: query, key_value, joined, inner, outer. Not for batches.

    user = encoded(item_vectors, actions, gaps_ms, entry=entry, bias=bias, heads=2, blocks=blocks, leave=leave)      # (D,)
"""

from typing import Final, TypeAlias

import numpy as np
from numba import njit

from encoders.base import F32s, I64s, U8s
from encoders.transformer import GAP_MS_MAX, GAP_STEP_MS

Layer: TypeAlias = tuple[F32s, F32s]
Entry: TypeAlias = tuple[Layer, F32s, F32s, Layer]
"""What a position is made of: the item's layer, the start token (D,), a row for each action (A, D), the layer of gaps."""
Leave: TypeAlias = tuple[tuple[F32s, F32s], Layer, Layer]
"""The last norm's scale and shift, and the head's two layers."""
EPSILON: Final = np.float32(1e-5)  # torch's LayerNorm


@njit(cache=True, nogil=True)
def encoded(  # noqa: PLR0913, PLR0917  # a kernel takes arrays, not objects
    item_vectors: F32s,
    actions: U8s,
    gaps_ms: I64s,
    entry: Entry,
    bias: F32s,
    heads: int,
    blocks: tuple[tuple[Layer, ...], ...],
    leave: Leave,
) -> F32s:
    """(L, D) vectors, (L,) actions and gaps, oldest first -> the user's vector (D,), unit length; bias (H, L + 1, L + 1)."""
    item, start, action, gap = entry
    x = np.empty((len(actions) + 1, len(start)), dtype=np.float32)
    x[0] = start
    if len(actions):
        x[1:] = np.dot(item_vectors, item[0]) + item[1]
        place_actions(x[1:], action, actions, gaps_ms, gap)
    norm, inner, outer = leave
    user = unit(standardised(last_position(x, bias, heads, blocks)) * norm[0] + norm[1])
    moved = np.dot(np.maximum(np.dot(user, inner[0]) + inner[1], np.float32(0)), outer[0]) + outer[1]
    vector: F32s = unit(user + moved)[0] if np.any(moved != 0) else user[0]
    return vector


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
def place_actions(x: F32s, action: F32s, actions: U8s, gaps_ms: I64s, gap: Layer) -> None:
    """Add to each position (T, D) what was done there, and how long before the next: log(1 + gap) / 10 and whether there was one."""
    for row in range(len(actions)):
        held = min(max(gaps_ms[row], 0), GAP_MS_MAX)
        length = np.log1p(np.float32(held) / np.float32(GAP_STEP_MS)) / np.float32(10)
        some = np.float32(1 if held > 0 else 0)
        for column in range(x.shape[1]):
            x[row, column] += action[actions[row], column] + length * gap[0][0, column] + some * gap[0][1, column] + gap[1][column]


@njit(cache=True, nogil=True)
def last_position(x: F32s, bias: F32s, heads: int, blocks: tuple[tuple[Layer, ...], ...]) -> F32s:
    """x (T, D), bias (H, T, T) -> the last row of the last block's output (1, D): every block but the last computes all of its own."""
    for n in range(len(blocks)):
        x = _block(x, bias, heads, blocks[n], x.shape[0] if n < len(blocks) - 1 else 1)
    return x


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
def _block(x: F32s, bias: F32s, heads: int, layers: tuple[Layer, ...], asked: int) -> F32s:
    first = x.shape[0] - asked
    normed = standardised(x)
    query = np.dot(normed[first:], layers[0][0]) + layers[0][1]
    pair = np.dot(normed, layers[1][0]) + layers[1][1]
    heard = np.empty_like(query)
    dim = x.shape[1]
    width = dim // heads
    for head in range(heads):
        low, high = head * width, (head + 1) * width
        keys, values = np.ascontiguousarray(pair[:, low:high].T), np.ascontiguousarray(pair[:, dim + low : dim + high])
        logits = np.dot(np.ascontiguousarray(query[:, low:high]), keys)
        _attend(logits, bias[head, first:])
        heard[:, low:high] = np.dot(logits, values)
    out: F32s = np.dot(heard, layers[2][0])
    for row in range(asked):
        for column in range(dim):
            out[row, column] += x[first + row, column] + layers[2][1][column]
    inner = np.dot(standardised(out), layers[3][0])
    for row in range(asked):
        for column in range(inner.shape[1]):
            inner[row, column] = max(inner[row, column] + layers[3][1][column], np.float32(0))
    moved = np.dot(inner, layers[4][0])
    for row in range(asked):
        for column in range(dim):
            out[row, column] += moved[row, column] + layers[4][1][column]
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
