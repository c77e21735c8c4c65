"""MovieLens-100K for the demo: taken out of the `recbole` wheel, which pip fetches once into a folder of ours.

The wheel is only carried, never installed or imported. The data stays in that folder; nothing of it is in the repository.

    path = fetch_movielens(Path("data"))      # .../ml-100k.inter, with ml-100k.item beside it
"""

import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

REQUIREMENT: Final = "recbole==1.2.1"
INSIDE: Final = "recbole/dataset_example/ml-100k"
DATA_NAME: Final = "MovieLens-100K"
TERMS: Final = (
    "MovieLens-100K was collected by GroupLens Research at the University of Minnesota. In short, and in our words: it may be "
    "used for research; it may not be redistributed, nor used commercially, without their permission; work that uses it "
    "acknowledges GroupLens (Harper and Konstan, The MovieLens Datasets: History and Context, ACM TiiS 5(4), 2015) and claims "
    "no endorsement by them. The terms that count are theirs: https://files.grouplens.org/datasets/movielens/ml-100k-README.txt"
)
_WAY_OUT: Final = "Run `freshet demo --world` for the synthetic world, or give a file of your own with DATA=PATH."
_PIP_S_MAX: Final = 180
_UNPACKED_BYTES_MAX: Final = 64 << 20


class DataUnavailable(RuntimeError):
    """The data could not be fetched or is not what it should be; the message says why and names the way out."""

    def __init__(self, why: str) -> None:
        """Why, then what to do instead."""
        super().__init__(f"{DATA_NAME} is not available: {why}. {_WAY_OUT}")


@dataclass(frozen=True)
class Contents:
    """A file of the wheel, and the lines it must have, its header not counted."""

    name: str
    rows: int


MOVIELENS: Final = (Contents("ml-100k.inter", 100_000), Contents("ml-100k.item", 1_682))


def fetch_movielens(folder: Path, *, contents: Sequence[Contents] = MOVIELENS, pip_options: Sequence[str] = ()) -> Path:
    """The path of the first file of `contents` in `folder`, fetched if it is not there yet.

    In this order: 1. return at once if all files are there with their rows; 2. `pip download` the wheel into a temporary
    folder; 3. take the files out beside their place; 4. count their rows; 5. rename them into place. Raises
    `DataUnavailable` when pip cannot fetch, or the wheel does not hold what it should; no file of the folder has changed then.
    """
    target = folder / "ml-100k"
    if all((target / wanted.name).is_file() and _rows(target / wanted.name) == wanted.rows for wanted in contents):
        return target / contents[0].name
    try:
        target.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix="fetch-") as aside:
            wheel = _download(Path(aside), pip_options)
            for wanted in contents:
                _take(wheel, wanted, Path(aside))
            for wanted in contents:
                (Path(aside) / wanted.name).replace(target / wanted.name)
    except OSError as error:
        raise DataUnavailable(f"{folder} cannot be written ({error})") from error
    return target / contents[0].name


def _download(aside: Path, pip_options: Sequence[str]) -> Path:
    quiet = ["--no-deps", "--disable-pip-version-check", "--no-input", "--progress-bar", "off", "--retries", "2", "--timeout", "20"]
    command = [sys.executable, "-m", "pip", "download", *quiet, "--only-binary", ":all:", *pip_options, "--dest", str(aside), REQUIREMENT]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PIP_S_MAX, check=False)
    except subprocess.TimeoutExpired:
        raise DataUnavailable(f"pip took longer than {_PIP_S_MAX} s") from None
    wheels = sorted(aside.glob("*.whl"))
    if done.returncode or not wheels:
        said = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        raise DataUnavailable(f"pip could not download {REQUIREMENT} ({said[-1].strip() if said else 'it said nothing'})")
    return wheels[0]


def _take(wheel: Path, wanted: Contents, aside: Path) -> None:
    try:
        with zipfile.ZipFile(wheel) as archive:
            info = archive.getinfo(f"{INSIDE}/{wanted.name}")
            if info.file_size > _UNPACKED_BYTES_MAX:
                raise DataUnavailable(f"{wanted.name} in {wheel.name} would unpack to {info.file_size} bytes")
            with archive.open(info) as packed, (aside / wanted.name).open("wb") as out:
                shutil.copyfileobj(packed, out)
    except (KeyError, zipfile.BadZipFile) as error:
        raise DataUnavailable(f"{wheel.name} does not hold {wanted.name} ({error})") from None
    found = _rows(aside / wanted.name)
    if found != wanted.rows:
        raise DataUnavailable(f"{wanted.name} in {wheel.name} has {found} rows, not {wanted.rows}")


def _rows(path: Path) -> int:
    with path.open("rb") as file:
        return max(0, sum(1 for line in file if line.strip()) - 1)
