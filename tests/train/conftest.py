"""One local Ray for all worker-group tests of this folder: a start costs seconds."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from vitray.cluster.local import Cluster, connect


@pytest.fixture(scope="package")
def cluster() -> Iterator[Cluster]:
    with connect() as connected:
        yield connected
