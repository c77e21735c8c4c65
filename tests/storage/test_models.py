"""The registry: a version is whole or absent, the live record moves by compare and set, and nothing that fails breaks it.

The contract runs over every form; then what only the one in a folder must keep. `test_models_redis.py` has Redis's own.
"""

import errno
import json
import math
import os
import subprocess
import sys
import threading
import uuid
from pathlib import Path

import numpy as np
import pytest
import redis
from pyarrow.fs import LocalFileSystem, SubTreeFileSystem

from storage.files import DiskFull
from storage.models import DECISIONS_MAX, Damaged, Live, Models, Registry, StaleRecord, UnknownVersion, Version, sealed
from storage.models_redis import RedisRegistry
from storage.places import FsPlace, LocalPlace, Place
from tests.full_disk import files_end_at
from tests.services import redis_server

ROOT = Path(__file__).parents[2]
FILES = {"model.pt": b"weights" * 1000, "blend.json": b"{}"}


def version(number: int, generation: int = 1) -> Version:
    return Version(f"g{generation}-h{number}", generation, None, created_ms=number, as_of_number=10 * number, metrics={"hit": 0.25})


class FolderSite:
    """Registries of one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._live = folder, folder / "live.json"

    def opened(self, *, keep_max: int = 5, decisions_max: int = DECISIONS_MAX) -> Models:
        return Registry(self.folder, keep_max, decisions_max=decisions_max)

    def file(self, name: str, file: str) -> Path:
        return self.folder / "versions" / name / file

    def break_live(self, content: bytes) -> None:
        self._live.write_bytes(content)

    def remove_live(self) -> None:
        self._live.unlink()


class RedisSite:
    """Registries under one prefix of the shared Redis, each with a client of its own; their files in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.prefix = folder, uuid.uuid4().hex
        self.client = redis.Redis.from_url(redis_server().url)
        self._live = f"{self.prefix}:{{models}}:live"

    def place(self) -> Place:
        return LocalPlace(self.folder)

    def opened(self, *, keep_max: int = 5, decisions_max: int = DECISIONS_MAX) -> Models:
        client = redis.Redis.from_url(redis_server().url)
        return RedisRegistry(client, self.place(), self.prefix, keep_max=keep_max, decisions_max=decisions_max)

    def file(self, name: str, file: str) -> Path:
        (path,) = self.folder.glob(f"{name}@*@{file}")
        return path

    def break_live(self, content: bytes) -> None:
        self.client.set(self._live, content)

    def remove_live(self) -> None:
        self.client.delete(self._live)


class FileSystemSite(RedisSite):
    """The same over a file system."""

    def place(self) -> Place:
        return FsPlace(SubTreeFileSystem(str(self.folder), LocalFileSystem()), "models")

    def file(self, name: str, file: str) -> Path:
        (path,) = (self.folder / "models").glob(f"{name}@*@{file}")
        return path


Site = FolderSite | RedisSite


@pytest.fixture(params=[FolderSite, RedisSite, FileSystemSite])
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Site:
    made: Site = request.param(tmp_path)
    return made


def filled(site: Site, count: int, keep_max: int = 5) -> Models:
    registry = site.opened(keep_max=keep_max)
    for number in range(1, count + 1):
        registry.put(version(number), FILES)
    return registry


def started(folder: Path) -> Models:
    """One version live and two newer ones; the next put has one to prune."""
    registry = filled(FolderSite(folder), 1, keep_max=2)
    registry.promote("g1-h1", expected_sequence=0)
    for number in (2, 3):
        registry.put(version(number), FILES)
    return registry


def test_what_was_put_is_read_back(site: Site) -> None:
    registry = filled(site, 2)
    assert site.opened().files("g1-h1") == FILES
    assert registry.versions() == [version(1), version(2)]
    assert registry.version("g1-h2") == version(2)


def test_a_metric_that_is_not_a_number_survives(site: Site) -> None:
    registry = site.opened()
    registry.put(Version("nan", 1, "g1-h1", 1, 1, {"loss": math.nan, "hit": float(np.float32(0.5))}), FILES)
    metrics = registry.version("nan").metrics
    assert math.isnan(metrics["loss"])
    assert metrics["hit"] == 0.5


