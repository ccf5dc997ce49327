"""A Ray to work on: the cluster that was named, or a local one that starts and stops with the command."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from vitray.errors import ResourceError


@dataclass(frozen=True)
class Cluster:
    """What the connected Ray has."""

    address: str
    cpus: float
    gpus: float

    @property
    def local(self) -> bool:
        return self.address == "local"


@contextmanager
def connect(address: str | None = None, *, cpus: int | None = None) -> Iterator[Cluster]:
    """Join ``address`` (or ``RAY_ADDRESS``), else start a local Ray, and leave it again.

    A local Ray is always a new one of this command's own, never one that happens to run. Environment variables that
    Ray sets in this process are put back.

    Raises:
        ResourceError: no cluster answers at the address.
    """
    import ray

    target = address or os.environ.get("RAY_ADDRESS") or "local"
    before = dict(os.environ)
    local = {"num_cpus": cpus, "include_dashboard": False} if target == "local" else {}
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        ray.init(
            address=target,
            log_to_driver=False,
            logging_level=logging.ERROR,
            configure_logging=True,
            **local,
        )
    except (ConnectionError, RuntimeError) as error:
        raise ResourceError(
            f"no Ray cluster answers: {str(error).splitlines()[0]}",
            where=target,
            remedy="start one with `ray start --head`, or leave the address out to work locally",
        ) from None
    try:
        total = ray.cluster_resources()
        yield Cluster(target, total.get("CPU", 0.0), total.get("GPU", 0.0))
    finally:
        ray.shutdown()
        for name in set(os.environ) - set(before):
            del os.environ[name]
        os.environ.update(before)
