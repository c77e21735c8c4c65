"""Open a file of events, whatever it is called: the reader is chosen by content.

source = open_events(Path("u.data")); print(source.name, source.rows)
"""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Final

import msgspec

from freshet.readers.entities import entities_path, read_entities
from freshet.readers.lines import Layout, Line, iterate, number, read_lines, scan_lines
from freshet.readers.own import count_json_rows, json_rows, open_parquet, parquet_rows
from freshet.readers.plain import Pairs, Sequences, split
from freshet.readers.source import BadLine, Row, Source, UnknownLayout
from freshet.readers.tables import BEHAVIOURS, MovieLens, Taobao, headed
from stream.events import Entity

SAMPLE_LINES: Final = 50
PARQUET_MAGIC: Final = b"PAR1"
_TEXT_CONTROLS: Final = frozenset(b"\t\r\n\f")


def open_events(path: Path) -> Source:
    """Choose the reader by content and count the rows; reads text files through once.

    Raises `UnknownLayout` for what is no file, is empty, or is none of the layouts, listing those.
    """
    if not path.is_file():
        raise UnknownLayout(path, "is a directory" if path.is_dir() else "there is no such file")
    with path.open("rb") as file:
        magic = file.read(len(PARQUET_MAGIC))
    if magic == PARQUET_MAGIC:
        parquet, columns = open_parquet(path)
        with parquet:
            return _source(path, "freshet Parquet", parquet.metadata.num_rows, timed="time" in columns, read=partial(parquet_rows, path))
    sample = [line.raw for line in _first_lines(path)]
    if not sample:
        raise UnknownLayout(path, "is empty")
    if any(map(_is_event, sample)):
        return _source(path, "freshet JSON lines", count_json_rows(path), timed=True, read=partial(json_rows, path))
    if any(byte < 32 and byte not in _TEXT_CONTROLS for raw in sample for byte in raw):
        raise UnknownLayout(path, "is binary, or not in UTF-8 or Latin-1")
    layout = _text_layout(path, [raw.decode("latin-1") for raw in sample])
    scan = scan_lines(path, layout)
    if not scan.rows:
        raise UnknownLayout(path, "has a header and no rows")
    return _source(path, layout.name, scan.rows, timed=layout.timed, read=partial(read_lines, path, layout, scan))


def _source(path: Path, name: str, rows: int, *, timed: bool, read: Callable[[], Iterator[Row]]) -> Source:
    def entities() -> Iterator[Entity]:
        beside = entities_path(path, name)
        return iter(()) if beside is None else read_entities(beside)

    return Source(path, name, rows, timed, read, entities)


def _first_lines(path: Path) -> Iterator[Line]:
    return (line for line, _ in zip(iterate(path), range(SAMPLE_LINES), strict=False))


def _is_event(raw: bytes) -> bool:
    try:
        return "user_id" in msgspec.json.decode(raw, type=dict[str, object])
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return False


def _text_layout(path: Path, sample: list[str]) -> Layout:
    found = headed(sample[0])
    if found is not None:
        return found
    fits: list[tuple[Layout, Callable[[str], bool]]] = [(Taobao(), _like_taobao), (MovieLens(), _like_movielens)]
    for layout, fit in fits:
        if 2 * sum(map(fit, sample)) >= len(sample):
            return layout
    if 2 * sum(map(_like_ids, sample)) >= len(sample):
        return Pairs() if all(len(split(line.raw.decode("latin-1"))) == 2 for line in iterate(path)) else Sequences()
    raise UnknownLayout(path, _why_not(sample))


def _numeric(*texts: str) -> bool:
    try:
        return all(number(text, "field") is not None for text in texts)
    except BadLine:
        return False


def _like_taobao(line: str) -> bool:
    fields = line.split(",")
    return len(fields) == 5 and fields[3] in BEHAVIOURS and _numeric(fields[4])


def _like_movielens(line: str) -> bool:
    fields = line.split("\t")
    return len(fields) == 4 and _numeric(fields[2], fields[3])


def _like_ids(line: str) -> bool:
    """Ids nearly always hold a digit, words of a text nearly never: 9 fields in 10 tell them apart."""
    fields = split(line)
    digits = sum(any(map(str.isdigit, field)) for field in fields)
    return len(fields) >= 2 and not set(',|;{}"') & set(line) and 10 * digits >= 9 * len(fields)


def _why_not(sample: list[str]) -> str:
    if sample[0].startswith("{"):
        return "holds JSON without a user_id (entities go in a file beside the events)"
    if ":token" in sample[0]:
        return "has RecBole's header without user_id and item_id (of its files the .inter holds events)"
    return f"the layout is not known (it begins {sample[0][:60]!r})"
