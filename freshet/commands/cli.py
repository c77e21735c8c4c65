"""The command line: one command per thing a person does. `freshet --help` lists them.

Errors a person can mend are one line and exit code 1; wrong arguments exit with 2.
"""

import json
import logging
import os
import sys
from pathlib import Path
from typing import Annotated, Final

import msgspec
import typer
from pydantic import ValidationError
from rich.table import Table

from freshet.commands.letters import letters
from freshet.commands.models import models
from freshet.commands.processes import processes
from freshet.commands.state import gap, state
from freshet.commands.terminal import AsJson, Data, Url, bar, err, get_ready, out, settings_of

app = typer.Typer(
    add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, help="A recommender that learns while it serves."
)
app.add_typer(processes)
app.add_typer(state)
app.add_typer(gap, name="gap")
app.add_typer(letters, name="dead-letters")
app.add_typer(models, name="models")
topics = typer.Typer(no_args_is_help=True, help="Kafka's topics of the cluster form.")
app.add_typer(topics, name="topics")
EVENTS_PER_S: Final = 320.0
"""The demo's pace: half of what an ordinary core applies and ranks, so that trainings keep up with the events."""
File = Annotated[Path, typer.Argument(help="Events in any layout that is understood; an unknown one lists them.")]


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
def serve(
    data: Data = None,
    host: str | None = None,
    port: int | None = None,
    model: Annotated[
        Path | None, typer.Option(help="A model file that goes live first, once; as `python -m bench.quality` leaves it.")
    ] = None,
) -> None:
    """Serve a folder: ingest, learn, and answer over HTTP, until it is stopped."""
    from freshet.listening import end_at_once
    from freshet.server import run_server

    settings = settings_of(data=data, host=host, port=port)
    get_ready()
    err.print(f"freshet serves {settings.data} at http://{settings.host}:{settings.port} (Ctrl-C stops it)", highlight=False)
    run_server(settings, model)
    end_at_once()


@app.command()
def produce(
    file: File,
    entities: Annotated[Path | None, typer.Option(help="What is known of the items.")] = None,
    data: Data = None,
    url: Url = None,
) -> None:
    """Publish a file of events: every line is accepted or becomes a dead letter that says why."""
    from freshet.commands.producing import produce_entities, produce_events, publishing
    from freshet.readers.choose import open_events

    source = open_events(file)
    with publishing(settings_of(data=data), url) as site:
        if entities is not None:
            with bar(None) as advance:
                told = produce_entities(site, entities, advance)
            out.print(f"{told:,} entities published", highlight=False)
        with bar(source.rows) as advance:
            published, bad = produce_events(site, source, advance)
        site.settle()
        out.print(
            f"{published + bad:,} lines: {published:,} events published, {bad:,} become dead letters ({source.name})", highlight=False
        )


@app.command()
def recommend(
    user: str, k: Annotated[int, typer.Option("-k", min=1, max=100, help="How many items.")] = 10,
    data: Data = None, url: Url = None, as_json: AsJson = False,
) -> None:  # fmt: skip
    """What a user may want next, and why."""
    from freshet.access import access

    with access(settings_of(data=data), url) as site:
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


@topics.command()
def create(replicas: Annotated[int, typer.Option(min=1, max=9, help="Copies of each partition.")] = 1) -> None:
    """Make the topics that are missing, set up as they must be; the partition count is the setting's (FRESHET_PARTITIONS)."""
    from freshet.cluster import kafka_of
    from stream.topics import create as create_topics

    settings = settings_of()
    made = create_topics(kafka_of(settings), partitions=settings.partitions, replicas=replicas)
    out.print(f"made: {', '.join(made)}" if made else "all topics are there", highlight=False)


@topics.command()
def check() -> None:
    """Compare the topics with what they must be, and say what to do about what is wrong."""
    from freshet.cluster import kafka_of
    from stream.topics import check as check_topics

    settings = settings_of()
    wrong = 0
    for finding in check_topics(kafka_of(settings), partitions=settings.partitions):
        wrong += not finding.fine
        out.print(f"[{'green' if finding.fine else 'red'}]{'ok' if finding.fine else 'wrong':<6}[/] {finding.topic}: ", end="")
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
    from freshet.world.events import World, WorldConfig

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
    events_per_s: Annotated[
        float, typer.Option(min=0, help="So many are streamed in a second at most, for training to keep up; 0: as fast as it goes.")
    ] = EVENTS_PER_S,
    report: Annotated[Path, typer.Option(help="Folder for demo.html.")] = Path("out"),
    seed: int = 0,
) -> None:
    """Stream real events through the whole loop, rank each before it is learned, and show what learning while serving gives."""
    from freshet.commands.demo import run_demo

    get_ready()
    outcome = run_demo(
        data=data, use_world=use_world, events_max=events, events_per_s=events_per_s, report=report, seed=seed, console=err
    )  # fmt: skip
    figures = outcome.figures
    out.print(_demo_table(figures.ranked, figures.hit_at_10, figures.gain_over))
    out.print(f"report: {outcome.report}", highlight=False)
    print(figures.json(), flush=True)


_MENDABLE: Final = (
    "encoders.model.CheckpointError", "freshet.access.Unreachable", "freshet.cluster.ServiceUnreachable",
    "freshet.operators.cluster_rebuild.CannotRebuild", "freshet.operators.cluster_verify.Moving", "freshet.engine.FolderBusy",
    "freshet.readers.source.BrokenFile", "freshet.readers.source.UnknownLayout", "freshet.demo.recbole.DataUnavailable",
    "redis.RedisError", "storage.archive.ArchiveDamaged", "storage.log.LogFull", "storage.models.Damaged", "storage.models.StaleRecord",
    "storage.models.UnknownVersion", "storage.state.Gap", "storage.state.ShapeChanged", "storage.vectors.VectorsDamaged",
    "storage.vectors.VectorsLocked", "stream.kafka.KafkaUnreachable",
)  # fmt: skip
"""Errors whose message is for the person at the terminal."""


def _mendable() -> tuple[type[Exception], ...]:
    """Those whose module is loaded: of another none can have been raised, and to load it may take what is not installed."""
    places = (name.rpartition(".") for name in _MENDABLE)
    loaded = (getattr(sys.modules[module], name) for module, _, name in places if module in sys.modules)
    return (*loaded, OSError, ValidationError, msgspec.DecodeError)


def _told(error: Exception) -> str:
    """The error's own words; of refused settings each with what is wrong about it, on one line."""
    if not isinstance(error, ValidationError):
        return str(error)
    return "; ".join(": ".join([*map(str, wrong["loc"]), wrong["msg"].removeprefix("Value error, ")]) for wrong in error.errors())


def _demo_table(ranked: int, hits: dict[str, float], gains: dict[str, tuple[float, float, float]]) -> Table:
    table = Table("system", "hit@10", "the model is better by (95 %)", title=f"{ranked:,} look-ups, each made before its event was learned")
    for name, hit in hits.items():
        table.add_row(name, f"{hit:.4f}", f"{gains[name][0]:+.4f} .. {gains[name][2]:+.4f}" if name in gains else "")
    return table
