"""One Kafka and one Redis for these tests; each test has topics and keys of its own."""

from collections.abc import Iterator

import pytest

from tests.cluster.installation import Site


@pytest.fixture
def site() -> Iterator[Site]:
    """One partition of each topic."""
    with Site(partitions=1) as made:
        yield made


@pytest.fixture
def wide() -> Iterator[Site]:
    """Three partitions of each topic."""
    with Site(partitions=3) as made:
        yield made
