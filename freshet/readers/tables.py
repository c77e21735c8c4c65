"""Layouts with columns: MovieLens u.data, RecBole .inter, the Taobao CSV, and tables whose first line names the columns.

Every row is one positive event. A rating becomes a like with the rating as its value; Taobao's behaviours become ours.

    layout = headed("user_id,item_id,time") or MovieLens()
"""

import csv
from dataclasses import dataclass
from typing import Final

from freshet.readers.lines import Times, number
from freshet.readers.source import BadLine
from stream.events import Event

BEHAVIOURS: Final = {"pv": "view", "cart": "cart", "fav": "like", "buy": "purchase"}
RATED: Final = "like"
ROLES: Final = {
    "user_id": "user_id", "user": "user_id",
    "item_id": "item_id", "item": "item_id",
    "time": "time", "timestamp": "time", "ts_ms": "time",
    "action": "action", "behaviour": "action", "behavior": "action",
    "value": "value", "rating": "value",
    "event_id": "event_id", "surface": "surface", "session_id": "session_id", "collection_id": "collection_id",
    "source_item_id": "source_item_id", "query": "query", "dwell_ms": "dwell_ms",
}  # fmt: skip
_TEXTS: Final = ("event_id", "surface", "session_id", "collection_id", "source_item_id", "query")
_MARKS: Final = frozenset({"token", "token_seq", "float", "float_seq"})


def _split(text: str, delimiter: str, wanted: int) -> list[str]:
    fields = text.split(delimiter)
    if delimiter == "," and '"' in text:
        try:
            fields = next(csv.reader([text]))
        except csv.Error as error:
            raise BadLine(f"quoting: {error}") from None
    if len(fields) != wanted:
        raise BadLine(f"{len(fields)} fields where {wanted} are wanted")
    return fields


def _named(text: str, what: str) -> str:
    if not (name := text.strip()):
        raise BadLine(f"empty {what}")
    return name


def _time_field(text: str, delimiter: str, *, place: int, wanted: int) -> str | None:
    try:
        return _split(text, delimiter, wanted)[place]
    except BadLine:
        return None


@dataclass(frozen=True)
class MovieLens:
    """`user item rating time`, tabs, no header; seconds."""

    name: str = "MovieLens u.data"
    header: bool = False
    timed: bool = True

    def measure(self, text: str) -> tuple[int, str | None]:
        """One row; its time."""
        return 1, _time_field(text, "\t", place=3, wanted=4)

    def events(self, text: str, place: int, times: Times) -> list[Event]:
        """One like with its rating."""
        user, item, rating, time = _split(text, "\t", 4)
        value = number(rating, "rating")
        return [Event(user_id=_named(user, "user"), item_id=_named(item, "item"), action=RATED, value=value, ts_ms=times.to_ms(time))]


@dataclass(frozen=True)
class Taobao:
    """`user,item,category,behaviour,time`, no header; seconds. The category goes into the context."""

    name: str = "Taobao CSV"
    header: bool = False
    timed: bool = True

    def measure(self, text: str) -> tuple[int, str | None]:
        """One row; its time."""
        return 1, _time_field(text, ",", place=4, wanted=5)

    def events(self, text: str, place: int, times: Times) -> list[Event]:
        """One event whose action is the behaviour's."""
        user, item, category, behaviour, time = _split(text, ",", 5)
        if behaviour not in BEHAVIOURS:
            raise BadLine(f"behaviour {behaviour[:40]!r} is none of {', '.join(BEHAVIOURS)}")
        return [
            Event(
                user_id=_named(user, "user"),
                item_id=_named(item, "item"),
                action=BEHAVIOURS[behaviour],
                ts_ms=times.to_ms(time),
                context={"category": category},
            )
        ]


@dataclass(frozen=True)
class Headed:
    """A first line names the columns; those in `ROLES` are read, others ignored."""

    name: str
    delimiter: str
    columns: tuple[str, ...]
    milliseconds: bool
    header: bool = True

    @property
    def timed(self) -> bool:
        """Whether a column holds times."""
        return "time" in self.columns

    def measure(self, text: str) -> tuple[int, str | None]:
        """One row; its time, if a column holds times."""
        if not self.timed:
            return 1, None
        return 1, _time_field(text, self.delimiter, place=self.columns.index("time"), wanted=len(self.columns))

    def events(self, text: str, place: int, times: Times) -> list[Event]:
        """One event from the columns it has."""
        fields = dict(zip(reversed(self.columns), reversed(_split(text, self.delimiter, len(self.columns))), strict=True))
        return [event_from(fields, place, Times(1) if self.milliseconds else times)]


def event_from(fields: dict[str, str], place: int, times: Times) -> Event:
    """An event from texts by role (`ROLES`); an empty text is absent. Raises `BadLine` naming the field."""
    action = fields.get("action", "").strip() or RATED
    item = fields.get("item_id", "").strip() or None
    if item is None and action != "search":
        raise BadLine("empty item")
    texts = {name: fields[name] for name in _TEXTS if fields.get(name)}
    dwell, value = fields.get("dwell_ms"), fields.get("value")
    return Event(
        user_id=_named(fields["user_id"], "user"),
        item_id=item,
        action=BEHAVIOURS.get(action, action),
        ts_ms=times.to_ms(fields["time"]) if "time" in fields else Times.invented(place),
        dwell_ms=round(number(dwell, "dwell_ms")) if dwell else None,
        value=number(value, "value") if value else None,
        **texts,  # type: ignore[arg-type] # these six are all str | None
    )


def headed(line: str) -> Headed | None:
    """The layout that a first line announces, if it names a user and an item column; typed names (`user_id:token`) are RecBole's."""
    delimiter = "\t" if "\t" in line else ","
    named = [column.strip().strip('"').lower() for column in line.split(delimiter)]
    parts = [column.partition(":") for column in named]
    typed = all(mark in _MARKS for _, _, mark in parts)
    names = [column for column, _, _ in parts] if typed else named
    columns = tuple(ROLES.get(column, f"other {place}") for place, column in enumerate(names))
    if not {"user_id", "item_id"} <= set(columns):
        return None
    milliseconds = "ts_ms" in names and columns.index("time") == names.index("ts_ms")
    return Headed("RecBole .inter" if typed else "headed CSV", delimiter, columns, milliseconds)
