"""Durable files: a name shows the old content or the new one, whatever fails and whenever the process is killed."""

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from storage.files import (
    DiskFull,
    append_line,
    aside,
    free_bytes,
    locked,
    remove_folder,
    require_free,
    sweep,
    take_lock,
    write_file,
    write_folder,
)

ROOT = Path(__file__).parents[2]
KILLED = """
import os, sys
from pathlib import Path
from storage.files import write_file, write_folder
left = [int(sys.argv[1])]
def dying(call):
    def step(*args, **kwargs):
        left[0] -= 1
        if left[0] < 0:
            os._exit(9)
        return call(*args, **kwargs)
    return step
os.fsync, os.replace = dying(os.fsync), dying(os.replace)
folder = Path(sys.argv[2])
write_file(folder / "record", b"new" * 1000)
write_folder(folder / "version", {"a": b"1", "b": b"2"})
"""
LIMITED = """
import resource, signal, sys
from pathlib import Path
from storage.files import DiskFull, write_file
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
try:
    write_file(Path(sys.argv[1]), b"x" * 9000)
except DiskFull as error:
    print(error)
"""


def child(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True, check=False)


def failing(number: int, code: int = errno.EIO) -> Callable[..., None]:
    def fail(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    assert number >= 0
    return fail


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "record"
    write_file(path, b"old")
    write_file(path, b"new")
    assert path.read_bytes() == b"new"
    assert [each.name for each in tmp_path.iterdir()] == ["record"]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failing_step_leaves_the_old_content_and_nothing_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    path = tmp_path / "record"
    write_file(path, b"old")
    monkeypatch.setattr(os, step, failing(0))
    with pytest.raises(OSError, match="Input/output"):
        write_file(path, b"new")
    assert path.read_bytes() == b"old"
    assert [each.name for each in tmp_path.iterdir()] == ["record"]


def test_a_full_disk_names_the_path_and_the_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "record"
    write_file(path, b"old")
    monkeypatch.setattr(os, "fsync", failing(0, errno.ENOSPC))
    with pytest.raises(DiskFull, match=r"record: \d+\.\d MB free") as caught:
        write_file(path, b"new")
    assert caught.value.path == path
    assert caught.value.errno == errno.ENOSPC
    assert path.read_bytes() == b"old"


def test_a_write_that_stops_half_way_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "record"
    write_file(path, b"old")
    ended = child(LIMITED, path)
    assert "no room to write" in ended.stdout, ended.stderr
    assert path.read_bytes() == b"old"
    assert [each.name for each in tmp_path.iterdir()] == ["record"]


def test_a_kill_at_any_step_shows_all_or_nothing(tmp_path: Path) -> None:
    codes = []
    for step in range(12):
        folder = tmp_path / str(step)
        folder.mkdir()
        write_file(folder / "record", b"old")
        codes.append(child(KILLED, step, folder).returncode)
        assert (folder / "record").read_bytes() in (b"old", b"new" * 1000)
        if (folder / "version").exists():
            assert sorted(each.name for each in (folder / "version").iterdir()) == ["a", "b"]
        sweep(folder)
        assert {each.name for each in folder.iterdir()} <= {"record", "version"}
        if codes[-1] == 0:
            break
    assert codes[-1] == 0, "the last run went through"
    assert codes[0] == 9, "and the first did not"


def test_a_sweep_spares_what_is_being_written(tmp_path: Path) -> None:
    with aside(tmp_path / "record") as temporary:
        temporary.write_bytes(b"half")
        assert sweep(tmp_path) == []
    parent = f".record.{os.getppid()}.0.aside"
    (tmp_path / parent).write_bytes(b"another process is at it")
    (tmp_path / ".record.4194999.0.aside").write_bytes(b"no such process")
    (tmp_path / ".record.aside").mkdir()
    assert sweep(tmp_path) == [".record.4194999.0.aside", ".record.aside"]
    assert sorted(each.name for each in tmp_path.iterdir()) == [parent, "record"]


def test_a_folder_never_replaces_another(tmp_path: Path) -> None:
    write_folder(tmp_path / "version", {"a": b"1"})
    with pytest.raises(OSError, match="not empty"):
        write_folder(tmp_path / "version", {"b": b"2"})
    assert [each.name for each in (tmp_path / "version").iterdir()] == ["a"]
    remove_folder(tmp_path / "version")
    assert list(tmp_path.iterdir()) == []


def test_a_failed_append_cuts_the_file_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "lines"
    append_line(path, b"one")
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", failing(0, errno.ENOSPC))
        with pytest.raises(DiskFull):
            append_line(path, b"two")
    append_line(path, b"three")
    assert path.read_bytes() == b"one\nthree\n"


def test_a_lock_has_one_holder_and_names_it(tmp_path: Path) -> None:
    lock = take_lock(tmp_path / "lock")
    assert lock is not None
    assert take_lock(tmp_path / "lock") is None
    assert (tmp_path / "lock").read_text() == str(os.getpid())
    os.close(lock)
    with locked(tmp_path / "lock"):
        assert take_lock(tmp_path / "lock") is None


def test_room_is_asked_for_before_it_is_needed(tmp_path: Path) -> None:
    assert free_bytes(tmp_path / "not" / "there") > 0
    require_free(tmp_path, 1)
    with pytest.raises(DiskFull, match="must be free"):
        require_free(tmp_path, 2**62)
