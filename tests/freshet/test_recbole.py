"""Fetching the demo's data with a real pip that sees no network: a folder of wheels stands in for the registry."""

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from freshet.demo.recbole import INSIDE, TERMS, Contents, DataUnavailable, fetch_movielens
from freshet.readers.choose import open_events

FILES = {
    "ml-100k.inter": "user_id:token\titem_id:token\trating:float\ttimestamp:float\n1\t7\t3\t100\n2\t8\t4\t101\n",
    "ml-100k.item": "item_id:token\tmovie_title:token_seq\n7\tToy Story\n8\tHeat\n9\tFargo\n",
}
SMALL = (Contents("ml-100k.inter", 2), Contents("ml-100k.item", 3))


def registry(folder: Path, files: Mapping[str, str]) -> list[str]:
    """A folder holding a wheel named recbole with these files, and the options that make pip look there alone."""
    folder.mkdir()
    info = "recbole-1.2.1.dist-info"
    with zipfile.ZipFile(folder / "recbole-1.2.1-py3-none-any.whl", "w") as wheel:
        for name, text in files.items():
            wheel.writestr(f"{INSIDE}/{name}", text)
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: recbole\nVersion: 1.2.1\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    return ["--no-index", "--find-links", str(folder)]


def test_the_files_come_out_of_the_wheel_and_a_second_call_needs_no_pip(tmp_path: Path) -> None:
    options = registry(tmp_path / "registry", FILES)
    cache = tmp_path / "cache"
    path = fetch_movielens(cache, contents=SMALL, pip_options=options)
    source = open_events(path)
    assert (source.name, source.rows) == ("RecBole .inter", 2)
    assert [entity.title for entity in source.entities()] == ["Toy Story", "Heat", "Fargo"]
    assert fetch_movielens(cache, contents=SMALL, pip_options=["--no-such-option"]) == path
    assert [left.name for left in cache.iterdir()] == ["ml-100k"]


def test_a_damaged_copy_is_fetched_again(tmp_path: Path) -> None:
    options = registry(tmp_path / "registry", FILES)
    path = fetch_movielens(tmp_path, contents=SMALL, pip_options=options)
    path.write_text(FILES["ml-100k.inter"][:-10])
    path.with_suffix(".item").unlink()
    assert fetch_movielens(tmp_path, contents=SMALL, pip_options=options).read_text() == FILES["ml-100k.inter"]
    assert path.with_suffix(".item").is_file()


@pytest.mark.parametrize(
    ("files", "contents", "why"),
    [
        ({}, SMALL, "does not hold ml-100k.inter"),
        (FILES, (SMALL[0], Contents("ml-100k.item", 4)), "has 3 rows, not 4"),
    ],
)
def test_a_wheel_with_other_contents_is_refused_and_leaves_nothing(
    tmp_path: Path, files: Mapping[str, str], contents: Sequence[Contents], why: str
) -> None:
    options = registry(tmp_path / "registry", files)
    with pytest.raises(DataUnavailable, match=why):
        fetch_movielens(tmp_path / "cache", contents=contents, pip_options=options)
    assert not [left for left in (tmp_path / "cache").rglob("*") if left.is_file()]


def test_without_a_network_the_error_names_the_ways_out(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataUnavailable) as raised:
        fetch_movielens(tmp_path / "cache", pip_options=["--no-index", "--find-links", str(tmp_path / "empty")])
    for part in ("recbole", "freshet demo --world", "DATA=PATH"):
        assert part in str(raised.value)


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataUnavailable, match="cannot be written"):
        fetch_movielens(tmp_path / "file")


def test_the_terms_name_the_owner_and_what_they_ask() -> None:
    for part in ("GroupLens", "research", "redistributed", "commercially", "acknowledges"):
        assert part in TERMS
