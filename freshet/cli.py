"""The command line: one command per thing a person does. `freshet --help` lists them.

Errors a person can mend are one line and exit code 1; wrong arguments exit with 2.
"""

import json
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from pydantic import ValidationError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from freshet.settings import Settings

app = typer.Typer(
    add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, help="A recommender that learns while it serves."
)
gap = typer.Typer(no_args_is_help=True, help="When the log no longer holds what comes next.")
app.add_typer(gap, name="gap")
topics = typer.Typer(no_args_is_help=True, help="Kafka's topics of the cluster form.")
app.add_typer(topics, name="topics")
out = Console(soft_wrap=True)
err = Console(stderr=True, soft_wrap=True)

Data = Annotated[Path | None, typer.Option("--data", help="Data folder; default ./data or FRESHET_DATA.")]
Url = Annotated[
    str | None, typer.Option("--url", help="A running server, e.g. http://127.0.0.1:8080; default: the one that holds the folder.")
]
File = Annotated[Path, typer.Argument(help="Events in any layout that is understood; an unknown one lists them.")]
"""What several commands take."""


def main() -> None:
    """The entry point: errors that say what to do become one line."""
    for library in ("OMP", "MKL", "OPENBLAS", "NUMBA"):  # before the first of them is loaded: two threads contend badly for two cores
        os.environ.setdefault(f"{library}_NUM_THREADS", "1")
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s %(message)s")
    for library in ("kafka", "aiokafka"):  # a broker that is away is told once, by us
        logging.getLogger(library).setLevel(logging.CRITICAL)
    try:
        app(standalone_mode=True)
    except _mendable() as error:
        err.print(f"error: {_told(error)}", style="red", markup=False, highlight=False)
        sys.exit(1)


@app.command()
def serve(data: Data = None, host: str | None = None, port: int | None = None) -> None:
    """Serve a folder: ingest, learn, and answer over HTTP, until it is stopped."""
    from freshet.server import run_server

    settings = _settings(data=data, host=host, port=port)
    err.print(f"freshet serves {settings.data} at http://{settings.host}:{settings.port} (Ctrl-C stops it)", highlight=False)
    run_server(settings)


@app.command()
def produce(
    file: File,
    entities: Annotated[Path | None, typer.Option(help="What is known of the items.")] = None,
    data: Data = None,
    url: Url = None,
) -> None:
    """Publish a file of events: every line is accepted or becomes a dead letter that says why."""
    from freshet.access import access
    from freshet.producing import produce_entities, produce_events
    from freshet.readers.choose import open_events

    source = open_events(file)
    with access(_settings(data=data), url) as site:
        if entities is not None:
            with _bar(None) as bar:
                told = produce_entities(site, entities, bar)
            out.print(f"{told:,} entities published", highlight=False)
        with _bar(source.rows) as bar:
            published, bad = produce_events(site, source, bar)
        site.settle()
        out.print(
            f"{published + bad:,} lines: {published:,} events published, {bad:,} become dead letters ({source.name})", highlight=False
        )


@app.command()
def recommend(
    user: str, k: Annotated[int, typer.Option("-k", min=1, max=100, help="How many items.")] = 10,
    data: Data = None, url: Url = None, as_json: Annotated[bool, typer.Option("--json", help="The answer as it is.")] = False,
) -> None:  # fmt: skip
    """What a user may want next, and why."""
    from freshet.access import access

    with access(_settings(data=data), url) as site:
        answer = site.recommend(user, k)
    if as_json:
        print(json.dumps(answer))
        return
    table = Table("item", "title", "score", "because of")
    for item in answer["items"]:
        reasons = ", ".join(f"{name} {share:.0%}" for name, share in sorted(item["sources"].items(), key=lambda s: -s[1]) if share >= 0.01)
        table.add_row(item["item_id"], item["title"], f"{item['score']:.3f}", reasons)
    out.print(table)
    as_of, model = answer["as_of"], answer["model"] or "none yet: live counts alone"
    out.print(f"as of append {as_of['number']}, event time {as_of['ts_ms']} ms · model {model} · index {answer['index']}", highlight=False)


@app.command()
def lag(data: Data = None, url: Url = None, as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False) -> None:
    """How far ingest, archive and refresh are behind, what was refused, which model is live."""
    from freshet.access import access

    with access(_settings(data=data), url) as site:
        status = site.status()
    print(json.dumps(status)) if as_json else _print_status(status)


