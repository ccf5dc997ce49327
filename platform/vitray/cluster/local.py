"""A Ray to work on: the cluster that was named, or a local one that starts and stops with the command."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

from vitray.cluster.address import check_answers, named_address
from vitray.cluster.growth import grown
from vitray.cluster.machine import Machine, gpu_memory, visible_gpus
from vitray.cluster.token import prepare_token, tighten
from vitray.errors import ResourceError, VitrayError
from vitray.train.resources import Room


@dataclass(frozen=True)
class Cluster:
    """What the connected Ray has."""

    address: str
    cpus: float
    gpus: float
    node_cpus: float  # of the largest node: what one rank can use at most
    node_memory: float | None = None  # bytes, likewise
    gpu_memory: float | None = None  # bytes of a GPU

    @property
    def room(self) -> Room:
        """What :func:`vitray.train.resources.plan_groups` wants to know; with what an autoscaler may add."""
        room: Room = {
            "cpus": self.cpus,
            "gpus": self.gpus,
            "node_cpus": self.node_cpus,
            "node_memory": self.node_memory,
            "gpu_memory": self.gpu_memory,
        }
        return room if self.local else grown(room)

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
    from ray._private import auto_init_hook

    # Threads that outlive their Ray (a stream that was broken off, Serve's) would else start another, and stay in it.
    auto_init_hook.enable_auto_connect = False
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
        # Ray ends a worker that is idle for a second while there are more workers than CPUs, as there always are. The
        # data tasks of a stream that is ahead come in bursts, and each burst then waited for a new Python (2 CPU-s).
        os.environ.setdefault("RAY_idle_worker_killing_time_threshold_ms", "60000")
        # OpenMP threads that wait spin, by default for milliseconds. Ranks share the cores with data tasks here, and
        # two spinning threads on busy cores trained ten times slower; a short spin costs a tenth on idle cores.
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")
        try:
            _start_or_join(target)
            total = ray.cluster_resources()
            nodes = [node for node in ray.nodes() if node["Alive"]]
            yield Cluster(
                target or "local",
                total.get("CPU", 0.0),
                total.get("GPU", 0.0),
                node_cpus=max((node["Resources"].get("CPU", 0.0) for node in nodes), default=0.0),
                node_memory=max(map(_memory_of, nodes), default=None),
                gpu_memory=_gpu_memory(nodes),
            )
        finally:
            ray.shutdown()  # ends a local Ray; only leaves a cluster that was joined


class _ImportedFromHere(list[str]):
    """What Ray adds to the workers' module path: of that, what is on the path of this process too.

    Ray adds the current folder. It is a folder of images perhaps, from somebody else, and a ``pyarrow.py`` in it would
    be run by every worker, before the package of that name.
    """

    def extend(self, paths: Iterable[str]) -> None:
        known = {os.path.realpath(path) for path in sys.path}  # "" is the current folder
        super().extend(path for path in paths if os.path.realpath(path) in known)


def _start_or_join(target: str | None) -> None:
    import ray
    from ray.job_config import JobConfig

    config = JobConfig()
    config._py_driver_sys_path = _ImportedFromHere()
    local: dict[str, Any] = {}
    if target is None:
        local = {"num_cpus": Machine.here().cpus, "include_dashboard": False}
        if visible_gpus() == []:
            local["num_gpus"] = 0  # Ray would take the usual CUDA_VISIBLE_DEVICES=-1 for one GPU
        prepare_token()
    else:
        tighten()
        if target == "auto":
            check_answers(_found_here())
    try:
        with _without_dumps(), _on_loopback() if target is None else nullcontext():
            # "local", not None: that would join whatever cluster was started last on this machine.
            ray.init(
                address=target or "local",
                log_to_driver=False,
                logging_level=logging.ERROR,
                job_config=config,
                **local,
            )
    except Exception as error:  # Ray has no common family for what goes wrong here
        reason = (str(error).strip() or repr(error)).splitlines()[0]
        if target is None:
            remedy = "see the logs in /tmp/ray/session_latest/logs; is there room in /tmp and /dev/shm?"
            raise VitrayError(f"the local Ray did not start: {reason}", remedy=remedy) from error
        raise ResourceError(
            f"cannot join the Ray cluster: {reason}",
            where=target,
            remedy="run this on a machine of the cluster, or submit it: vitray jobs submit",
        ) from error


@contextmanager
def _without_dumps() -> Iterator[None]:
    """A Ray that is joined inside prints nothing by itself, whatever ``log_to_driver`` says of it.

    Of a node that dies it would print its scheduler's state, in dozens of lines and on stdout, which is for results.
    What such a loss means for a run, we say.
    """
    from ray._private import worker

    before, worker.listen_error_messages = worker.listen_error_messages, lambda *_: None
    try:
        yield
    finally:
        worker.listen_error_messages = before


@contextmanager
def _on_loopback() -> Iterator[None]:
    """All ports of a Ray that is started inside are on 127.0.0.1, as on a Mac or Windows, where firewalls would ask.

    Ray has no argument for that: it replaces a loopback address which it is given by one that others can reach.
    """
    from ray._private import ray_constants

    before, ray_constants.ENABLE_RAY_CLUSTER = ray_constants.ENABLE_RAY_CLUSTER, False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


def _found_here() -> str:
    """The cluster that ``auto`` means: the one whose processes run on this machine."""
    from ray._private.services import canonicalize_bootstrap_address_or_die

    try:
        return str(canonicalize_bootstrap_address_or_die("auto"))
    except ConnectionError as error:
        remedy = "give its HOST:PORT, or leave the address out to work on a local Ray"
        raise ResourceError(str(error).split(". ")[0], where="auto", remedy=remedy) from None


def _memory_of(node: dict[str, Any]) -> float:
    """Bytes of a node: Ray counts its object store apart."""
    return float(sum(node["Resources"].get(name, 0.0) for name in ("memory", "object_store_memory")))


def _gpu_memory(nodes: list[dict[str, Any]]) -> float | None:
    """Bytes of a GPU, asked on one of the nodes that have any."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    node = next((node["NodeID"] for node in nodes if node["Resources"].get("GPU", 0.0)), None)
    if node is None:
        return None
    there = NodeAffinitySchedulingStrategy(node, soft=False)
    said: float | None = ray.get(ray.remote(num_cpus=0, scheduling_strategy=there)(gpu_memory).remote())
    return said


@contextmanager
def _environment_put_back() -> Iterator[None]:
    before = dict(os.environ)
    try:
        yield
    finally:
        for name in set(os.environ) - set(before):
            del os.environ[name]
        os.environ.update(before)
