"""What a look-up returns: items with the reasons for each, and what the answer was made of.

body = msgspec.json.encode(answer)
"""

from dataclasses import dataclass

import msgspec

from serving.progress import AsOf
from storage.arrays import F64s, I64s


class NotFound(LookupError):
    """There is no such item, or it was deleted; the message says which."""


@dataclass(frozen=True)
class Asked:
    """The freshness a caller asks for: see append `min_number` (its own event's token), waiting for it at most `wait_ms`."""

    min_number: int | None = None
    wait_ms: int = 0


@dataclass(frozen=True)
class Ranking:
    """Candidates with what was made of them, best first: catalogue rows (C,), features (C, S) by `sources.SOURCES`, scores (C,)."""

    rows: I64s
    features: F64s
    scores: F64s


class Ranked(msgspec.Struct, frozen=True):
    """One item of an answer. `score` is comparable within the answer only; `sources` sum to 1: which source lifted it how much."""

    item_id: str
    title: str
    score: float
    sources: dict[str, float]


class Answer(msgspec.Struct, frozen=True):
    """Items, best first, and what they come from: the newest event seen, the model, the index, whether it is as fresh as asked."""

    user_id: str
    items: list[Ranked]
    as_of: AsOf
    model: str | None
    generation: int | None
    index: str | None
    fresh: bool
    took_ms: float


class SimilarAnswer(msgspec.Struct, frozen=True):
    """Items like one item, best first; otherwise as `Answer`."""

    item_id: str
    items: list[Ranked]
    as_of: AsOf
    model: str | None
    generation: int | None
    index: str | None
    took_ms: float
