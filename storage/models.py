"""The registry of model versions: what exists, what is live, and why; what every registry promises, and the one in a folder.

Not a loader: files are bytes, and what they mean is the encoders' business. In the folder each version is a folder that
appears whole and never changes; one small record says which is live; decisions are lines of JSON. `models_redis.py` is the
registry that many machines share.

    registry = Registry(root / "models")
    registry.put(Version("g1-h3", 1, "g1-h2", created_ms=now_ms, as_of_number=8123, metrics={"hit": 0.2}), {"model.pt": data})
    live = registry.promote("g1-h3", expected_sequence=registry.sequence())
"""

import hashlib
import json
import logging
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np

from storage.files import append_line, locked, remove_folder, sweep, write_file, write_folder
from storage.vectors import collection_of

KEEP_MAX: Final = 5
DECISIONS_MAX: Final = 1000
DECISION_BYTES_MAX: Final = 65_536
FORMAT: Final = 1
MANIFEST: Final = "manifest.json"
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
logger = logging.getLogger(__name__)


class UnknownVersion(LookupError):
    """There is no such version; the message lists those there are."""


class Damaged(RuntimeError):
    """A file is not what was written: half, altered or missing. The message names it and the way out."""


class StaleRecord(RuntimeError):
    """The live record moved since it was read: nothing was changed. Read it again and decide again."""


@dataclass(frozen=True)
class Version:
    """What a version is. `as_of_number`: the number of the last event learned; metrics may hold NaN."""

    name: str
    generation: int
    parent: str | None
    created_ms: int
    as_of_number: int
    metrics: dict[str, float]


@dataclass(frozen=True)
class Live:
    """The one record a look-up reads: version, the collection of its generation, and how often the record has changed."""

    version: str
    generation: int
    collection: str
    sequence: int
    previous: str | None = None


class Models(Protocol):
    """Versions, each whole or absent and never changed; one live record that moves by compare and set; bounded decisions."""

    def put(self, version: Version, files: Mapping[str, bytes]) -> None:
        """Store a version and prune old ones. The same again is fine; other content under the same name is a ValueError."""

    def files(self, name: str) -> dict[str, bytes]:
        """A version's files, each checked against its checksum. Raises `UnknownVersion`, `Damaged`."""

    def version(self, name: str) -> Version:
        """What is known of one version. Raises `UnknownVersion`, `Damaged`."""

    def versions(self) -> list[Version]:
        """All versions with a sound manifest, oldest first."""

    def live(self) -> Live | None:
        """What is live, None before the first promotion. Raises `Damaged`."""

    def sequence(self) -> int:
        """The live record's sequence number, 0 before the first promotion: what the next change must expect."""

    def promote(self, name: str, *, expected_sequence: int) -> Live:
        """Make a version live if the record has not moved. Raises `StaleRecord`, `UnknownVersion`, `Damaged`."""

    def roll_back(self, *, expected_sequence: int) -> Live:
        """Make the live version's predecessor live again. Raises `StaleRecord`, `UnknownVersion`, `Damaged`."""

    def record(self, decision: Mapping[str, object]) -> None:
        """Append one decision; only the newest are kept. Raises ValueError for one that is too large."""

    def decisions(self) -> list[dict[str, object]]:
        """The newest decisions, oldest first."""


