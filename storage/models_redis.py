"""The registry that many machines share: records in Redis, weights and manifests in a place (`storage/places.py`).

Redis holds which versions there are, which is live, and the decisions; never weights. A version's files are written under
names of their own, its manifest last, and then published by one script; until then nobody sees them. Every change is one
script that compares what was read. What is given up or pruned is noted in Redis first and deleted afterwards, so that
a kill in between leaves nothing for ever. Redis may lose what its own settings allow: with `appendfsync everysec` a second.

    registry = RedisRegistry(client, place_of("s3://bucket/freshet/models")); registry.put(version, files)
    live = registry.promote("g1-h3", expected_sequence=registry.sequence())
"""

import logging
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import redis

from storage.models import (
    DECISIONS_MAX,
    KEEP_MAX,
    MANIFEST,
    Damaged,
    Live,
    UnknownVersion,
    Version,
    check_same,
    damage_of,
    decision_line,
    decisions_in,
    expect,
    made_live,
    manifest_of,
    opened,
    predecessor,
    sealed,
    sound,
    spared,
    stale,
    unknown,
    unsealed,
    version_of,
    way_back,
)
from storage.places import Place

UPLOADS_MAX: Final = 16
"""An upload that is not published when so many newer ones have begun is taken for one whose writer died."""

_BEGIN: Final = """
local number = redis.call('INCR', KEYS[1])
local upload = ARGV[1] .. '@' .. number
redis.call('RPUSH', KEYS[2], upload)
while true do
  local oldest = redis.call('LINDEX', KEYS[2], 0)
  if number - tonumber(string.match(oldest, '%d+$')) < tonumber(ARGV[2]) then return upload end
  redis.call('SADD', KEYS[3], redis.call('LPOP', KEYS[2]))
end
"""
_PUBLISH: Final = """
local begun = redis.call('LREM', KEYS[1], 1, ARGV[2]) == 1
if begun and redis.call('HSETNX', KEYS[2], ARGV[1], ARGV[2]) == 1 then return 'published' end
redis.call('SADD', KEYS[3], ARGV[2])
return begun and 'taken' or 'given up'
"""
_GIVE_UP: Final = """
redis.call('LREM', KEYS[1], 1, ARGV[1])
redis.call('SADD', KEYS[2], ARGV[1])
"""
_FLIP: Final = """
if (redis.call('GET', KEYS[1]) or '') ~= ARGV[1] then return 'moved' end
if redis.call('HGET', KEYS[2], ARGV[3]) ~= ARGV[4] then return 'pruned' end
redis.call('SET', KEYS[1], ARGV[2])
return 'flipped'
"""
_PRUNE: Final = """
if (redis.call('GET', KEYS[1]) or '') ~= ARGV[1] then return end
for n = 2, #ARGV, 2 do
  if redis.call('HGET', KEYS[2], ARGV[n]) == ARGV[n + 1] then
    redis.call('HDEL', KEYS[2], ARGV[n])
    redis.call('SADD', KEYS[3], ARGV[n + 1])
  end
end
"""
_RECORD: Final = """
redis.call('RPUSH', KEYS[1], ARGV[1])
redis.call('LTRIM', KEYS[1], -tonumber(ARGV[2]), -1)
"""
logger = logging.getLogger(__name__)