@app.command()
def verify(data: Data = None, url: Url = None) -> None:
    """Replay archive and log into an empty state and compare it with the live one, byte for byte."""
    from freshet.verifying import verify_folder

    with _bar(None) as bar:
        found = verify_folder(_settings(data=data), url, bar)
    out.print(f"live   {found.live}\nreplay {found.replay}\nup to append {found.below}", highlight=False)
    if found.live != found.replay:
        err.print("they differ: the state is not what the log says; rebuild it (freshet rebuild)", style="red")
        raise typer.Exit(1)
    out.print("equal", style="green")


@app.command()
def rebuild(data: Data = None) -> None:
    """Forget the state and build it again from archive and log. No server may run on the folder."""
    from freshet.verifying import rebuild_folder

    with _bar(None) as bar:
        events = rebuild_folder(_settings(data=data), bar)
    out.print(f"rebuilt from {events:,} events", highlight=False)


@gap.command()
def accept(data: Data = None) -> None:
    """Accept, on record, that events are lost: every partition goes on where the log goes on. No server may run on the folder."""
    from freshet.verifying import accept_gap

    losses = accept_gap(_settings(data=data))
    for loss in losses:
        lost = f"offsets {loss.first}..{loss.end - 1}" if loss.first < loss.end else f"everything of another log before offset {loss.end}"
        out.print(f"partition {loss.partition}: {lost} given up, written down in losses.jsonl", highlight=False)
    if not losses:
        out.print("there is no gap", highlight=False)


@app.command()
def worker(host: str | None = None, port: Annotated[int | None, typer.Option(help="Of the worker's web page.")] = None) -> None:
    """Apply events and edges of the cluster form, as one of many, until it is stopped. FRESHET_KAFKA names the brokers."""
    from freshet.clock import now_ms
    from freshet.cluster import services
    from stream.app import Web, run_app
    from stream.entity_writer import EntityWriter
    from stream.worker import Worker

    settings = _settings(host=host, page_port=port)
    with services(settings) as site:
        err.print(f"freshet worker: http://{settings.host}:{settings.page_port}/healthz (Ctrl-C stops it)", highlight=False)
        doing = Worker(site.kafka, site.state, site.log, site.shape, group=settings.kafka_group)
        entities = EntityWriter(site.state, site.log, site.shape)
        run_app(doing, entities, site.kafka, web=Web(settings.host, settings.page_port), clock_ms=now_ms)


@topics.command()
def create(replicas: Annotated[int, typer.Option(min=1, max=9, help="Copies of each partition.")] = 1) -> None:
    """Make the topics that are missing, set up as they must be; the partition count is the setting's (FRESHET_PARTITIONS)."""
    from freshet.cluster import kafka_of
    from stream.topics import create as create_topics

    settings = _settings()
    made = create_topics(kafka_of(settings), partitions=settings.partitions, replicas=replicas)
    out.print(f"made: {', '.join(made)}" if made else "all topics are there", highlight=False)


@topics.command()
def check() -> None:
    """Compare the topics with what they must be, and say what to do about what is wrong."""
    from freshet.cluster import kafka_of
    from stream.topics import check as check_topics

    settings = _settings()
    wrong = 0
    for finding in check_topics(kafka_of(settings), partitions=settings.partitions):
        wrong += not finding.fine
        out.print(f"[{'green' if finding.fine else 'red'}]{'ok' if finding.fine else 'wrong':<6}[/] {finding.topic}: ", end="")
        out.print(finding.found + ("" if finding.fine else f" — {finding.do}"), markup=False, highlight=False)
    if wrong:
        raise typer.Exit(1)


@app.command()
def doctor(data: Data = None, url: Url = None) -> None:
    """Check everything freshet stands on, and say what to do about what is wrong."""
    from freshet.doctor import examine

    wrong = 0
    for finding in examine(_settings(data=data), url):
        wrong += not finding.fine
        out.print(f"[{'green' if finding.fine else 'red'}]{'ok' if finding.fine else 'wrong':<6}[/] {finding.what}: ", end="")
        out.print(finding.found + ("" if finding.fine else f" — {finding.do}"), markup=False, highlight=False)
    if wrong:
        raise typer.Exit(1)


@app.command()
def world(
    folder: Annotated[Path, typer.Argument(help="Where to write events.csv and entities.jsonl.")],
    seed: int = 0,
    users: int = 400,
    items: int = 600,
    events: int = 20_000,
) -> None:
    """Write the synthetic world: events with a planted structure, as a headed CSV, entities beside it."""
    from freshet.world import World, WorldConfig

    try:
        config = WorldConfig(seed=seed, users=users, items=items, events=events)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    path = World(config).write_csv(folder)
    out.print(f"{path}: {events:,} events of {users:,} users on {items:,} items, seed {seed}", highlight=False)


