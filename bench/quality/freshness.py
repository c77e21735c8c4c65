"""How much of what the newest sessions teach is recovered by streaming them: full, stale and streamed, for each share withheld.

    outcome = run(paths, [0, 2, 10], seed=0, watch=Watch(time.perf_counter, bar))

Stale knows the first S (100 - x) // 100 lines, and chose its weights on the newest tenth of those. Streamed starts as stale and learns
exactly the withheld lines, one by one in file order; weights and model stay. Full knows all lines. Each is scored on all test rows.
Source: the evaluation protocol, section 3, "Freshness".
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from bench.quality.layouts import BadData, read_sessions
from bench.quality.neural import Fitting, Wanted
from bench.quality.progress import Clock, Watch
from bench.quality.report import HEADLINES, Outcome, figures
from bench.quality.sessions import ask, between, fit
from encoders.base import I64s

FORM = "sessions"


def run(paths: Sequence[Path], withheld: Sequence[int], *, seed: int, watch: Watch, wanted: Wanted | None = None) -> Outcome:
    """The report's systems are those that know all lines. Raises BadData on a share that leaves nothing to learn."""
    clock, bar = watch.clock, watch.bar
    data, began = read_sessions(paths), clock()
    lines, num_items = len(data.train), len(data.catalogue)
    for share in withheld:
        if not 0 <= share < 100 or not known(lines, share):
            raise BadData(
                f"--withhold {share}: of {lines} sessions {known(lines, share)} stay; allowed are 0 to 99 % that leave at least one"
            )
    whole = fit(data, lines, _fitting(wanted, "0", seed, clock), seed=seed, bar=bar)
    fitted = clock()
    full = ask(whole, data, bar=bar)
    tested = clock()
    found: dict[str, object] = {}
    for share in withheld:
        if not share:
            found["0"] = {name: compared(ranks, ranks, ranks) for name, ranks in full.items()}
            continue
        learner = fit(data, known(lines, share), _fitting(wanted, str(share), seed, clock), seed=seed, bar=bar)
        stale = ask(learner, data, bar=bar)
        learner.learn(between(data.train, known(lines, share), lines), bar=bar)
        streamed = ask(learner, data, bar=bar)
        found[str(share)] = {name: compared(full[name], stale[name], streamed[name]) for name in full}
    seconds = {"fit": fitted - began, "test": tested - fitted, "withhold": clock() - tested}
    more: dict[str, object] = {"withheld": found, **({"neural": whole.told} if whole.told else {})}
    return Outcome(full, whole.blend, seconds, catalogue=num_items, rows_dropped=data.rows_dropped, refit=True, more=more)


def _fitting(wanted: Wanted | None, share: str, seed: int, clock: Clock) -> Fitting | None:
    """Each trained model has all the minutes and a folder of its own; that of all lines has the report's."""
    if wanted is None:
        return None
    folder = wanted.folder if share == "0" else wanted.folder / f"withheld-{share}"
    return Fitting(replace(wanted, folder=folder), seed, clock, clock())


def known(lines: int, share: int) -> int:
    """How many of the lines are known when a share in percent is withheld."""
    return lines * (100 - share) // 100


def compared(full: I64s, stale: I64s, streamed: I64s) -> dict[str, dict[str, float | None]]:
    """Figures of the three, and by headline what streaming recovered: (streamed - stale) / (full - stale), None without a loss."""
    of_full, of_stale, of_streamed = (figures(FORM, ranks) for ranks in (full, stale, streamed))
    recovered: dict[str, float | None] = {}
    for figure in HEADLINES[FORM]:
        loss = of_full[figure] - of_stale[figure]
        recovered[figure] = (of_streamed[figure] - of_stale[figure]) / loss if loss else None
    return {"full": {**of_full}, "stale": {**of_stale}, "streamed": {**of_streamed}, "recovered": recovered}
