"""What the synthetic world knows of its items, collections and queries: titles, texts, pictures, memberships.

shelf = Shelf.stock(nature, collections=40, generator=generator); entities = list(shelf.entities())
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np

from freshet.world.images import draw, png
from freshet.world.nature import Nature
from freshet.world.words import TOPIC_NAMES, query, text, title
from stream.events import Entity

QUERIES_PER_TOPIC: Final = 4
MEMBERSHIPS_MAX: Final = 2


@dataclass(frozen=True)
class Shelf:
    """Everything with a name; row r is item `i{r}`."""

    items: list[Entity]
    others: list[Entity]
    queries: list[list[str]]  # by topic

    @staticmethod
    def stock(nature: Nature, collections: int, generator: np.random.Generator) -> "Shelf":
        """Draw names, texts, pictures and which collections hold what; an item's collections share its topic."""
        shape = nature.shape
        queries = [_queries(topic, generator) for topic in range(shape.topics)]
        lists = [
            Entity(kind="collection", id=f"c{number}", title=title(number % shape.topics, generator), ts_ms=shape.start_ms)
            for number in range(collections)
        ]
        asked = [Entity(kind="query", id=words, title=words, ts_ms=shape.start_ms) for names in queries for words in names]
        items = [_item(row, nature, collections, generator) for row in range(shape.items)]
        return Shelf(items, lists + asked, queries)

    def entities(self) -> Iterator[Entity]:
        """Collections and queries first, then items by birth, equal births by row."""
        yield from self.others
        yield from sorted(self.items, key=lambda item: item.ts_ms)


def _queries(topic: int, generator: np.random.Generator) -> list[str]:
    return list(dict.fromkeys(query(topic, generator) for _ in range(QUERIES_PER_TOPIC)))


def _item(row: int, nature: Nature, collections: int, generator: np.random.Generator) -> Entity:
    topic, topics = int(nature.topic[row]), nature.shape.topics
    fitting = np.arange(topic, collections, topics)
    held = generator.choice(fitting, size=min(len(fitting), int(generator.integers(MEMBERSHIPS_MAX + 1))), replace=False)
    return Entity(
        kind="item",
        id=f"i{row}",
        title=title(topic, generator),
        text=text(topic, generator),
        image=png(draw(topic, topics=topics, generator=generator)),
        attributes={"topic": TOPIC_NAMES[topic]},
        collections=[f"c{number}" for number in held.tolist()],
        ts_ms=int(nature.born_ms[row]),
    )