@app.command()
def demo(
    data: Annotated[Path | None, typer.Option("--data", help="Your own events instead of MovieLens-100K.")] = None,
    use_world: Annotated[bool, typer.Option("--world", help="The synthetic world: needs no network.")] = False,
    events: Annotated[int | None, typer.Option(min=100, help="Only the first so many lines.")] = None,
    report: Annotated[Path, typer.Option(help="Folder for demo.html.")] = Path("out"),
    seed: int = 0,
) -> None:
    """Stream real events through the whole loop, rank each before it is learned, and show what learning while serving gives."""
    from freshet.demo_command import run_demo

    outcome = run_demo(data=data, use_world=use_world, events_max=events, report=report, seed=seed, console=err)
    figures = outcome.figures
    out.print(_demo_table(figures.ranked, figures.hit_at_10, figures.gain_over))
    out.print(f"report: {outcome.report}", highlight=False)
    print(figures.json(), flush=True)


def _settings(**given: Any) -> Settings:
    return Settings(**{name: value for name, value in given.items() if value is not None})


def _mendable() -> tuple[type[Exception], ...]:
    """Errors whose message is for the person at the terminal."""
    from encoders.model import CheckpointError
    from freshet.access import Unreachable
    from freshet.cluster import ServiceUnreachable
    from freshet.engine import FolderBusy
    from freshet.readers.source import BrokenFile, UnknownLayout
    from freshet.recbole import DataUnavailable
    from storage.archive import ArchiveDamaged
    from storage.log import LogFull
    from storage.models import Damaged
    from storage.state import Gap, ShapeChanged
    from storage.vectors import VectorsDamaged, VectorsLocked
    from stream.kafka import KafkaUnreachable

    return (
        FolderBusy, Unreachable, UnknownLayout, BrokenFile, DataUnavailable, ArchiveDamaged, LogFull, Damaged, Gap, ShapeChanged,
        VectorsDamaged, VectorsLocked, CheckpointError, ServiceUnreachable, KafkaUnreachable, OSError, ValidationError, msgspec.DecodeError,
    )  # fmt: skip


def _told(error: Exception) -> str:
    """The error's own words; of refused settings each with what is wrong about it, on one line."""
    if not isinstance(error, ValidationError):
        return str(error)
    return "; ".join(": ".join([*map(str, wrong["loc"]), wrong["msg"].removeprefix("Value error, ")]) for wrong in error.errors())


@contextmanager
def _bar(total: int | None) -> Iterator[Any]:
    """A progress bar on standard error; `advance(n)` moves it."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err, transient=True) as progress:
        bar = progress.add_task("events", total=total)
        yield lambda n: progress.advance(bar, n)


def _print_status(status: dict[str, Any]) -> None:
    table = Table("partition", "watermark", "end", "lag")
    for row in status["partitions"]:
        table.add_row(*(str(row[name]) for name in ("partition", "watermark", "end", "lag")))
    out.print(table)
    tallies, live = status["tallies"], status["live"]
    dead = tallies["dead_letters"]
    told = ", ".join(f"{kind}: {count:,}" for kind, count in dead.items()) or "none"
    out.print(
        f"accepted {tallies['accepted']:,} ({tallies['duplicates']:,} duplicates) · dead letters {sum(dead.values()):,} ({told})",
        highlight=False,
    )
    out.print(f"archive behind by {status['archive_lag_records']:,} records", highlight=False)
    out.print(f"{status['dirty_items']:,} of {status['items']:,} items wait for refresh", highlight=False)
    out.print(
        f"live model: {live['version'] if live else 'none yet'} · log {status['log_bytes']:,} of {status['log_bytes_max']:,} bytes",
        highlight=False,
    )
    for decision in status["decisions"]:
        out.print(
            f"gate: {decision['version']} {'promoted' if decision['promoted'] else 'refused'}: {decision['reason']}",
            highlight=False,
            markup=False,
        )


def _demo_table(ranked: int, hits: dict[str, float], gains: dict[str, tuple[float, float, float]]) -> Table:
    table = Table("system", "hit@10", "the model is better by (95 %)", title=f"{ranked:,} look-ups, each made before its event was learned")
    for name, hit in hits.items():
        table.add_row(name, f"{hit:.4f}", f"{gains[name][0]:+.4f} .. {gains[name][2]:+.4f}" if name in gains else "")
    return table
