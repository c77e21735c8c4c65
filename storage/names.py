"""Names: the strings behind the ids, and where a collision of two of them is noticed.

A name is stored once, with the partition that keeps what is known of its owner; the first byte is its kind. A bounded
set of the names met lately, as pairs of hashes, spares asking the state, and a string for each name that is known.

    column = Named.of(ITEM, texts); resolved = names.resolve(column, partitions)
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa

from storage.arrays import I64s, U64s
from storage.ids import hash_laid
from storage.met import Met
from storage.partitioned import present
from storage.ragged import number_rows
from storage.state import NAMES, State, Write
from storage.xxh3 import checksums, laid_out

_APART: Final = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class Named:
    """A column of names of one kind: their ids, 0 where there is none, and their checksums, both (N,)."""

    kind: int
    texts: pa.StringArray
    ids: U64s
    checksums: U64s

    @classmethod
    def of(cls, kind: int, texts: pa.StringArray) -> "Named":
        """Both hashes of each."""
        laid = laid_out(texts)
        ids = hash_laid(laid, kind)
        if texts.null_count:
            ids[texts.is_null().to_numpy(zero_copy_only=False)] = 0
        return cls(kind, texts, ids, checksums(*laid, np.uint64(kind)))


@dataclass(frozen=True)
class Resolved:
    """The writes that make new names known; names and ids of those to be learned once these are committed; rows whose id is another's."""

    writes: list[Write]
    fresh: dict[str, int]
    clashes: list[int]


class Names:
    """The strings of one state. At most `names_max` names are known without asking it."""

    def __init__(self, state: State, *, names_max: int = 2_000_000) -> None:
        self._state = state
        self._met = Met(names_max)

    def resolve(self, column: Named, partitions: I64s) -> Resolved:
        """What these names cost; partitions (N,) says where each is kept."""
        rows = self._met.strange(column.ids, column.checksums)
        if not len(rows):
            return Resolved([], {}, [])
        first, places = number_rows(column.ids[rows] ^ column.checksums[rows] * _APART)
        new = rows[first]
        writes, fresh, clashed = self._register(column.kind, column.texts.take(pa.array(new)).to_pylist(), column.ids[new], partitions[new])
        return Resolved(writes, fresh, rows[np.isin(places, clashed)].tolist() if clashed else [])

    def learn(self, kind: int, fresh: dict[str, int]) -> None:
        """Remember names whose writes are committed."""
        column = Named.of(kind, pa.array(list(fresh), pa.string()))
        self._met.add(column.ids, column.checksums)

    def forget(self) -> None:
        """Know none without asking."""
        self._met.clear()

    def name(self, node: int, partition: int) -> str | None:
        """The string behind an id."""
        (blob,) = self._state.read(NAMES, partition, np.array([node], dtype=np.uint64))
        return bytes(blob[1:]).decode("utf-8", "surrogatepass") if blob else None

    def scan(self, kind: int, partition: int) -> Iterator[tuple[int, str]]:
        """All (id, name) of a kind kept in a partition."""
        for node, blob in self._state.scan(NAMES, partition):
            if blob[0] == kind:
                yield node, blob[1:].decode("utf-8", "surrogatepass")

    def _register(self, kind: int, names: list[str], ids: U64s, partitions: I64s) -> tuple[list[Write], dict[str, int], list[int]]:
        """Distinct names that are not known: the writes of the new ones, what to learn, and the rows whose id belongs to another name."""
        fresh: dict[str, int] = {}
        clashes: list[int] = []
        writes: list[Write] = []
        parts = [(partition, np.flatnonzero(partitions == partition)) for partition in present(partitions)]
        found = self._state.read_many([(NAMES, partition, ids[here]) for partition, here in parts])
        head = bytes([kind])
        for (partition, here), blobs in zip(parts, found, strict=True):
            new_ids: dict[int, bytes] = {}
            for row, node, stored in zip(here.tolist(), ids[here].tolist(), blobs, strict=True):
                body = head + names[row].encode()
                other = stored if stored is not None else new_ids.get(node)
                if other is not None and other != body:
                    clashes.append(row)
                    continue
                fresh[names[row]] = node
                if stored is None:
                    new_ids[node] = body
            if new_ids:
                keys = sorted(new_ids)
                writes.append(Write(NAMES, partition, np.array(keys, dtype=np.uint64), [new_ids[key] for key in keys]))
        return writes, fresh, clashes
