"""What the item tower reads, gathered from the stores: content from the catalogue, neighbours and counts from the state.

features, rows = ItemFacts(catalogue, neighbours, positives).of(ids, now_ms=now_ms)
"""

from collections.abc import Callable

import numpy as np

from encoders.base import ItemFeatures, Ragged
from encoders.text import tokens
from storage.arrays import F32s, F64s, I64s, U64s
from storage.catalogue import Catalogue, Content
from storage.neighbours import CO_ENGAGED, Neighbours


class ItemFacts:
    """Gathers features; the hashed text of an item is kept until its content changes."""

    def __init__(self, catalogue: Catalogue, neighbours: Neighbours, degree: Callable[[U64s], F64s | I64s], *, neighbours_max: int) -> None:
        self._catalogue, self._neighbours, self._degree, self._neighbours_max = catalogue, neighbours, degree, neighbours_max
        self._text: dict[int, tuple[int, I64s]] = {}

    def of(self, ids: U64s, *, now_ms: int) -> tuple[ItemFeatures, I64s]:
        """Features of these items followed by their neighbours', and the rows (B,) of the items asked for.

        A neighbour that is no item of the catalogue is left out. Neighbours come heaviest first, as of `now_ms`.
        """
        lists = self._lists(ids, now_ms)
        others = np.setdiff1d(np.concatenate([nodes for nodes, _ in lists] or [ids[:0]]), ids)
        everyone = np.concatenate([ids, others])
        place = {node: row for row, node in enumerate(everyone.tolist())}
        neighbours = np.full((len(everyone), self._neighbours_max), -1, dtype=np.int64)
        weights = np.zeros((len(everyone), self._neighbours_max), dtype=np.float32)
        for row, (nodes, amounts) in enumerate(lists):
            for column, (node, amount) in enumerate(zip(nodes.tolist(), amounts.tolist(), strict=True)):
                neighbours[row, column], weights[row, column] = place[node], amount
        features = ItemFeatures(
            ids=everyone, text=self._texts(everyone), degree=_degree(self._degree(everyone)), neighbours=neighbours, weights=weights
        )  # fmt: skip
        return features, np.arange(len(ids), dtype=np.int64)

    def _lists(self, ids: U64s, now_ms: int) -> list[tuple[U64s, F64s]]:
        """Each item's heaviest neighbours that the catalogue knows."""
        lists = self._neighbours.read(CO_ENGAGED, ids, as_of_ms=now_ms)
        flat = np.concatenate([nodes for nodes, _ in lists] or [ids[:0]])
        known, begin, kept = self._catalogue.rows(flat) >= 0, 0, []
        for nodes, weights in lists:
            rows = np.flatnonzero(known[begin : begin + len(nodes)])[: self._neighbours_max]
            kept.append((nodes[rows], weights[rows]))
            begin += len(nodes)
        return kept

    def _texts(self, ids: U64s) -> Ragged:
        parts = []
        for node, row in zip(ids.tolist(), self._catalogue.rows(ids).tolist(), strict=True):
            content = self._catalogue.content(row) if row >= 0 else Content()
            known = self._text.get(node)
            if known is None or known[0] != content.offset:
                known = (content.offset, _hashed(content))
                self._text[node] = known
            parts.append(known[1])
        offsets = np.concatenate([[0], np.cumsum([len(part) for part in parts])]).astype(np.int64)
        return Ragged(np.concatenate(parts) if parts else np.empty(0, np.int64), offsets)


def _hashed(content: Content) -> I64s:
    attributes = {**content.attributes, "collection": content.collections} if content.collections else content.attributes
    return tokens([f"{content.title} {content.text}"], [attributes]).values


def _degree(counts: F64s | I64s) -> F32s:
    return counts.astype(np.float32)