def test_putting_the_same_again_is_fine_and_other_content_is_refused(site: Site) -> None:
    registry = filled(site, 1)
    registry.put(version(1), FILES)
    with pytest.raises(ValueError, match="versions never change"):
        registry.put(version(1), {"model.pt": b"other"})
    assert registry.files("g1-h1") == FILES


@pytest.mark.parametrize("name", ["", "../up", ".hidden", "a/b", "manifest.json", "x" * 65])
def test_names_stay_inside_the_folder(site: Site, name: str) -> None:
    registry = site.opened()
    with pytest.raises(ValueError, match="cannot name"):
        registry.put(Version(name, 1, None, 1, 1, {}), FILES)
    with pytest.raises(ValueError, match="cannot name"):
        registry.put(version(1), {name: b""})
    with pytest.raises(UnknownVersion):
        registry.files(name)


def test_an_unknown_version_lists_what_exists(site: Site) -> None:
    with pytest.raises(UnknownVersion, match="there are: none"):
        site.opened().files("g9")
    registry = filled(site, 2)
    for ask in (registry.files, registry.version, lambda name: registry.promote(name, expected_sequence=0)):
        with pytest.raises(UnknownVersion, match=r"no version 'g9'.*there are: g1-h1, g1-h2"):
            ask("g9")


def test_promote_keeps_the_old_version_readable_and_roll_back_returns_to_it(site: Site) -> None:
    registry = filled(site, 2)
    assert registry.live() is None
    assert registry.promote("g1-h1", expected_sequence=0) == Live("g1-h1", 1, "items-g1", 1)
    assert registry.promote("g1-h2", expected_sequence=1) == Live("g1-h2", 1, "items-g1", 2, "g1-h1")
    assert registry.promote("g1-h2", expected_sequence=2).previous == "g1-h1", "promoting what is live keeps the way back"
    assert registry.files("g1-h1") == FILES
    assert registry.roll_back(expected_sequence=3) == Live("g1-h1", 1, "items-g1", 4)
    assert site.opened().live() == Live("g1-h1", 1, "items-g1", 4)
    with pytest.raises(UnknownVersion, match="no predecessor on record; stored: g1-h1, g1-h2"):
        registry.roll_back(expected_sequence=4)


def test_another_generation_is_another_collection(site: Site) -> None:
    registry = filled(site, 1)
    registry.put(version(7, generation=2), FILES)
    assert registry.promote("g2-h7", expected_sequence=0).collection == "items-g2"


def test_the_record_is_compared_before_it_is_set(site: Site) -> None:
    registry = filled(site, 2)
    with pytest.raises(UnknownVersion, match="nothing is live"):
        registry.roll_back(expected_sequence=0)
    with pytest.raises(StaleRecord, match=r"expected sequence 4, found 0 .nothing is live"):
        registry.promote("g1-h1", expected_sequence=4)
    registry.promote("g1-h1", expected_sequence=0)
    stale = r"expected sequence 0, found 1 .g1-h1 is live"
    with pytest.raises(StaleRecord, match=stale):
        registry.promote("g1-h2", expected_sequence=0)
    with pytest.raises(StaleRecord, match=stale):
        registry.roll_back(expected_sequence=0)
    assert registry.sequence() == 1


