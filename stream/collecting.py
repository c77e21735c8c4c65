"""Python's garbage collector, in a process that runs for long and answers fast.

A full collection looks through every object there is, in the middle of somebody's request: .4 s where torch and 100,000
events are loaded.

    collect_seldom()      # once all that stays is loaded
"""

import gc
from typing import Final

COLLECT_EVERY: Final = 50_000
"""New objects until the young ones are looked through."""


def collect_seldom() -> None:
    """What is there now is never looked through again, and what comes seldom."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(COLLECT_EVERY, 20, 100)
