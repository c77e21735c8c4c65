"""A site per test, closed afterwards."""

import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

with warnings.catch_warnings():  # starlette would rather have another client than the one it still works with; the pins have httpx
    warnings.filterwarnings("ignore", message="Using `httpx` with `starlette.testclient` is deprecated")
    import starlette.testclient  # noqa: F401

from tests.serving.small_site import TITLES, Site, walk


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """Six items, eight users who walk the same way, and a live model."""
    made = Site(tmp_path)
    made.stock(TITLES)
    walk(made)
    made.go_live()
    yield made
    made.close()