class Registry:
    """Versions under `folder`. Any number of processes of one machine; writers wait for one another by a file lock.

    A kill at any moment leaves the old state or the new one. Raises `DiskFull` when there is no room, having changed nothing.
    """

    def __init__(self, folder: Path, keep_max: int = KEEP_MAX, *, decisions_max: int = DECISIONS_MAX) -> None:
        assert keep_max >= 1, "the live version must stay"
        assert decisions_max >= 1, "the newest decision must stay"
        self._folder, self._keep_max, self._decisions_max = folder, keep_max, decisions_max
        self._versions, self._live, self._decisions = folder / "versions", folder / "live.json", folder / "decisions.jsonl"
        self._lock = folder / "registry.lock"
        self._versions.mkdir(parents=True, exist_ok=True)
        with locked(self._lock):
            for place in (folder, self._versions):
                sweep(place)

    def put(self, version: Version, files: Mapping[str, bytes]) -> None:
        """Store a version and prune old ones. The same again is fine; other content under the same name is a ValueError."""
        manifest = manifest_of(version, files)
        with locked(self._lock):
            folder = self._versions / version.name
            if not folder.exists():
                write_folder(folder, {**files, MANIFEST: manifest})
            else:
                check_same(version.name, (folder / MANIFEST).read_bytes(), manifest)
            self._prune(version.name)

    def files(self, name: str) -> dict[str, bytes]:
        """A version's files, each checked against its checksum. Raises `UnknownVersion`, `Damaged`."""
        manifest = self._manifest(name)
        found = {}
        for file, expected in manifest["files"].items():
            path = self._versions / name / file
            try:
                data = path.read_bytes()
            except FileNotFoundError:
                data = b""
            if (damage := damage_of(path, data, expected)) is not None:
                self._manifest(name)  # pruned while we read: unknown rather than damaged
                raise damage
            found[file] = data
        return found

    def version(self, name: str) -> Version:
        """What is known of one version. Raises `UnknownVersion`, `Damaged`."""
        return version_of(self._manifest(name))

    def versions(self) -> list[Version]:
        """All versions with a sound manifest, oldest first; a damaged one is left out and logged."""
        return sound(self._names(), self.version)

    def live(self) -> Live | None:
        """What is live, None before the first promotion. Raises `Damaged`. About 30 us: read it once per request."""
        try:
            return Live(**unsealed(self._live, self._live.read_bytes())["live"])
        except FileNotFoundError:
            return None
        except Damaged as error:
            raise Damaged(f"{error}. Remove the file and promote a version (--expected-sequence 0): {', '.join(self._names())}") from None

    def sequence(self) -> int:
        """The live record's sequence number, 0 before the first promotion: what the next change must expect."""
        live = self.live()
        return live.sequence if live else 0

    def promote(self, name: str, *, expected_sequence: int) -> Live:
        """Make a version live if the record has not moved. In order: 1. lock, 2. compare, 3. verify the files, 4. write, 5. prune.

        Raises `StaleRecord`, `UnknownVersion`, `Damaged`. Promoting what is live already keeps its predecessor.
        """
        with locked(self._lock):
            live = expect(self.live(), expected_sequence)
            return self._flip(name, expected_sequence, predecessor(live, name))

    def roll_back(self, *, expected_sequence: int) -> Live:
        """Make the live version's predecessor live again; it then has none, and going further back is a promotion by name.

        Raises `StaleRecord`, `UnknownVersion` (no predecessor), `Damaged`.
        """
        with locked(self._lock):
            live = expect(self.live(), expected_sequence)
            return self._flip(way_back(live, self._names()), expected_sequence, None)

    def record(self, decision: Mapping[str, object]) -> None:
        """Append one decision, synced; only the newest `decisions_max` are kept. Numbers that are not finite become null."""
        line = decision_line(decision)
        with locked(self._lock):
            lines, whole = self._decision_lines()
            if whole and len(lines) < self._decisions_max:
                append_line(self._decisions, line)
            else:
                kept = [*lines, line][-self._decisions_max :]
                write_file(self._decisions, b"".join(each + b"\n" for each in kept))

    def decisions(self) -> list[dict[str, object]]:
        """The newest decisions, oldest first. A line that is torn or altered is left out."""
        return decisions_in(self._decision_lines()[0][-self._decisions_max :])

    def _names(self) -> list[str]:
        return sorted(path.name for path in self._versions.iterdir() if _NAME.fullmatch(path.name))

    def _manifest(self, name: str) -> dict[str, Any]:
        path = self._versions / name / MANIFEST
        if _NAME.fullmatch(name) and path.parent.is_dir():
            try:
                return opened(name, path, path.read_bytes())
            except FileNotFoundError:
                raise Damaged(f"{path} is missing: use another version") from None
        raise unknown(name, self._folder, self._names())

    def _flip(self, name: str, sequence: int, previous: str | None) -> Live:
        self.files(name)
        live = made_live(self.version(name), sequence, previous)
        write_file(self._live, sealed({"live": asdict(live)}))
        self._prune(name)
        return live

    def _prune(self, newest: str) -> None:
        try:
            live = self.live()
        except Damaged as error:
            logger.warning("models.not_pruned: %s", error)
            return
        for name in set(self._names()) - spared(self.versions()[-self._keep_max :], newest, live):
            remove_folder(self._versions / name)

    def _decision_lines(self) -> tuple[list[bytes], bool]:
        """The complete lines, and whether the file ends with one."""
        try:
            *lines, rest = self._decisions.read_bytes().split(b"\n")
        except FileNotFoundError:
            return [], True
        return lines, rest == b""


def manifest_of(version: Version, files: Mapping[str, bytes]) -> bytes:
    """What is known of a version, and the checksums of its files. Raises ValueError for a name that cannot be one."""
    for name in (version.name, *files):
        if not _NAME.fullmatch(name) or name == MANIFEST:
            raise ValueError(f"{name!r} cannot name a version or a file: letters, digits, '.', '_', '-', at most 64, not {MANIFEST}")
    sums = {name: {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)} for name, data in files.items()}
    return sealed({"format": FORMAT, "version": asdict(version), "files": sums})


def opened(name: str, path: Path, data: bytes) -> dict[str, Any]:
    """A version's manifest. Raises `Damaged`."""
    manifest = unsealed(path, data)
    if manifest["format"] != FORMAT or manifest["version"]["name"] != name:
        raise Damaged(f"{path} is of format {manifest['format']} and names {manifest['version']['name']!r}: use another version")
    return manifest


