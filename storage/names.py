"""Names: the strings behind the ids, and where a collision of two of them is noticed.

A name is stored once, with the partition that keeps what is known of its owner; the first byte is its kind. A bounded
cache of the names met lately spares the hashing.

    ids, fresh, clashes = names.resolve(ITEM, ["a", "b"], partitions)
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from storage.arrays import I64s, U64s
from storage.ids import hash_ids
from storage.partitioned import present
from storage.state import NAMES, State, Write


@dataclass(frozen=True)
class Resolved:
    """Ids of names in order; the writes that make new ones known; positions whose id belongs to another name."""

    ids: U64s
    writes: list[Write]
    fresh: dict[str, int]
    clashes: list[int]


class Names:
    """The strings of one state. The cache holds at most `names_max` names and starts over when it is full."""

    def __init__(self, state: State, *, names_max: int = 2_000_000) -> None:
        self._state = state
        self._names_max = names_max
        self._known: dict[int, dict[str, int]] = {}

    def resolve(self, kind: int, names: Sequence[str], partitions: I64s, *, hashed: U64s | None = None) -> Resolved:
        """Ids of distinct names; partitions (N,) says where each name is kept; `hashed` (N,) their ids, where they were needed before."""
        known = self._known.setdefault(kind, {})
        if hashed is not None:
            new = [row for row, name in enumerate(names) if name not in known]
            return self._register(kind, names, hashed, new, partitions) if new else Resolved(hashed, [], {}, [])
        ids = [known.get(name, 0) for name in names]
        missing = [row for row, node in enumerate(ids) if node == 0]
        if not missing:
            return Resolved(np.array(ids, dtype=np.uint64), [], {}, [])
        for row, node in zip(missing, hash_ids([names[row] for row in missing], kind).tolist(), strict=True):
            ids[row] = node
        return self._register(kind, names, np.array(ids, dtype=np.uint64), missing, partitions)

    def known(self, kind: int, names: Sequence[str | None]) -> list[int]:
        """Ids of the names met lately, in order; 0 for any other, and for None."""
        known = self._known.get(kind, {})
        return [known.get(name, 0) for name in names]  # type: ignore[arg-type]  # no name is None, and to ask for it costs nothing

    def learn(self, kind: int, fresh: dict[str, int]) -> None:
        """Remember names whose writes are committed."""
        known = self._known.setdefault(kind, {})
        if len(known) + len(fresh) > self._names_max:
            known.clear()
        known.update(fresh)

    def forget(self) -> None:
        """Empty the cache."""
        self._known.clear()

    def name(self, node: int, partition: int) -> str | None:
        """The string behind an id."""
        (blob,) = self._state.read(NAMES, partition, np.array([node], dtype=np.uint64))
        return bytes(blob[1:]).decode("utf-8", "surrogatepass") if blob else None

    def scan(self, kind: int, partition: int) -> Iterator[tuple[int, str]]:
        """All (id, name) of a kind kept in a partition."""
        for node, blob in self._state.scan(NAMES, partition):
            if blob[0] == kind:
                yield node, blob[1:].decode("utf-8", "surrogatepass")

    def _register(self, kind: int, names: Sequence[str], ids: U64s, missing: list[int], partitions: I64s) -> Resolved:
        rows = np.array(missing, dtype=np.int64)
        fresh: dict[str, int] = {}
        clashes: list[int] = []
        writes: list[Write] = []
        where = partitions[rows]
        parts = [(partition, rows[where == partition]) for partition in present(where)]
        found = self._state.read_many([(NAMES, partition, ids[here]) for partition, here in parts])
        head = bytes([kind])
        for (partition, here), blobs in zip(parts, found, strict=True):
            new_ids: dict[int, bytes] = {}
            for row, node, stored in zip(here.tolist(), ids[here].tolist(), blobs, strict=True):
                body = head + names[row].encode("utf-8", "surrogatepass")
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
        return Resolved(ids, writes, fresh, clashes)
