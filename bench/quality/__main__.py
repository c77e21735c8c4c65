"""Ranking quality of the product's model, of counting baselines and of their blend, as the field measures it.

    python -m bench.quality loo --data ratings.txt [attributes.json]
    python -m bench.quality sessions --data train.txt test.tsv [--withhold 0,2,10]
    python -m bench.quality prequential --data u.data

A format knows layouts, never data set names. What is chosen (weights, steps, the model's dropout) is chosen on validation, within
--minutes. A killed run goes on where it was; the checkpoint it leaves is served by `freshet serve --model PATH`. The last line is JSON,
also written to OUT with --json.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from bench.quality import freshness, loo, prequential, sessions
from bench.quality.layouts import BadData
from bench.quality.neural import Wanted
from bench.quality.progress import Watch, meter
from bench.quality.report import FIGURES, Outcome, report, table
from bench.quality.systems import CHOICES, EVERYTHING
from freshet.commands.terminal import bar, err
from trainers.config import BFLOAT16, CPU, FLOAT32
from trainers.device import device_of


def main(arguments: list[str] | None = None) -> int:
    """Parse, measure, print; 2 and a message on standard error when the data is not in the format's layout."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.quality", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("format", choices=tuple(FIGURES))
    parser.add_argument("--data", nargs="+", type=Path, required=True, help="the format's files; any file in the same layout works")
    parser.add_argument(
        "--minutes", type=_minutes, default=30.0,
        help="what fitting, choosing and testing may take, with --withhold for each trained model; a report that took longer says so",
    )  # fmt: skip
    parser.add_argument(
        "--model",
        choices=CHOICES,
        default=EVERYTHING,
        help="which systems are fitted; prequential: all but `counting` run the product's loop",
    )
    parser.add_argument("--out", type=Path, default=Path("out/quality"), help="where a killed run is gone on from, and the model is left")
    parser.add_argument("--withhold", type=_shares, help="sessions: percent of the newest sessions withheld, then streamed: 0,2,5,10,20,50")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default=CPU, help="what trains: cpu (default), cuda, or auto, which takes CUDA where it is")
    parser.add_argument("--precision", choices=(FLOAT32, BFLOAT16), default=FLOAT32, help="of a trunk's matrix products while it learns")
    parser.add_argument("--json", type=Path, help="write the JSON here too")
    options = parser.parse_args(arguments)
    if options.withhold and options.format != "sessions":
        parser.error("--withhold measures the freshness of sessions; leave it out for other formats")
    try:
        options.device = device_of(options.device, asked_by="--device")
    except ValueError as error:
        parser.error(str(error))
    try:
        outcome = _run(options)
        found = report(options.format, options.data, outcome, seed=options.seed, minutes=options.minutes)
    except BadData as error:
        print(error, file=sys.stderr)
        return 2
    _show(found, outcome, options.minutes)
    line = json.dumps(found)
    if options.json:
        options.json.write_text(line + "\n", encoding="utf-8")
    print(line)
    return 0


def _run(options: argparse.Namespace) -> Outcome:
    seed, clock = options.seed, time.perf_counter
    wanted = Wanted(
        _folder(options), options.model, options.minutes, meter, lambda line: err.print(line, highlight=False),
        device=options.device, precision=options.precision,
    )  # fmt: skip
    if options.withhold:
        return freshness.run(options.data, options.withhold, seed=seed, watch=Watch(clock, bar), wanted=wanted)
    run = {"loo": loo.run, "sessions": sessions.run, "prequential": prequential.run}[options.format]
    return run(options.data, seed=seed, clock=clock, bar=bar, wanted=wanted)


def _folder(options: argparse.Namespace) -> Path:
    """A folder of its own for each format, file and seed."""
    first: Path = options.data[0].resolve()
    folder: Path = options.out / f"{options.format}-{first.parent.name}-{first.stem}-{options.seed}"
    return folder


def _show(found: dict[str, Any], outcome: Outcome, minutes: float) -> None:
    err.print(table(f"{found['dataset']}: {found['n_test']:,} tests, {found['catalogue']:,} items", found["systems"]))
    if "block" in found:
        err.print(f"{found['not_ranked']:,} events not ranked")
        err.print(
            table(
                f"ties: block, {found['block']['n_test']:,} tests, {found['block']['not_ranked']:,} not ranked", found["block"]["systems"]
            )
        )
    for share, by_name in found.get("withheld", {}).items():
        for name, of in by_name.items():
            err.print(
                table(f"{share} % withheld, {name}: recovered {of['recovered']}", {key: of[key] for key in ("full", "stale", "streamed")})
            )
    if neural := found.get("neural"):
        err.print(
            f"neural: {neural['steps']:,} steps, best at {neural['best_step']:,}, dropout {neural['dropout']}; {len(neural['runs'])} runs",
            highlight=False,
        )
        err.print(f"checkpoint: {neural['checkpoint']}", highlight=False)
    err.print("blend: " + ", ".join(f"{name} {weight:.3f}" for name, weight in found["blend"]["weights"].items()))
    for figure, gain in found["blend"]["above_best"].items():
        err.print(f"blend minus {gain['best']}, {figure}: {gain['gain']:+.4f} (95 % {gain['low']:+.4f} to {gain['high']:+.4f})")
    spent = sum(outcome.seconds.values()) / 60
    if spent > minutes:
        err.print(f"took {spent:.1f} minutes, more than the {minutes:g} allowed")


def _minutes(text: str) -> float:
    try:
        minutes = float(text)
    except ValueError:
        minutes = 0.0
    if not 0 < minutes < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of minutes above 0")
    return minutes


def _shares(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of percentages such as 0,2,10") from None


if __name__ == "__main__":
    sys.exit(main())
