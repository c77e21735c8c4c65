"""The neural next-item model over whole sequences: the product's towers and trainer on files that know order and nothing else.

    events = placed_sequences(train, ids, action=2); trained = Trainer(config).run(model, Lesson(features, events, ask))
    source = SequenceModel(trained.model, features, action=2); source.scores(inputs)

A sequence becomes a user's events, all of one action, one millisecond apart; the model has no clock (`ModelConfig.clock`), as those times
mean nothing. A user's vector is what a look-up computes (`Model.encode_user`), so a server with the same model and histories ranks alike.
"""

from typing import Final

import numpy as np

from encoders.base import F32s, F64s, HistoryBatch, ItemFeatures, Ragged, U64s
from encoders.model import Model
from trainers.samples import EventColumns, Placed

NEURAL: Final = "neural"
"""The name of this source: its scores are logits, where other sources give masses."""
USERS_AT_ONCE: Final = 256


def placed_sequences(sequences: Ragged, ids: U64s, *, action: int) -> Placed:
    """The sequences as events, a user each; `ids` (I,) name the items' rows."""
    lengths = np.diff(sequences.offsets)
    users = np.repeat(np.arange(1, len(lengths) + 1, dtype=np.uint64), lengths)
    place = np.arange(len(sequences.values), dtype=np.int64) - np.repeat(sequences.offsets[:-1], lengths)
    actions = np.full(len(users), action, dtype=np.uint8)
    return Placed(EventColumns(users, ids[sequences.values], actions, place), sequences.values)


def encoded(model: Model, vectors: F32s, inputs: Ragged, *, action: int) -> F32s:
    """User vectors (B, D) after each input, those of like length encoded together; `vectors` (I, D) are the items'."""
    users, order = np.empty((len(inputs), model.config.dim), dtype=np.float32), np.argsort(np.diff(inputs.offsets), kind="stable")
    for start in range(0, len(order), USERS_AT_ONCE):
        rows = order[start : start + USERS_AT_ONCE]
        users[rows] = model.encode_users(histories(inputs.take(rows), vectors, action=action, history_len=model.config.history_len))
    return users


def histories(inputs: Ragged, vectors: F32s, *, action: int, history_len: int) -> HistoryBatch:
    """The newest `history_len` items of each input, padded on the left to the longest."""
    lengths = np.minimum(np.diff(inputs.offsets), history_len)
    width = max(1, int(lengths.max(initial=1)))
    mask = np.arange(width)[None, :] >= width - lengths[:, None]
    places = inputs.offsets[1:, None] - width + np.arange(width)[None, :]
    items = inputs.values[np.where(mask, places, 0)] if len(inputs.values) else np.zeros(mask.shape, dtype=np.int64)
    gaps = np.zeros(mask.shape, dtype=np.int64)
    return HistoryBatch(vectors[items] * mask[:, :, None], np.full(mask.shape, action, dtype=np.uint8), gaps, mask)


class SequenceModel:
    """A source that is asked as look-ups ask: one user's vector at a time against all items' vectors."""

    def __init__(self, model: Model, features: ItemFeatures, *, action: int) -> None:
        """Raises ValueError for a model with a clock: there are no times to tell it."""
        if model.config.clock:
            raise ValueError("sequences have no times: the model must have been made with clock=False")
        self.model, self._action = model, action
        self._vectors = model.embed_items(features)

    def scores(self, inputs: Ragged) -> F64s:
        """Logits (B, I): temperature times cosine."""
        users = np.empty((len(inputs), self.model.config.dim), dtype=np.float32)
        for row, (begin, end) in enumerate(zip(inputs.offsets[:-1].tolist(), inputs.offsets[1:].tolist(), strict=True)):
            newest = inputs.values[max(begin, end - self.model.config.history_len) : end]
            actions = np.full(len(newest), self._action, dtype=np.uint8)
            users[row] = self.model.encode_user(self._vectors[newest], actions, np.zeros(len(newest), dtype=np.int64), 0)
        logits: F64s = self.model.temperature * (users @ self._vectors.T).astype(np.float64)
        return logits
