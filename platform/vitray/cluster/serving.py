"""Models on Ray Serve: replicas that hold them, and the way to ask them.

HTTP does not go through Serve's own proxy but through the process of the command (see ``inference/serving``). A call to
a replica costs one to four milliseconds of processor time on its two sides, more than a small model's forward pass; so
images are gathered before that call, and a batch pays it once. It also lets ``--host`` and ``--port`` mean the machine
where the command was typed, and leaves other applications of a cluster's Serve as they are.
"""

from __future__ import annotations

import asyncio
import io
import logging
import os
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass
from typing import Any

import grpc  # type: ignore[import-untyped]
import ray
from ray import serve
from ray.exceptions import RayError, RayTaskError
from ray.serve.exceptions import RayServeException
from ray.serve.schema import ApplicationStatus

from vitray.cluster.local import Cluster
from vitray.errors import ResourceError, VitrayError
from vitray.inference.serving.contract import Answer, Explained, Facts, Package

_NAMES = ("serve", "ray.serve")  # Serve's loggers
_QUIET = {"log_level": "ERROR", "enable_access_log": False}
_PLACED_S = 180.0  # for the replicas to be there
_BACK_S = 90.0  # for a replica to be there again after it died
_PING_S = 10.0
_LOST = (RayError, RayServeException, grpc.RpcError)  # all that tells of a process that is gone, and a few things more


@dataclass(frozen=True)
class Replicas:
    """How many, and what each may use: ``threads`` CPUs, and a GPU if ``device`` is ``cuda``."""

    count: int = 1
    device: str = "cpu"
    threads: int = 1
    max_batch: int = 32


