"""Publishing files: events through the producer, entities in lines; nothing in a file is passed over in silence."""

from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Final

import msgspec

from freshet.access import Site
from freshet.readers.entities import read_entities
from freshet.readers.source import Source
from stream.producer import Producer

Advance = Callable[[int], None]
FLUSH_LINES: Final = 5000
ENTITIES_AT_ONCE: Final = 500


def produce_events(site: Site, source: Source, advance: Advance) -> tuple[int, int]:
    """Publish every row: events, and lines that are none as they are. Returns how many of each."""
    producer, published, bad = Producer(site.append), 0, 0
    for row in source:
        if row.event is not None:
            producer.send(row.event)
            published += 1
        else:
            producer.send_raw(row.raw)
            bad += 1
        if (published + bad) % FLUSH_LINES == 0:
            producer.flush()
            advance(FLUSH_LINES)
    producer.flush()
    advance((published + bad) % FLUSH_LINES)
    return published, bad


def produce_entities(site: Site, path: Path, advance: Advance) -> int:
    """Publish what a file knows of items, collections and queries; returns how many."""
    bodies, count = (msgspec.json.encode(entity) for entity in read_entities(path)), 0
    while chunk := list(islice(bodies, ENTITIES_AT_ONCE)):
        site.append_entities(chunk)
        count += len(chunk)
        advance(len(chunk))
    return count
