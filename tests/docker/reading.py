"""The files of docker/ as data, and the third-party programs and packages that check them.

compose = documents("compose.yaml")[0]
"""

import importlib.metadata
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

ROOT = Path(__file__).resolve().parents[2]
DOCKER = ROOT / "docker"


def documents(name: str) -> list[dict[str, Any]]:
    """The YAML documents of a file of docker/."""
    return list(yaml.safe_load_all((DOCKER / name).read_text()))


def environment() -> dict[str, str]:
    """What `.env.example` sets; comments are left out."""
    lines = (DOCKER / ".env.example").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def program(name: str, package: str) -> str:
    """Where the program lies; without it the test is skipped with the command that installs it, and fails where CI is set."""
    found = shutil.which(name)
    if found is None:
        _missing(f"{name} is not installed: apt-get install {package}")
    return str(found)


def shipped(distribution: str, path: str) -> Path:
    """A file of an installed distribution; missing, as with `program`."""
    try:
        return Path(str(importlib.metadata.distribution(distribution).locate_file(path)))
    except importlib.metadata.PackageNotFoundError:
        _missing(f"{distribution} is not installed: pip install -c constraints.txt {distribution}")
        raise


def _missing(what: str) -> None:
    if os.environ.get("CI"):
        pytest.fail(what)
    pytest.skip(what)