def version_of(manifest: dict[str, Any]) -> Version:
    """The version a manifest describes; a metric that was not finite is NaN."""
    fields = manifest["version"]
    return Version(**{**fields, "metrics": {key: math.nan if value is None else value for key, value in fields["metrics"].items()}})


def check_same(name: str, stored: bytes, manifest: bytes) -> None:
    """Raise ValueError unless the stored version is the one to store."""
    if stored != manifest:
        raise ValueError(f"version {name!r} exists with other content; versions never change: choose a new name")


def damage_of(path: Path, data: bytes, expected: Mapping[str, Any]) -> Damaged | None:
    """What is wrong with a file's bytes, if anything."""
    if len(data) == expected["bytes"] and hashlib.sha256(data).hexdigest() == expected["sha256"]:
        return None
    wanted = f"{expected['bytes']} bytes with sha256 {expected['sha256'][:12]}…"
    return Damaged(f"{path} is not what was written ({len(data)} bytes found, {wanted} expected): use another version")


def sound(names: Iterable[str], read: Callable[[str], Version]) -> list[Version]:
    """Versions that can be read, oldest first; a damaged one is left out and logged."""
    found = []
    for name in names:
        try:
            found.append(read(name))
        except Damaged as error:
            logger.warning("models.damaged version=%s: %s", name, error)
        except UnknownVersion:
            continue  # pruned between the listing and the reading
    return sorted(found, key=lambda version: (version.created_ms, version.name))


def unknown(name: str, where: object, names: list[str]) -> UnknownVersion:
    """There is no such version; these there are."""
    return UnknownVersion(f"no version {name!r} in {where}; there are: {', '.join(names) or 'none'}")


def stale(live: Live | None, sequence: int) -> StaleRecord:
    """The record is not the one a change expected."""
    what = f"{live.version} is live" if live else "nothing is live"
    found = live.sequence if live else 0
    return StaleRecord(f"expected sequence {sequence}, found {found} ({what}): read the live record again and decide again")


def expect(live: Live | None, sequence: int) -> Live | None:
    """The record, which must be of this sequence. Raises `StaleRecord`."""
    if (live.sequence if live else 0) != sequence:
        raise stale(live, sequence)
    return live


def predecessor(live: Live | None, name: str) -> str | None:
    """What a promotion of `name` can be rolled back to; of what is live already, what it could be before."""
    return None if live is None else live.previous if live.version == name else live.version


def way_back(live: Live | None, names: list[str]) -> str:
    """What a roll-back makes live. Raises `UnknownVersion`."""
    if live is None or live.previous is None:
        what = "nothing is live" if live is None else f"{live.version} has no predecessor on record"
        raise UnknownVersion(f"cannot roll back: {what}; stored: {', '.join(names) or 'none'}")
    return live.previous


def made_live(version: Version, sequence: int, previous: str | None) -> Live:
    """The record after the one of `sequence`."""
    return Live(version.name, version.generation, collection_of(version.generation), sequence + 1, previous)


def spared(newest: list[Version], just_put: str, live: Live | None) -> set[str]:
    """The names that pruning spares: the newest, the one just put whatever its time, the live one and its predecessor."""
    names = {just_put, *(version.name for version in newest)}
    return names if live is None else names | {live.version, live.previous or live.version}


def decision_line(decision: Mapping[str, object]) -> bytes:
    """A decision as one line of JSON, numbers that are not finite as null. Raises ValueError for one that is too large."""
    line = json.dumps(_plain(decision), allow_nan=False, sort_keys=True).encode()
    if len(line) > DECISION_BYTES_MAX:
        raise ValueError(f"a decision of {len(line)} bytes; at most {DECISION_BYTES_MAX}")
    return line


def decisions_in(lines: Iterable[bytes]) -> list[dict[str, object]]:
    """The decisions of these lines; one that is torn or altered is left out."""
    found = []
    for line in lines:
        try:
            found.append(json.loads(line))
        except ValueError:
            logger.warning("models.torn_decision bytes=%d", len(line))
    return found


def sealed(body: dict[str, Any]) -> bytes:
    """JSON that carries the checksum of itself, so that a flipped bit is noticed."""
    body = _plain(body)
    return json.dumps({**body, "sha256": _digest(body)}, allow_nan=False, indent=1, sort_keys=True).encode()


def unsealed(path: Path, data: bytes) -> dict[str, Any]:
    """What was sealed. Raises `Damaged`."""
    try:
        body = json.loads(data)
        digest = body.pop("sha256")
    except (ValueError, KeyError, AttributeError, TypeError):
        raise Damaged(f"{path} is not the JSON that was written") from None
    if digest != _digest(body):
        raise Damaged(f"{path} does not fit its checksum")
    return dict(body)


def _digest(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, allow_nan=False, sort_keys=True).encode()).hexdigest()


def _plain(value: Any) -> Any:
    """What any JSON reader takes: numpy scalars as numbers, numbers that are not finite as null."""
    plain = value.item() if isinstance(value, np.generic) else value
    if isinstance(plain, float):
        return plain if math.isfinite(plain) else None
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return plain
