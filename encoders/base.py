"""The letters shapes are written in, and what goes into the encoders.

B batch · L history length · N neighbours · K negatives · D dim · I items · T tokens of text · F features of an item (a lone letter is
written `" B"` in an annotation). Everything here is numpy: a store fills these, an encoder turns them into tensors.

    features = ItemFeatures(ids, text=tokens(titles), degree=counts, neighbours=rows, weights=weights)
"""

from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

U8s: TypeAlias = NDArray[np.uint8]
U16s: TypeAlias = NDArray[np.uint16]
I32s: TypeAlias = NDArray[np.int32]
I64s: TypeAlias = NDArray[np.int64]
U64s: TypeAlias = NDArray[np.uint64]
F32s: TypeAlias = NDArray[np.float32]
F64s: TypeAlias = NDArray[np.float64]
Bools: TypeAlias = NDArray[np.bool_]

ITEM: Final = 0
COLLECTION: Final = 1
GAP_MS_MAX: Final = 30 * 86_400_000
GAP_STEP_MS: Final = 60_000
"""Of the time between two actions the user encoder hears log(1 + minutes), up to 30 days."""


@dataclass(frozen=True)
class Ragged:
    """Lists of unequal length in one array: list i is `values[offsets[i]:offsets[i + 1]]`; offsets (I + 1,) start at 0."""

    values: I64s
    offsets: I64s

    def __post_init__(self) -> None:
        assert self.offsets.ndim == 1 and len(self.offsets) >= 1, f"offsets must be (I + 1,), not {self.offsets.shape}"
        assert self.offsets[0] == 0 and self.offsets[-1] == len(self.values), "offsets must run from 0 to the number of values"

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def take(self, rows: I64s) -> "Ragged":
        """The lists of these rows, in this order."""
        lengths = np.diff(self.offsets)[rows]
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        within = np.arange(offsets[-1], dtype=np.int64) - np.repeat(offsets[:-1], lengths)
        return Ragged(self.values[np.repeat(self.offsets[:-1][rows], lengths) + within], offsets)


@dataclass(frozen=True)
class ItemFeatures:
    """What is known of I nodes. A neighbour is a row *of the same features* (-1: none), so that it brings its own id and text.

    ids (I,); text I lists of hashed-row ids; degree (I,) events or edges, >= 0; neighbours (I, N) rows, nearest first; weights (I, N)
    >= 0, any scale; image (I, image_dim) or None, a row of zeros where a node has none; kinds (I,) ITEM or COLLECTION, None: all items;
    widths: how many columns of neighbours each relation has, in the order of `config.RELATIONS`, (): all are of the first.
    """

    ids: U64s
    text: Ragged
    degree: F32s
    neighbours: I64s
    weights: F32s
    image: F32s | None = None
    kinds: U8s | None = None
    widths: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        items = len(self.ids)
        parts = {"text": len(self.text), "degree": len(self.degree), "neighbours": len(self.neighbours), "weights": len(self.weights)}
        wrong = {name: size for name, size in parts.items() if size != items}
        assert not wrong, f"{items} ids, but other parts have other lengths: {wrong}"
        assert self.neighbours.shape == self.weights.shape, f"neighbours {self.neighbours.shape}, weights {self.weights.shape}"
        assert not self.neighbours.size or self.neighbours.max() < items, "a neighbour must be a row of these features"
        assert self.image is None or len(self.image) == items, f"{items} ids, image rows {len(self.image or ())}"
        assert self.kinds is None or len(self.kinds) == items, f"{items} ids, kinds {len(self.kinds or ())}"
        assert not self.widths or sum(self.widths) == self.neighbours.shape[1], f"{self.neighbours.shape[1]} columns are not {self.widths}"

    @property
    def items(self) -> int:
        """How many are items; they stand first."""
        if self.kinds is None:
            return len(self)
        assert (np.diff(self.kinds.astype(np.int64)) >= 0).all(), "items stand before other nodes"
        return int((self.kinds == ITEM).sum())

    def by_relation(self, relation: int) -> slice:
        """The columns of its neighbours."""
        widths = self.widths or (self.neighbours.shape[1],)
        begin = sum(widths[:relation])
        return slice(begin, begin + (widths[relation] if relation < len(widths) else 0))

    def __len__(self) -> int:
        return len(self.ids)

    def check_finite(self) -> None:
        """Raises ValueError naming the first item of which a number is NaN or infinite: one such row spoils every weight."""
        for name, values in (("degree", self.degree), ("neighbour weights", self.weights), ("image", self.image)):
            if values is not None and not np.isfinite(values).all():
                rows = np.flatnonzero(~np.isfinite(values.reshape(len(self), -1)).all(axis=1))
                raise ValueError(
                    f"the {name} of {len(rows)} of {len(self)} items hold NaN or infinity, first those of item {self.ids[rows[0]]}; "
                    "every number must be finite: mend the item or leave it out"
                )

    def around(self, rows: I64s) -> "ItemFeatures":
        """These distinct rows first, in order, then those of their neighbours that are not among them (without neighbours of their own)."""
        around = self.neighbours[rows]
        others = np.setdiff1d(around[around >= 0], rows)
        kept = np.concatenate([rows, others])
        place = np.full(len(self) + 1, -1, dtype=np.int64)  # the last place answers for row -1
        place[kept] = np.arange(len(kept))
        empty = ((0, len(others)), (0, 0))
        return ItemFeatures(
            self.ids[kept],
            text=self.text.take(kept),
            degree=self.degree[kept],
            neighbours=np.pad(place[around], empty, constant_values=-1),
            weights=np.pad(self.weights[rows], empty),
            image=None if self.image is None else self.image[kept],
            kinds=None if self.kinds is None else self.kinds[kept],
            widths=self.widths,
        )


@dataclass(frozen=True)
class HistoryBatch:
    """B histories, oldest first, padded on the left to L.

    item_vectors (B, L, D); actions (B, L) codes; gaps_ms (B, L) time from each action to what came
    next: the following action, or the question (now) after the last one; mask (B, L), True where there is an action.
    """

    item_vectors: F32s
    actions: U8s
    gaps_ms: I64s
    mask: Bools
