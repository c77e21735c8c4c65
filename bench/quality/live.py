"""The product's own loop over a file of timed events: an embedded server asked before each event is applied, trained as they come.

    passed = passes(path, wanted, num_items=1682, say=say); passed.ranks["blend"]

Once as it is served (`blend`: the live model and its counts; `neural`: its neural score alone; `frozen`: the model as the warm-up left it),
heads on a short cadence and trunks on a long one; once with heads alone after the first trunk; once with every trunk from nothing. The
stream waits for each training, which has all cores: what is learned does not hang on how fast this machine streams. Only the given file is
read, not what lies beside it.
"""

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import numpy as np

from bench.one_thread import one_thread
from bench.quality.asking import BLEND
from bench.quality.layouts import BadData
from encoders.base import I64s
from encoders.blend import Blend
from freshet.demo.loop import WARM_SHARE, Loop, Told, in_time_order
from freshet.demo.prequential import SYSTEMS
from freshet.engine import Engine
from freshet.readers.choose import open_events
from freshet.readers.source import Source, UnknownLayout
from freshet.service import Service
from freshet.settings import Settings
from serving.lookup import COUNTING

TRUNK_TRAININGS: Final = 8
"""Of one pass that trains trunks, after the first."""
TRAINING_SHARE: Final = 0.4
"""Of a pass's time, for its trunks; heads, streaming, gates and blends take the rest."""
SECONDS_MIN: Final = 1.0
EVENTS_MIN: Final = 2000
"""Between two trainings, as the product's own setting has it."""
NO_SETTINGS: Final[Mapping[str, Any]] = MappingProxyType({})
TRUNKS: Final = 1
MIXED: Final = 2
HEADS: Final = 10**9
"""A trunk every so many-th training: always, every other time, and after the first never."""
NEURAL, FROZEN, HEADS_ONLY, RETRAINED = "neural", "frozen", "heads_only", "full_retrain"


@dataclass(frozen=True)
class Pass:
    """One way to train: under which names its systems stand in the report, by the demo's names for them."""

    names: dict[str, str]
    trunk_every: int = TRUNKS
    anew: bool = False

    @property
    def trainings(self) -> int:
        """After the first: with heads, twice as many as without."""
        return TRUNK_TRAININGS * min(self.trunk_every, MIXED)


PASSES: Final = (
    Pass({"model": BLEND, "neural": NEURAL, "frozen": FROZEN}, trunk_every=MIXED),
    Pass({"model": HEADS_ONLY}, trunk_every=HEADS),
    Pass({"model": RETRAINED}, anew=True),
)


@dataclass(frozen=True)
class Passed:
    """Ranks by system, (n,) each on the same cases; the weights of the last version as it is served, and what was decided in each pass."""

    ranks: dict[str, I64s]
    blend: Blend
    told: dict[str, dict[str, object]]


def passes(
    path: Path, *, seconds: float, say: Callable[[str], None], chosen: tuple[Pass, ...] = PASSES, more: Mapping[str, Any] = NO_SETTINGS
) -> Passed:
    """All passes, within about so many seconds, with these settings besides. Raises BadData for a file that the product does not read."""
    one_thread()
    try:
        source = replace(open_events(path), read_entities=lambda: iter(()))
    except UnknownLayout as error:
        raise BadData(str(error)) from error
    ranks, told, blend = dict[str, I64s](), dict[str, dict[str, object]](), COUNTING
    for one in chosen:
        each = max(SECONDS_MIN, TRAINING_SHARE * seconds / len(chosen) / TRUNK_TRAININGS)
        given = {**more, "train_events_min": _every(source, one.trainings), "train_seconds_max": each}
        found, version_blend, outcomes = _run(one, source, given, say=say)
        ranks |= {name: found[of] for of, name in one.names.items()}
        told[one.names["model"]] = outcomes
        if BLEND in one.names.values():
            blend = version_blend
    return Passed(ranks, blend, told)


def _every(source: Source, trainings: int) -> int:
    """Events between two trainings."""
    return max(EVENTS_MIN, source.rows * (WARM_SHARE - 1) // WARM_SHARE // (trainings + 1))


def _run(
    one: Pass, source: Source, given: dict[str, Any], *, say: Callable[[str], None]
) -> tuple[dict[str, I64s], Blend, dict[str, object]]:
    name = one.names["model"]
    with tempfile.TemporaryDirectory(prefix="freshet-quality-") as folder:
        settings = Settings(data=Path(folder) / "data", train_interval_s=0, trunk_every=one.trunk_every, **given)
        with Engine(settings) as engine:
            service = Service(engine)
            try:
                told = Told(line=lambda text: None, note=lambda text: say(f"{name}: {text}"))
                loop = Loop(service, source, told, waits=True, anew=one.anew)
                loop.run(in_time_order(source))
                ranks = loop.contest.ranks()
                blend = service.current.live.blend if service.current else COUNTING
            finally:
                service.close()
    promoted = [outcome.version for outcome in loop.outcomes if outcome.promoted]
    outcomes = {
        "promoted": promoted, "refused": len(loop.outcomes) - len(promoted),
        "seconds_each": settings.train_seconds_max, "every": settings.train_events_min,
    }  # fmt: skip
    return {system: np.ascontiguousarray(ranks[:, at]) for at, system in enumerate(SYSTEMS)}, blend, outcomes
