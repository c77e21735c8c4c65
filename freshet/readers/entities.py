"""Items from the files that lie beside events: RecBole's .item, MovieLens' u.item, freshet's entities.jsonl.

for entity in read_entities(path): ...
"""

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import msgspec

from freshet.readers.lines import iterate
from freshet.readers.source import BadLine, UnknownLayout
from stream.events import COLLECTIONS_MAX, Entity

GENRES: Final = (
    "unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama", "Fantasy",
    "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western",
)  # fmt: skip
_BAR_FIELDS: Final = 5 + len(GENRES)
_DECODER: Final = msgspec.json.Decoder(Entity)
_LOG: Final = logging.getLogger(__name__)

Parse = Callable[[str], Entity]


def entities_path(path: Path, layout: str) -> Path | None:
    """The file that describes the items of an events file, if there is one beside it."""
    candidates = [path.with_name(f"{path.stem}.entities.jsonl")]
    if layout == "RecBole .inter":
        candidates.append(path.with_suffix(".item"))
    elif layout == "MovieLens u.data":
        candidates.append(path.with_name("u.item"))
    else:
        candidates.append(path.with_name("entities.jsonl"))
    return next((beside for beside in candidates if beside != path and beside.is_file()), None)


def read_entities(path: Path) -> Iterator[Entity]:
    """Entities of a file, its layout told by the first line. Bad lines are skipped and logged with their number.

    Raises `UnknownLayout` if the first line is none of the three.
    """
    first = next(iterate(path), None)
    if first is None:
        raise UnknownLayout(path, "is empty")
    text = first.raw.decode("latin-1")
    if text.startswith("{"):
        return _parsed(path, _DECODER.decode, header=False)
    if text.count("|") == _BAR_FIELDS - 1:
        return _parsed(path, _from_bars, header=False)
    columns = [tuple(column.split(":", 1)) for column in text.split("\t")]
    if ("item_id", "token") in columns:
        return _parsed(path, lambda line: _from_item(line, columns), header=True)
    raise UnknownLayout(path, "is neither a RecBole .item, a MovieLens u.item, nor JSON lines of entities")


def _parsed(path: Path, parse: Parse, *, header: bool) -> Iterator[Entity]:
    encoding, skipped = _encoding(path), 0
    for place, line in enumerate(iterate(path)):
        if header and place == 0:
            continue
        try:
            entity = parse(line.raw.decode(encoding))
        except (BadLine, msgspec.MsgspecError, RecursionError) as error:
            if not skipped:
                _LOG.warning("entity line skipped path=%s line=%d reason=%s", path, line.number, error)
            skipped += 1
        else:
            yield entity
    if skipped > 1:
        _LOG.warning("entity lines skipped path=%s lines=%d", path, skipped)


def _encoding(path: Path) -> str:
    try:
        for line in iterate(path):
            line.raw.decode("utf-8")
    except UnicodeDecodeError:
        return "latin-1"
    return "utf-8"


def _from_bars(text: str) -> Entity:
    fields = text.split("|")
    if len(fields) != _BAR_FIELDS:
        raise BadLine(f"{len(fields)} fields where {_BAR_FIELDS} are wanted")
    genres = [name for name, flag in zip(GENRES, fields[5:], strict=True) if flag == "1"]
    return Entity(
        kind="item",
        id=fields[0],
        title=fields[1],
        text=" ".join(genres),
        attributes={"released": fields[2], "genre": list(genres)},
        collections=[f"genre:{name}" for name in genres],
    )


def _from_item(text: str, columns: list[tuple[str, ...]]) -> Entity:
    fields = text.split("\t")
    if len(fields) != len(columns):
        raise BadLine(f"{len(fields)} fields where {len(columns)} are wanted")
    entity = Entity(kind="item", id="")
    for (name, *mark), field in zip(columns, fields, strict=True):
        if name == "item_id":
            entity.id = field
        elif "title" in name or name == "name":
            entity.title = entity.title or field
        elif mark == ["token_seq"]:
            words = field.split(" ") if field else []
            entity.attributes[name] = words
            entity.text = " ".join([entity.text, *words]).strip()
            entity.collections += [f"{name}:{word}" for word in words]
        elif field:
            entity.attributes[name] = field
    entity.collections = list(dict.fromkeys(entity.collections))[:COLLECTIONS_MAX]
    if not entity.id:
        raise BadLine("empty item_id")
    return entity
