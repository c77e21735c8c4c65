"""Is the state what the log says? Replays, digests, and the way back when it is not.

found = verify_folder(settings, url=None, advance=lambda n: None); assert found.live == found.replay
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from freshet.engine import Engine, FolderBusy
from freshet.settings import Settings
from storage.archive import Archive
from storage.log_lmdb import LmdbLog
from stream.replay import digests, history, replay
from stream.shape import Shape
from stream.wire import Decoded

Advance = Callable[[int], None]


@dataclass(frozen=True)
class Verified:
    """Digest of the live state and of a replay, both of all events numbered below `below`."""

    live: str
    replay: str
    below: int


def verify_folder(settings: Settings, url: str | None, advance: Advance) -> Verified:
    """Digest the live state, in the server if one runs, and compare with a replay in memory here."""
    try:
        with Engine(settings) as engine:
            live, below = digests(engine.state, engine.shape.partitions), engine.applied_number
    except FolderBusy:
        from freshet.access import HttpSite, server_url

        found = HttpSite(url or server_url(settings)).digest()
        live, below = found["digest"], found["below"]
    return Verified(live, _replayed(settings, below, advance), below)


def rebuild_folder(settings: Settings, advance: Advance) -> int:
    """Forget the state, replay everything into it, and return how many events there were. Raises `FolderBusy`."""
    count = 0

    def counted(n: int) -> None:
        nonlocal count
        count += n
        advance(n)

    with Engine(settings, rebuild=counted):
        return count


def _replayed(settings: Settings, below: int, advance: Advance) -> str:
    shape = Shape(partitions=settings.partitions)
    log = LmdbLog(settings.data / "log", partitions=shape.partitions, log_bytes_max=settings.log_bytes_max, read_only=True)
    try:
        archive = Archive(settings.data / "archive", read_only=True)
        return digests(replay(told(history(archive, log, below=below), advance), log, shape), shape.partitions)
    finally:
        log.close()


def told(source: Iterator[Decoded], advance: Advance) -> Iterator[Decoded]:
    """Pass batches through, saying how many events each has."""
    for decoded in source:
        advance(decoded.events.num_rows)
        yield decoded
