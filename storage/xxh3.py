"""xxh3-64 over a whole text column: what `xxhash.xxh3_64_intdigest` gives each text, without a Python string in between.

Written after the algorithm's specification (github.com/Cyan4973/xxHash, doc/xxhash_spec.md, section XXH3) for inputs up to 128 bytes;
longer ones, which are rare among names, go to the library. `checksums` is FNV-1a with xxh64's last steps: a second hash that has nothing
to do with the first, by which two texts of one id are told apart.

    laid = laid_out(pa.array(["m1", None])); digests(laid, seed); checksums(*laid, seed)
"""

from typing import Final, NamedTuple

import numpy as np
import pyarrow as pa
import xxhash
from numba import njit

from storage.arrays import I64s, U8s, U64s

LENGTH_MAX: Final = 128
"""Bytes that the kernel hashes itself."""
_SECRET: Final = np.frombuffer(
    bytes.fromhex(
        "b8fe6c3923a44bbe7c01812cf721ad1cded46de9839097db7240a4a4b7b3671fcb79e64eccc0e578825ad07dccff7221b8084674f743248ee03590e6813a264c"
        "3c2852bb91c300cb88d0658b1b532ea371644897a20df94e3819ef46a9deacd8a8fa763fe39c343ff9dcbbc7c70b4f1d8a51e04bcdb45931c89f7ec9d9787364"
    ),
    dtype=np.uint64,
)
"""The specification's default secret, its first 128 bytes as little-endian words."""
_P32: Final = np.uint64(0xFFFFFFFF)
_P64_1, _P64_2, _P64_3 = np.uint64(0x9E3779B185EBCA87), np.uint64(0xC2B2AE3D27D4EB4F), np.uint64(0x165667B19E3779F9)
_MIX_3, _MIX_4 = np.uint64(0x165667919E3779F9), np.uint64(0x9FB21C651E98DF25)
_FNV_BASIS, _FNV_PRIME = np.uint64(0xCBF29CE484222325), np.uint64(0x100000001B3)
_NO_TEXT: Final = np.zeros(1, dtype=np.uint8)


class Laid(NamedTuple):
    """The bytes behind a text column, and where its texts begin and the last one ends: (N + 1,). A null is as long as ""."""

    body: U8s
    ends: I64s


def laid_out(texts: pa.StringArray) -> Laid:
    """The column without a copy of its text."""
    if len(texts) == 0:
        return Laid(_NO_TEXT, np.zeros(1, dtype=np.int64))
    _, offsets, data = texts.buffers()
    ends = np.frombuffer(offsets, dtype=np.int32)[texts.offset : texts.offset + len(texts) + 1].astype(np.int64)
    return Laid(np.frombuffer(data, dtype=np.uint8) if data is not None and data.size else _NO_TEXT, ends)


def digests(laid: Laid, seed: int) -> U64s:
    """The digest of each text, (N,)."""
    found, longer = _digests(*laid, np.uint64(seed))
    for row in longer.tolist():
        found[row] = xxhash.xxh3_64_intdigest(laid.body[laid.ends[row] : laid.ends[row + 1]].tobytes(), seed=seed)
    return found


@njit(cache=True, nogil=True)
def checksums(body: U8s, ends: I64s, seed: np.uint64) -> U64s:
    """Another 64-bit hash of each text, (N,)."""
    out = np.empty(len(ends) - 1, dtype=np.uint64)
    for row in range(len(out)):
        h = _FNV_BASIS ^ np.uint64(seed)
        for at in range(ends[row], ends[row + 1]):
            h = (h ^ np.uint64(body[at])) * _FNV_PRIME
        out[row] = _avalanche64(h)
    return out


