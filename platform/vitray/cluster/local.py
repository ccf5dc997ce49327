"""A Ray to work on: the cluster that was named, or a local one that starts and stops with the command."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitray.cluster.address import check_answers, named_address
from vitray.errors import ResourceError, VitrayError
from vitray.train.resources import Room

_QUOTA = Path("/sys/fs/cgroup/cpu.max")
_NVIDIA = Path("/proc/driver/nvidia/gpus")


@dataclass(frozen=True)
class Cluster:
    """What the connected Ray has."""

    address: str
    cpus: float
    gpus: float
    node_cpus: float  # of the largest node: what one rank can use at most

    @property
    def room(self) -> Room:
        """What :func:`vitray.train.resources.plan_groups` wants to know."""
        return {"cpus": self.cpus, "gpus": self.gpus, "node_cpus": self.node_cpus}

    @property
    def local(self) -> bool:
        return self.address == "local"


@contextmanager
def connect(address: str | None = None) -> Iterator[Cluster]:
    """Join ``address`` (or ``RAY_ADDRESS``), else start a local Ray, and leave it again.

    A local Ray is always a new one of this command's own, never one that happens to run; it ends with the block. A
    cluster that was joined goes on. Environment variables that Ray sets in this process are put back.

    Raises:
        ResourceError: no cluster answers at the address, or it refuses this process.
        VitrayError: the local Ray did not start.
    """
    target = named_address(address)
    if target is not None:
        check_answers(target)
    import ray

    if ray.is_initialized():
        raise ResourceError(
            "this process is connected to a Ray already",
            where=ray.get_runtime_context().gcs_address,
            remedy="call ray.shutdown() first",
        )
    with _environment_put_back():
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        # Mailboxes and controllers take no CPU, so more processes than CPUs start, and Ray would warn of each dozen.
        os.environ.setdefault("RAY_worker_maximum_startup_concurrency", "16")
        # OpenMP threads that wait spin, by default for milliseconds. Ranks share the cores with data tasks here, and
        # two spinning threads on busy cores trained ten times slower; a short spin costs a tenth on idle cores.
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")
        try:
            _start_or_join(target)
            total = ray.cluster_resources()
            largest = max((node["Resources"].get("CPU", 0.0) for node in ray.nodes() if node["Alive"]), default=0.0)
            yield Cluster(target or "local", total.get("CPU", 0.0), total.get("GPU", 0.0), largest)
        finally:
            ray.shutdown()  # ends a local Ray; only leaves a cluster that was joined


def _start_or_join(target: str | None) -> None:
    import ray

    local: dict[str, Any] = {}
    if target is None:
        local = {"num_cpus": Machine.here().cpus, "include_dashboard": False}
        if _visible_gpus() == []:
            local["num_gpus"] = 0  # Ray would take the usual CUDA_VISIBLE_DEVICES=-1 for one GPU
    try:
        # "local", not None: that would join whatever cluster was started last on this machine.
        ray.init(address=target or "local", log_to_driver=False, logging_level=logging.ERROR, **local)
    except Exception as error:  # Ray has no common family for what goes wrong here
        reason = (str(error).strip() or repr(error)).splitlines()[0]
        if target is None:
            remedy = "see the logs in /tmp/ray/session_latest/logs; is there room in /tmp and /dev/shm?"
            raise VitrayError(f"the local Ray did not start: {reason}", remedy=remedy) from error
        raise ResourceError(
            f"cannot join the Ray cluster: {reason}",
            where=target,
            remedy="run this on a machine of the cluster, or submit it: ray job submit -- python jobs/train.py CONFIG",
        ) from error


@contextmanager
def _environment_put_back() -> Iterator[None]:
    before = dict(os.environ)
    try:
        yield
    finally:
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
        quota, period = _QUOTA.read_text().split()
        return int(quota) // int(period)
    except (OSError, ValueError):  # no such file, or "max": no quota
        return os.cpu_count() or 1


def _gpus() -> int:
    """GPUs that there are and that this process may see."""
    present, visible = len(list(_NVIDIA.glob("*"))), _visible_gpus()
    return present if visible is None else min(present, len(visible))


def _visible_gpus() -> list[str] | None:
    """What CUDA_VISIBLE_DEVICES leaves; None when it is not set."""
    names = os.environ.get("CUDA_VISIBLE_DEVICES")
    return None if names is None else [name for name in names.split(",") if name.strip() not in ("", "-1")]