def test_of_many_promotions_at_once_one_wins(site: Site) -> None:
    filled(site, 5)
    outcomes: list[str] = []

    def promote(number: int) -> None:
        try:
            outcomes.append(site.opened().promote(f"g1-h{number}", expected_sequence=0).version)
        except StaleRecord:
            outcomes.append("stale")

    threads = [threading.Thread(target=promote, args=(number,)) for number in range(1, 6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    live = site.opened().live()
    assert live is not None
    assert sorted(outcomes) == sorted([live.version, *["stale"] * 4])


def test_pruning_keeps_live_its_predecessor_and_the_newest(site: Site) -> None:
    registry = filled(site, 2, keep_max=2)
    registry.promote("g1-h1", expected_sequence=0)
    registry.promote("g1-h2", expected_sequence=1)
    for number in range(3, 9):
        registry.put(version(number), FILES)
    assert [each.name for each in registry.versions()] == ["g1-h1", "g1-h2", "g1-h7", "g1-h8"]
    registry.put(version(0), FILES)
    assert "g1-h0" in [each.name for each in registry.versions()], "what was just put stays, whatever its time"


@pytest.mark.parametrize("file", ["model.pt", "manifest.json"])
@pytest.mark.parametrize("harm", ["flip", "cut", "gone"])
def test_a_damaged_version_is_never_returned_nor_promoted(site: Site, file: str, harm: str) -> None:
    registry = filled(site, 2)
    registry.promote("g1-h1", expected_sequence=0)
    path = site.file("g1-h2", file)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    if harm == "gone":
        path.unlink()
    else:
        path.write_bytes(data if harm == "flip" else data[:20])
    with pytest.raises(Damaged, match=file):
        registry.files("g1-h2")
    with pytest.raises(Damaged, match=file):
        registry.promote("g1-h2", expected_sequence=1)
    assert registry.live() == Live("g1-h1", 1, "items-g1", 1)
    assert registry.files("g1-h1") == FILES
    assert version(1) in registry.versions()


def test_every_flipped_bit_of_a_manifest_is_noticed(site: Site) -> None:
    registry = filled(site, 1)
    path = site.file("g1-h1", "manifest.json")
    data = path.read_bytes()
    for position in range(len(data)):
        path.write_bytes(data[:position] + bytes([data[position] ^ 4]) + data[position + 1 :])
        try:
            assert registry.version("g1-h1") == version(1), position
        except Damaged:
            continue


def test_a_version_of_another_format_is_never_returned_nor_promoted(site: Site) -> None:
    registry = filled(site, 2)
    registry.promote("g1-h1", expected_sequence=0)
    path = site.file("g1-h2", "manifest.json")
    older = json.loads(path.read_bytes())
    del older["sha256"]
    path.write_bytes(sealed({**older, "format": 0}))
    for asked in (registry.files, registry.version, lambda name: registry.promote(name, expected_sequence=1)):
        with pytest.raises(Damaged, match="is of format 0 and names 'g1-h2': use another version"):
            asked("g1-h2")
    assert [each.name for each in site.opened().versions()] == ["g1-h1"]
    assert site.opened().files("g1-h1") == FILES


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b'{"live": {}, "sha256": "0"}', b"\xff\xfe"])
def test_a_broken_live_record_is_an_error_with_a_way_out(site: Site, content: bytes) -> None:
    registry = filled(site, 2)
    registry.promote("g1-h1", expected_sequence=0)
    site.break_live(content)
    with pytest.raises(Damaged, match=r"live(\.json)? .*Remove the (file|key) and promote a version .*g1-h1, g1-h2"):
        registry.live()
    registry.put(version(3), FILES)
    assert len(registry.versions()) == 3, "storing goes on, without pruning"
    site.remove_live()
    assert registry.promote("g1-h1", expected_sequence=0).sequence == 1


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_failure_at_any_step_leaves_the_old_state_or_the_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, code: int
) -> None:
    real = getattr(os, call)
    for step in range(20):
        folder = tmp_path / str(step)
        registry = started(folder)
        left = [step]

        def failing(*args: object, left: list[int] = left) -> object:
            left[0] -= 1
            if left[0] < 0:
                raise OSError(code, os.strerror(code))
            return real(*args)

        with monkeypatch.context() as patched:
            patched.setattr(os, call, failing)
            try:
                registry.put(version(4), FILES)
                registry.promote("g1-h4", expected_sequence=1)
                registry.record({"promoted": "g1-h4"})
            except OSError as error:
                assert (code == errno.ENOSPC) == isinstance(error, DiskFull), error
        assert_whole(folder)
        if left[0] >= 0:
            return
    raise AssertionError("the last round should have gone through")