@njit(cache=True, nogil=True)
def _digests(body: U8s, ends: I64s, seed: np.uint64) -> tuple[U64s, I64s]:
    """Digests, and the rows that are too long for this."""
    count = len(ends) - 1
    out, longer, many = np.zeros(count, dtype=np.uint64), np.empty(count, dtype=np.int64), 0
    for row in range(count):
        at, length = ends[row], ends[row + 1] - ends[row]
        if length > LENGTH_MAX:
            longer[many] = row
            many += 1
        elif length > 16:
            out[row] = _of_129(body, at, length, seed)
        elif length > 8:
            low = _word(body, at, 8) ^ ((_SECRET[3] ^ _SECRET[4]) + seed)
            high = _word(body, at + length - 8, 8) ^ ((_SECRET[5] ^ _SECRET[6]) - seed)
            out[row] = _avalanche(np.uint64(length) + _swapped(low) + high + _folded(low, high))
        elif length > 3:
            out[row] = _of_8(body, at, length, seed)
        elif length > 0:
            mixed = np.uint64(body[at]) << np.uint64(16) | np.uint64(body[at + (length >> 1)]) << np.uint64(24)
            mixed |= np.uint64(body[at + length - 1]) | np.uint64(length) << np.uint64(8)
            out[row] = _avalanche64(mixed ^ (((_SECRET[0] & _P32) ^ (_SECRET[0] >> np.uint64(32))) + seed))
        else:
            out[row] = _avalanche64(seed ^ _SECRET[7] ^ _SECRET[8])
    return out, longer[:many]


@njit(cache=True, nogil=True)
def _of_8(body, at, length, seed):  # type: ignore[no-untyped-def]
    seed ^= (_swapped(seed & _P32) >> np.uint64(32)) << np.uint64(32)
    both = _word(body, at + length - 4, 4) + (_word(body, at, 4) << np.uint64(32))
    h = both ^ ((_SECRET[1] ^ _SECRET[2]) - seed)
    h ^= (h << np.uint64(49) | h >> np.uint64(15)) ^ (h << np.uint64(24) | h >> np.uint64(40))
    h *= _MIX_4
    h ^= (h >> np.uint64(35)) + np.uint64(length)
    h *= _MIX_4
    return h ^ h >> np.uint64(28)


@njit(cache=True, nogil=True)
def _of_129(body, at, length, seed):  # type: ignore[no-untyped-def]
    """17..128 bytes: 16 from each end, and 16 more from each for every 32 beyond."""
    h = np.uint64(length) * _P64_1
    for part in range((length - 1) // 32 + 1):
        for place, word in ((at + 16 * part, 4 * part), (at + length - 16 * (part + 1), 4 * part + 2)):
            h += _folded(_word(body, place, 8) ^ (_SECRET[word] + seed), _word(body, place + 8, 8) ^ (_SECRET[word + 1] - seed))
    return _avalanche(h)


@njit(cache=True, nogil=True)
def _word(body, at, size):  # type: ignore[no-untyped-def]
    """`size` bytes, the lowest first."""
    out = np.uint64(0)
    for n in range(size):
        out |= np.uint64(body[at + n]) << np.uint64(8 * n)
    return out


@njit(cache=True, nogil=True)
def _swapped(x):  # type: ignore[no-untyped-def]
    """Its bytes in the other order."""
    out = np.uint64(0)
    for n in range(8):
        out |= ((x >> np.uint64(8 * n)) & np.uint64(0xFF)) << np.uint64(56 - 8 * n)
    return out


@njit(cache=True, nogil=True)
def _folded(a, b):  # type: ignore[no-untyped-def]
    """The two halves of the 128-bit product, xored."""
    s = np.uint64(32)
    low, cross_a, cross_b, high = (a & _P32) * (b & _P32), (a >> s) * (b & _P32), (a & _P32) * (b >> s), (a >> s) * (b >> s)
    cross = (low >> s) + (cross_a & _P32) + cross_b
    return ((cross_a >> s) + (cross >> s) + high) ^ (cross << s | low & _P32)


@njit(cache=True, nogil=True)
def _avalanche(h):  # type: ignore[no-untyped-def]
    h ^= h >> np.uint64(37)
    h *= _MIX_3
    return h ^ h >> np.uint64(32)


@njit(cache=True, nogil=True)
def _avalanche64(h):  # type: ignore[no-untyped-def]
    h ^= h >> np.uint64(33)
    h *= _P64_2
    h ^= h >> np.uint64(29)
    h *= _P64_3
    return h ^ h >> np.uint64(32)
