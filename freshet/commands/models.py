"""`freshet models`: which versions there are and why, and the way back from one that should not have gone live.

Over a cluster when brokers are set (FRESHET_KAFKA): the registry is in Redis, and Kafka is not asked. Else of a data folder.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Protocol

import msgspec
import typer
from rich.table import Column, Table

from freshet.commands.terminal import AsJson, Data, Url, err, out, settings_of
from freshet.settings import Settings
from freshet.versions import shadow_of, word_of

models = typer.Typer(no_args_is_help=True, help="Model versions, the gate's decisions, and the way back.")
DECISIONS_SHOWN_MAX: Final = 1000


class Versions(Protocol):
    """Where versions are kept, however it is reached."""

    def models(self) -> dict[str, Any]:
        """As `freshet.versions.described`."""

    def roll_back(self) -> str:
        """The name of what is live now."""


@models.command("list")
def listed(
    last: Annotated[int, typer.Option(min=1, max=DECISIONS_SHOWN_MAX, help="So many of the newest decisions.")] = 10,
    data: Data = None,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Every version that is kept, which one answers, and what was decided of each with the reason."""
    with _versions(settings_of(data=data), url) as site:
        found = site.models()
    if as_json:
        print(msgspec.json.encode(found).decode())
        return
    table = Table("", Column("version", no_wrap=True), "generation", "made (UTC)", "from", "learned up to")
    for version in found["versions"]:
        parent, mark = version["parent"] or "nothing", _mark(found, version["name"])
        table.add_row(
            mark, version["name"], str(version["generation"]), _when(version["created_ms"]), parent, f"{version['as_of_number']:,}"
        )
    out.print(table)
    for version in found["versions"]:
        metrics = ", ".join(f"{name} {'nan' if value is None else f'{value:.4g}'}" for name, value in version["metrics"].items())
        out.print(f"{version['name']} when trained: {metrics or 'no metrics'}", highlight=False, markup=False)
    if not found["versions"]:
        out.print("no version yet: look-ups answer from live counts alone", highlight=False)
    for decision in found["decisions"][-last:]:
        told = f"{_when(decision['at_ms'])} {decision['version']} ({decision['kind']}) {word_of(decision)}: {decision['reason']}"
        out.print(told, highlight=False, markup=False)
        if seen := shadow_of(decision):
            out.print(f"  {seen}", highlight=False, markup=False)


@models.command("roll-back")
def roll_back(
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    data: Data = None,
    url: Url = None,
) -> None:
    """Answer from the version before the live one again. It is put on record; one step, and no further."""
    with _versions(settings_of(data=data), url) as site:
        found = site.models()
        live = found["live"]
        if live is None or live["previous"] is None:
            what = f"{live['version']} has no predecessor on record" if live else "nothing is live yet"
            stored = ", ".join(version["name"] for version in found["versions"]) or "none"
            err.print(f"error: cannot roll back: {what} (stored: {stored})", style="red", markup=False, highlight=False)
            raise typer.Exit(1)
        if not yes:
            typer.confirm(f"{live['version']} is live. Answer from {live['previous']} again?", abort=True, err=True)
        back = site.roll_back()
    out.print(f"{back} is live again; {live['version']} is kept, and the roll-back is on record", highlight=False)


class ClusterVersions:
    """The cluster's registry, in Redis and the store: processes that follow it flip by themselves."""

    def __init__(self, settings: Settings) -> None:
        from freshet.cluster import redis_of, store_of
        from storage.models_redis import RedisRegistry

        self._client = redis_of(settings)
        self._registry = RedisRegistry(self._client, store_of(settings, "models"), settings.redis_prefix, keep_max=settings.versions_max)

    def close(self) -> None:
        """Let go of the connection."""
        self._client.close()

    def models(self) -> dict[str, Any]:
        """With the proposed version as the candidate."""
        from freshet.versions import described

        return described(self._registry, candidate=self._registry.candidate())

    def roll_back(self) -> str:
        """Flip the one record that all follow."""
        from freshet.clock import now_ms
        from freshet.versions import rolled_back

        return rolled_back(self._registry, now_ms=now_ms()).version


@contextmanager
def _versions(settings: Settings, url: str | None) -> Iterator[Versions]:
    if settings.kafka:
        cluster = ClusterVersions(settings)
        try:
            yield cluster
        finally:
            cluster.close()
        return
    from freshet.access import access

    with access(settings, url) as site:
        yield site


def _mark(found: dict[str, Any], name: str) -> str:
    live = found["live"] or {"version": None, "previous": None}
    marks = {live["version"]: "live", live["previous"]: "before", found["candidate"]: "candidate"}
    return marks.get(name, "")


def _when(ms: int) -> str:
    return f"{datetime.fromtimestamp(min(ms, 253_402_300_799_000) / 1000, UTC):%Y-%m-%d %H:%M:%S}"  # up to the year 9999
