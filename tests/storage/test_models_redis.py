"""The registry in Redis: what others do between two of its steps, and what a death or a failing place leaves.

The places here are folders that call a function before each step, so that every interleaving is one that is written down.
"""

import uuid
from collections.abc import Callable
from pathlib import Path

import pytest
import redis

from storage.models import MANIFEST, Live, StaleRecord, UnknownVersion, Version
from storage.models_redis import UPLOADS_MAX, RedisRegistry
from storage.places import LocalPlace
from tests.services import redis_server

FILES = {"model.pt": b"weights" * 1000, "blend.json": b"{}"}
Step = Callable[[str, str], None]
"""Is told what comes now (read, write, delete, names) and of which file."""


class Killed(BaseException):
    """The process dies here."""


class SteppedPlace(LocalPlace):
    def __init__(self, folder: Path, step: Step) -> None:
        super().__init__(folder)
        self._step = step

    def names(self) -> list[str]:
        self._step("names", "")
        return super().names()

    def read(self, name: str) -> bytes:
        self._step("read", name)
        return super().read(name)

    def write(self, name: str, data: bytes) -> None:
        self._step("write", name)
        super().write(name, data)

    def delete(self, name: str) -> None:
        self._step("delete", name)
        super().delete(name)


class Site:
    """Registries under one prefix, their files in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.prefix = folder, uuid.uuid4().hex
        self.client = redis.Redis.from_url(redis_server().url)

    def opened(self, step: Step = lambda what, name: None, *, keep_max: int = 5) -> RedisRegistry:
        return RedisRegistry(self.client, SteppedPlace(self.folder, step), self.prefix, keep_max=keep_max)

    def stored(self) -> set[str]:
        return {path.name for path in self.folder.iterdir()}

    def published(self) -> set[str]:
        """The files that versions are made of."""
        uploads = {bytes(upload).decode() for upload in self.hash("manifests").values()}
        return {f"{upload}@{file}" for upload in uploads for file in (*FILES, MANIFEST)}

    def hash(self, name: str) -> dict[bytes, bytes]:
        found: dict[bytes, bytes] = self.client.hgetall(f"{self.prefix}:{{models}}:{name}")  # type: ignore[assignment]
        return found


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def version(number: int) -> Version:
    return Version(f"g1-h{number}", 1, None, created_ms=number, as_of_number=10 * number, metrics={"hit": 0.25})


def started(site: Site) -> None:
    """One version live and two newer ones; the next put has one to prune."""
    registry = site.opened(keep_max=2)
    registry.put(version(1), FILES)
    registry.promote("g1-h1", expected_sequence=0)
    for number in (2, 3):
        registry.put(version(number), FILES)


def once(step: str, file: str, do: Callable[[], object]) -> Step:
    """Do it before the first such step."""
    left = [do]

    def stepping(what: str, name: str) -> None:
        if left and what == step and name.endswith(file):
            left.pop()()

    return stepping


def after(steps: int, error: BaseException) -> tuple[Step, list[int]]:
    left = [steps]

    def stepping(what: str, name: str) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise error

    return stepping, left


def assert_whole(site: Site) -> None:
    registry = site.opened()
    for each in registry.versions():
        assert registry.files(each.name) == FILES
    assert {each.name.encode() for each in registry.versions()} == set(site.hash("manifests"))
    assert registry.live() in (Live("g1-h1", 1, "items-g1", 1), Live("g1-h4", 1, "items-g1", 2, "g1-h1"))
    assert registry.files("g1-h1") == FILES


def test_a_kill_at_any_step_leaves_the_old_state_or_the_new_and_nothing_for_ever(tmp_path: Path) -> None:
    for steps in range(100):
        site = Site(tmp_path / str(steps))
        started(site)
        step, left = after(steps, Killed())
        registry = site.opened(step, keep_max=2)
        try:
            registry.put(version(4), FILES)
            registry.promote("g1-h4", expected_sequence=1)
        except Killed:
            pass
        assert_whole(site)
        if left[0] >= 0:
            assert site.stored() == site.published(), "the last round went through"
            assert steps > 10
            return
        others = site.opened(keep_max=2)
        for number in range(10, 10 + UPLOADS_MAX):
            others.put(version(number), FILES)
        assert site.stored() == site.published(), "what the dead left is gone"
    raise AssertionError("the last round should have gone through")


def test_a_place_that_fails_at_any_step_leaves_the_old_state_or_the_new(tmp_path: Path) -> None:
    stored = []
    for steps in range(100):
        site = Site(tmp_path / str(steps))
        started(site)
        step, left = after(steps, OSError(5, "no route to the place"))
        registry = site.opened(step, keep_max=2)
        try:
            registry.put(version(4), FILES)
            stored.append(True)
        except OSError:
            stored.append(False)
            assert "g1-h4" not in [each.name for each in site.opened().versions()], "a put that fails has stored nothing"
        assert_whole(site)
        others = site.opened(keep_max=2)
        others.put(version(5), FILES)
        assert site.stored() == site.published(), "the next change cleans up"
        if left[0] >= 0:
            assert stored == sorted(stored), "once published, a put succeeds whatever pruning meets"
            assert (False in stored, stored.count(True) > 1) == (True, True)
            return
    raise AssertionError("the last round should have gone through")


def test_a_record_that_moves_while_the_files_are_verified_stays(site: Site) -> None:
    started(site)
    other = site.opened()
    late = site.opened(once("read", "model.pt", lambda: other.promote("g1-h2", expected_sequence=1)))
    with pytest.raises(StaleRecord, match=r"expected sequence 1, found 2 .g1-h2 is live"):
        late.promote("g1-h3", expected_sequence=1)
    late = site.opened(once("read", "model.pt", lambda: other.promote("g1-h3", expected_sequence=2)))
    with pytest.raises(StaleRecord, match=r"expected sequence 2, found 3 .g1-h3 is live"):
        late.roll_back(expected_sequence=2)
    assert other.live() == Live("g1-h3", 1, "items-g1", 3, "g1-h2")


@pytest.mark.parametrize("file", ["model.pt", MANIFEST])
def test_a_version_pruned_while_it_is_read_is_unknown_rather_than_damaged(site: Site, file: str) -> None:
    started(site)
    other = site.opened(keep_max=1)
    late = site.opened(once("read", f"g1-h2@2@{file}", lambda: other.put(version(4), FILES)))
    with pytest.raises(UnknownVersion, match=r"no version 'g1-h2' in .*; there are: g1-h1, g1-h4"):
        late.files("g1-h2")


def test_a_version_pruned_after_it_was_verified_does_not_go_live(site: Site) -> None:
    started(site)
    reads = []

    def step(what: str, name: str) -> None:
        reads.append(name)
        if reads == [f"g1-h2@2@{file}" for file in (MANIFEST, *sorted(FILES))]:
            held = (site.folder / name).read_bytes()
            site.opened(keep_max=1).put(version(4), FILES)
            (site.folder / name).write_bytes(held)  # the last file was read just before it went

    with pytest.raises(UnknownVersion, match="no version 'g1-h2'"):
        site.opened(step).promote("g1-h2", expected_sequence=1)
    assert site.opened().live() == Live("g1-h1", 1, "items-g1", 1)


def test_of_two_that_put_one_name_at_once_the_first_to_publish_wins(site: Site) -> None:
    other = site.opened()
    late = site.opened(once("write", MANIFEST, lambda: other.put(version(1), FILES)))
    with pytest.raises(ValueError, match="'g1-h1' exists with other content; versions never change"):
        late.put(version(1), {"model.pt": b"other"})
    assert other.files("g1-h1") == FILES
    late = site.opened(once("write", MANIFEST, lambda: other.put(version(2), FILES)))
    late.put(version(2), FILES)
    assert late.files("g1-h2") == FILES
    other.put(version(3), FILES)
    assert site.stored() == site.published(), "the losers' files are gone"


def test_uploads_are_bounded_and_one_given_up_says_so(site: Site) -> None:
    def others_die() -> None:
        for number in range(UPLOADS_MAX):
            with pytest.raises(Killed):
                site.opened(after(1, Killed())[0]).put(version(10 + number), FILES)

    late = site.opened(once("write", MANIFEST, others_die))
    with pytest.raises(RuntimeError, match=f"{UPLOADS_MAX} newer uploads began before version 'g1-h1' was written.*: put it again"):
        late.put(version(1), FILES)
    assert late.versions() == []
    assert not [name for name in site.stored() if name.startswith("g1-h1@")]
    late.put(version(1), FILES)
    assert late.files("g1-h1") == FILES


def test_redis_holds_records_and_never_weights(site: Site) -> None:
    started(site)
    registry = site.opened()
    registry.record({"promoted": "g1-h1"})
    keys = list(site.client.scan_iter(f"{site.prefix}:*"))
    assert {bytes(key).decode().removeprefix(f"{site.prefix}:{{models}}:") for key in keys} == {"live", "manifests", "counter", "decisions"}
    assert sum(len(site.client.dump(key) or b"") for key in keys) < 2_000