KILLED = """
import os, sys
from pathlib import Path
from storage.models import Registry, Version
left = [int(sys.argv[1])]
def dying(call):
    def step(*args, **kwargs):
        left[0] -= 1
        if left[0] < 0:
            os._exit(9)
        return call(*args, **kwargs)
    return step
os.fsync, os.replace, os.mkdir, os.unlink = dying(os.fsync), dying(os.replace), dying(os.mkdir), dying(os.unlink)
registry = Registry(Path(sys.argv[2]), keep_max=2)
registry.put(Version("g1-h4", 1, None, 4, 40, {"hit": 0.25}), {"model.pt": b"weights" * 1000, "blend.json": b"{}"})
registry.promote("g1-h4", expected_sequence=1)
registry.record({"promoted": "g1-h4"})
"""


def assert_whole(folder: Path) -> None:
    registry = Registry(folder)
    assert not [path.name for path in folder.rglob("*.aside*")], "leftovers are swept at start"
    for each in registry.versions():
        assert registry.files(each.name) == FILES
    assert sorted(path.name for path in (folder / "versions").iterdir()) == sorted(each.name for each in registry.versions())
    live = registry.live()
    assert live in (Live("g1-h1", 1, "items-g1", 1), Live("g1-h4", 1, "items-g1", 2, "g1-h1"))
    assert registry.files("g1-h1") == FILES
    assert registry.decisions() in ([], [{"promoted": "g1-h4"}])


def test_a_kill_at_any_step_leaves_the_old_state_or_the_new(tmp_path: Path) -> None:
    running = []
    for step in range(20):
        folder = tmp_path / str(step)
        started(folder)
        command = [sys.executable, "-c", KILLED, str(step), str(folder)]
        running.append((folder, subprocess.Popen(command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"})))
        if len(running) % 4 == 0:
            running[-4][1].wait()
    codes = [process.wait() for _, process in running]
    for folder, _ in running:
        assert_whole(folder)
    assert codes[0] == 9
    assert codes[-1] == 0, "the last run went through"


def test_a_full_disk_while_a_version_is_stored_shows_nothing_of_it(tmp_path: Path) -> None:
    registry = started(tmp_path)
    before = sorted(path.name for path in (tmp_path / "versions").iterdir())
    with files_end_at(1000), pytest.raises(DiskFull, match=r"no room to write .*g1-h4: .* MB free; nothing stored was changed"):
        registry.put(version(4), FILES)
    assert sorted(path.name for path in (tmp_path / "versions").iterdir()) == before, "nor aside"
    again, live = Registry(tmp_path), registry.live()
    assert live is not None and again.live() == live and again.files(live.version) == FILES
    again.put(version(4), FILES)
    assert again.files("g1-h4") == FILES


def test_decisions_are_kept_in_order_bounded_and_plain(site: Site) -> None:
    registry = site.opened(decisions_max=3)
    for number in range(6):
        registry.record({"number": np.int64(number), "loss": math.nan, "better": np.bool_(True), "ci": (0.5, math.inf)})
    assert [each["number"] for each in registry.decisions()] == [3, 4, 5]
    assert registry.decisions()[0] == {"number": 3, "loss": None, "better": True, "ci": [0.5, None]}
    assert [each["number"] for each in site.opened(decisions_max=100).decisions()] == [3, 4, 5], "and no more are stored"
    with pytest.raises(ValueError, match="a decision of"):
        registry.record({"text": "x" * 70_000})


def test_a_torn_last_decision_is_ignored_and_cleared_away(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    registry.record({"number": 1})
    path = tmp_path / "decisions.jsonl"
    path.write_bytes(path.read_bytes() + b'{"number": 2, "wh')
    assert registry.decisions() == [{"number": 1}]
    registry.record({"number": 3})
    assert Registry(tmp_path).decisions() == [{"number": 1}, {"number": 3}]
    path.write_bytes(path.read_bytes() + b"\x00garbled\n")
    registry.record({"number": 4})
    assert [each["number"] for each in registry.decisions()] == [1, 3, 4]
