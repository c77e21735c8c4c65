"""What a model would have answered: contenders over the same items, asked the same questions before the events came.

for case in cases(walk, table, [candidate, rival]): case.rank(candidate)
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from encoders.base import F32s, ItemFeatures
from encoders.blend import Blend
from encoders.linear import Linear
from encoders.model import Model
from freshet.learning.walk import Asked, Walk
from freshet.version_files import BLEND_FILE, LINEAR_FILE, MODEL_FILE
from serving.linear import NOTHING, LinearSource
from serving.live import LiveModel
from serving.lookup import blended
from serving.neural import aimed
from serving.online import HEAVY_USER_MIN, NEW_ITEM_MAX, NEW_USER_MAX
from serving.rows import RowIndex
from storage.arrays import Bools, F64s
from storage.vectors_memory import MemoryVectors
from trainers.metrics import mid_ranks


@dataclass(frozen=True)
class Contender:
    """A model with its blend and its vectors of the items as of the end of training; no model: counting alone."""

    name: str
    blend: Blend
    live: LiveModel | None = None
    model: Model | None = None

    @property
    def linear(self) -> LinearSource:
        """Its linear weights; they need no vectors."""
        return self.live.linear if self.live else NOTHING

    @classmethod
    def of(cls, name: str, model: Model, blend: Blend, features: ItemFeatures, linear: LinearSource = NOTHING) -> "Contender":
        """Embeds every item of the features."""
        vectors = MemoryVectors.over(features.ids, model.embed_items(features), collection=name)
        return cls(name, blend, LiveModel(name, 0, name, model, blend, vectors, linear), model)

    @classmethod
    def stored(cls, name: str, files: Mapping[str, bytes], features: ItemFeatures, index: RowIndex) -> "Contender":
        """A version's files as a contender; `index` is of the catalogue it is to answer from."""
        linear = LinearSource(Linear.from_bytes(files[LINEAR_FILE]), index) if LINEAR_FILE in files else NOTHING
        return cls.of(name, Model.from_bytes(files[MODEL_FILE]), Blend.from_json(files[BLEND_FILE]), features, linear)

    def with_blend(self, blend: Blend) -> "Contender":
        """The same model under other weights."""
        return replace(self, blend=blend)

    def with_linear(self, linear: LinearSource) -> "Contender":
        """The same model with linear weights that are read by the rows of another catalogue."""
        return replace(self, live=replace(self.live, linear=linear)) if self.live else self


@dataclass(frozen=True)
class Known:
    """What was known when the question was asked: by whom, how many items they had had, how often the one taken had been engaged with."""

    user_id: str
    had: int
    engaged: int

    @classmethod
    def of(cls, asked: Asked) -> "Known":
        """Without the context, which is large."""
        return cls(asked.question.user_id, len(asked.context.seen), asked.engaged)


@dataclass(frozen=True)
class Answered:
    """One question and each contender's answer: features (C, S) by contender, the user vector it came from, the target's place."""

    known: Known
    target: int
    features: dict[str, F64s]
    users: dict[str, F32s]

    def rank(self, contender: Contender) -> int:
        """The mid-rank of what was taken under the contender's blend; behind every candidate when it was not retrieved."""
        features = self.features[contender.name]
        if self.target < 0:
            return len(features) + 1
        scores = blended(contender.blend, features)
        return int(mid_ranks(scores[None, :], np.array([self.target]))[0])


def answers(walk: Walk, table: pa.Table, contenders: Sequence[Contender], *, most: int | None = None) -> Iterator[Answered]:
    """Ask every contender before each event of the table, or before `most` of them, then apply the event."""
    for asked in walk.ask_each(table, most=most):
        aims = {contender.name: aimed(asked.context.history, contender.live, now_ms=asked.context.now_ms) for contender in contenders}
        users = {name: aim.query for name, aim in aims.items() if aim is not None}
        features = walk.features(asked, aims, {contender.name: contender.linear for contender in contenders})
        yield Answered(Known.of(asked), asked.target, features, users)


def segments(known: Sequence[Known]) -> dict[str, Bools]:
    """Which questions (n,) are of new users, of heavy users, about new items: none, one or two of these."""
    had, engaged = np.array([(one.had, one.engaged) for one in known], dtype=np.int64).reshape(-1, 2).T
    return {"new users": had < NEW_USER_MAX, "heavy users": had >= HEAVY_USER_MIN, "new items": engaged < NEW_ITEM_MAX}
