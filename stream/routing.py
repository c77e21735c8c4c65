"""User to partition: murmur2 of the UTF-8 id, as Java clients do it, over whole columns.

partitions_of(pa.array(["u1", "u2"]), 12)
"""

import numpy as np
import pyarrow as pa
from numba import njit

from storage.arrays import I64s, U8s


def partitions_of(ids: pa.StringArray, partitions: int) -> I64s:
    """The partition of each id: (murmur2(id) & 0x7fffffff) % partitions. ids (N,) without nulls -> (N,)."""
    if partitions == 1 or len(ids) == 0:
        return np.zeros(len(ids), dtype=np.int64)
    _, offsets, data = ids.buffers()
    ends = np.frombuffer(offsets, dtype=np.int32)[ids.offset : ids.offset + len(ids) + 1].astype(np.int64)
    body = np.frombuffer(data, dtype=np.uint8) if data is not None and data.size else np.zeros(1, dtype=np.uint8)
    return _murmur2(body, ends) % partitions


def partition_of(user_id: str, partitions: int) -> int:
    """The partition of one user."""
    return 0 if partitions == 1 else int(partitions_of(pa.array([user_id], pa.string()), partitions)[0])


@njit(cache=True, nogil=True)
def _murmur2(body: U8s, ends: I64s) -> I64s:
    out = np.empty(len(ends) - 1, dtype=np.int64)
    m = np.uint32(0x5BD1E995)
    for row in range(len(out)):
        at, length = ends[row], ends[row + 1] - ends[row]
        h = np.uint32(0x9747B28C) ^ np.uint32(length)
        for block in range(length // 4):
            i = at + 4 * block
            k = (
                np.uint32(body[i])
                | np.uint32(body[i + 1]) << np.uint32(8)
                | np.uint32(body[i + 2]) << np.uint32(16)
                | np.uint32(body[i + 3]) << np.uint32(24)
            )
            k = np.uint32(k * m)
            k ^= k >> np.uint32(24)
            h = np.uint32(np.uint32(h * m) ^ np.uint32(k * m))
        tail, i = length % 4, at + length - length % 4
        if tail == 3:
            h ^= np.uint32(body[i + 2]) << np.uint32(16)
        if tail >= 2:
            h ^= np.uint32(body[i + 1]) << np.uint32(8)
        if tail >= 1:
            h = np.uint32((h ^ np.uint32(body[i])) * m)
        h ^= h >> np.uint32(13)
        h = np.uint32(h * m)
        h ^= h >> np.uint32(15)
        out[row] = np.int64(h & np.uint32(0x7FFFFFFF))
    return out
