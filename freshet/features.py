"""What the item tower reads, gathered from the stores: content from the catalogue, neighbours and counts from the state.

features, rows = ItemFacts(catalogue, neighbours, positives, widths=(10, 10, 5, 5)).of(ids, now_ms=now_ms)
"""

from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from encoders.base import COLLECTION, ITEM, ItemFeatures, Ragged
from encoders.config import COLLECTIONS, NEAR, RELATIONS, SHOWN, SIBLINGS
from encoders.push import Adjacency, nearest
from encoders.text import tokens
from serving.contents import described
from storage.arrays import F32s, F64s, I64s, U64s
from storage.catalogue import Catalogue, Content
from storage.neighbours import CO_ENGAGED, IN_COLLECTION, SHOWN_NEXT_TO, Neighbours

Lists: TypeAlias = list[tuple[U64s, F64s | F32s]]
"""Each item's neighbours by one relation, nearest first, and their weights."""


class ItemFacts:
    """Gathers features; the hashed text of a node is kept until its content changes."""

    def __init__(
        self, catalogue: Catalogue, neighbours: Neighbours, degree: Callable[[U64s], F64s | I64s], *, widths: tuple[int, ...]
    ) -> None:
        """`widths`: places for neighbours of each relation, in the order of `encoders.config.RELATIONS`; missing ones are 0."""
        self._catalogue, self._neighbours, self._degree = catalogue, neighbours, degree
        self._widths = (*widths, 0, 0, 0)[: len(RELATIONS)]
        self._text: dict[int, tuple[int, I64s]] = {}

    def of(self, ids: U64s, *, now_ms: int) -> tuple[ItemFeatures, I64s]:
        """Features of these items followed by their neighbours', and the rows (B,) of the items asked for.

        A neighbour that should be an item and is none of the catalogue is left out. Nearest first, as of `now_ms`: what was engaged with
        or shown about then by its weight; siblings and collections by forward push over what the items' collections hold.
        """
        near, shown = (
            self._heaviest(relation, ids, now_ms, self._widths[at]) for relation, at in ((CO_ENGAGED, NEAR), (SHOWN_NEXT_TO, SHOWN))
        )
        siblings, collections = self._collected(ids, now_ms)
        items = np.setdiff1d(_nodes(near + siblings + shown, like=ids), ids)
        groups = np.unique(_nodes(collections, like=ids))
        everyone = np.concatenate([ids, items, groups])
        place = {node: row for row, node in enumerate(everyone.tolist())}
        neighbours = np.full((len(everyone), sum(self._widths)), -1, dtype=np.int64)
        weights = np.zeros(neighbours.shape, dtype=np.float32)
        for begin, lists in zip(np.cumsum((0, *self._widths)).tolist(), (near, siblings, collections, shown), strict=False):
            for row, (nodes, amounts) in enumerate(lists):
                for column, (node, amount) in enumerate(zip(nodes.tolist(), amounts.tolist(), strict=True), start=begin):
                    neighbours[row, column], weights[row, column] = place[node], amount
        features = ItemFeatures(
            ids=everyone, text=self._texts(everyone), degree=_degree(self._degree(everyone)), neighbours=neighbours, weights=weights,
            kinds=np.repeat(np.array([ITEM, COLLECTION], dtype=np.uint8), [len(ids) + len(items), len(groups)]), widths=self._widths,
        )  # fmt: skip
        return features, np.arange(len(ids), dtype=np.int64)

    def _heaviest(self, relation: int, ids: U64s, now_ms: int, most: int) -> Lists:
        """Each item's heaviest neighbours that the catalogue knows."""
        if not most:
            return []
        lists = self._neighbours.read(relation, ids, as_of_ms=now_ms)
        flat = np.concatenate([nodes for nodes, _ in lists] or [ids[:0]])
        known, begin, kept = self._catalogue.rows(flat) >= 0, 0, list[tuple[U64s, F64s | F32s]]()
        for nodes, weights in lists:
            rows = np.flatnonzero(known[begin : begin + len(nodes)])[:most]
            kept.append((nodes[rows], weights[rows]))
            begin += len(nodes)
        return kept

    def _collected(self, ids: U64s, now_ms: int) -> tuple[Lists, Lists]:
        """Who else is in the items' collections, and these themselves."""
        most = self._widths[SIBLINGS], self._widths[COLLECTIONS]
        if not any(most):
            return [], []
        groups, weights, items = self._neighbours.links(IN_COLLECTION, ids, as_of_ms=now_ms)
        of = np.unique(groups)
        members, shares, holders = self._neighbours.links(IN_COLLECTION, of, as_of_ms=now_ms)
        known = self._catalogue.rows(members) >= 0
        members, shares, holders = members[known], shares[known], holders[known]
        nodes = np.unique(np.concatenate([ids, members]))
        sources = np.searchsorted(nodes, ids)
        kinds = np.repeat(np.array([ITEM, COLLECTION], dtype=np.uint8), [len(nodes), len(of)])
        graph = Adjacency.of(
            np.concatenate([sources[items], len(nodes) + holders]),
            np.concatenate([len(nodes) + np.searchsorted(of, groups), np.searchsorted(nodes, members)]),
            np.concatenate([weights, shares]),
            nodes=len(kinds),
        ).by_degree()
        # Nothing is pushed on from other items, though those of the batch are known: who is near must not depend on who is asked beside.
        rows, values = nearest(graph, sources, kinds, {ITEM: most[0], COLLECTION: most[1]}, loaded=kinds == COLLECTION)
        named = np.concatenate([nodes, of])
        lists = [[(named[row[row >= 0]], value[row >= 0]) for row, value in zip(rows[:, part], values[:, part], strict=True)]
                 for part in (slice(0, most[0]), slice(most[0], None))]  # fmt: skip
        return lists[0], lists[1]

    def _texts(self, ids: U64s) -> Ragged:
        parts = []
        for node in ids.tolist():
            content = self._catalogue.about(node)
            known = self._text.get(node)
            if known is None or known[0] != content.offset:
                known = (content.offset, _hashed(content))
                self._text[node] = known
            parts.append(known[1])
        offsets = np.concatenate([[0], np.cumsum([len(part) for part in parts])]).astype(np.int64)
        return Ragged(np.concatenate(parts) if parts else np.empty(0, np.int64), offsets)


def _nodes(lists: Lists, *, like: U64s) -> U64s:
    return np.concatenate([like[:0], *(nodes for nodes, _ in lists)])


def _hashed(content: Content) -> I64s:
    text, attributes = described(content)
    return tokens([text], [attributes]).values


def _degree(counts: F64s | I64s) -> F32s:
    return counts.astype(np.float32)
