"""The synthetic world: a stream of engagements with a known best answer, all of it from one seed.

Users with drifting tastes act in sessions on items that have titles, texts and small pictures; items are born on the
way, at one planted moment half the users change their taste; events come late, twice and at equal times, and some
messages are poison. It stands in for real data in tests and without a network; it claims no likeness to any site.

    world = World(WorldConfig(seed=1)); hits = world.best_hit_rate(10); world.write_csv(folder)
"""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
import numpy as np

from freshet.world.clock import Clock, Turns, schedule
from freshet.world.entities import Shelf
from freshet.world.nature import Moment, Nature, Shape, wander
from freshet.world.poison import poison
from freshet.world.words import TOPIC_NAMES
from storage.arrays import Bools, F32s, F64s, I64s
from stream.events import Entity, Event

DAY_MS: Final = 86_400_000
TOP_MAX: Final = 20
_COLUMN_TEXT: Final = "user_id item_id action timestamp event_id surface session_id collection_id source_item_id dwell_ms value"
CSV_COLUMNS: Final = tuple(_COLUMN_TEXT.split())
_ACTIONS: Final = ("view", "click", "save", "like", "share", "cart", "purchase")
_ACTION_SHARES: Final = (0.52, 0.22, 0.1, 0.08, 0.02, 0.04, 0.02)
_REPEAT_SHARE: Final = 0.03


