"""The servers that serving.py compares, each a process of its own, and the clients that ask them."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import psutil
from harness import say

_MARK = "VITRAY_BENCH_ARM"
_START_S = 180.0


@dataclass(frozen=True)
class Arm:
    """A server: how it is started (``{port}`` stands for its port), where it answers, and what an image is to it."""

    name: str
    command: tuple[str, ...]
    ready: str
    route: str
    json: bool = False
    environment: Mapping[str, str] = field(default_factory=dict)

    def body(self, image: bytes) -> tuple[bytes, str]:
        """A request's body and content type."""
        if not self.json:
            return image, "image/png" if image.startswith(b"\x89PNG") else "image/jpeg"
        row = {"image": base64.b64encode(image).decode()}
        return json.dumps({"dataframe_records": [row]}).encode(), "application/json"


@dataclass
class Measured:
    """Of one arm and number of clients: requests/s, latencies in ms, and ms of processor time a request."""

    rate: float
    p50: float
    p99: float
    server_ms: float
    client_ms: float


class Server:
    """A running arm."""

    def __init__(self, arm: Arm, port: int, process: subprocess.Popen[bytes]) -> None:
        self.arm, self.url, self._process = arm, f"http://127.0.0.1:{port}", process

    def measure(self, images: list[bytes], clients: int, seconds: float) -> Measured:
        """Clients that ask one image at a time, each as soon as it has its answer."""
        bodies = [self.arm.body(image) for image in images]
        return asyncio.run(self._measure(bodies, clients, seconds))

    async def _measure(self, bodies: list[tuple[bytes, str]], clients: int, seconds: float) -> Measured:
        taken: list[float] = []

        async def client(number: int, end: float, kept: list[float]) -> None:
            while (begin := time.perf_counter()) < end:
                body, kind = bodies[(number + len(kept)) % len(bodies)]
                async with session.post(self.url + self.arm.route, data=body, headers={"Content-Type": kind}) as said:
                    answer = await said.read()
                    assert said.status == 200, answer
                    assert b'"label"' in answer, answer
                kept.append(time.perf_counter() - begin)

        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            warm: list[float] = []
            end = time.perf_counter() + min(1.0, seconds)
            await asyncio.gather(*(client(i, end, warm) for i in range(clients)))
            server, own, begin = self._cpu_s(), time.process_time(), time.perf_counter()
            await asyncio.gather(*(client(i, begin + seconds, taken) for i in range(clients)))
            wall = time.perf_counter() - begin
            server, own = self._cpu_s() - server, time.process_time() - own
        taken.sort()
        count = len(taken)
        return Measured(
            rate=count / wall,
            p50=1e3 * taken[count // 2],
            p99=1e3 * taken[min(count - 1, int(0.99 * count))],
            server_ms=1e3 * server / count,
            client_ms=1e3 * own / count,
        )

    def processes(self) -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get(_MARK) == self.arm.name:
                    found.append(process)
        return found

    def _cpu_s(self) -> float:
        total = 0.0
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                times = process.cpu_times()
                total += times.user + times.system
        return total

    def stop(self) -> None:
        self._process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(30)
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                process.kill()
        self._process.wait()


@contextmanager
def running(arm: Arm, folder: Path) -> Iterator[Server]:
    """Start an arm and wait until it answers."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [word.replace("{port}", str(port)) for word in arm.command]
    # Programs of this environment by name, as in an activated one: mlflow calls uvicorn so.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, _MARK: arm.name, **arm.environment}
    log = folder / f"{arm.name}.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=out, stderr=out, start_new_session=True
        )
    server = Server(arm, port, process)
    try:
        asyncio.run(_until_ready(server, log))
        say(f"{arm.name} answers at {server.url}")
        yield server
    finally:
        server.stop()


async def _until_ready(server: Server, log: Path) -> None:
    deadline = time.monotonic() + _START_S
    async with aiohttp.ClientSession() as session:
        while True:
            assert time.monotonic() < deadline, log.read_text()[-3000:]
            assert server._process.poll() is None, log.read_text()[-3000:]
            with contextlib.suppress(aiohttp.ClientError):
                async with session.get(server.url + server.arm.ready) as said:
                    if said.status == 200:
                        return
            await asyncio.sleep(0.2)
