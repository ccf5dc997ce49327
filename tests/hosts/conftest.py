"""One cluster of docker/compose.yaml for the tests of this folder: it takes half a minute to come up."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from container import missing
from engine import Engine, small_cluster


@pytest.fixture(scope="package")
def engine() -> Iterator[Engine]:
    """Head, two workers of one CPU, MLflow, PostgreSQL."""
    if (reason := missing()) is not None:
        pytest.skip(reason)
    with small_cluster() as engine:
        yield engine
