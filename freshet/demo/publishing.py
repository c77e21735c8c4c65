"""The demo's producer: at an even pace, and always a few events ahead of what is ranked and applied, as one beside a server is.

The log syncs at each append; a stream that waited for it every time would measure the disk. And a stream as fast as it goes would be over
before the model has learned much from it: training takes its seconds on any machine.

    for group in published(append, rows, events_per_s=300.0): ...      # group.rows are on the log, since group.sent_ns
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, NamedTuple

import msgspec

from freshet.readers.source import Row
from stream.wire import BAD_BYTES_MAX

LINGER_EVENTS: Final = 3
"""Events that share an append: each waits for the look-ups of those before it and for the group before, and that counts as its delay."""


class Group(NamedTuple):
    """Rows whose append has returned, and when it began: a reading of `perf_counter_ns`."""

    rows: Sequence[Row]
    sent_ns: int


@dataclass(frozen=True)
class Clock:
    """Nanoseconds that only grow, and a wait of so many seconds."""

    now_ns: Callable[[], int] = time.perf_counter_ns
    wait: Callable[[float], None] = time.sleep


def published(
    append: Callable[[list[bytes]], object], rows: Sequence[Row], *, events_per_s: float = math.inf, clock: Clock = Clock()
) -> Iterator[Group]:
    """The rows in groups, each once it is on the log; the next group is appended meanwhile, in a thread, and no other before.

    None is appended before its time at `events_per_s`, counted from the first. Raises what `append` raises, when its group is due. A
    row that is no event is published as its bytes.
    """
    start = clock.now_ns()

    def publish(group: Sequence[Row], before: int) -> Group:
        early_s = before / events_per_s - (clock.now_ns() - start) / 1e9
        if early_s > 0:
            clock.wait(early_s)
        begin = clock.now_ns()
        append([msgspec.json.encode(row.event) if row.event is not None else row.raw[:BAD_BYTES_MAX] or b" " for row in group])
        return Group(group, begin)

    groups = [(rows[first : first + LINGER_EVENTS], first) for first in range(0, len(rows), LINGER_EVENTS)]
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="publishing") as thread:
        pending = [thread.submit(publish, *group) for group in groups[:1]]
        for _, after in pairwise([*groups, None]):
            due = pending.pop().result()
            if after is not None:
                pending.append(thread.submit(publish, *after))
            yield due
