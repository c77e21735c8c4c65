"""The processes of the cluster form, one command each; any number of each side by side where the command says so."""

from typing import Annotated

import typer

from freshet.commands.terminal import Data, err, get_ready, settings_of

processes = typer.Typer()


@processes.command()
def worker(host: str | None = None, port: Annotated[int | None, typer.Option(help="Of the worker's web page.")] = None) -> None:
    """Apply events and edges of the cluster form, as one of many, until it is stopped. FRESHET_KAFKA names the brokers."""
    from freshet.clock import now_ms
    from freshet.cluster import services, store_of
    from stream.app import Web, run_app
    from stream.archiver import Archiver
    from stream.entity_writer import EntityWriter
    from stream.worker import Worker

    settings = settings_of(host=host, page_port=port)
    with services(settings) as site:
        err.print(f"freshet worker: http://{settings.host}:{settings.page_port}/healthz (Ctrl-C stops it)", highlight=False)
        archiver = Archiver(store_of(settings, "archive"), site.log, clock_ms=now_ms, age_ms=int(1000 * settings.archive_s))
        doing = Worker(site.kafka, site.state, site.log, site.shape, group=settings.kafka_group, archiver=archiver)
        entities = EntityWriter(site.state, site.log, site.shape)
        run_app(doing, entities, site.kafka, web=Web(settings.host, settings.page_port), clock_ms=now_ms)


@processes.command()
def api(data: Data = None, host: str | None = None, port: int | None = None) -> None:
    """Answer look-ups and take events of the cluster form over HTTP, as one of many, until it is stopped."""
    from freshet.listening import end_at_once
    from freshet.processes.api import run_api

    settings = settings_of(data=data, host=host, port=port)
    get_ready()
    err.print(f"freshet api: http://{settings.host}:{settings.port} (Ctrl-C stops it)", highlight=False)
    run_api(settings)
    end_at_once()


@processes.command()
def refresher(host: str | None = None, port: Annotated[int | None, typer.Option(help="Of its page.")] = None) -> None:
    """Keep the vectors on the Qdrant server fresh, as one of many, until it is stopped. FRESHET_QDRANT names the server."""
    from freshet.listening import end_at_once
    from freshet.processes.refresher import run_refresher

    settings = settings_of(host=host, page_port=port)
    get_ready()
    err.print(f"freshet refresher: http://{settings.host}:{settings.page_port}/healthz (Ctrl-C stops it)", highlight=False)
    run_refresher(settings)
    end_at_once()


@processes.command()
def trainer(data: Data = None, host: str | None = None, port: Annotated[int | None, typer.Option(help="Of its page.")] = None) -> None:
    """Train on what is archived and propose what is better; of several one trains and the others stand by."""
    from freshet.listening import end_at_once
    from freshet.processes.trainer_loop import run_trainer

    settings = settings_of(data=data, host=host, page_port=port)
    err.print(f"freshet trainer: http://{settings.host}:{settings.page_port}/healthz (Ctrl-C stops it)", highlight=False)
    run_trainer(settings)
    end_at_once()
