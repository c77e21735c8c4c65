"""Ids: strings outside, 64-bit hashes inside.

A node id is xxh3-64 of the UTF-8 string, seeded by the kind of thing it names, so that a user and an item that share a
name do not share an id. The strings themselves are kept beside the state (`storage/names.py`), which is also where a
collision is noticed.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
import pyarrow as pa
import xxhash

from storage.arrays import U64s
from storage.xxh3 import Laid, digests, laid_out

ITEM, COLLECTION, QUERY, USER, EVENT = range(5)
_SEEDS: Final = (0, 0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0xD6E8FEB86659FD93)
"""By kind. Wide apart: up to 3 bytes xxh3 xors them with its seed, and small seeds make user "851" collide with item "854"."""
KINDS = {"item": ITEM, "collection": COLLECTION, "query": QUERY, "user": USER}


def hash_id(name: str, kind: int) -> int:
    """The 64-bit id of a name of this kind; never 0, which means "none" in every array.

    >>> hash_id("m1", ITEM) == hash_id("m1", ITEM), hash_id("m1", ITEM) == hash_id("m1", USER)
    (True, False)
    """
    return xxhash.xxh3_64_intdigest(name.encode("utf-8", "surrogatepass"), seed=_SEEDS[kind]) or 1


def hash_ids(names: Sequence[str], kind: int) -> U64s:
    """Ids of many names, in order: `hash_id` of each, for strings without lone surrogates."""
    return hash_laid(laid_out(pa.array(names, pa.string())), kind)


def hash_laid(texts: Laid, kind: int) -> U64s:
    """Ids of a column of names (N,); a null's is that of ""."""
    return np.maximum(digests(texts, _SEEDS[kind]), np.uint64(1))
