"""One cluster of docker/compose.yaml for the tests of this folder: it takes half a minute to come up."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from container import missing
from engine import Engine
from network import ip
from relay import free_ports


@pytest.fixture(scope="package")
def engine() -> Iterator[Engine]:
    """Head, two workers of one CPU, MLflow, PostgreSQL. Whatever happens, nothing of it is left."""
    if (reason := missing()) is not None:
        pytest.skip(reason)
    dashboard, mlflow = free_ports(2)
    # Small: all of it shares one machine with other tests.
    engine = Engine(
        VITRAY_UID="1000",
        WORKER_CPUS="1",
        OBJECT_STORE_BYTES="150000000",
        SHARED_MEMORY_BYTES="260000000",
        RAY_DASHBOARD_PORT=str(dashboard),
        MLFLOW_PORT=str(mlflow),
    )
    run = engine.networks.run
    try:
        engine.up(ray_worker=2)
        yield engine
    finally:
        engine.remove()
    assert f"v{run}" not in ip("netns", "list") + ip("-o", "link")
