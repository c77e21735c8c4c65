"""What a user's vector is worth that was computed once, at midnight, or now: one model, the same questions, histories cut at three moments.

    found = user_states(Path("u.data"), Budget(steps=300, seconds=180.0), seed=0, clock=clock); found["live"]["HR@10"]

The model learns the first half of the events. Of the second half each event is asked that is not its user's first, among what the user has
not had by then; the item vectors are the same for all three, so what differs is the age of the user's alone. Who came after a vector was
computed has a stranger's; users who were there in the first half are told apart, too.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from bench.ablation.runs import TEST_MAX, Budget
from encoders.base import F32s, I64s, ItemFeatures
from encoders.config import ModelConfig
from encoders.model import Model
from encoders.text import tokens
from freshet.demo.loop import in_time_order
from freshet.readers.choose import open_events
from storage.ids import ITEM, USER, hash_ids
from stream.shape import DAY_MS, Shape
from trainers.config import TrainConfig
from trainers.graph import surrounded
from trainers.loop import Trainer
from trainers.metrics import mid_ranks, summary
from trainers.samples import EventColumns

AGES: Final = ("once", "daily", "live")
"""Computed when the first half ended, at the last midnight (UTC), for each question."""

RETURNING: Final = ", returning"


@dataclass(frozen=True)
class Histories:
    """Events by user and then time: user n's are `offsets[n]:offsets[n + 1]` of the columns; rows (E,) of their items."""

    columns: EventColumns
    rows: I64s
    offsets: I64s


def user_states(path: Path, budget: Budget, *, seed: int, clock: Callable[[], float]) -> dict[str, dict[str, float]]:
    """HR, NDCG and MRR by age, of all questions and of users who were there before (`daily, returning`), and how many there were.

    Raises `UnknownLayout`.
    """
    columns, features = _read(path)
    half = len(columns) // 2
    config = TrainConfig(
        model=ModelConfig(), seed=seed, steps_max=budget.steps, seconds_max=budget.seconds,
        device=budget.device, precision=budget.precision,
    )  # fmt: skip
    model = Trainer(config, clock=clock).train(columns.take(slice(0, half)), features).model
    vectors = model.embed_items(surrounded(features, columns.take(slice(0, half))))
    order = np.lexsort((np.arange(len(columns)), columns.users))
    split_ms = int(columns.ts_ms[half])
    starts = np.flatnonzero(np.diff(columns.users[order], prepend=~columns.users[order[:1]]))
    past = Histories(columns.take(order), np.searchsorted(features.ids, columns.items[order]), np.append(starts, len(columns)))
    asked = [place for place, before in enumerate(order.tolist()) if before >= half]
    if len(asked) > TEST_MAX:
        asked = sorted(np.random.default_rng(0).choice(asked, TEST_MAX, replace=False).tolist())
    ranks: dict[str, list[int]] = {age + of: [] for of in ("", RETURNING) for age in AGES}
    for place in asked:
        begin = int(past.offsets[np.searchsorted(past.offsets, place, side="right") - 1])
        had, now_ms = past.rows[begin:place], int(past.columns.ts_ms[place])
        if begin == place or past.rows[place] in had:
            continue
        groups = ("", RETURNING) if past.columns.ts_ms[begin] < split_ms else ("",)
        for age, moment in zip(AGES, (split_ms, now_ms - now_ms % DAY_MS, now_ms), strict=True):
            known = begin + int(np.searchsorted(past.columns.ts_ms[begin:place], moment, side="right" if age == "live" else "left"))
            user = _encoded(model, vectors, past, slice(begin, known), now_ms=max(moment, split_ms))
            scores = (vectors @ user).astype(np.float64)
            scores[had] = -np.inf
            rank = int(mid_ranks(scores[None], past.rows[place : place + 1])[0])
            for group in groups:
                ranks[age + group].append(rank)
    return {name: summary(np.array(found, dtype=np.int64)) | {"questions": float(len(found))} for name, found in ranks.items() if found}


def _encoded(model: Model, vectors: F32s, past: Histories, part: slice, *, now_ms: int) -> F32s:
    columns = past.columns
    return model.encode_user(vectors[past.rows[part]], columns.actions[part], columns.ts_ms[part], now_ms)


def _read(path: Path) -> tuple[EventColumns, ItemFeatures]:
    """Likings in order of time, and items that are known by their ids alone, ascending."""
    shape = Shape()
    found = [row.event for row in in_time_order(open_events(path)) if row.event is not None and row.event.item_id]
    liked = [event for event in found if shape.actions[event.action].positive]
    names = sorted({event.item_id for event in liked if event.item_id})
    ids = np.unique(hash_ids(names, ITEM))
    nobody = np.full((len(ids), ModelConfig().neighbours_max), -1, dtype=np.int64)
    features = ItemFeatures(
        ids,
        text=tokens([""] * len(ids)),
        degree=np.zeros(len(ids), np.float32),
        neighbours=nobody,
        weights=np.zeros(nobody.shape, np.float32),
    )
    columns = EventColumns(
        hash_ids([event.user_id for event in liked], USER),
        hash_ids([event.item_id or "" for event in liked], ITEM),
        np.array([shape.actions[event.action].code for event in liked], dtype=np.uint8),
        np.array([event.ts_ms for event in liked], dtype=np.int64),
    )
    return columns, features
