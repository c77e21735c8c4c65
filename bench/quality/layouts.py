"""Files of sequences and sessions by layout: lines to dense item rows, bad lines dropped and counted.

    found = read_loo([Path("ratings.txt")]); found.sequences.take(rows); found.catalogue.names

Ids are opaque strings, numbered by first appearance; what the numbers are means nothing.
Source: the evaluation protocol, sections 1 (input rules), 2 (`loo`) and 3 (`sessions`).
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np

from encoders.base import I64s, Ragged
from freshet.readers.lines import iterate
from freshet.readers.plain import split
from trainers.sequence_counts import ragged

DROPPED_SHARE_MAX: Final = 0.001


class BadData(ValueError):
    """A file that is not in the layout its format asks for, with what to do about it."""


@dataclass(frozen=True)
class Text:
    """Decoded lines that are not blank; `ended`: the last one had a newline."""

    path: Path
    lines: list[str]
    ended: bool

    def check(self, dropped: int) -> None:
        """Raises BadData when more than one line in a thousand was dropped, or none is left."""
        if dropped > DROPPED_SHARE_MAX * len(self.lines):
            raise BadData(
                f"{self.path}: {dropped:,} of {len(self.lines):,} lines have a wrong field count or a bad number; "
                f"at most {DROPPED_SHARE_MAX:.1%} may be dropped: is this the layout of the format?"
            )
        if dropped == len(self.lines):
            raise BadData(f"{self.path}: holds no lines; give a file with at least one")


@dataclass
class Catalogue:
    """Item ids as rows 0, 1, ... by first appearance."""

    rows: dict[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.rows)

    def row(self, item: str) -> int:
        """The row of an id; a new one for a new id."""
        return self.rows.setdefault(item, len(self.rows))

    def rows_of(self, items: Iterable[str]) -> I64s:
        """(n,) rows."""
        return np.array([self.row(item) for item in items], dtype=np.int64)


@dataclass(frozen=True)
class Described:
    """What side data says of items, by name."""

    titles: dict[str, str] = field(default_factory=dict)
    attributes: dict[str, list[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Loo:
    """One sequence a user, oldest first, the catalogue, and what side data says of it; `rows_dropped` counts lines."""

    sequences: Ragged
    catalogue: Catalogue
    rows_dropped: int
    described: Described = field(default_factory=Described)


@dataclass(frozen=True)
class Sessions:
    """Training sessions in file order; test prefixes with their targets (T,)."""

    train: Ragged
    prefixes: Ragged
    targets: I64s
    catalogue: Catalogue
    rows_dropped: int


def read_text(path: Path) -> Text:
    """All lines, UTF-8 or, if the whole file does not decode strictly, Latin-1. An over-long line is empty, and so has a wrong field count.

    Raises BadData for what is no file.
    """
    if not path.is_file():
        raise BadData(f"{path}: is a directory; name a file" if path.is_dir() else f"{path}: there is no such file")
    lines = list(iterate(path))
    raw = [line.raw if line.whole else b"" for line in lines]
    try:
        text = [line.decode("utf-8") for line in raw]
    except UnicodeDecodeError:
        text = [line.decode("latin-1") for line in raw]
    return Text(path, text, not lines or lines[-1].ended)


def read_loo(paths: Sequence[Path]) -> Loo:
    """Pairs `user item` if (but for the lines that may be dropped) all lines have two fields, else sequences `user item item ...`.

    A user's lines need not be adjacent. Further paths are JSON side data, whose items join the catalogue. Raises BadData.
    """
    text = read_text(paths[0])
    fields = [split(line) for line in text.lines]
    strays = sum(len(line) != 2 for line in fields)
    pairs = strays <= DROPPED_SHARE_MAX * len(fields)
    catalogue = Catalogue()
    by_user: dict[str, list[int]] = {}
    dropped = 0
    for line in fields:
        if len(line) < 2 or (pairs and len(line) != 2):
            dropped += 1
        else:
            by_user.setdefault(line[0], []).extend(catalogue.row(item) for item in line[1:])
    text.check(dropped)
    described = Described()
    for path in paths[1:]:
        catalogue.rows_of(_side_data(path, described))
    return Loo(ragged([np.array(items, dtype=np.int64) for items in by_user.values()]), catalogue, dropped, described)


def read_sessions(paths: Sequence[Path]) -> Sessions:
    """Two paths: sessions of space-separated ids, a line each; and test rows `prefix<TAB>target`, further tab fields ignored.

    Raises BadData.
    """
    if len(paths) != 2:
        raise BadData(f"sessions takes two paths, training sessions and test rows, not {len(paths)}: {', '.join(map(str, paths))}")
    train, test = read_text(paths[0]), read_text(paths[1])
    catalogue = Catalogue()
    sessions = [catalogue.rows_of(fields) for fields in map(split, train.lines) if fields]
    train.check(len(train.lines) - len(sessions))
    prefixes, targets = list[I64s](), list[int]()
    for line in test.lines:
        prefix, target, *_ = *line.split("\t", 2), ""
        if split(prefix) and len(split(target)) == 1:
            prefixes.append(catalogue.rows_of(split(prefix)))
            targets.append(catalogue.row(target.strip(" ")))
    dropped = len(test.lines) - len(targets)
    test.check(dropped)
    return Sessions(
        ragged(sessions), ragged(prefixes), np.array(targets, dtype=np.int64), catalogue, len(train.lines) - len(sessions) + dropped
    )


def _side_data(path: Path, described: Described) -> list[str]:
    """Adds `item: [attribute, ...]` or `item: "title"` to what is described, and returns its items."""
    try:
        found = json.loads("\n".join(read_text(path).lines))
    except json.JSONDecodeError as error:
        raise BadData(f"{path}: side data must be a JSON object, but {error}") from None
    if not isinstance(found, dict) or not (
        all(isinstance(value, list) for value in found.values()) or all(isinstance(value, str) for value in found.values())
    ):
        raise BadData(f'{path}: side data must be one JSON object, `item: [attribute, ...]` or `item: "title"` throughout')
    for item, said in found.items():
        if isinstance(said, str):
            described.titles[item] = said
        else:
            described.attributes[item] = [str(attribute) for attribute in said]
    return list(found)
