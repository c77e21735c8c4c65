"""Figures, table and JSON of what was ranked.

    found = figures("loo", ranks); print(json.dumps(report(...)))

Source: the evaluation protocol, sections 1 to 4 (figures) and 7 (the report).
"""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
from rich.table import Table

from bench.machine import versions
from bench.quality.asking import BLEND
from bench.quality.layouts import BadData
from encoders.base import F64s, I64s
from encoders.blend import Blend
from trainers.metrics import MISSED, hit_rate, ndcg, paired_bootstrap, reciprocal_rank

FIGURES: Final = {
    "loo": ("HR@5", "HR@10", "HR@20", "NDCG@5", "NDCG@10", "NDCG@20", "MRR"),
    "sessions": ("P@20", "MRR@20", "P@10", "MRR@10"),
    "prequential": ("HR@10", "NDCG@10", "MRR"),
}
HEADLINES: Final = {"loo": ("HR@10", "NDCG@10"), "sessions": ("P@20", "MRR@20"), "prequential": ("HR@10", "NDCG@10")}
PERCENT: Final = {"sessions"}


@dataclass(frozen=True)
class Outcome:
    """Ranks of every system on the same cases, (n,) each, the blend's weights, and seconds of fitting and testing.

    `singles`: the systems that are single sources, against the best of which the blend is held; empty: all but the blend.
    """

    ranks: dict[str, I64s]
    blend: Blend
    seconds: dict[str, float]
    catalogue: int
    rows_dropped: int
    refit: bool | None
    more: dict[str, object] = field(default_factory=dict)
    singles: tuple[str, ...] = ()


def cases(figure: str, ranks: I64s) -> F64s:
    """One value a case, (n,): HR@k, P@k, NDCG@k, MRR@k or MRR; a miss has 0."""
    name, _, cut = figure.partition("@")
    if name in ("HR", "P"):
        return hit_rate(ranks, int(cut))
    if name == "NDCG":
        return ndcg(ranks, int(cut))
    return np.where(ranks == MISSED, 0.0, reciprocal_rank(ranks, int(cut) if cut else None))


def figures(form: str, ranks: I64s) -> dict[str, float]:
    """The format's figures: means over the cases, as fractions, in percent where the format prints those. Raises BadData without a case."""
    check_asked(len(ranks))
    scale = 100.0 if form in PERCENT else 1.0
    return {figure: scale * float(cases(figure, ranks).mean()) for figure in FIGURES[form]}


def check_asked(cases: int) -> None:
    """Raises BadData when there is no case: before anything is fitted for it."""
    if not cases:
        raise BadData("there is nothing to rank: give a file with more events of a user, or with test rows")


def against_best(form: str, ranks: dict[str, I64s], *, seed: int) -> dict[str, object]:
    """By how much the blend is above the single source that is best on the test itself, with the 95 % interval, for each headline."""
    scale = 100.0 if form in PERCENT else 1.0
    found: dict[str, object] = {}
    for figure in HEADLINES[form]:
        by_name = {name: cases(figure, of) for name, of in ranks.items()}
        best = max((name for name in by_name if name != BLEND), key=lambda name: float(by_name[name].mean()))
        gain = paired_bootstrap(by_name[BLEND], by_name[best], generator=np.random.default_rng(seed))
        found[figure] = {"best": best, "gain": scale * gain.mean, "low": scale * gain.low, "high": scale * gain.high}
    return found


def summary(form: str, outcome: Outcome, *, seed: int) -> dict[str, object]:
    """What one run found: systems, weights, the blend against the best."""
    singles = outcome.singles or [name for name in outcome.ranks if name != BLEND]
    return {
        "n_test": len(next(iter(outcome.ranks.values()))),
        "systems": {name: figures(form, ranks) for name, ranks in outcome.ranks.items()},
        "blend": {
            "weights": dict(zip(outcome.blend.sources, outcome.blend.weights.tolist(), strict=True)),
            "above_best": against_best(form, {name: outcome.ranks[name] for name in (*singles, BLEND)}, seed=seed),
        },
    }


def report(form: str, paths: Sequence[Path], outcome: Outcome, *, seed: int, minutes: float) -> dict[str, object]:
    """The JSON object; `cores` of the machine's own fields stand as `threads`."""
    first = paths[0].resolve()
    machine = versions()
    cores = machine.pop("cores")
    return {
        "format": form,
        "dataset": f"{first.parent.name}/{first.stem}",
        "sha256": sha256s(paths),
        "rows_dropped": outcome.rows_dropped,
        "catalogue": outcome.catalogue,
        "refit": outcome.refit,
        "seed": seed,
        **summary(form, outcome, seed=seed),
        **outcome.more,
        "minutes": minutes,
        "seconds": outcome.seconds,
        "threads": int(os.environ.get("OMP_NUM_THREADS") or str(cores)),
        **machine,
    }


def table(title: str, systems: dict[str, dict[str, float]]) -> Table:
    """Systems down, figures across."""
    drawn = Table(title=title, title_justify="left")
    drawn.add_column("system")
    for figure in next(iter(systems.values())):
        drawn.add_column(figure, justify="right")
    for name, found in systems.items():
        drawn.add_row(name, *(f"{value:.4f}" for value in found.values()))
    return drawn


def sha256s(paths: Sequence[Path]) -> list[str]:
    """Of each file."""
    return [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]
