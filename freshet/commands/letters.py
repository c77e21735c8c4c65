"""`freshet dead-letters`: what was refused, why, and the way back for it."""

import itertools
import json
from collections import Counter, deque
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
import typer
from rich.table import Column, Table

from freshet.commands.terminal import AsJson, Data, Url, err, out, settings_of
from stream.events import Entity, Event

letters = typer.Typer(no_args_is_help=True, help="What was refused, and the way back for it.")
EDITABLE: Final = frozenset(Event.__struct_fields__) | frozenset(Entity.__struct_fields__)
TEXTS: Final = frozenset(
    field.name for kind in (Event, Entity) for field in msgspec.structs.fields(kind) if field.type in (str, str | None)
)
SHOWN_MAX: Final = 1000

Reason = Annotated[str | None, typer.Option("--reason", help="Only those whose reason begins so, e.g. misrouted.")]


@letters.command("list")
def listed(
    reason: Reason = None,
    last: Annotated[int, typer.Option(min=1, max=SHOWN_MAX, help="So many of the newest.")] = 20,
    data: Data = None,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """What was refused: the newest one by one, and how many of each reason."""
    from freshet.operators.redrive import letters_of

    counts, newest = Counter[str](), deque[Any](maxlen=last)
    with letters_of(settings_of(data=data), url) as (box, _):
        marked = box.marked()
        for letter in box.letters():
            if reason is None or letter.reason.startswith(reason):
                counts[letter.kind] += 1
                newest.append(letter)
    if as_json:
        rows = [{"origin": one.name, "reason": one.reason, "append_ms": one.append_ms, "redriven": one.name in marked} for one in newest]
        print(json.dumps({"kinds": counts, "newest": rows}))
        return
    table = Table(Column("origin", no_wrap=True), "appended (UTC)", "reason", "redriven")
    for one in newest:
        when = datetime.fromtimestamp(min(one.append_ms, 253_402_300_799_000) / 1000, UTC)  # up to the year 9999
        table.add_row(one.name, f"{when:%Y-%m-%d %H:%M:%S}", one.reason[:100], "yes" if one.name in marked else "")
    out.print(table)
    told = ", ".join(f"{kind}: {count:,}" for kind, count in counts.most_common()) or "none"
    out.print(f"{counts.total():,} dead letters ({told})", highlight=False, markup=False)


@letters.command()
def show(origin: Annotated[str, typer.Argument(help="As `list` names it.")], data: Data = None, url: Url = None) -> None:
    """One dead letter whole: its reason, where it landed, and its bytes."""
    from freshet.operators.redrive import letters_of

    with letters_of(settings_of(data=data), url) as (box, _):
        found = next((letter for letter in box.letters() if letter.name == origin), None)
        redriven = origin in box.marked()
    if found is None:
        err.print(f"error: there is no dead letter {origin}; freshet dead-letters list names them", style="red", markup=False)
        raise typer.Exit(1)
    told = {name: value for name, value in msgspec.structs.asdict(found).items() if name != "raw"} | {"redriven": redriven}
    for name, value in told.items():
        out.print(f"{name}: {value}", highlight=False, markup=False)
    out.print(found.raw.decode("utf-8", "backslashreplace"), highlight=False, markup=False)


@letters.command()
def redrive(  # options of a command line
    origins: Annotated[list[str] | None, typer.Argument(help="Only these, as `list` names them.")] = None,
    reason: Reason = None,
    edit: Annotated[list[str] | None, typer.Option("--edit", help="field=value, or a file with a JSON object; null takes away.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be sent, and send nothing.")] = False,
    data: Data = None,
    url: Url = None,
) -> None:
    """Repair and send again, each to where it belongs. Doing it twice has one effect; what would be refused again stays."""
    from freshet.clock import now_ms
    from freshet.operators.redrive import letters_of
    from freshet.operators.redrive import redrive as redriven

    edits = edits_of(edit or [])
    if not origins and reason is None:
        raise typer.BadParameter("name origins, or a reason (--reason); `freshet dead-letters list` shows both")
    chosen = set(origins or [])
    sent = stayed = 0
    with letters_of(settings_of(data=data), url) as (box, shape):

        def wanted(letter: Any) -> bool:
            return (not chosen or letter.name in chosen) and (reason is None or letter.reason.startswith(reason))

        for outcome in redriven(box, shape, wanted=wanted, edits=edits, now_ms=now_ms(), dry=dry_run):
            sent, stayed = sent + (outcome.entry is not None), stayed + (outcome.entry is None)
            if outcome.entry is None:
                out.print(f"{outcome.letter.name} stays: {outcome.why}", highlight=False, markup=False)
            elif dry_run:
                body = outcome.entry.value.decode("utf-8", "backslashreplace")
                out.print(f"{outcome.letter.name} to partition {outcome.entry.partition}: {body}", highlight=False, markup=False)
    out.print(f"{sent:,} {'would be ' if dry_run else ''}redriven, {stayed:,} stay", highlight=False)


def edits_of(given: list[str]) -> dict[str, Any]:
    """`field=value` (text, or JSON where the field is no text) and files, the later over the earlier. Raises BadParameter."""
    return dict(itertools.chain.from_iterable(_edits(one) for one in given))


def _edits(given: str) -> list[tuple[str, Any]]:
    name, equals, value = given.partition("=")
    if equals and name in EDITABLE:
        if name in TEXTS:
            return [(name, None if value == "null" else value)]
        try:
            return [(name, msgspec.json.decode(value))]
        except msgspec.DecodeError as error:
            raise typer.BadParameter(f"{name} takes JSON, not {value!r}: {error}") from error
    path = Path(given)
    if not path.is_file():
        raise typer.BadParameter(f"{given!r} is neither a file nor field=value with a field of {', '.join(sorted(EDITABLE))}")
    try:
        found = msgspec.json.decode(path.read_bytes())
    except msgspec.DecodeError as error:
        raise typer.BadParameter(f"{given} is no JSON: {error}") from error
    if not isinstance(found, dict):
        raise typer.BadParameter(f"{given} holds no JSON object: it must be the fields to set")
    return list(found.items())
