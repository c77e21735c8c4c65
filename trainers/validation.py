"""Ranks on the newest events, full catalogue, with live histories: what a candidate would have answered.

ranks = validation_ranks(model, features, events, asked=windows(events.columns, 64, asked=newest))
"""

import numpy as np
import torch
from torch.nn import functional

from encoders.base import I64s, ItemFeatures
from encoders.model import Model
from trainers.samples import Placed, Windows, gaps_to_next
from trainers.seen import seen_before

CELLS_MAX = 2**24


def validation_ranks(model: Model, features: ItemFeatures, events: Placed, *, asked: Windows, exclude_seen: bool = True) -> I64s:
    """Mid-rank of every target of `asked`, window by window, among all items of the features.

    With `exclude_seen`, what a user had is no candidate, and a target had before is a miss (rank I), as is one whose score is NaN. A
    window gives half a history or more; a look-up has the whole and does a little better.
    """
    vectors = torch.from_numpy(model.embed_items(features)).to(model.device)
    step = max(1, CELLS_MAX // (model.config.history_len * features.items))
    parts = [asked.take(np.arange(start, min(start + step, len(asked)))) for start in range(0, len(asked), step)]
    with torch.inference_mode():
        found = [_ranks(model, vectors, events, cut=part, exclude_seen=exclude_seen) for part in parts]
    return np.concatenate([np.empty(0, dtype=np.int64), *found])


def _ranks(model: Model, vectors: torch.Tensor, events: Placed, *, cut: Windows, exclude_seen: bool) -> I64s:
    items, device = len(vectors), vectors.device
    slots = torch.from_numpy(cut.targets >= 0)
    queries = model.head(functional.normalize(window_outputs(model, vectors, events, cut=cut)[slots.to(device)], dim=-1))
    targets = torch.from_numpy(events.rows[cut.targets[cut.targets >= 0]]).to(device)
    scores = queries @ vectors.T
    target = scores.gather(1, targets[:, None])
    if exclude_seen:
        hidden = seen_before(cut, events.rows, column_of=np.arange(items), width=items)[slots].to(device)
        scores = scores.masked_fill(hidden, -torch.inf)
    ranks = 1 + (scores > target).sum(dim=1) + ((scores == target).sum(dim=1) - 1) // 2
    missed = scores.gather(1, targets[:, None])[:, 0].isneginf() | target[:, 0].isnan()
    return torch.where(missed, items, ranks).cpu().numpy()


def window_outputs(model: Model, vectors: torch.Tensor, events: Placed, *, cut: Windows) -> torch.Tensor:
    """(W, L, D) user encoder outputs, not normalised, in the model's current mode; `vectors` (I, D) are what the events' rows point at."""
    places = cut.inputs.clip(min=0)
    parts = (events.rows[places], events.columns.actions[places].astype(np.int64), gaps_to_next(cut, events.columns.ts_ms), cut.inputs >= 0)
    rows, actions, gaps, mask = (torch.from_numpy(part).to(vectors.device) for part in parts)
    outputs: torch.Tensor = model.user(vectors[rows] * mask[:, :, None], actions, gaps, mask)
    return outputs
