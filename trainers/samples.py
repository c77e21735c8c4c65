"""Event columns to training windows, point in time: what is asked at a position sees only what came before it in event time.

A window holds positions into the columns, not copies of them, so that items, actions and times are looked up from one place.

    cut = windows(columns, history_len=64); items = rows[cut.inputs]; targets = rows[cut.targets]      # (W, L), -1 = none
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from encoders.base import Bools, I64s, U8s, U64s


@dataclass(frozen=True)
class EventColumns:
    """Positive engagements, one row each, in log order."""

    users: U64s
    items: U64s
    actions: U8s
    ts_ms: I64s

    def __post_init__(self) -> None:
        lengths = {len(self.users), len(self.items), len(self.actions), len(self.ts_ms)}
        assert len(lengths) == 1, f"event columns differ in length: {sorted(lengths)}"

    def __len__(self) -> int:
        return len(self.users)

    def take(self, rows: I64s | slice) -> "EventColumns":
        """These rows, in this order."""
        return EventColumns(self.users[rows], self.items[rows], self.actions[rows], self.ts_ms[rows])


@dataclass(frozen=True)
class Placed:
    """Events of which each has its item among the rows of a catalogue; see `trainers.graph.placed`. rows (E,)."""

    columns: EventColumns
    rows: I64s

    def __post_init__(self) -> None:
        assert len(self.columns) == len(self.rows), f"{len(self.columns)} events, {len(self.rows)} rows"
        assert not self.rows.size or self.rows.min() >= 0, "every event needs a row: leave out those on unknown items"

    def __len__(self) -> int:
        return len(self.columns)

    def take(self, chosen: I64s | slice) -> "Placed":
        """These events, in this order."""
        return Placed(self.columns.take(chosen), self.rows[chosen])


@dataclass(frozen=True)
class Windows:
    """W windows of L slots. In slot t stand the newest action known (`inputs`) and the one that came next (`targets`), as positions in the
    event columns; -1 = none (padding on the left; a target that is not asked here). The slot before a user's first action asks for it.

    `earlier` = order[begins[w]:firsts[w]]: what the same user did before the window's first slot.
    """

    inputs: I64s
    targets: I64s
    order: I64s
    begins: I64s
    firsts: I64s

    def __len__(self) -> int:
        return len(self.inputs)

    def earlier(self, window: int) -> I64s:
        """Positions of the user's actions before the window, oldest first."""
        return self.order[self.begins[window] : self.firsts[window]]

    def take(self, chosen: I64s) -> "Windows":
        """These windows."""
        return Windows(self.inputs[chosen], self.targets[chosen], self.order, self.begins[chosen], self.firsts[chosen])

    def lengths(self) -> I64s:
        """(W,) slots from the first input or target on."""
        used = (self.inputs >= 0) | (self.targets >= 0)
        found: I64s = used.shape[1] - used.argmax(axis=1)
        return found

    def trimmed(self) -> "Windows":
        """Without the slots on the left that no window uses."""
        kept = slice(self.inputs.shape[1] - int(self.lengths().max(initial=1)), None)
        return Windows(self.inputs[:, kept], self.targets[:, kept], self.order, self.begins, self.firsts)


def by_user(columns: EventColumns, generator: np.random.Generator | None = None) -> tuple[I64s, I64s]:
    """(order (E,), offsets (users + 1,)): positions by user, then event time, then log order (history order).

    With a generator, equal times of a user are shuffled instead: where many actions carry one time stamp their order in the log is an
    accident, and a model should not learn it.
    """
    ties = np.arange(len(columns)) if generator is None else generator.permutation(len(columns))
    order = np.lexsort((ties, columns.ts_ms, columns.users))
    starts = np.flatnonzero(np.diff(columns.users[order].astype(np.uint64), prepend=~columns.users[order[:1]]))
    return order.astype(np.int64), np.append(starts, len(columns)).astype(np.int64)


