"""A Ray to work on: the cluster that was named, or a local one that starts and stops with the command."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

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
def connect(address: str | None = None) -> Iterator[Cluster]:
    """Join ``address`` (or ``RAY_ADDRESS``), else start a local Ray, and leave it again.

    A local Ray is always a new one of this command's own, never one that happens to run. Environment variables that
    Ray sets in this process are put back.

    Raises:
        ResourceError: no cluster answers at the address.
    """
    import ray

    target = address or os.environ.get("RAY_ADDRESS") or "local"
    before = dict(os.environ)
    local = {"num_cpus": Machine.here().cpus, "include_dashboard": False} if target == "local" else {}
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    # Mailboxes and controllers take no CPU, so more processes than CPUs start, and Ray would warn of each dozen.
    os.environ.setdefault("RAY_worker_maximum_startup_concurrency", "16")
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


@dataclass(frozen=True)
class Machine:
    """What a local Ray would have; known without importing Ray."""

    cpus: int
    gpus: int

    @classmethod
    def here(cls) -> Machine:
        return cls(max(1, min(len(os.sched_getaffinity(0)), _cgroup_cpus())), _gpus())


def _cgroup_cpus() -> int:
    """CPUs that a container's quota allows (cgroup v2); without one, as many as there are."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return int(quota) // int(period)
    except (OSError, ValueError):  # no such file, or "max": no quota
        return os.cpu_count() or 1


def _gpus() -> int:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([device for device in visible.split(",") if device.strip() not in ("", "-1")])
    return len(list(Path("/proc/driver/nvidia/gpus").glob("*")))