class RedisRegistry:
    """Any number of processes and machines; nobody waits for another. All keys lie in one slot of a Redis Cluster.

    A version's upload is called `name@number`, its files in the place `name@number@file`; no two uploads share a name.
    """

    def __init__(
        self,
        client: "redis.Redis | redis.RedisCluster",
        place: Place,
        prefix: str = "freshet",
        *,
        keep_max: int = KEEP_MAX,
        decisions_max: int = DECISIONS_MAX,
    ) -> None:
        assert keep_max >= 1, "the live version must stay"
        assert decisions_max >= 1, "the newest decision must stay"
        self._client: Any = client  # its types know text and bytes, but not which
        self._place, self._keep_max, self._decisions_max = place, keep_max, decisions_max
        self._live, self._manifests, self._uploads, self._rubbish, self._counter, self._decisions, self._candidate = (
            f"{prefix}:{{models}}:{name}" for name in ("live", "manifests", "uploads", "rubbish", "counter", "decisions", "candidate")
        )
        self._begin, self._publish, self._give_up = (client.register_script(text) for text in (_BEGIN, _PUBLISH, _GIVE_UP))
        self._flip_if, self._prune_if, self._keep = (client.register_script(text) for text in (_FLIP, _PRUNE, _RECORD))
        place.prepare()

    def put(self, version: Version, files: Mapping[str, bytes]) -> None:
        """Store a version and prune old ones. The same again is fine; other content under the same name is a ValueError.

        In order: 1. the upload is noted, 2. files, 3. manifest, 4. one script publishes it, 5. prune. Of two that put one name at
        once the first to publish wins. Raises OSError when the place does, having stored nothing.
        """
        manifest = manifest_of(version, files)
        if not self._has(version.name, manifest) and not self._uploaded(version.name, {**files, MANIFEST: manifest}):
            self._has(version.name, manifest)
        self._prune(version.name)

    def files(self, name: str) -> dict[str, bytes]:
        """A version's files, each checked against its checksum. Raises `UnknownVersion`, `Damaged`."""
        return self._files(name)[2]

    def version(self, name: str) -> Version:
        """What is known of one version. Raises `UnknownVersion`, `Damaged`."""
        upload, data = self._manifest(name)
        return version_of(opened(name, self._path(upload, MANIFEST), data))

    def versions(self) -> list[Version]:
        """All versions with a sound manifest, oldest first; a damaged one is left out and logged. Reads each manifest."""
        return sound(self._names(), self.version)

    def live(self) -> Live | None:
        """What is live, None before the first promotion. Raises `Damaged`. One round trip: read it once per request."""
        return self._parsed(self._client.get(self._live))

    def sequence(self) -> int:
        """The live record's sequence number, 0 before the first promotion: what the next change must expect."""
        live = self.live()
        return live.sequence if live else 0

    def propose(self, name: str | None) -> None:
        """Name the version that everybody is to load and build beside the live one; None: there is none."""
        if name is None:
            self._client.delete(self._candidate)
        else:
            self._client.set(self._candidate, name)

    def candidate(self) -> str | None:
        """The version that is proposed, if one is."""
        name: bytes | None = self._client.get(self._candidate)
        return name.decode() if name is not None else None

    def promote(self, name: str, *, expected_sequence: int) -> Live:
        """Make a version live if the record has not moved. In order: 1. read, 2. verify the files, 3. compare and set, 4. prune.

        Raises `StaleRecord`, `UnknownVersion`, `Damaged`. Promoting what is live already keeps its predecessor.
        """
        raw = self._client.get(self._live)
        live = expect(self._parsed(raw), expected_sequence)
        return self._flip(name, raw, expected_sequence, predecessor(live, name))

    def roll_back(self, *, expected_sequence: int) -> Live:
        """Make the live version's predecessor live again; it then has none, and going further back is a promotion by name.

        Raises `StaleRecord`, `UnknownVersion` (no predecessor), `Damaged`.
        """
        raw = self._client.get(self._live)
        live = expect(self._parsed(raw), expected_sequence)
        return self._flip(way_back(live, self._names()), raw, expected_sequence, None)

    def record(self, decision: Mapping[str, object]) -> None:
        """Append one decision; only the newest `decisions_max` are kept. Numbers that are not finite become null."""
        self._keep(keys=[self._decisions], args=[decision_line(decision), self._decisions_max])

    def decisions(self) -> list[dict[str, object]]:
        """The newest decisions, oldest first. One that is altered is left out."""
        return decisions_in(self._client.lrange(self._decisions, -self._decisions_max, -1))

    def _flip(self, name: str, raw: bytes | None, sequence: int, previous: str | None) -> Live:
        """The bytes read are compared: they hold the sequence. They and the upload that was verified must still be there."""
        upload, version, _ = self._files(name)
        live = made_live(version, sequence, previous)
        args: list[Any] = [raw or b"", sealed({"live": asdict(live)}), name, upload]
        outcome = self._flip_if(keys=[self._live, self._manifests], args=args)
        if outcome == b"moved":
            raise stale(self.live(), sequence)
        if outcome == b"pruned":
            raise self._unknown(name)
        self._prune(name)
        return live

    def _parsed(self, raw: bytes | None) -> Live | None:
        if raw is None:
            return None
        try:
            return Live(**unsealed(Path(self._live), raw)["live"])
        except Damaged as error:
            names = ", ".join(self._names())
            raise Damaged(f"{error}. Remove the key and promote a version (--expected-sequence 0): {names}") from None

    def _names(self) -> list[str]:
        return sorted(name.decode() for name in self._client.hkeys(self._manifests))

    def _unknown(self, name: str) -> UnknownVersion:
        return unknown(name, self._manifests, self._names())

    def _path(self, upload: str, file: str) -> Path:
        return self._place.path(f"{upload}@{file}")

    def _manifest(self, name: str) -> tuple[str, bytes]:
        """A version's upload and the bytes of its manifest. Raises `UnknownVersion`, `Damaged`."""
        found = self._client.hget(self._manifests, name)
        if found is None:
            raise self._unknown(name)
        upload = found.decode()
        try:
            return upload, self._place.read(f"{upload}@{MANIFEST}")
        except FileNotFoundError:
            if self._client.hget(self._manifests, name) != found:  # pruned while we read: unknown rather than damaged
                raise self._unknown(name) from None
            raise Damaged(f"{self._path(upload, MANIFEST)} is missing: use another version") from None

    def _files(self, name: str) -> tuple[str, Version, dict[str, bytes]]:
        upload, data = self._manifest(name)
        manifest = opened(name, self._path(upload, MANIFEST), data)
        files = {}
        for file, expected in manifest["files"].items():
            try:
                data = self._place.read(f"{upload}@{file}")
            except FileNotFoundError:
                data = b""
            if (damage := damage_of(self._path(upload, file), data, expected)) is not None:
                self._manifest(name)  # pruned while we read: unknown rather than damaged
                raise damage
            files[file] = data
        return upload, version_of(manifest), files

    def _has(self, name: str, manifest: bytes) -> bool:
        """Whether this version is stored. Raises ValueError when another one is, under the same name."""
        try:
            check_same(name, self._manifest(name)[1], manifest)
        except UnknownVersion:
            return False
        return True

    def _uploaded(self, name: str, files: Mapping[str, bytes]) -> bool:
        """Write and publish a version; False when another of that name was published meanwhile."""
        begun: bytes = self._begin(keys=[self._counter, self._uploads, self._rubbish], args=[name, UPLOADS_MAX])
        upload = begun.decode()
        try:
            for file, data in files.items():  # the manifest is the last
                self._place.write(f"{upload}@{file}", data)
        except OSError:
            self._give_up(keys=[self._uploads, self._rubbish], args=[upload])
            self._clear()
            raise
        outcome = self._publish(keys=[self._uploads, self._manifests, self._rubbish], args=[name, upload])
        if outcome == b"given up":
            self._clear()
            raise RuntimeError(f"{UPLOADS_MAX} newer uploads began before version {name!r} was written, and it was given up: put it again")
        return bool(outcome == b"published")

    def _prune(self, newest: str) -> None:
        """Take old versions out, if the live record is still the one that says which; then delete what is of no version.

        What was asked for is done by now: a failure is logged, and the next change prunes again.
        """
        try:
            raw = self._client.get(self._live)
            doomed = set(self._names()) - spared(self.versions()[-self._keep_max :], newest, self._parsed(raw))
            uploads = [(name, self._client.hget(self._manifests, name)) for name in sorted(doomed)]
            pairs = [part for pair in uploads if pair[1] is not None for part in pair]
            self._prune_if(keys=[self._live, self._manifests, self._rubbish], args=[raw or b"", *pairs])
        except (Damaged, OSError) as error:
            logger.warning("models.not_pruned: %s", error)
        self._clear()

    def _clear(self) -> None:
        try:
            rubbish = [upload.decode() for upload in self._client.smembers(self._rubbish)]
            names = self._place.names() if rubbish else []
            for upload in rubbish:
                for name in names:
                    if name.startswith(f"{upload}@"):
                        self._place.delete(name)
                self._client.srem(self._rubbish, upload)
        except OSError as error:
            logger.warning("models.not_cleared: %s", error)
