"""The catalogue in memory: dense rows for items, with what is known of each. A row, once given, keeps its item.

catalogue = Catalogue(); catalogue.load(state, names, partitions); rows = catalogue.rows(ids)
"""

from collections.abc import Sequence
from typing import Final

import msgspec
import numpy as np

from storage.arrays import Bools, I64s, U64s
from storage.ids import ITEM
from storage.names import Names
from storage.state import NODES, State

UNBORN_MS: Final = -(1 << 60)
Scalar = str | int | float | bool | None


class Content(msgspec.Struct, omit_defaults=True):
    """What an entity message said of a node; the highest (`ts_ms`, `offset`) was kept."""

    kind: str = "item"
    name: str = ""
    title: str = ""
    text: str = ""
    image: bytes | list[float] | None = None
    attributes: dict[str, Scalar | list[str]] = {}
    collections: list[str] = []
    ts_ms: int = 0
    offset: int = -1
    deleted: bool = False


_UNKNOWN: Final = Content()
_content = msgspec.json.Decoder(Content)


def encode_content(content: Content) -> bytes:
    """The stored form."""
    return msgspec.json.encode(content)


def decode_content(blob: bytes) -> Content:
    """Back from the stored form."""
    return _content.decode(blob)


class Catalogue:
    """Items by row. Grows only; readers on other threads see a row once it is complete."""

    def __init__(self) -> None:
        self._row_of: dict[int, int] = {}
        self._ids = np.zeros(1024, dtype=np.uint64)
        self._deleted = np.zeros(1024, dtype=np.bool_)
        self._born_ms = np.full(1024, UNBORN_MS, dtype=np.int64)
        self._names: list[str] = []
        self._contents: list[Content] = []
        self._others: dict[int, Content] = {}

    def __len__(self) -> int:
        return len(self._row_of)

    @property
    def ids(self) -> U64s:
        """The items' ids by row: (I,)."""
        return self._ids[: len(self._row_of)]

    @property
    def deleted(self) -> Bools:
        """Which items are deleted, by row: (I,)."""
        return self._deleted[: len(self._row_of)]

    @property
    def born_ms(self) -> I64s:
        """The time of the first content known here, by row: (I,); far in the past where there is none."""
        return self._born_ms[: len(self._row_of)]

    def load(self, state: State, names: Names, partitions: int) -> None:
        """Read every item the state knows, by ascending id."""
        for partition in range(partitions):
            for node, name in names.scan(ITEM, partition):
                self.add(node, name)
            for node, blob in state.scan(NODES, partition):
                content = decode_content(blob)
                self.take(node, content)

    def add(self, node: int, name: str) -> int:
        """The item's row, made if need be."""
        row = self._row_of.get(node)
        if row is None:
            row = len(self._names)
            if row == len(self._ids):
                self._ids = np.concatenate([self._ids, np.zeros_like(self._ids)])
                self._deleted = np.concatenate([self._deleted, np.zeros_like(self._deleted)])
                self._born_ms = np.concatenate([self._born_ms, np.full_like(self._born_ms, UNBORN_MS)])
            self._ids[row] = node
            self._names.append(name)
            self._contents.append(Content(name=name))
            self._row_of[node] = row
        return row

    def take(self, node: int, content: Content) -> None:
        """Newer content of a node of any kind; what is no item has no row."""
        if content.kind == "item":
            self.put(node, content)
        else:
            self._others[node] = content

    def about(self, node: int) -> Content:
        """What is known of a node of any kind, nothing perhaps."""
        row = self._row_of.get(node)
        return self._contents[row] if row is not None else self._others.get(node, _UNKNOWN)

    def put(self, node: int, content: Content) -> int:
        """Take newer content of an item; returns its row."""
        row = self.add(node, content.name)
        self._contents[row] = content
        self._deleted[row] = content.deleted
        if self._born_ms[row] == UNBORN_MS:
            self._born_ms[row] = content.ts_ms
        return row

    def row(self, node: int) -> int:
        """The row of one item, -1 when unknown."""
        return self._row_of.get(node, -1)

    def rows(self, nodes: U64s) -> I64s:
        """The rows of items, -1 where unknown: (N,)."""
        get = self._row_of.get
        return np.array([get(node, -1) for node in nodes.tolist()], dtype=np.int64)

    def name(self, row: int) -> str:
        """The item's string id."""
        return self._names[row]

    def content(self, row: int) -> Content:
        """What is known of the item."""
        return self._contents[row]

    def titles(self, rows: Sequence[int]) -> list[str]:
        """Titles for people; empty where none is known."""
        return [self._contents[row].title for row in rows]
