"""What an operator asks of the state and does to it: lag, verify, replay, rebuild, gap accept, doctor.

Over a cluster when brokers are set (FRESHET_KAFKA), else of a data folder.
"""

import json
from typing import Annotated, Any

import typer
from rich.table import Table

from freshet.commands.terminal import AsJson, Data, Url, bar, err, out, settings_of
from freshet.settings import Settings
from freshet.versions import word_of

state = typer.Typer()
gap = typer.Typer(no_args_is_help=True, help="When the log no longer holds what comes next.")


@state.command()
def lag(data: Data = None, url: Url = None, as_json: AsJson = False) -> None:
    """How far ingest, archive and refresh are behind, what was refused, which model is live."""
    settings = settings_of(data=data)
    status = _cluster_status(settings) if settings.kafka else _folder_status(settings, url)
    if as_json:
        print(json.dumps(status))
    elif settings.kafka:
        _print_cluster(status)
    else:
        _print_status(status)


@state.command()
def verify(data: Data = None, url: Url = None) -> None:
    """Replay archive and log into an empty state and compare it with the live one, byte for byte."""
    settings = settings_of(data=data)
    equal = _verify_cluster(settings) if settings.kafka else _verify_folder(settings, url)
    if not equal:
        err.print("they differ: the state is not what the log says; rebuild it (freshet rebuild)", style="red")
        raise typer.Exit(1)
    out.print("equal", style="green")


@state.command()
def replay(data: Data = None) -> None:
    """Replay archive and log into an empty state in memory and print its digests, partition by partition. Changes nothing."""
    settings = settings_of(data=data)
    with bar(None) as advance:
        if settings.kafka:
            from freshet.cluster import archive_of, services
            from freshet.operators.cluster_verify import replayed

            with services(settings, looking=True) as site:
                rows = [
                    (one.partition, one.events, one.state, one.neighbours) for one in replayed(site, archive_of(settings), told=advance)
                ]
        else:
            from freshet.operators.verifying import replay_folder

            rows = replay_folder(settings, advance)
    out.print("digest of histories, seen-sets and counts, and digest of neighbours:", highlight=False)
    for partition, end, from_events, neighbours in rows:
        out.print(f"partition {partition} up to {end}: {from_events} {neighbours}", highlight=False)


@state.command()
def rebuild(
    partitions: Annotated[int | None, typer.Option(min=1, max=4096, help="Of a cluster: its new partition count.")] = None,
    data: Data = None,
) -> None:
    """Forget the state and build it again from archive and log. No server and no worker may run."""
    settings = settings_of(data=data, partitions=partitions)
    with bar(None) as advance:
        if settings.kafka:
            from freshet.clock import now_ms
            from freshet.cluster import archive_of, services
            from freshet.operators.cluster_rebuild import rebuild as rebuild_cluster

            with services(settings, anew=True) as site:
                events = rebuild_cluster(site, archive_of(settings), told=advance, now_ms=now_ms())
        elif partitions is not None:
            raise typer.BadParameter("the partitions of a folder are fixed once data is there: --partitions is a cluster's")
        else:
            from freshet.operators.verifying import rebuild_folder

            events = rebuild_folder(settings, advance)
    out.print(f"rebuilt from {events:,} events", highlight=False)


@gap.command()
def accept(data: Data = None) -> None:
    """Accept, on record, that events are lost: every partition goes on where the log goes on. No server may run on the folder."""
    settings = settings_of(data=data)
    told = _accept_cluster(settings) if settings.kafka else _accept_folder(settings)
    for line in told:
        out.print(line, highlight=False, markup=False)
    if not told:
        out.print("there is no gap", highlight=False)


@state.command()
def doctor(data: Data = None, url: Url = None) -> None:
    """Check everything freshet stands on, and say what to do about what is wrong."""
    settings = settings_of(data=data)
    if settings.kafka:
        from freshet.operators.cluster_doctor import examine_cluster

        findings = examine_cluster(settings)
    else:
        from freshet.operators.doctor import examine

        findings = examine(settings, url)
    wrong = 0
    for finding in findings:
        wrong += not finding.fine
        out.print(f"[{'green' if finding.fine else 'red'}]{'ok' if finding.fine else 'wrong':<6}[/] {finding.what}: ", end="")
        out.print(finding.found + ("" if finding.fine else f" — {finding.do}"), markup=False, highlight=False)
    if wrong:
        raise typer.Exit(1)


def _folder_status(settings: Settings, url: str | None) -> dict[str, Any]:
    from freshet.access import access

    with access(settings, url) as site:
        return site.status()


def _cluster_status(settings: Settings) -> dict[str, Any]:
    from freshet.cluster import services
    from freshet.operators.cluster_lag import cluster_status

    with services(settings, looking=True) as site:
        return cluster_status(site)


def _verify_folder(settings: Settings, url: str | None) -> bool:
    from freshet.operators.verifying import verify_folder

    with bar(None) as advance:
        found = verify_folder(settings, url, advance)
    out.print(f"live   {found.live}\nreplay {found.replay}\nup to append {found.below}", highlight=False)
    return found.live == found.replay


