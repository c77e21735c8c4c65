"""What a look-up answers with: one model, its blend and the collection its space lives in, as one whole.

A look-up asks for it once and uses it throughout, so a query vector never meets item vectors of another generation.

    live = LiveModel("g1-h3", generation=1, collection="items-g1", model=model, blend=blend, vectors=vectors, linear=linear)
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, runtime_checkable

from encoders.base import F32s, I64s, U8s, U64s
from encoders.blend import Blend
from serving.linear import NOTHING, LinearSource
from storage.vectors import Vectors


class UserEncoder(Protocol):
    """The query side of a model: `encoders.model.Model` is one."""

    @property
    def temperature(self) -> float:
        """What turns a cosine into a logit."""

    def encode_user(self, item_vectors: F32s, actions: U8s, ts_ms: I64s, now_ms: int) -> F32s:
        """(D,) unit length from vectors (L, D), actions (L,) and times (L,), oldest first; L may be 0."""


@runtime_checkable
class InMemory(Protocol):
    """Vectors that also lie here as one matrix."""

    def matrix(self) -> tuple[U64s, F32s]:
        """Ids (N,) and rows (N, D), one consistent snapshot."""


@runtime_checkable
class Scoring(Protocol):
    """Vectors that lie elsewhere, where they can be multiplied."""

    def scores(self, query: F32s, ids: U64s) -> F32s:
        """The inner product of one query (D,) with each item (N,), -inf where it has no vector."""


@dataclass(frozen=True)
class LiveModel:
    """One model version, ready. `blend` weighs the sources for it; `vectors` are those of its `generation`; `linear` is its own."""

    version: str
    generation: int
    collection: str
    model: UserEncoder
    blend: Blend
    vectors: Vectors
    linear: LinearSource = NOTHING

    def __post_init__(self) -> None:
        if self.vectors.collection != self.collection:
            raise ValueError(f"{self.version} belongs to {self.collection}, not to {self.vectors.collection}: open its own generation")

    @cached_property
    def in_memory(self) -> InMemory | None:
        """The vectors, if they lie here as one matrix; what a protocol has is asked once, not at each look-up."""
        return self.vectors if isinstance(self.vectors, InMemory) else None

    @cached_property
    def scoring(self) -> Scoring | None:
        """The vectors, if they are multiplied where they lie."""
        return self.vectors if isinstance(self.vectors, Scoring) else None

    @property
    def index_version(self) -> str:
        """The collection and the highest revision in it."""
        return f"{self.collection}@{self.vectors.revision_max()}"
