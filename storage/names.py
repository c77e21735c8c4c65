"""Names: the strings behind the ids, and where a collision of two of them is noticed.

A name is stored once, with the partition that keeps what is known of its owner; the first byte is its kind. A bounded
set of the names met lately, as pairs of hashes, spares asking the state, and a string for each name that is known.

    column = Named.of(ITEM, texts); resolved = names.resolve(column, partitions)
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa

from storage.arrays import I64s, U64s
from storage.ids import hash_laid
from storage.met import Met
from storage.partitioned import read_rows, write_rows
from storage.ragged import number_rows
from storage.state import NAMES, State, Write
from storage.xxh3 import checksums, laid_out

_APART: Final = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class Strange:
    """Distinct names of a column that were not met lately, (R,) each; the rows of the column that hold them, and which of them: (M,)."""

    kind: int
    names: list[str]
    ids: U64s
    partitions: I64s
    rows: I64s
    places: I64s

    def __len__(self) -> int:
        return len(self.names)


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

    def strange(self, column: Named, partitions: I64s) -> Strange:
        """Which of these names must be looked up in the state; partitions (N,) says where each is kept."""
        rows = self._met.strange(column.ids, column.checksums)
        if not len(rows):
            return Strange(column.kind, [], column.ids[:0], partitions[:0], rows, rows)
        first, places = number_rows(column.ids[rows] ^ column.checksums[rows] * _APART)
        new = rows[first]
        return Strange(column.kind, column.texts.take(pa.array(new)).to_pylist(), column.ids[new], partitions[new], rows, places)

    def resolve(self, column: Named, partitions: I64s) -> Resolved:
        """The same, looked up."""
        strange = self.strange(column, partitions)
        return resolved(strange, read_rows(self._state, NAMES, strange.partitions, strange.ids))

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


def resolved(strange: Strange, stored: Sequence[bytes | None]) -> Resolved:
    """What these names cost, given what the state holds under their ids."""
    head, names, nodes = bytes([strange.kind]), strange.names, strange.ids.tolist()
    fresh: dict[str, int] = {}
    new: dict[int, bytes] = {}
    rows, clashed = list[int](), list[int]()
    for row, (name, node, known) in enumerate(zip(names, nodes, stored, strict=True)):
        body = head + name.encode()
        other = known if known is not None else new.get(node)
        if other is not None and other != body:
            clashed.append(row)
            continue
        fresh[name] = node
        if known is None:
            new[node] = body
            rows.append(row)
    writes = []
    if rows:
        at = np.array(rows, dtype=np.int64)
        at = at[np.argsort(strange.ids[at])]  # ascending ids are written fastest
        writes = write_rows(NAMES, strange.partitions[at], strange.ids[at], [new[node] for node in strange.ids[at].tolist()])
    return Resolved(writes, fresh, strange.rows[np.isin(strange.places, clashed)].tolist() if clashed else [])