def threads_for(cluster: Cluster, replicas: int) -> int:
    """All CPUs of a machine of our own; on a cluster that others use too, four at most for each replica."""
    share = max(1, int(cluster.cpus // replicas))
    return min(share, max(1, int(cluster.node_cpus))) if cluster.local else min(4, share)


class Replica:
    """An actor with models. What it raises for users is returned: Ray would wrap it."""

    def __init__(self, replicas: Replicas) -> None:
        import torch

        from vitray.inference.serving.shelf import Shelf

        torch.set_num_threads(replicas.threads)
        self._shelf = Shelf(replicas.device, replicas.max_batch)

    async def load(self, key: str, package: Sequence[Any]) -> Facts | VitrayError:
        """``package``: a reference to its files, in a list, since Ray would fetch what is an argument itself."""
        try:
            return await asyncio.to_thread(self._shelf.load, key, await package[0])
        except VitrayError as error:
            return error

    async def predict(self, key: str, images: Sequence[bytes], top_k: int) -> list[Answer] | None:
        """None: this version is not here."""
        # Not in a thread: replicas have one model's work at a time, and Serve's own loop is another one.
        return self._shelf.predict(key, images, top_k) if key in self._shelf else None

    async def explain(self, key: str, image: bytes, top_k: int) -> Explained | VitrayError | None:
        try:
            return self._shelf.explain(key, image, top_k) if key in self._shelf else None
        except VitrayError as error:
            return error

    async def process(self) -> int:
        """Its process id."""
        return os.getpid()


class ServeBackend:
    """Asks the replicas, see :class:`vitray.inference.serving.contract.Backend`.

    A replica that died is started again by Serve. Who asked it waits for that and asks once more.
    """

    def __init__(self, handle: Any, count: int) -> None:
        self._handle, self._count = handle, count
        # Straight from process to process, a third of the cost of a call through Ray's object store. It cannot carry
        # references. The replica's port for it asks for Ray's token, which a local Ray always has.
        self._direct = handle.options(_by_reference=False)
        self._packages: dict[str, Any] = {}  # the bytes stay in Ray's object store as long as these references do
        self._reviving: asyncio.Task[None] | None = None

    async def load(self, key: str, package: Package) -> Facts:
        kept = [await asyncio.to_thread(ray.put, dict(package))]
        # Serve sends these to the replicas in turn. One that was left out loads when it is first asked.
        said = await asyncio.gather(*(self._ask(self._handle, "load", key, kept) for _ in range(self._count)))
        for facts in said:
            if isinstance(facts, VitrayError):
                raise facts
        self._packages[key] = kept
        loaded: Facts = said[0]
        return loaded

    async def predict(self, key: str, images: Sequence[bytes], top_k: int) -> list[Answer]:
        answers: list[Answer] = await self._ask_loaded("predict", key, list(images), top_k)
        return answers

    async def explain(self, key: str, image: bytes, top_k: int) -> Explained:
        explained: Explained = await self._ask_loaded("explain", key, image, top_k)
        return explained

    def drop(self, key: str) -> None:
        self._packages.pop(key, None)

    async def absent(self) -> str | None:
        if self._reviving is not None and not self._reviving.done():
            return "a replica died and is being started again"
        try:
            async with asyncio.timeout(_PING_S):
                await self._direct.process.remote()
        except TimeoutError:
            return f"no replica answered within {_PING_S:.0f} s"
        except _LOST:
            self._revive()
            return "a replica died and is being started again"
        return None

    async def _ask_loaded(self, method: str, key: str, *arguments: Any) -> Any:
        """``method`` of a replica that has the version; one that has not loads it first."""
        for _ in range(1 + 2 * self._count):
            said = await self._ask(self._direct, method, key, *arguments)
            if isinstance(said, VitrayError):
                raise said
            if said is not None:
                return said
            if isinstance(said := await self._ask(self._handle, "load", key, self._packages[key]), VitrayError):
                raise said
        raise VitrayError("no replica keeps this version", remedy="try again in a moment")

    async def _ask(self, handle: Any, method: str, *arguments: Any) -> Any:
        for last in (False, False, True):
            try:
                return await getattr(handle, method).remote(*arguments)
            except _LOST as error:
                if isinstance(error, RayTaskError):
                    raise _failed(error) from error
                if last:
                    raise _gone(error) from error
                await asyncio.shield(self._revive())
            except Exception as error:  # what the replica's own code raised, as it was
                raise _failed(error) from error
        raise AssertionError

    def _revive(self) -> asyncio.Task[None]:
        if self._reviving is None or self._reviving.done():
            self._reviving = asyncio.create_task(self._until_back())
        return self._reviving

    async def _until_back(self) -> None:
        """Wait until a replica answers again, with everything loaded that is asked for."""
        deadline = time.monotonic() + _BACK_S
        while True:
            try:
                async with asyncio.timeout_at(asyncio.get_running_loop().time() + _BACK_S):
                    for key, kept in tuple(self._packages.items()):
                        await self._handle.load.remote(key, kept)
                    await self._handle.process.remote()
                return
            except (*_LOST, TimeoutError) as error:
                if time.monotonic() > deadline:
                    raise _gone(error) from error
                await asyncio.sleep(0.3)


def _failed(error: Exception) -> VitrayError:
    reason = (str(error).strip().splitlines() or [""])[-1][:300]
    return VitrayError(f"a replica failed: {type(error).__name__}: {reason}", remedy="see Ray's logs of it")


def _gone(error: Exception) -> VitrayError:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
    return VitrayError(f"no replica answers: {reason}", remedy="see `ray status` and the memory of the machine")


@contextmanager
def deployed(cluster: Cluster, replicas: Replicas, port: int) -> Iterator[ServeBackend]:
    """Replicas on the connected Ray, until the block ends. What else its Serve does is left alone.

    Args:
        port: of the server that asks them; with the machine's name it names the application, so that what a killed
            command left on a cluster is replaced by its next start.

    Raises:
        ResourceError: the cluster has not what they need, or nothing of it is free.
        VitrayError: a replica does not start.
    """
    _check_room(cluster, replicas)
    name = f"vitray-{socket.gethostname()}-{port}"
    for logger in _NAMES:
        logging.getLogger(logger).setLevel(logging.ERROR)
    # Without a proxy: see above. On a cluster whose Serve runs already, this changes nothing.
    serve.start(proxy_location="Disabled", logging_config=_QUIET)
    try:
        yield ServeBackend(_run(name, replicas), replicas.count)
    finally:
        if not cluster.local:  # a local Serve ends with its Ray
            _leave(name)


def _leave(name: str) -> None:
    """Take the application off a cluster, and Serve too where it had no other."""
    # The end of Serve's controller ends calls to it that wait for news, which Ray reports as failed on stdout.
    with redirect_stdout(io.StringIO()), suppress(Exception):  # the cluster may be gone
        serve.delete(name)
        if not serve.status().applications:
            serve.shutdown()
            time.sleep(0.5)


def _run(name: str, replicas: Replicas) -> Any:
    gpus = 1 if replicas.device == "cuda" else 0
    deployment = serve.deployment(
        Replica,
        name="model",
        num_replicas=replicas.count,
        ray_actor_options={"num_cpus": replicas.threads, "num_gpus": gpus},
        max_ongoing_requests=100,  # the batcher holds back more than this ever would
        graceful_shutdown_timeout_s=5,
        health_check_period_s=2,  # a dead replica is noticed so
        logging_config=_QUIET,
    )
    target = serve.RunTarget(target=deployment.bind(replicas), name=name, route_prefix=None)
    (handle,) = serve.run_many([target], wait_for_applications_running=False)
    deadline = time.monotonic() + _PLACED_S
    while (said := serve.status().applications[name]).status != ApplicationStatus.RUNNING:
        if said.status in (ApplicationStatus.DEPLOY_FAILED, ApplicationStatus.UNHEALTHY):
            reason = "; ".join(d.message for d in said.deployments.values()) or said.message
            raise VitrayError(f"the replicas do not start: {reason.strip()[:500]}", remedy="see Ray's logs")
        if time.monotonic() > deadline:
            what = f"no room for {replicas.count} x {replicas.threads} CPUs within {_PLACED_S:.0f} s"
            raise ResourceError(
                what, remedy="wait until others are done (`ray status`), or lower --replicas, --threads"
            )
        time.sleep(0.1)
    return handle


def _check_room(cluster: Cluster, replicas: Replicas) -> None:
    needs = f"{replicas.count} x {replicas.threads} CPUs"
    if replicas.threads > cluster.node_cpus or replicas.count * replicas.threads > cluster.cpus:
        has = f"{cluster.cpus:g}, {cluster.node_cpus:g} at most on one machine"
        raise ResourceError(f"{needs} are wanted; the CPUs there are: {has}", remedy="lower --replicas or --threads")
    if replicas.device == "cuda" and replicas.count > cluster.gpus:
        what = f"{replicas.count} GPUs are wanted, there are {cluster.gpus:g}"
        raise ResourceError(what, remedy="lower --replicas, or leave out --device cuda")