def _verify_cluster(settings: Settings) -> bool:
    from freshet.cluster import archive_of, services
    from freshet.operators.cluster_verify import verify as verify_cluster

    with services(settings, looking=True) as site, bar(None) as advance:
        found = verify_cluster(site, archive_of(settings), told=advance)
    for live, again in zip(found.live, found.replay, strict=True):
        upto = f"up to {live.events} of events" + ("" if found.sampled else f", {live.edges} of edges")
        out.print(f"partition {live.partition} {upto}", highlight=False)
        out.print(f"live   {live.state} {live.neighbours}\nreplay {again.state} {again.neighbours}", highlight=False)
    if found.sampled:
        out.print(
            f"neighbours: `edges` no longer holds its first record. {found.sampled:,} lists were compared with what the events give: "
            f"largest difference {found.difference:.4f} (0: the same, 2: nothing in common)",
            highlight=False, markup=False,
        )  # fmt: skip
    return found.equal


def _accept_folder(settings: Settings) -> list[str]:
    from freshet.operators.verifying import accept_gap

    told = []
    for loss in accept_gap(settings):
        lost = f"offsets {loss.first}..{loss.end - 1}" if loss.first < loss.end else f"everything of another log before offset {loss.end}"
        told.append(f"partition {loss.partition}: {lost} given up, written down in losses.jsonl")
    return told


def _accept_cluster(settings: Settings) -> list[str]:
    from freshet.clock import now_ms
    from freshet.cluster import archive_of, services
    from freshet.operators.cluster_losses import accept_gaps

    with services(settings, looking=True) as site:
        losses = accept_gaps(site, archive_of(settings, read_only=False), now_ms=now_ms())
    told = []
    for loss in losses:
        lost = f"everything from offset {loss.first} on" if loss.end is None else f"offsets {loss.first}..{loss.end - 1}"
        lost = "what the log lost and the state has" if loss.first == loss.end else lost
        told.append(
            f"{loss.stream} {loss.partition} (incarnation {loss.incarnation}): {lost} given up, goes on at {loss.resumed}: {loss.why}; "
            f"written down in {settings.redis_prefix}:losses"
        )
    return told


def _print_cluster(status: dict[str, Any]) -> None:
    table = Table("topic", "partition", "watermark", "end", "lag", "reader")
    for row in status["partitions"]:
        reader = row["gap"] or row["reader"] or "nobody"
        table.add_row(*(str(row[name]) for name in ("topic", "partition", "watermark", "end", "lag")), reader)
    out.print(table)
    group = status["group"]
    alive = ", ".join(f"{member['name']} ({len(member['partitions'])} partitions)" for member in group["members"]) or "nobody"
    out.print(f"group {group['name']}: {alive}", highlight=False, markup=False)
    _print_tallies(status["tallies"])
    if any(row["gap"] for row in status["partitions"]):
        err.print("stopped at a gap: rebuild (freshet rebuild), or accept the loss on record (freshet gap accept)", style="red")


def _print_online(online: dict[str, Any]) -> None:
    hits = {name: segments["all"]["hit_at_10"] for name, segments in online["figures"].items()}
    said = " · ".join(f"{name} {hit:.3f}" for name, hit in hits.items()) or "nothing ranked yet"
    out.print(f"hit@10 of look-ups just before {online['cases']:,} events: {said}", highlight=False)


def _print_status(status: dict[str, Any]) -> None:
    table = Table("partition", "watermark", "end", "lag")
    for row in status["partitions"]:
        table.add_row(*(str(row[name]) for name in ("partition", "watermark", "end", "lag")))
    out.print(table)
    _print_tallies(status["tallies"])
    live = status["live"]
    out.print(f"archive behind by {status['archive_lag_records']:,} records", highlight=False)
    out.print(f"{status['dirty_items']:,} of {status['items']:,} items wait for refresh", highlight=False)
    out.print(
        f"live model: {live['version'] if live else 'none yet'} · log {status['log_bytes']:,} of {status['log_bytes_max']:,} bytes",
        highlight=False,
    )
    if weights := status.get("weights"):
        said = " · ".join(f"{name} {weight:.2f}" for name, weight in weights["by_source"].items() if weight)
        out.print(f"weights, learned from {weights['learned_from']:,} questions since it went live: {said}", highlight=False)
    if online := status.get("online"):
        _print_online(online)
    for decision in status["decisions"]:
        out.print(
            f"gate: {decision['version']} {word_of(decision)}: {decision['reason']}",
            highlight=False,
            markup=False,
        )


def _print_tallies(tallies: dict[str, Any]) -> None:
    dead = tallies["dead_letters"]
    told = ", ".join(f"{kind}: {count:,}" for kind, count in dead.items()) or "none"
    out.print(
        f"accepted {tallies['accepted']:,} ({tallies['duplicates']:,} duplicates) · dead letters {sum(dead.values()):,} ({told})",
        highlight=False,
    )
