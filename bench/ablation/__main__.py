"""What each part of the model is worth, one thing changed at a time, the same steps and seeds for all.

    python -m bench.ablation --data ratings.txt [attributes.json] [--only "no graph; mean"] [--seeds 3] [--steps 600]
    python -m bench.ablation --events u.data

Data in the `loo` layout; attributes are collections of items. One process a core, one thread each, so that runs do not wait for one
another. What is done is kept in OUT and not done again: end it when you like. The last line is JSON; table.html beside the runs is for
people. Steps end a run, not time: figures do not depend on how busy the machine is.
"""

import argparse
import json
import multiprocessing
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Final

from bench.ablation.runs import Budget, Given, read, timed
from bench.ablation.tables import html, rows_of
from bench.ablation.user_state import user_states
from bench.ablation.variants import VARIANTS, WHOLE
from bench.machine import versions
from bench.quality.layouts import BadData
from bench.quality.report import sha256s
from freshet.commands.terminal import bar, err
from freshet.readers.source import UnknownLayout
from storage.files import write_file
from trainers.config import BFLOAT16, CPU, FLOAT32
from trainers.device import device_of

STEPS: Final = 600
SECONDS_MAX: Final = 180.0


def main(arguments: list[str] | None = None) -> int:
    """Parse, train what is missing, print; 2 and a message when the data is not in the layout."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.ablation", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--data", nargs="+", type=Path, help="a file of sequences, and what is known of its items")
    what.add_argument("--events", type=Path, help="a file of timed events: what a user's vector of another age is worth")
    parser.add_argument("--only", type=_names, default=list(VARIANTS), metavar="NAME;...", help=f"of {', '.join(VARIANTS)}")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=STEPS, help=f"of each run (default {STEPS})")
    parser.add_argument("--minutes", type=float, default=SECONDS_MAX / 60, help="that no run takes longer than; one that does says so")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)), help="runs side by side (default: one a core)")
    parser.add_argument("--device", default=CPU, help="what trains: cpu (default), cuda, or auto, which takes CUDA where it is")
    parser.add_argument("--precision", choices=(FLOAT32, BFLOAT16), default=FLOAT32, help="of the matrix products of training")
    parser.add_argument("--out", type=Path, default=Path("out/ablation"))
    options = parser.parse_args(arguments)
    if min(options.seeds, options.steps, options.jobs) < 1 or options.minutes <= 0:
        parser.error("--seeds, --steps, --jobs and --minutes must be above 0")
    try:
        device = device_of(options.device, asked_by="--device")
    except ValueError as error:
        parser.error(str(error))
    budget = Budget(options.steps, 60 * options.minutes, device, options.precision)
    if options.events:
        return _user_states(options.events, budget, options.seeds)
    try:
        given = read(tuple(options.data))
    except BadData as error:
        print(error, file=sys.stderr)
        return 2
    names = [name for name in options.only if _applies(name, given)]
    folder = options.out / _folder(options.data[0], budget)
    folder.mkdir(parents=True, exist_ok=True)
    _train([(name, seed) for seed in range(options.seeds) for name in names], options.data, budget, folder=folder, jobs=options.jobs)
    found = {name: [json.loads(_kept(folder, name, seed).read_bytes()) for seed in range(options.seeds)] for name in names}
    rows = rows_of(found)
    write_file(folder / "table.html", html(rows, options.data[0].name, options.steps).encode())
    _show(rows, folder)
    told = {"bench": "ablation", "sha256": sha256s(options.data), "steps": options.steps, "seeds": options.seeds, "runs": found}
    print(json.dumps({**told, "rows": rows, **versions()}))
    return 0


def _user_states(path: Path, budget: Budget, seeds: int) -> int:
    try:
        found = [user_states(path, budget, seed=seed, clock=time.perf_counter) for seed in range(seeds)]
    except (BadData, UnknownLayout) as error:
        print(error, file=sys.stderr)
        return 2
    for name, first in found[0].items():
        means = {figure: sum(one[name][figure] for one in found) / seeds for figure in ("HR@10", "NDCG@10")}
        told = f"{name:18}HR@10 {means['HR@10']:.4f}  NDCG@10 {means['NDCG@10']:.4f}  {first['questions']:.0f} questions"
        err.print(told, highlight=False)
    print(json.dumps({"bench": "ablation", "sha256": sha256s([path]), "steps": budget.steps, "user_state": found, **versions()}))
    return 0


def _applies(name: str, given: Given) -> bool:
    """Whether the file has what the variant goes without."""
    without = VARIANTS[name].without
    return not ("text" in without and not len(given.features.text.values)) and not ("collections" in without and not given.members.names)


def _train(wanted: list[tuple[str, int]], data: list[Path], budget: Budget, *, folder: Path, jobs: int) -> None:
    """What is wanted (variant, seed) and was not kept: every variant once before any twice."""
    missing = [(name, seed) for name, seed in wanted if not _kept(folder, name, seed).exists()]
    with bar(len(wanted), "training") as advance:
        advance(len(wanted) - len(missing))
        spawned = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(min(jobs, max(1, len(missing))), mp_context=spawned) as pool:
            under_way = {pool.submit(timed, tuple(data), name, budget, seed): (name, seed) for name, seed in missing}
            for done in as_completed(under_way):
                write_file(_kept(folder, *under_way[done]), json.dumps(done.result()).encode())
                advance(1)


def _folder(path: Path, budget: Budget) -> str:
    """Its own for what runs otherwise: what is kept there is not done again."""
    otherwise = [what for what in (budget.device, budget.precision) if what not in (CPU, FLOAT32)]
    return "-".join([path.resolve().parent.name, str(budget.steps), *otherwise])


def _kept(folder: Path, name: str, seed: int) -> Path:
    return folder / f"{name.replace(' ', '-').replace(',', '')}-{seed}.json"


def _show(rows: list[dict[str, object]], folder: Path) -> None:
    for row in rows:
        err.print(
            f"{row['variant']!s:24}UE {row['UE_NDCG@10']:.4f} ({row['UE_change']:+.1%})  EE {row['EE_NDCG@10']:.4f} "
            f"({row['EE_change']:+.1%})  {row['verdict']}",
            highlight=False,
        )
    err.print(f"table: {folder / 'table.html'}", highlight=False)


def _names(given: str) -> list[str]:
    """With what each is read against; names are told apart by semicolons, as some hold commas."""
    names = [name.strip() for name in given.split(";")]
    if unknown := sorted(set(names) - set(VARIANTS)):
        raise argparse.ArgumentTypeError(f"no such variant: {', '.join(unknown)}; there are {', '.join(VARIANTS)}")
    return [name for name in VARIANTS if name in {*names, WHOLE, *(VARIANTS[name].against for name in names)}]


if __name__ == "__main__":
    sys.exit(main())
