"""Fine-tuning the query-side head, trunk frozen: minutes of new events, warm from the live head and its optimiser.

Neither item vectors nor trunk weights can move here: they come in as plain arrays. So promotion and roll-back rewrite no item vector.

    samples = head_samples(model, vectors, events, asked=new)
    tuned = tune_head(model, Samples(new=samples, replay=older), vectors, config=HeadConfig(), optimiser=live_optimiser)
"""

import io
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from encoders.base import Bools, F32s, I64s, Ragged
from encoders.heads import ResidualHead
from encoders.model import Model
from trainers.config import CPU, check_device
from trainers.losses import sampled_softmax
from trainers.negatives import uniform_pool, whole_catalogue
from trainers.samples import Placed, Windows, windows
from trainers.saved import state_of
from trainers.validation import window_outputs

WINDOWS_A_TIME = 256


@dataclass(frozen=True)
class HeadConfig:
    """How a head is tuned; `new_share` of each batch are new events, the rest replay."""

    seed: int = 0
    steps_max: int = 100
    batch_rows: int = 256
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    new_share: float = 0.5
    replay_max: int = 10_000
    whole_max: int = 4096  # up to so many items, each question is compared with all of them
    uniform: int = 2048  # else with so many uniform draws
    exclude_seen: bool = True
    device: str = CPU

    def __post_init__(self) -> None:
        check_device(self.device)
        if not 0 < self.new_share <= 1:
            raise ValueError(f"new_share must be in (0, 1], not {self.new_share}")
        if min(self.steps_max, self.batch_rows, self.replay_max, self.uniform) < 1 or self.learning_rate <= 0:
            raise ValueError(f"steps and sizes must be at least 1, the learning rate positive: {self}")


@dataclass(frozen=True)
class Spans:
    """R lists that share their values: list i is `values[begins[i]:ends[i]]`.

    What a user had before each of a hundred thousand questions is the same list, read further each time: a copy each takes gigabytes.
    """

    values: I64s
    begins: I64s
    ends: I64s

    def take(self, chosen: I64s) -> "Spans":
        """These lists."""
        return Spans(self.values, self.begins[chosen], self.ends[chosen])

    def lists(self) -> Ragged:
        """Each one's own values."""
        lengths = self.ends - self.begins
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        return Ragged(self.values[np.arange(offsets[-1]) + np.repeat(self.begins - offsets[:-1], lengths)], offsets)


@dataclass(frozen=True)
class HeadSamples:
    """R questions: trunk user vectors (R, D), unit rows; the row taken next (R,); rows that were no candidates, each once."""

    users: F32s
    targets: I64s
    seen: Spans

    def __len__(self) -> int:
        return len(self.users)

    def take(self, chosen: I64s) -> "HeadSamples":
        """These questions."""
        return HeadSamples(self.users[chosen], self.targets[chosen], self.seen.take(chosen))


@dataclass(frozen=True)
class Samples:
    """New events, and a bounded sample of older ones, lest the head forgets them."""

    new: HeadSamples
    replay: HeadSamples

    def batch(self, rows: int, *, new_share: float, generator: np.random.Generator) -> list[HeadSamples]:
        """`rows` questions drawn with replacement: `new_share` of them new, all where there is no replay."""
        new = rows if not len(self.replay) else max(1, round(rows * new_share))
        drawn = [self.new.take(generator.integers(0, len(self.new), size=new))]
        return drawn if new == rows else [*drawn, self.replay.take(generator.integers(0, len(self.replay), size=rows - new))]


@dataclass(frozen=True)
class TunedHead:
    """The model with its new head (the trunk shared), the optimiser's state for the next time, mean losses on the new events."""

    model: Model
    optimiser: bytes
    steps: int
    loss_before: float
    loss_after: float


def replay_mask(events: int, *, before: int, replay_max: int, generator: np.random.Generator) -> Bools:
    """(E,) True for at most `replay_max` of the events [0, before), each equally likely."""
    mask = np.zeros(events, dtype=bool)
    mask[generator.choice(before, size=min(before, replay_max), replace=False)] = True
    return mask


def head_samples(model: Model, vectors: F32s, events: Placed, *, asked: Bools) -> HeadSamples:
    """Trunk outputs at the moment before each asked event, point in time, and what its user had had.

    vectors (I, D) of the live collection are what the events' rows point at. Computed where the model is. Raises ValueError for a vector
    that is not finite.
    """
    broken = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(broken):
        raise ValueError(f"{len(broken)} of {len(vectors)} item vectors are NaN or infinite, first that of row {broken[0]}; train a trunk")
    cut = windows(events.columns, model.config.history_len, asked=asked)
    table = torch.from_numpy(vectors).to(model.device)
    users = [np.empty((0, vectors.shape[1]), dtype=np.float32)]
    model.eval()
    with torch.no_grad():
        for start in range(0, len(cut), WINDOWS_A_TIME):
            part = cut.take(np.arange(start, min(start + WINDOWS_A_TIME, len(cut))))
            asked_of = torch.from_numpy(part.targets >= 0).to(model.device)
            outputs = window_outputs(model, table, events, cut=part)[asked_of]
            users.append(functional.normalize(outputs, dim=-1).cpu().numpy())
    return HeadSamples(np.concatenate(users), events.rows[cut.targets[cut.targets >= 0]], _seen(cut, events))


