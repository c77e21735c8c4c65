"""The embedded server's inside: the engine, its view, the live model with its vectors, and what keeps them fresh.

    service = Service(engine); service.step(now_ms=now_ms); service.lookup.recommend("u1", now_ms=now_ms)

One thread steps; look-ups run on any.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final, Protocol

import numpy as np

from encoders.blend import Blend
from encoders.linear import Linear
from encoders.model import CheckpointError, Model
from freshet.engine import Engine, Pumped
from freshet.features import ItemFacts
from freshet.settings import Settings
from freshet.version_files import BLEND_FILE, COUNTING_FILE, LINEAR_FILE, MODEL_FILE
from freshet.versions import rolled_back
from freshet.view import View
from serving.linear import NOTHING, LinearSource
from serving.live import LiveModel
from storage.arrays import F32s, U64s
from storage.models import Models, Registry, Version
from storage.state import State
from storage.vectors import Collections, Vectors, collection_of
from storage.vectors_edge import VectorFolder
from stream.refresh import Refreshed, Refresher, Target
from stream.shape import Shape

log = logging.getLogger(__name__)
REFRESH_INTERVAL_MS: Final = 250
"""A little often: events wait while a step is made."""
BUILD_ITEMS: Final = 256
_EPOCH_NAME: Final = "refresher"


@dataclass(frozen=True)
class Loaded:
    """A version in memory: what a look-up needs, the model itself, and the blend fitted without the neural source."""

    live: LiveModel
    model: Model
    counting: Blend


class Site(Protocol):
    """What serving stands on: an engine that applies events, or a follower of workers that do."""

    @property
    def settings(self) -> Settings:
        """The process's."""

    @property
    def shape(self) -> Shape:
        """The state's."""

    @property
    def state(self) -> State:
        """Read by look-ups, written by the refresher."""

    @property
    def view(self) -> View:
        """What look-ups hold in memory."""

    def pump(self, *, now_ms: int, records_max: int | None = None) -> Pumped:
        """Bring the view up to date."""


@dataclass(frozen=True)
class Stores:
    """Where versions and vectors are kept. Who does not refresh reads vectors that others write, and drops none."""

    registry: Models
    vectors: Collections
    refreshing: bool = True
    in_use: Callable[[str], bool] = lambda _: False
    """Whether another process still answers from a collection."""