@dataclass(frozen=True, kw_only=True)
class WorldConfig:
    """Sizes and troubles of a world; shares are of `events`, which counts distinct events (duplicates and poison come on top)."""

    seed: int = 0
    users: int = 400
    items: int = 600
    events: int = 20_000
    topics: int = len(TOPIC_NAMES)
    collections: int = 40
    births_share: float = 0.15
    late_share: float = 0.02
    duplicate_share: float = 0.01
    equal_share: float = 0.1
    poison: int = 24
    days: int = 60
    drift_at: float = 0.6
    start_ms: int = 1_704_067_200_000  # 2024-01-01

    def __post_init__(self) -> None:
        for name in ("users", "events", "days"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: a world needs at least 1")
        if not 1 <= self.topics <= len(TOPIC_NAMES):
            raise ValueError(f"topics={self.topics}: 1 to {len(TOPIC_NAMES)} have words")
        if self.items < max(8, 2 * self.topics):
            raise ValueError(f"items={self.items}: at least {max(8, 2 * self.topics)} for {self.topics} topics")
        if min(self.collections, self.poison) < 0:
            raise ValueError(f"collections={self.collections}, poison={self.poison}: counts are not negative")
        for name in ("births_share", "late_share", "duplicate_share", "equal_share", "drift_at"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}={getattr(self, name)}: a share lies in 0 to 1")


@dataclass(frozen=True)
class Truth:
    """What really happened, one row per distinct event in the order of event time; `item` is -1 for a search.

    `rank` is the place of the item taken among those still open, by their true chances (1 = likeliest; 0 = not ranked:
    a search, a repeat or a user's first item). `top_mass[n, k - 1]` is the chance that the k likeliest hold the next.
    """

    user: I64s  # (N,)
    item: I64s  # (N,)
    ts_ms: I64s  # (N,)
    last: I64s  # (N,)
    focus: I64s  # (N,)
    taste: F32s  # (N, T)
    rank: I64s  # (N,)
    top_mass: F32s  # (N, 20)
    arrivals: I64s  # event numbers in the order they arrive, duplicates twice
    drift_ms: int
    poison: int

    @property
    def duplicates(self) -> int:
        """Arrivals whose event was there before."""
        return len(self.arrivals) - len(self.user)

    @property
    def late(self) -> int:
        """Arrivals, duplicates included, that are older than one that arrived earlier."""
        arrived = self.ts_ms[self.arrivals]
        return int((arrived < np.maximum.accumulate(arrived)).sum())

    def ranked(self) -> Bools:
        """The events the prequential protocol ranks: no search, repeat or first item, and not in the first fifth."""
        engaged = np.cumsum(self.item >= 0) - 1
        return (self.rank > 0) & (engaged >= int((self.item >= 0).sum()) // 5)


@dataclass(frozen=True)
class _Manners:
    """What an event carries besides user, item and time; drawn for every event, (N,), used where the action asks for it."""

    action: I64s
    pick: I64s
    dwell_ms: F64s
    price: F64s

    @staticmethod
    def draw(events: int, generator: np.random.Generator) -> "_Manners":
        action = generator.choice(len(_ACTIONS), p=_ACTION_SHARES, size=events)
        pick = generator.integers(0, 1 << 30, size=events)
        return _Manners(action, pick, generator.lognormal(9, 1, size=events), generator.lognormal(3, 0.5, size=events))


class World:
    """One world, drawn whole when made (about a second for 20 000 events); the same config gives the same bytes."""

    def __init__(self, config: WorldConfig) -> None:
        """Draw nature, schedule, choices and arrival; O(events x items)."""
        self.config = config
        end_ms = config.start_ms + config.days * DAY_MS
        drift_ms = config.start_ms + int(config.drift_at * config.days * DAY_MS)
        births = int(config.births_share * config.items)
        shape = Shape(config.users, config.items, config.topics, births, config.start_ms, end_ms, drift_ms)
        self.nature = Nature.plant(shape, self._generator(0))
        clock = Clock(config.users, config.events, config.start_ms, end_ms, config.equal_share)
        self._turns = schedule(clock, self._generator(1))
        self.shelf = Shelf.stock(self.nature, config.collections, self._generator(2))
        self.truth = self._live(self._generator(3))
        self._manners = _Manners.draw(config.events, self._generator(4))

    def _generator(self, part: int) -> np.random.Generator:
        return np.random.default_rng([self.config.seed, part])

    def _live(self, generator: np.random.Generator) -> Truth:
        turns, count, nature = self._turns, self.config.events, self.nature
        item, last, focus, rank = (np.full(count, fill, dtype=np.int64) for fill in (-1, -1, 0, 0))
        taste, top_mass = np.zeros((count, self.config.topics), dtype=np.float32), np.zeros((count, TOP_MAX), dtype=np.float32)
        open_to = np.ones((self.config.users, self.config.items), dtype=np.bool_)
        lasts = np.full(self.config.users, -1, dtype=np.int64)
        moods = _moods(turns, nature, generator)
        for number in range(count):
            user = int(turns.user[number])
            focus[number], taste[number] = moods[int(turns.session[number])]
            if turns.search[number]:
                continue
            moment = Moment(int(turns.ts_ms[number]), int(lasts[user]), int(focus[number]), taste[number], open_to[user])
            chances = nature.chances(moment)
            last[number] = lasts[user]
            if lasts[user] >= 0 and (generator.random() < _REPEAT_SHARE or not chances.any()):
                item[number] = lasts[user]
                continue
            row = min(int(np.searchsorted(np.cumsum(chances), generator.random(), side="right")), len(chances) - 1)
            row = row if chances[row] > 0 else int(chances.argmax())
            if lasts[user] >= 0:
                rank[number] = 1 + int((chances > chances[row]).sum())
                top_mass[number] = _top_mass(chances)
            item[number] = lasts[user] = row
            open_to[user, row] = False
        arrivals = self._arrive(generator)
        drift_ms, poisons = nature.shape.drift_ms, self.config.poison
        return Truth(turns.user, item, turns.ts_ms, last, focus, taste, rank, top_mass, arrivals, drift_ms, poisons)

    def _arrive(self, generator: np.random.Generator) -> I64s:
        numbers = np.arange(self.config.events)
        late = generator.random(len(numbers)) < self.config.late_share
        place = numbers + np.where(late, generator.integers(5, 201, size=len(numbers)), 0)
        again = np.flatnonzero(generator.random(len(numbers)) < self.config.duplicate_share)
        place_again = place[again] + generator.integers(1, 61, size=len(again))
        order = np.argsort(np.concatenate([place, place_again]), kind="stable")
        return np.concatenate([numbers, again])[order]

    def best_hit_rate(self, k: int) -> float:
        """The highest hit@k anybody can expect on the protocol's ranked events: the mean chance of the k likeliest items.

        Knows each session's topic, which no observer does, so it is an upper bound. k is 1 to 20.
        """
        if not 1 <= k <= TOP_MAX:
            raise ValueError(f"k={k}: known for 1 to {TOP_MAX}")
        ranked = self.truth.ranked()
        return float(self.truth.top_mass[ranked, k - 1].mean()) if ranked.any() else 0.0

    def oracle(self, number: int) -> F64s:
        """The true chance of each item, (I,), just before event `number` (its event_id without the e)."""
        truth = self.truth
        if truth.item[number] < 0:
            raise ValueError(f"event {number} is a search: it takes no item")
        before = truth.item[:number][truth.user[:number] == truth.user[number]]
        untouched = np.ones(self.config.items, dtype=np.bool_)
        untouched[before[before >= 0]] = False
        moment = Moment(int(truth.ts_ms[number]), int(truth.last[number]), int(truth.focus[number]), truth.taste[number], untouched)
        return self.nature.chances(moment)

    def entities(self) -> Iterator[Entity]:
        """Collections and queries, then items by birth."""
        return self.shelf.entities()

    def events(self) -> Iterator[Event]:
        """Events as they arrive: mostly by time, some late, some twice (same event_id)."""
        return (self.event(int(number)) for number in self.truth.arrivals)

    def event(self, number: int) -> Event:
        """Event `number`, 0 to events - 1, the same at every call."""
        truth, manners = self.truth, self._manners
        user_id, ts_ms = f"u{truth.user[number]}", int(truth.ts_ms[number])
        event_id, session_id = f"e{number}", f"s{self._turns.session[number]}"
        row, last = int(truth.item[number]), int(truth.last[number])
        if row < 0:
            asked = self.shelf.queries[int(truth.focus[number])]
            query = asked[int(manners.pick[number]) % len(asked)]
            return Event(
                user_id=user_id, action="search", ts_ms=ts_ms, query=query, event_id=event_id, session_id=session_id, surface="search"
            )
        action = _ACTIONS[manners.action[number]]
        related = last >= 0 and row in self.nature.followers[int(ts_ms >= truth.drift_ms), last]
        lists = self.shelf.items[row].collections if action == "save" else []
        return Event(
            user_id=user_id,
            action=action,
            ts_ms=ts_ms,
            item_id=f"i{row}",
            event_id=event_id,
            session_id=session_id,
            surface="related" if related else "home",
            source_item_id=f"i{last}" if related else None,
            collection_id=lists[0] if lists else None,
            dwell_ms=int(manners.dwell_ms[number]) if action == "view" else None,
            value=round(float(manners.price[number]), 2) if action == "purchase" else None,
        )

    def messages(self) -> Iterator[bytes]:
        """The events as JSON, with the poison strewn in: len(truth.arrivals) + truth.poison messages."""
        places = np.sort(self._generator(5).integers(0, len(self.truth.arrivals), size=self.config.poison)).tolist()
        done = 0
        for place, event in enumerate(self.events()):
            while done < len(places) and places[done] == place:
                yield poison(done)
                done += 1
            yield msgspec.json.encode(event)

    def write_csv(self, folder: Path) -> Path:
        """Write `events.csv` (arrival order, without searches, times in ms) and `entities.jsonl`; return the former's path."""
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "events.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(CSV_COLUMNS)
            for event in self.events():
                if event.item_id is not None:
                    writer.writerow([event.ts_ms if name == "timestamp" else getattr(event, name) for name in CSV_COLUMNS])
        with (folder / "entities.jsonl").open("wb") as lines:
            lines.writelines(msgspec.json.encode(entity) + b"\n" for entity in self.entities())
        return folder / "events.csv"


def _moods(turns: Turns, nature: Nature, generator: np.random.Generator) -> dict[int, tuple[int, F32s]]:
    """Focus and taste of each session, in the order sessions open."""
    tastes: dict[tuple[int, bool], F64s] = {}
    moods: dict[int, tuple[int, F32s]] = {}
    for number in range(len(turns.user)):
        session = int(turns.session[number])
        if session in moods:
            continue
        user, ts_ms = int(turns.user[number]), int(turns.ts_ms[number])
        era = (user, ts_ms >= nature.shape.drift_ms)
        taste = wander(tastes.get(era, nature.taste_at_first(user, ts_ms)), generator)
        tastes[era] = taste
        moods[session] = int(generator.choice(len(taste), p=taste / taste.sum())), taste.astype(np.float32)
    return moods


def _top_mass(chances: F64s) -> F64s:
    top = chances if len(chances) <= TOP_MAX else chances[np.argpartition(chances, -TOP_MAX)[-TOP_MAX:]]
    falling = np.zeros(TOP_MAX)
    falling[: len(top)] = np.sort(top)[::-1]
    mass: F64s = np.cumsum(falling)
    return mass
