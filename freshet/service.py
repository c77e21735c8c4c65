"""The embedded server's inside: the engine, its view, the live model with its vectors, and what keeps them fresh.

    service = Service(engine); service.step(now_ms=now_ms); service.lookup.recommend("u1", now_ms=now_ms)

One thread steps; look-ups run on any.
"""

import logging
from dataclasses import dataclass
from typing import Final

import numpy as np

from encoders.blend import Blend
from encoders.model import Model
from freshet.engine import Engine, Pumped
from freshet.features import ItemFacts
from freshet.version_files import BLEND_FILE, COUNTING_FILE, MODEL_FILE
from serving.live import LiveModel
from storage.arrays import F32s, U64s
from storage.models import Registry, Version
from storage.vectors_edge import EdgeVectors, VectorFolder
from stream.refresh import Refreshed, Refresher, Target

log = logging.getLogger(__name__)
REFRESH_INTERVAL_MS: Final = 500
BUILD_ITEMS: Final = 256
_EPOCH_NAME: Final = "refresher"


@dataclass(frozen=True)
class Loaded:
    """A version in memory: what a look-up needs, the model itself, and the blend fitted without the neural source."""

    live: LiveModel
    model: Model
    counting: Blend


class Service:
    """Steps the engine, refreshes vectors, and flips the live model."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.view = engine.view
        self.registry = Registry(engine.settings.data / "models", keep_max=engine.settings.versions_max)
        self.folder = VectorFolder(engine.settings.data / "vectors")
        self._open: dict[int, EdgeVectors] = {}
        self._facts: dict[int, ItemFacts] = {}
        self._current: Loaded | None = None
        self._previous: Loaded | None = None
        self.pinned: Loaded | None = None
        """A version kept fresh although it is neither live nor the one before: what the demo compares with."""
        self._refreshed_ms = 0
        self.refresher = self._make_refresher()
        self.lookup = self.view.lookup(lambda: self._current.live if self._current else None)
        record = self.registry.live()
        if record is not None:
            self._current = self.load(record.version)
            self.refresher.mark_all(record.generation)

    @property
    def current(self) -> Loaded | None:
        """The live version, None before the first promotion."""
        return self._current

    @property
    def targets(self) -> list[Target]:
        """Where refreshed vectors go: the live generation first, then those that are kept."""
        held = [loaded for loaded in (self._current, self._previous, self.pinned) if loaded is not None]
        generations = {loaded.live.generation: loaded for loaded in reversed(held)}  # the live one's generation is named by the live one
        first = held[0].live.generation if held else 0
        followed = {loaded.live.generation for loaded in (self._current, self.pinned) if loaded is not None}
        return [self._target(generations[g], kept=g not in followed) for g in sorted(generations, key=lambda g: (g != first, -g))]

    def step(self, *, now_ms: int, records_max: int | None = None) -> Pumped:
        """One round: 1. the engine applies what is pending, 2. items with new content are embedded, 3. others in turn, each half second."""
        pumped = self.engine.pump(now_ms=now_ms, records_max=records_max)
        if pumped.items and self._current is not None:
            self.refresher.step_on(self.targets, np.array(pumped.items[:BUILD_ITEMS], dtype=np.uint64), now_ms=now_ms)
        if now_ms - self._refreshed_ms >= REFRESH_INTERVAL_MS:
            self.refresh(now_ms=now_ms)
        return pumped

    def refresh(self, *, now_ms: int) -> Refreshed:
        """One refresh step of every target."""
        self._refreshed_ms = now_ms
        targets = self.targets
        if not targets:
            return Refreshed(0, 0)
        return self.refresher.step(targets, now_ms=now_ms, items_max=self.engine.settings.refresh_items_max)

    def load(self, name: str) -> Loaded:
        """A stored version, its collection opened. Raises `UnknownVersion`, `Damaged`, `CheckpointError`."""
        files, version = self.registry.files(name), self.registry.version(name)
        model = Model.from_bytes(files[MODEL_FILE])
        vectors = self._vectors(version.generation, model.config.dim)
        live = LiveModel(name, version.generation, vectors.collection, model, Blend.from_json(files[BLEND_FILE]), vectors)
        return Loaded(live, model, Blend.from_json(files[COUNTING_FILE]))

    def build(self, loaded: Loaded, *, now_ms: int, start: int = 0) -> int:
        """Embed the next items of a generation that is being built; returns the row to go on at, the catalogue's length when done."""
        ids = self.view.catalogue.ids[start : start + BUILD_ITEMS]
        if len(ids):
            self.refresher.embed_all([self._target(loaded)], ids, now_ms=now_ms)
        return start + len(ids)

    def promote(self, version: Version, loaded: Loaded) -> None:
        """Flip the record, then what look-ups use. The one before stays loaded for roll-back."""
        record = self.registry.live()
        self.registry.promote(version.name, expected_sequence=record.sequence if record else self.registry.sequence())
        if self._current is None or self._current.live.generation != loaded.live.generation:
            self.refresher.mark_all(loaded.live.generation)
        self._previous, self._current = self._current, loaded
        self._drop_unused()

    def roll_back(self) -> str:
        """Go back to the version before; returns its name. Raises LookupError when there is none."""
        record = self.registry.live()
        if record is None:
            raise LookupError("nothing is live yet, so there is nothing to roll back")
        back = self.registry.roll_back(expected_sequence=record.sequence)
        loaded = self.load(back.version)
        self._previous, self._current = self._current, loaded
        self.refresher.mark_all(back.generation)
        return back.version

    def close(self) -> None:
        """Flush the vectors and release them."""
        for vectors in self._open.values():
            vectors.close()
        self.folder.close()

    def _target(self, loaded: Loaded, *, kept: bool = False) -> Target:
        facts = self._facts.setdefault(
            loaded.model.config.neighbours_max, self.view.facts(neighbours_max=loaded.model.config.neighbours_max)
        )

        def embed(ids: U64s, now_ms: int) -> F32s:
            features, rows = facts.of(ids, now_ms=now_ms)
            return loaded.model.embed_items(features, rows)

        return Target(loaded.live.generation, loaded.live.vectors, embed, kept)

    def _vectors(self, generation: int, dim: int) -> EdgeVectors:
        if generation not in self._open:
            self._open[generation] = self.folder.open(generation, dim)
        return self._open[generation]

    def _drop_unused(self) -> None:
        used = {loaded.live.generation for loaded in (self._current, self._previous, self.pinned) if loaded is not None}
        for generation in [g for g in self._open if g not in used]:
            self._open.pop(generation).close()
            self.folder.drop(generation)

    def _make_refresher(self) -> Refresher:
        """Claim the refresher's epoch: above the stored one, and above every revision in any collection kept."""
        epoch = self.engine.state.claim(_EPOCH_NAME, 0, _EPOCH_NAME).epoch
        return Refresher(self.engine.state, self.view.neighbours, self.view.catalogue, self.engine.shape, epoch=epoch)