def _seen(cut: Windows, events: Placed) -> Spans:
    """Rows of what each question's user had before it: a user's items in the order they came first, as far as the question."""
    asked = cut.targets >= 0
    place = np.empty(len(events), dtype=np.int64)
    place[cut.order] = np.arange(len(events))
    _, user = np.unique(events.columns.users[cut.order], return_inverse=True)
    rows = events.rows[cut.order]
    _, first = np.unique(user * (rows.max(initial=0) + 1) + rows, return_index=True)
    first.sort()
    begins = np.broadcast_to(cut.begins[:, None], asked.shape)[asked]
    return Spans(rows[first], np.searchsorted(first, begins), np.searchsorted(first, place[cut.targets[asked]]))


def tune_head(model: Model, samples: Samples, vectors: F32s, *, config: HeadConfig, optimiser: bytes | None = None) -> TunedHead:
    """Head and temperature fitted to new events mixed with replay, from where the live ones stand.

    Without new events the same model, head and optimiser come back, bit for bit. `optimiser`: what the last run returned, None or empty =
    fresh. Papers, section 5.4. `model`, on the CPU as what comes back, is not changed.
    """
    if not len(samples.new):
        return TunedHead(model, optimiser or b"", 0, 0.0, 0.0)
    tuned = model.with_head(model.head.state_dict())
    head, table = tuned.head.to(config.device), torch.from_numpy(vectors).to(config.device)
    optimise = _optimiser(head, config, optimiser)
    random = np.random.default_rng(config.seed)
    before = mean_loss(head, samples.new, table, config=config)
    for _ in range(config.steps_max):
        parts = samples.batch(config.batch_rows, new_share=config.new_share, generator=random)
        optimise.zero_grad(set_to_none=True)
        loss = torch.cat([_losses(head, part, table, config=config, generator=random) for part in parts]).mean()
        loss.backward()  # type: ignore[no-untyped-call]  # torch does not annotate it
        torch.nn.utils.clip_grad_norm_(head.parameters(), config.clip_norm)
        optimise.step()
    buffer = io.BytesIO()
    torch.save(state_of(optimise), buffer)
    after = mean_loss(head, samples.new, table, config=config)
    head.cpu()
    return TunedHead(tuned, buffer.getvalue(), config.steps_max, before, after)


def mean_loss(head: ResidualHead, samples: HeadSamples, table: Tensor, *, config: HeadConfig) -> float:
    """The loss on all of these questions, without gradients; the same negatives at every call."""
    random = np.random.default_rng(config.seed)
    starts = range(0, len(samples), config.batch_rows)
    with torch.no_grad():
        parts = [samples.take(np.arange(start, min(start + config.batch_rows, len(samples)))) for start in starts]
        return float(torch.cat([_losses(head, part, table, config=config, generator=random) for part in parts]).mean())


def _losses(head: ResidualHead, samples: HeadSamples, table: Tensor, *, config: HeadConfig, generator: np.random.Generator) -> Tensor:
    items = len(table)
    pool = whole_catalogue(items) if items <= config.whole_max else uniform_pool(items, config.uniform, generator)
    column_of = np.full(items, -1, dtype=np.int64)
    column_of[pool.rows] = np.arange(len(pool.rows))
    hidden = np.zeros((len(samples), len(pool.rows) + 1), dtype=bool)  # the last column takes what is not in the pool
    hidden[np.arange(len(samples)), column_of[samples.targets]] = True
    if config.exclude_seen:
        seen = samples.seen.lists()
        questions = np.repeat(np.arange(len(samples)), np.diff(seen.offsets))
        hidden[questions, column_of[seen.values]] = True
    parts = (samples.users, samples.targets, pool.rows, pool.log_q, hidden[:, :-1])
    users, targets, others, log_q, hits = (torch.from_numpy(part).to(table.device) for part in parts)
    queries = head.temperature() * head(users)
    positive = (queries * table[targets]).sum(dim=1)
    negative = queries @ table[others].T  # (R, K)
    return sampled_softmax(positive, negative, log_q=log_q, hits=hits)


def _optimiser(head: ResidualHead, config: HeadConfig, state: bytes | None) -> torch.optim.AdamW:
    groups = [
        {"params": list(head.residual.parameters()), "weight_decay": config.weight_decay},
        {"params": [head.log_temperature], "weight_decay": 0.0},
    ]
    optimiser = torch.optim.AdamW(groups, lr=config.learning_rate)
    if state:
        optimiser.load_state_dict(torch.load(io.BytesIO(state), weights_only=True))
        for group, wanted in zip(optimiser.param_groups, groups, strict=True):  # moments carry over, settings are today's
            group["lr"], group["weight_decay"] = config.learning_rate, wanted["weight_decay"]
    return optimiser