class Serving:
    """Steps its site, refreshes vectors, and flips the live model."""

    def __init__(self, site: Site, stores: Stores) -> None:
        self._site, self.view, self.stores = site, site.view, stores
        self.registry, self.folder = self.stores.registry, self.stores.vectors
        self._open: dict[int, Vectors] = {}
        self._facts: dict[tuple[int, ...], ItemFacts] = {}
        self._current: Loaded | None = None
        self._previous: Loaded | None = None
        self._rolled_back = False
        self.pinned: Loaded | None = None
        """A version kept fresh although it is neither live nor the one before: what the demo compares with."""
        self._refreshed_ms = 0
        self.refresher = self._make_refresher()
        self.told: Callable[[Refreshed], None] = lambda _: None
        """Is told of each refresh step."""
        self.lookup = self.view.lookup(lambda: self._current.live if self._current else None)
        record = self.registry.live()
        if record is not None:
            self.flip(self.load(record.version))

    @property
    def shape(self) -> Shape:
        """The state's."""
        return self._site.shape

    @property
    def current(self) -> Loaded | None:
        """The live version, None before the first promotion."""
        return self._current

    @property
    def predecessor(self) -> Loaded | None:
        """What was live before in this process, and would be again after a roll-back; None after one: it goes one step."""
        return None if self._rolled_back else self._previous

    @property
    def targets(self) -> list[Target]:
        """Where refreshed vectors go: the live generation first, then those that are kept."""
        held = [loaded for loaded in (self._current, self._previous, self.pinned) if loaded is not None]
        generations = {loaded.live.generation: loaded for loaded in reversed(held)}  # the live one's generation is named by the live one
        first = held[0].live.generation if held else 0
        followed = {loaded.live.generation for loaded in (self._current, self.pinned) if loaded is not None}
        return [self._target(generations[g], kept=g not in followed) for g in sorted(generations, key=lambda g: (g != first, -g))]

    def step(self, *, now_ms: int, records_max: int | None = None) -> Pumped:
        """One round: 1. the engine applies what is pending, 2. items with new content are embedded, 3. others in turn, every 250 ms."""
        pumped = self._site.pump(now_ms=now_ms, records_max=records_max)
        if not self.stores.refreshing:
            return pumped
        if pumped.items and self._current is not None:
            born = np.array(pumped.items[:BUILD_ITEMS], dtype=np.uint64)
            self.told(self.refresher.step_on(self.targets, born, now_ms=now_ms))
        if now_ms - self._refreshed_ms >= REFRESH_INTERVAL_MS:
            self.refresh(now_ms=now_ms)
        return pumped

    def refresh(self, *, now_ms: int) -> Refreshed:
        """One refresh step of every target."""
        self._refreshed_ms = now_ms
        targets = self.targets
        if not targets:
            return Refreshed(0, 0)
        refreshed = self.refresher.step(targets, now_ms=now_ms, items_max=self._site.settings.refresh_items_max)
        self.told(refreshed)
        return refreshed

    def load(self, name: str) -> Loaded:
        """A stored version, its collection opened. Raises `UnknownVersion`, `Damaged`, and what `loaded_from` does."""
        files = self.registry.files(name)
        return self.loaded_from(self.registry.version(name), files)

    def loaded_from(self, version: Version, files: Mapping[str, bytes]) -> Loaded:
        """A version of these files, its collection opened, stored or not.

        Raises `CheckpointError` for what is no whole model or has not the trunk of its generation, ValueError for other unreadable files.
        """
        model = Model.from_bytes(files[MODEL_FILE])
        self._check_space(version, model)
        linear = LinearSource(Linear.from_bytes(files[LINEAR_FILE]), self.view.index) if LINEAR_FILE in files else NOTHING
        blend, counting = Blend.from_json(files[BLEND_FILE]), Blend.from_json(files[COUNTING_FILE])
        vectors = self._vectors(version.generation, model.config.dim)
        return Loaded(LiveModel(version.name, version.generation, vectors.collection, model, blend, vectors, linear), model, counting)

    def build(self, loaded: Loaded, *, now_ms: int, start: int = 0) -> int:
        """Embed the next items of a generation that is being built; returns the row to go on at, the catalogue's length when done."""
        ids = self.view.catalogue.ids[start : start + BUILD_ITEMS]
        if len(ids):
            self.refresher.embed_all([self._target(loaded)], ids, now_ms=now_ms)
        return start + len(ids)

    def promote(self, version: Version, loaded: Loaded) -> None:
        """Flip the record, then what look-ups use."""
        record = self.registry.live()
        self.registry.promote(version.name, expected_sequence=record.sequence if record else self.registry.sequence())
        self.flip(loaded)

    def flip(self, loaded: Loaded, *, back: bool = False) -> None:
        """Answer from this version from now on. The one before stays loaded for roll-back; `back`: this was one, which goes one step."""
        if self.stores.refreshing and (self._current is None or self._current.live.generation != loaded.live.generation):
            self.refresher.mark_all(loaded.live.generation)
        self._previous, self._current, self._rolled_back = self._current, loaded, back
        self.drop_unused()

    def reweigh(self, blend: Blend) -> None:
        """Answer by the live version under these weights from now on; its files keep theirs."""
        assert self._current is not None, "weights are a version's"
        self._current = replace(self._current, live=replace(self._current.live, blend=blend))

    def roll_back(self, *, now_ms: int, because: str = "by command") -> str:
        """Go back to the version before, on record; returns its name. In order: 1. load it, 2. flip the record, 3. what look-ups use.

        For the thread that steps, or between its steps. Raises `UnknownVersion` when there is none, and what `load` raises: then
        nothing has changed. Its items are looked through: what came while its collection was not kept is embedded.
        """
        record = self.registry.live()
        loaded = self.load(record.previous) if record is not None and record.previous is not None else None
        back = rolled_back(self.registry, now_ms=now_ms, because=because)
        assert loaded is not None and loaded.live.version == back.version, "the record was compared"
        self._previous, self._current, self._rolled_back = self._current, loaded, True
        self.refresher.mark_all(back.generation)
        return back.version

    def close(self) -> None:
        """Flush the vectors and release them."""
        for vectors in self._open.values():
            vectors.close()
        self.folder.close()

    def next_generation(self) -> int:
        """A number that neither a version nor a collection has."""
        return max([*(version.generation for version in self.registry.versions()), *self.folder.generations()], default=0) + 1

    def _target(self, loaded: Loaded, *, kept: bool = False) -> Target:
        widths = loaded.model.config.widths
        facts = self._facts.setdefault(widths, self.view.facts(widths))

        def embed(ids: U64s, now_ms: int) -> F32s:
            features, rows = facts.of(ids, now_ms=now_ms)
            return loaded.model.embed_items(features, rows)

        return Target(loaded.live.generation, loaded.live.vectors, embed, kept)

    def _check_space(self, version: Version, model: Model) -> None:
        """A user vector means nothing beside item vectors that another trunk made."""
        for held in (self._current, self._previous, self.pinned):
            if held is not None and held.live.generation == version.generation and not model.same_trunk(held.model):
                raise CheckpointError(
                    f"{version.name} claims generation {version.generation}, but its trunk is not that of {held.live.version}, whose item "
                    f"vectors it would answer from; tune a head of that version, or store it in a new generation"
                )

    def _vectors(self, generation: int, dim: int) -> Vectors:
        if generation not in self._open:
            self._open[generation] = self.folder.open(generation, dim)
        return self._open[generation]

    def drop_unused(self) -> None:
        """Let go of collections that no loaded version needs; who refreshes removes them, if no other process answers from them."""
        used = {loaded.live.generation for loaded in (self._current, self._previous, self.pinned) if loaded is not None}
        for generation in [g for g in self._open if g not in used and not self.stores.in_use(collection_of(g))]:
            self._open[generation].close()
            if self.stores.refreshing:
                self.folder.drop(generation)
            del self._open[generation]  # last: what could not be dropped is tried again with the next

    def _make_refresher(self) -> Refresher:
        """Claim the refresher's epoch: above the stored one, and above every revision in any collection kept."""
        epoch = self._site.state.claim(_EPOCH_NAME, 0, _EPOCH_NAME).epoch
        return Refresher(self._site.state, self.view.neighbours, self.view.catalogue, self._site.shape, epoch=epoch)


class Service(Serving):
    """Serving over an engine, with the registry and the vectors of its folder."""

    def __init__(self, engine: Engine) -> None:
        self.engine, settings = engine, engine.settings
        registry = Registry(settings.data / "models", keep_max=settings.versions_max)
        super().__init__(engine, Stores(registry, VectorFolder(settings.data / "vectors")))