def windows(
    columns: EventColumns,
    history_len: int,
    *,
    asked: Bools | None = None,
    generator: np.random.Generator | None = None,
    phases: np.random.Generator | None = None,
) -> Windows:
    """Every event (of `asked` (E,), if given) is a target exactly once, with at least half a window of history where there is as much.

    A user's first window predicts up to L events, each further one the next L // 2. Windows without a target are left out. Users in
    ascending id order. `generator`: see `by_user`. With `phases` windows lie end to end instead: a user of more than L events has a first
    window of a length drawn from 1..L, the others predict L events each, of which the first see little of what came before.
    """
    order, offsets = by_user(columns, generator)
    users, step = list(pairwise(offsets.tolist())), history_len if phases is not None else max(1, history_len // 2)
    firsts = np.full(len(users), history_len)
    if phases is not None:
        drawn = phases.integers(1, history_len + 1, size=len(users))
        firsts = np.where(np.diff(offsets) > history_len, drawn, history_len)
    cuts = [cut for (begin, end), first in zip(users, firsts.tolist(), strict=True) for cut in _cuts(begin, end, first, step)]
    table = np.array(cuts, dtype=np.int64).reshape(-1, 3)  # user's begin, first target, end of targets: places in `order`
    begins, asked_from, ends = table.T
    places = ends[:, None] - 1 - history_len + np.arange(history_len)  # (W, L) of the inputs; targets stand one further
    inputs = np.where(places >= begins[:, None], order[places.clip(min=0)], -1)
    targets = np.where(places + 1 >= asked_from[:, None], order[(places + 1).clip(min=0)], -1)
    if asked is not None:
        targets = np.where((targets >= 0) & asked[targets], targets, -1)
    found = Windows(inputs, targets, order, begins, np.maximum(ends - 1 - history_len, begins))
    return found.take(np.flatnonzero((targets >= 0).any(axis=1)))


def later(cut: Windows, columns: EventColumns, *, span_ms: int, generator: np.random.Generator) -> I64s:
    """(W, L) for each slot one of the user's actions within `span_ms` behind the window's last input, uniform, as a position; -1 = none.

    The times between are open at the window's end: what its last slot is asked for next is one of them. Padded slots have none.
    Source: OmniSage, papers 1.3, L_fut.
    """
    found = np.full(cut.targets.shape, -1, dtype=np.int64)
    place = np.empty(len(cut.order), dtype=np.int64)
    place[cut.order] = np.arange(len(cut.order))
    users, times = columns.users[cut.order], columns.ts_ms[cut.order]
    for window, last in enumerate(cut.inputs[:, -1].tolist()):
        if last < 0:
            continue
        begin = int(place[last]) + 1
        end = begin + int(np.searchsorted(users[begin:], users[begin - 1], side="right"))
        end = begin + int(np.searchsorted(times[begin:end], times[begin - 1] + span_ms, side="left"))
        used = np.flatnonzero(cut.inputs[window] >= 0)
        if end > begin:
            found[window, used] = cut.order[generator.integers(begin, end, size=len(used))]
    return found


def _cuts(begin: int, end: int, length: int, step: int) -> list[tuple[int, int, int]]:
    """A window of `length` targets, then windows of `step`."""
    cuts, first = [], begin
    while first < end:
        last = min(end, first + (length if first == begin else step))
        cuts.append((begin, first, last))
        first = last
    return cuts


def gaps_to_next(cut: Windows, ts_ms: I64s) -> I64s:
    """(W, L) time from each slot's action to the next one of the user, which is when the question was asked; 0 where either is missing."""
    following = np.concatenate([cut.inputs[:, 1:], cut.targets[:, -1:]], axis=1)
    known = (cut.inputs >= 0) & (following >= 0)
    return np.where(known, ts_ms[following.clip(min=0)] - ts_ms[cut.inputs.clip(min=0)], 0).astype(np.int64)
