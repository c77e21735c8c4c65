"""What a training is asked for and what comes of it: known to who starts one, who need not load what it takes to train.

Job(out="data/training/1", kind=TRUNK, parent=None, data="data")
"""

from dataclasses import dataclass
from typing import Final

import msgspec

TRUNK: Final = "trunk"
HEAD: Final = "head"
EVENTS_MAX: Final = 2_000_000
"""Events a training looks at unless told otherwise."""


class Job(msgspec.Struct):
    """What to train: `kind` trunk or head, on events numbered below `below`, from version `parent` (None: from nothing).

    With `anew` a trunk begins from nothing all the same, and is compared with the parent. `data` is the folder of an embedded server.
    Without one the environment names the cluster's services, and all that is archived is read. Of more than `events_max` events the older
    ones are those of a sample of users (`freshet/learning/reading.py`). The gate asks about `gate_events` at most, of a window that may be
    longer; the blend's is `blend_events` long. `blend`: the parent's weights as they answer now, as JSON; None:
    as its files have them. `device` is cpu, cuda or auto; `precision` float32 or bfloat16.
    """

    out: str
    kind: str
    parent: str | None
    partitions: int = 1
    data: str | None = None
    below: int | None = None
    seed: int = 0
    seconds_max: float = 60.0
    steps_max: int = 450
    new_events: int = 5000
    blend_events: int = 2500
    gate_events: int = 4000
    events_max: int = EVENTS_MAX
    threads: int = 1
    device: str = "cpu"
    precision: str = "float32"
    anew: bool = False
    blend: str | None = None


class Report(msgspec.Struct):
    """What came of it: the gate's decision with its numbers, and what the candidate learned."""

    promote: bool
    reason: str
    numbers: dict[str, float]
    as_of_number: int
    events: int
    metrics: dict[str, float]
    seconds: float


@dataclass(frozen=True)
class Outcome:
    """One training's end, as recorded: promoted, refused or failed, with the reason and the numbers."""

    version: str
    kind: str
    promoted: bool
    reason: str
    numbers: dict[str, float]
    at_ms: int
    events: int
