"""Places: the same promises in a folder and in a file system, and what becomes of an address."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from pyarrow.fs import LocalFileSystem, S3FileSystem, SubTreeFileSystem

from storage.places import FsPlace, LocalPlace, Place, place_of

MAKERS: dict[str, Callable[[Path], Place]] = {
    "folder": LocalPlace,
    "shared folder": lambda folder: place_of(str(folder)),
    "file system": lambda folder: FsPlace(LocalFileSystem(), f"{folder}/"),
    "root of a file system": lambda folder: FsPlace(SubTreeFileSystem(str(folder), LocalFileSystem()), ""),
}
over_all = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS.keys())


@over_all
def test_what_was_written_is_read_and_listed_until_it_is_deleted(make: Callable[[Path], Place], tmp_path: Path) -> None:
    place = make(tmp_path)
    place.prepare()
    assert place.names() == []
    place.write("b.gz", b"old")
    place.write("b.gz", b"\x1f\x8b not packed")
    place.write("a", b"")
    assert place.names() == ["a", "b.gz"]
    assert [place.has(name) for name in ("a", "b.gz", "c")] == [True, True, False]
    assert (make(tmp_path).read("b.gz"), place.read("a")) == (b"\x1f\x8b not packed", b"")
    assert place.path("a").name == "a"
    for _ in range(2):
        place.delete("a")
    assert [path.name for path in tmp_path.iterdir()] == place.names() == ["b.gz"]
    with pytest.raises(FileNotFoundError):
        place.read("a")


@over_all
def test_a_place_that_is_not_there_is_empty_and_made_by_its_writer(make: Callable[[Path], Place], tmp_path: Path) -> None:
    if make is MAKERS["root of a file system"]:
        assert make(tmp_path).names() == [], "a root is there"
        return
    place = make(tmp_path / "deep" / "er")
    assert (place.names(), place.has("a")) == ([], False)
    assert not list(tmp_path.iterdir()), "a reader changes nothing"
    place.prepare()
    place.write("a", b"1")
    assert (tmp_path / "deep" / "er" / "a").read_bytes() == b"1"


@over_all
def test_a_write_that_fails_leaves_what_was_there(make: Callable[[Path], Place], tmp_path: Path) -> None:
    place = make(tmp_path)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "inside").write_bytes(b"1")
    with pytest.raises(OSError, match="a"):
        place.write("a", b"new")
    assert (tmp_path / "a" / "inside").read_bytes() == b"1"
    assert [path.name for path in tmp_path.iterdir()] == ["a"], "and nothing aside"


@over_all
@pytest.mark.parametrize("name", ["", "a/b", "../a", ".hidden"])
def test_names_are_flat(make: Callable[[Path], Place], name: str, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="is not a flat name"):
        make(tmp_path).write(name, b"")


def test_only_a_folder_of_one_machine_is_swept(tmp_path: Path) -> None:
    gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True, check=True)
    aside = tmp_path / f".a.{int(gone.stdout)}.0.aside"
    aside.write_bytes(b"half")
    for place in (place_of(str(tmp_path)), place_of(tmp_path.as_uri()), FsPlace(LocalFileSystem(), str(tmp_path))):
        place.prepare()
        assert (aside.exists(), place.names()) == (True, [])
    LocalPlace(tmp_path).prepare()
    assert not aside.exists()


def test_an_address_is_a_folder_or_what_pyarrow_makes_of_it(tmp_path: Path) -> None:
    for address in (str(tmp_path), tmp_path.as_uri()):
        place = place_of(address)
        assert isinstance(place, LocalPlace)
        assert place.path("a") == tmp_path / "a"
    place = place_of("s3://key:word@bucket/base/?endpoint_override=127.0.0.1%3A1&scheme=http&region=none")
    assert isinstance(place, FsPlace)
    assert str(place.path("a")) == "bucket/base/a"
    assert "word" not in repr(place)


@pytest.mark.parametrize(
    "address",
    ["nope://key:word@host/base", "s3://key:wo/rd?@bucket/ base", "s3://key:word@bucket/base?endpoint=word", "nope://host/base?key=word"],
)
def test_an_address_that_cannot_be_used_is_named_without_its_secrets(address: str) -> None:
    with pytest.raises(ValueError, match=r"is no place that pyarrow\.fs can open: give a folder") as raised:
        place_of(address)
    assert "word" not in str(raised.value)
    assert "rd" not in str(raised.value)
    assert raised.value.__suppress_context__
    assert any(shown in str(raised.value) for shown in ("nope://host/base", "s3://bucket"))


def test_an_address_that_cannot_be_used_says_why() -> None:
    with pytest.raises(ValueError, match=r"nope://host/base is no place .* \(Unrecognized filesystem type in URI"):
        place_of("nope://host/base")


def test_an_object_store_is_known_by_its_type_and_asked_for_no_folder() -> None:
    store = S3FileSystem(endpoint_override="127.0.0.1:1", scheme="http", region="none", anonymous=True)
    for filesystem in (store, SubTreeFileSystem("bucket", store)):
        place = FsPlace(filesystem, "base")
        place.prepare()
        assert place._put_is_atomic
