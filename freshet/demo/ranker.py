"""The process that ranks: every system's rank of what was taken, from what the stream told when it asked.

    python -m freshet.demo.ranker NUM_ITEMS

It answers with the product's own functions over the vectors of that moment. Messages come in on stdin, ranks go out on stdout.
"""

import os
import resource
import sys
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np

from encoders.base import F32s, I64s, U8s
from encoders.blend import Blend
from encoders.prepared import PreparedUser
from freshet.demo.counted import Counted
from freshet.demo.questions import MODEL_SYSTEMS, Asked, Items, Message, Question, Ranks, Tell, Took, Vectors, Version, read, write
from serving.live import LiveModel
from serving.lookup import COUNTING, blended
from serving.neural import aimed, neural
from serving.rows import RowIndex
from serving.sources import LINEAR, SOURCES
from storage.arrays import F64s, U64s
from storage.catalogue import Catalogue
from storage.histories import History
from storage.vectors_memory import MemoryVectors
from trainers.metrics import mid_ranks


@dataclass(frozen=True)
class _User:
    """The query side of a model that was sent."""

    prepared: PreparedUser
    temperature: float

    def encode_user(self, item_vectors: F32s, actions: U8s, ts_ms: I64s, now_ms: int) -> F32s:
        """(D,) unit length."""
        return self.prepared.encode(item_vectors, actions, ts_ms, now_ms)


@dataclass
class Ranker:
    """Takes messages in order; `ranks` are those of `MODEL_SYSTEMS`, then of `BASELINES`, one list a question."""

    counted: Counted
    ranks: list[list[int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._catalogue = Catalogue()
        self._index = RowIndex(self._catalogue)
        self._vectors: dict[str, MemoryVectors] = {}
        self._versions: dict[str, tuple[LiveModel, Blend]] = {}

    def take(self, message: Message) -> None:
        """What is told is known from now on; what is asked is ranked."""
        match message:
            case Asked():
                models = [message.missed] * len(MODEL_SYSTEMS) if message.question is None else self._models(message.question)
                self.ranks.append([*models, *self.counted.ranks(message.user_id, message.row)])
            case Took():
                self.counted.learn(message.user_id, message.row)
            case Vectors():
                self._change(message)
            case Version():
                self._versions[message.name] = self._version(message)
            case Items():
                for node in _ids(message.ids).tolist():
                    self._catalogue.add(node, "")

    def _change(self, told: Vectors) -> None:
        vectors = self._vectors.setdefault(told.collection, MemoryVectors(told.dim, collection=told.collection))
        revision = vectors.revision_max() + 1
        vectors.upsert(_ids(told.ids), np.frombuffer(told.rows, np.float32).reshape(-1, told.dim), revision=revision)
        vectors.delete(_ids(told.gone), revision=revision)

    def _version(self, told: Version) -> tuple[LiveModel, Blend]:
        places = np.frombuffer(told.places, np.int64).reshape(-1, 3)
        bias = np.frombuffer(told.bias, np.float32).reshape(told.bias_shape)
        user = _User(PreparedUser(told.history_len, np.frombuffer(told.weights, np.float32), places, bias), told.temperature)
        blend = Blend.from_json(told.blend)
        live = LiveModel(told.name, 0, told.collection, user, blend, self._vectors[told.collection])
        return live, Blend.from_json(told.counting)

    def _models(self, asked: Question) -> list[int]:
        """The ranks by `MODEL_SYSTEMS`: model, neural, frozen, counting_blend."""
        live, counting = self._versions[asked.live] if asked.live is not None else (None, COUNTING)
        frozen, _ = self._versions[asked.frozen] if asked.frozen is not None else (None, COUNTING)
        features = np.empty((len(SOURCES), len(asked.rows) // 4))
        features[0], features[1:] = self._column(asked, live), np.frombuffer(asked.counts).reshape(len(SOURCES) - 1, -1)
        stale = features
        if asked.frozen != asked.live:
            stale = features.copy()
            stale[0] = self._column(asked, frozen)
            if asked.frozen_linear:
                stale[LINEAR] = np.frombuffer(asked.frozen_linear).reshape(-1, stale.shape[1])
        scores = (
            features.T @ np.frombuffer(asked.weights),
            features[0],
            blended(frozen.blend if frozen else COUNTING, stale.T),
            blended(counting, features.T),
        )
        return mid_ranks(np.stack(scores), np.full(len(scores), asked.at)).tolist()  # type: ignore[no-any-return]  # numpy's tolist

    def _column(self, asked: Question, live: LiveModel | None) -> F64s:
        actions = np.frombuffer(asked.actions, np.uint8)
        history = History(_ids(asked.items), np.frombuffer(asked.ts_ms, np.int64), actions, surfaces=np.zeros_like(actions))
        rows = np.frombuffer(asked.rows, np.uint32).astype(np.int64)
        return neural(aimed(history, live, now_ms=asked.now_ms), self._catalogue, self._index, rows)


def _ids(raw: bytes) -> U64s:
    return np.frombuffer(raw, np.uint64)


def _peak_rss_mb() -> float:
    """Of this program, where the system tells; what getrusage says begins with what the parent held when it made this process."""
    status = Path("/proc/self/status")
    told = [line.split()[1] for line in status.read_text().splitlines() if line.startswith("VmHWM:")] if status.exists() else []
    return int(told[0]) / 1024 if told else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Until stdin ends."""
    ranker, decoder = Ranker(Counted(int(sys.argv[1]))), msgspec.msgpack.Decoder(Message)
    asks, answers = sys.stdin.buffer, os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    while (message := read(asks, decoder)) is not None:
        ranker.take(message)
        if isinstance(message, Tell):
            write(answers, Ranks(ranker.ranks, _peak_rss_mb()))
            answers.flush()
            ranker.ranks = []


if __name__ == "__main__":
    main()
