"""Every system's ranks, computed beside the stream in a process of its own: the product's time is the product's.

The process is told in order what came, so each system answers what it would have answered in line. It holds the vectors of
the models that are asked and is sent what changed in them before the question that would notice.

    ranking = Ranking(catalogue, index, num_items); ranking.ask(asked, models); ranking.took("u1", row); ranking.ranks()
"""

import contextlib
import fcntl
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO, Final

import msgspec
import numpy as np

from freshet.child_process import environment, module
from freshet.demo.questions import Asked, Items, Message, Ranks, Tell, Took, Vectors, Version, read, write
from freshet.service import Loaded
from serving.rows import RowIndex
from storage.arrays import Bools, F32s, U64s
from storage.catalogue import Catalogue

PIPE_BYTES: Final = 1 << 20
"""What is asked and not ranked yet, at most: some fifteen questions; then the stream waits. Half of it is told at once: a process
that is woken for every question takes the stream's core each time.
"""
ENDED_S: Final = 10.0


class Ranking:
    """A running process. Ranks are those of the models, then of `BASELINES`, one list a question, in order. Close it.

    Raises ChildProcessError with its last words when it is gone.
    """

    def __init__(self, catalogue: Catalogue, index: RowIndex, num_items: int) -> None:
        self._catalogue, self._index = catalogue, index
        self._known = 0
        self._versions: set[str] = set()
        self._sent: dict[str, Sent] = {}
        self._ranks: list[list[int]] = []
        self._decoder = msgspec.msgpack.Decoder(Ranks)
        self.rss_mb = 0.0
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  # closed by `close`
        self._process = subprocess.Popen(
            module("freshet.demo.ranker", str(num_items)), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors,
            env=environment(threads=1), bufsize=PIPE_BYTES // 2,
        )  # fmt: skip
        if hasattr(fcntl, "F_SETPIPE_SZ"):  # elsewhere than on Linux a pipe has the size it has
            fcntl.fcntl(self._pipe, fcntl.F_SETPIPE_SZ, PIPE_BYTES)

    def ask(self, asked: Asked, models: Sequence[Loaded]) -> None:
        """Rank an item among those the user has not had; `models` are those the question names, with their vectors as they are now."""
        if len(self._catalogue) > self._known:
            self._tell(Items(self._catalogue.ids[self._known :].tobytes()))
            self._known = len(self._catalogue)
        held = {model.live.collection: model for model in models}
        for model in held.values():
            self._send_vectors(model)
        for model in models:
            if model.live.version not in self._versions:
                self._tell(_version(model))
                self._versions.add(model.live.version)
        self._tell(asked)

    def took(self, user_id: str, row: int) -> None:
        """Let the baselines learn that a user took an item for the first time."""
        self._tell(Took(user_id, row))

    def ranks(self) -> list[list[int]]:
        """All of them: waits for what is under way; after `close`, what was told before."""
        if self._pipe.closed:
            return self._ranks
        self._tell(Tell(), now=True)
        assert self._process.stdout is not None
        answer = read(self._process.stdout, self._decoder)
        if answer is None:
            raise self._gone()
        self._ranks += answer.ranks
        self.rss_mb = answer.rss_mb
        return self._ranks

    def close(self) -> None:
        """End the process; what waits is dropped."""
        self._process.kill()
        with contextlib.suppress(OSError):  # what was not written yet
            self._pipe.close()
        self._process.wait(ENDED_S)
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._errors.close()

    @property
    def _pipe(self) -> IO[bytes]:
        assert self._process.stdin is not None
        return self._process.stdin

    def _tell(self, message: Message, *, now: bool = False) -> None:
        try:
            write(self._pipe, message)
            if now:
                self._pipe.flush()
        except OSError as error:
            raise self._gone() from error

    def _gone(self) -> ChildProcessError:
        code = self._process.wait(ENDED_S)
        self._errors.seek(0)
        said = self._errors.read().decode("utf-8", "replace").strip().splitlines()
        return ChildProcessError(f"the process that ranks ended with {code}: {(said or ['it said nothing'])[-1]}")

    def _send_vectors(self, model: Loaded) -> None:
        live = model.live
        assert live.in_memory is not None, "the demo is embedded: its vectors lie in memory"
        sent = self._sent.setdefault(live.collection, Sent(live.vectors.dim))
        changed = sent.changes(*live.in_memory.matrix(), self._catalogue, self._index)
        if changed is not None:
            ids, rows, gone = changed
            self._tell(Vectors(live.collection, live.vectors.dim, ids.tobytes(), rows.tobytes(), gone.tobytes()))


@dataclass
class Sent:
    """What was sent of one collection, by catalogue row: `matrix` (I, D), `there` (I,)."""

    dim: int

    def __post_init__(self) -> None:
        self._last: F32s | None = None
        self.matrix: F32s = np.zeros((0, self.dim), np.float32)
        self.there: Bools = np.zeros(0, np.bool_)

    def changes(self, ids: U64s, matrix: F32s, catalogue: Catalogue, index: RowIndex) -> tuple[U64s, F32s, U64s] | None:
        """Ids with other rows than were sent, these rows, and ids that have none any more; None when nothing has changed since.

        `matrix` is the collection as `Vectors.matrix` gives it: the same array as long as nothing is written.
        """
        if matrix is self._last:
            return None
        first, self._last, places = self._last is None, matrix, index.rows(ids)
        known = places >= 0
        there, rows = np.zeros(len(catalogue), np.bool_), np.zeros((len(catalogue), self.dim), np.float32)
        there[places[known]], rows[places[known]] = True, matrix[known]
        grown = len(catalogue) - len(self.there)
        before, held = np.pad(self.matrix, ((0, grown), (0, 0))), np.pad(self.there, (0, grown))
        other = there & (~held | (rows != before).any(axis=1))
        gone = held & ~there
        self.matrix, self.there = rows, there
        return (catalogue.ids[other], rows[other], catalogue.ids[gone]) if first or other.any() or gone.any() else None


def _version(model: Loaded) -> Version:
    user = model.model.prepared()
    return Version(
        name=model.live.version,
        collection=model.live.collection,
        blend=model.live.blend.to_json(),
        counting=model.counting.to_json(),
        temperature=model.model.temperature,
        history_len=user.history_len,
        weights=user.weights.tobytes(),
        places=user.places.tobytes(),
        bias=user.bias.tobytes(),
        bias_shape=user.bias.shape,
    )
