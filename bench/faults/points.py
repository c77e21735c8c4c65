"""The named points of a commit and of the edges protocol, and a process that ends itself at one of them.

worker = Worker(..., fault=ending_at("before commit", 2))
"""

import signal
import threading
from collections.abc import Callable
from typing import Final

POINTS: Final = (
    "before dead letters", "after dead letters", "before edges", "after edges", "before commit", "after commit",
    "before edges commit", "after edges commit",
)  # fmt: skip


def ending_at(point: str, hit: int, how: signal.Signals = signal.SIGKILL) -> Callable[[str], None]:
    """A fault that kills (or stops) this process when `point` is reached for the `hit`-th time."""
    left = [hit]

    def fault(reached: str) -> None:
        left[0] -= reached == point
        if reached == point and left[0] == 0:
            signal.pthread_kill(threading.get_ident(), how)  # this thread takes it: another would let this one run on

    return fault
