"""Is the state what the log says? Replays, digests, and the way back when it is not.

found = verify_folder(settings, url=None, advance=lambda n: None); assert found.live == found.replay
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import msgspec

from freshet.access import HttpSite, server_url
from freshet.engine import Engine, FolderBusy, locked_folder
from freshet.settings import Settings
from storage.archive import Archive
from storage.files import append_line
from storage.log_lmdb import LmdbLog
from storage.state import NEIGHBOURS, State
from storage.state_lmdb import LmdbState, boot_id
from stream.ingest import EVENTS
from stream.replay import FROM_EVENTS, digest, digests, history, replay
from stream.shape import Shape
from stream.wire import Decoded

Advance = Callable[[int], None]
LOSSES_FILE: Final = "losses.jsonl"


@dataclass(frozen=True)
class Verified:
    """Digest of the live state and of a replay, both of all events numbered below `below`."""

    live: str
    replay: str
    below: int


def verify_folder(settings: Settings, url: str | None, advance: Advance) -> Verified:
    """Digest the live state, in the server if one runs, and compare with a replay in memory here, of the folder itself."""
    if url:
        live, below = _asked(url)
        if not settings.data.is_dir():
            raise FileNotFoundError(f"{settings.data} is not there: verify replays the folder of the server at {url}, name it (--data)")
    else:
        try:
            with Engine(settings) as engine:
                live, below = digests(engine.state, engine.shape.partitions), engine.applied_number
        except FolderBusy:
            live, below = _asked(server_url(settings))
    return Verified(live, _replayed(settings, below, advance), below)


def _asked(url: str) -> tuple[str, int]:
    with HttpSite(url) as site:
        found = site.digest()
    return found["digest"], found["below"]


def rebuild_folder(settings: Settings, advance: Advance) -> int:
    """Forget the state, replay everything into it, and return how many events there were. Raises `FolderBusy`."""
    count = 0

    def counted(n: int) -> None:
        nonlocal count
        count += n
        advance(n)

    with Engine(settings, rebuild=counted):
        return count


@dataclass(frozen=True)
class Loss:
    """Offsets [first, end) of a partition that were given up, and the topic id the state now follows."""

    partition: int
    first: int
    end: int
    topic_id: str


def accept_gap(settings: Settings) -> list[Loss]:
    """Let every partition go on where the log goes on, and write down what is lost (`losses.jsonl`). Raises `FolderBusy`."""
    with locked_folder(settings.data):
        log = LmdbLog(settings.data / "log", partitions=settings.partitions, log_bytes_max=settings.log_bytes_max)
        state = LmdbState(settings.data / "state", boot_id=boot_id(), state_bytes_max=settings.state_bytes_max)
        archive = Archive(settings.data / "archive")
        try:
            topic, marks = log.topic(EVENTS), state.watermarks(EVENTS)
            losses = []
            for partition, mark in sorted(marks.items()):
                first, end = log.first_offset(EVENTS, partition), log.end_offset(EVENTS, partition)
                if archive.published(partition) < first:
                    archive.give_up(partition, first, number=log.number_of(EVENTS, partition, first))
                if state.topic_id(EVENTS, partition) == topic.id and first <= mark <= end:
                    continue
                state.accept(EVENTS, partition, topic.id, first)
                losses.append(Loss(partition, mark, first, topic.id))
                append_line(settings.data / LOSSES_FILE, msgspec.json.encode(losses[-1]))
            return losses
        finally:
            state.close()
            log.close()


def replay_folder(settings: Settings, advance: Advance) -> list[tuple[int, int, str, str]]:
    """By partition: where the log ends, the digest of histories, seen-sets and counts that a replay gives, and that of neighbours.

    Raises FileNotFoundError where there is no log. A running server is not disturbed.
    """
    if not (settings.data / "log").is_dir():
        raise FileNotFoundError(f"{settings.data} holds no log: name the folder (--data)")
    state, shape = _replay_state(settings, None, advance), Shape(partitions=settings.partitions)
    marks = state.watermarks(EVENTS)
    return [
        (partition, marks.get(partition, 0), digest(state, partition, FROM_EVENTS), digest(state, partition, (NEIGHBOURS,)))
        for partition in range(shape.partitions)
    ]


def _replayed(settings: Settings, below: int, advance: Advance) -> str:
    return digests(_replay_state(settings, below, advance), settings.partitions)


def _replay_state(settings: Settings, below: int | None, advance: Advance) -> State:
    shape = Shape(partitions=settings.partitions)
    log = LmdbLog(settings.data / "log", partitions=shape.partitions, log_bytes_max=settings.log_bytes_max, read_only=True)
    try:
        archive = Archive(settings.data / "archive", read_only=True)
        return replay(told(history(archive, log, below=below), advance), log, shape)
    finally:
        log.close()


def told(source: Iterator[Decoded], advance: Advance) -> Iterator[Decoded]:
    """Pass batches through, saying how many events each has."""
    for decoded in source:
        advance(len(decoded))
        yield decoded
