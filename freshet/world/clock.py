"""Who is active when in the synthetic world: sessions of a few events each, some at one and the same second.

turns = schedule(clock, generator)
"""

from dataclasses import dataclass
from typing import Final

import numpy as np

from storage.arrays import Bools, I64s

SESSION_LENGTH_MEAN: Final = 6.0
SESSION_LENGTH_MAX: Final = 20
GAP_S_MEAN: Final = 60.0
JOINS_LATER: Final = 0.3
SEARCH_SHARE: Final = 0.15


@dataclass(frozen=True)
class Clock:
    """How many turns, by how many users, between which times; `equal_share` of a session's events share their predecessor's time."""

    users: int
    events: int
    start_ms: int
    end_ms: int
    equal_share: float


@dataclass(frozen=True)
class Turns:
    """One row per event, (N,), by time: its user, session, and whether it opens the session with a search."""

    user: I64s
    session: I64s
    ts_ms: I64s
    search: Bools


def schedule(clock: Clock, generator: np.random.Generator) -> Turns:
    """Draw sessions until there are `events` turns; order them by time, equal times by session and place in it."""
    lengths = _session_lengths(clock.events, generator)
    sessions = len(lengths)
    activity = generator.lognormal(0, 0.6, size=clock.users)
    users = generator.choice(clock.users, size=sessions, p=activity / activity.sum())
    starts = _session_starts(users, clock, generator)
    session = np.repeat(np.arange(sessions), lengths)  # (N,)
    first = np.concatenate([[True], session[1:] != session[:-1]])
    gaps = np.ceil(generator.exponential(GAP_S_MEAN, size=len(session)))
    gaps[first | (generator.random(len(session)) < clock.equal_share)] = 0
    elapsed = np.cumsum(gaps)
    seconds = starts[session] + elapsed - elapsed[first][session]
    ts_ms = (seconds * 1000).astype(np.int64)
    search = first & (generator.random(len(session)) < SEARCH_SHARE)
    order = np.argsort(ts_ms, kind="stable")
    return Turns(users[session][order], session[order], ts_ms[order], search[order])


def _session_lengths(events: int, generator: np.random.Generator) -> I64s:
    lengths = np.minimum(generator.geometric(1 / SESSION_LENGTH_MEAN, size=events), SESSION_LENGTH_MAX)
    total = np.cumsum(lengths)
    last = int(np.searchsorted(total, events))
    lengths = lengths[: last + 1].astype(np.int64)
    lengths[-1] -= total[last] - events
    return lengths


def _session_starts(users: I64s, clock: Clock, generator: np.random.Generator) -> I64s:
    start_s, end_s = clock.start_ms // 1000, clock.end_ms // 1000
    later = generator.random(clock.users) < JOINS_LATER
    joined = np.where(later, generator.uniform(0, 0.6, size=clock.users), 0)
    when = joined[users] + (1 - joined[users]) * generator.random(len(users))
    return start_s + (when * (end_s - start_s)).astype(np.int64)
