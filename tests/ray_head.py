"""A real Ray head beside the tests: own folder, own ports, on loopback, with a token; and proof that it is gone."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import yaml
from processes import kill_all

ROOT = Path(__file__).parents[1]
CPUS = 3  # what no local Ray of a two-core test machine would have by itself
_MARK = "VITRAY_TEST_HEAD"
NODE = "VITRAY_TEST_NODE"  # the name of a node that joined it (ray_nodes.py), in all of its processes
_START_S = 90.0
_STOP_S = 40.0
_COMPOSE = yaml.safe_load((ROOT / "docker" / "compose.yaml").read_text())
_HEALTH: str = _COMPOSE["services"]["ray-head"]["healthcheck"]["test"][-1]


def _of_another_node(process: psutil.Process) -> bool:
    try:
        return NODE in process.environ()
    except psutil.Error:
        return True


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Head:
    """``ray start --head --block`` in a session of its own. All its processes carry a mark in their environment."""

    port: int = field(default_factory=free_port)
    dashboard_port: int = field(default_factory=free_port)
    agent_port: int = field(default_factory=free_port)
    token: str = field(default_factory=lambda: secrets.token_hex(32))
    mark: str = field(default_factory=lambda: secrets.token_hex(8))
    cpus: int = CPUS
    # Not below pytest's folder: Ray's sockets have names of 60 characters, and the whole path may have 107.
    folder: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="vitray-head-")))
    process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.dashboard_port}"

    @property
    def auth(self) -> dict[str, str]:
        """What a process needs to be let in. Only ever for sub-processes: Ray keeps a token it has once read."""
        return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": self.token}

    def environment(self, **more: str) -> dict[str, str]:
        """This process's environment without Ray's and vitray's variables, with the head's mark and token."""
        ours = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "VITRAY_", "MLFLOW_"))}
        path = f"{Path(sys.executable).parent}{os.pathsep}{ours.get('PATH', '')}"
        return {**ours, "PATH": path, _MARK: self.mark, **self.auth, **more}

    def start(self) -> None:
        """Start it and wait until it is healthy; on a machine that is very busy, in a second attempt."""
        if not (self._start() or self._start()):
            raise AssertionError((self.folder / "head.log").read_text())

    def _start(self) -> bool:
        """False when it ended again: the whole head does if one of its parts has waited for another for 30 s."""
        ports = {
            "--port": self.port,
            "--dashboard-port": self.dashboard_port,
            "--dashboard-agent-listen-port": self.agent_port,
            "--ray-client-server-port": free_port(),
        }
        command = ["ray", "start", "--head", "--block", "--dashboard-host", "127.0.0.1"]
        command += ["--temp-dir", str(self.folder / "ray"), "--num-cpus", str(self.cpus)]
        command += ["--num-gpus", "0", "--object-store-memory", str(200 * 2**20), "--disable-usage-stats"]
        drain = {"RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0"}  # nobody's work is worth the wait
        command += [word for flag, port in ports.items() for word in (flag, str(port))]
        with (self.folder / "head.log").open("wb") as log:
            self.process = subprocess.Popen(
                command, cwd=ROOT, env=self.environment(**drain), stdout=log, stderr=log, start_new_session=True
            )
        deadline = time.monotonic() + _START_S
        while time.monotonic() < deadline and self.process.poll() is None:
            if (self.folder / "ray" / "ray_current_cluster").is_file() and self.healthy():  # the last that it writes
                return True
            time.sleep(0.2)
        self._end()
        return False

    def healthy(self) -> bool:
        """What the head's health check in docker/compose.yaml says, asked without a token."""
        code = _HEALTH.replace(":8265/", f":{self.dashboard_port}/").replace(":52365/", f":{self.agent_port}/")
        return subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0

    def processes(self) -> list[psutil.Process]:
        """Every process that was started by the head, its jobs or whoever got its environment."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get(_MARK) == self.mark:
                    found.append(process)
        return found

    def run(self, *command: str, timeout: float = 120, **more: str) -> subprocess.CompletedProcess[str]:
        """A command as a person on this machine would run it, with the token; ``more`` are environment variables."""
        return subprocess.run(
            command,
            cwd=ROOT,
            env=self.environment(**more),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout,
            check=False,
        )

    def crash(self) -> int:
        """Its power fails, with its jobs' and all that they started; other nodes are left. Returns how many ended."""
        processes = [process for process in self.processes() if not _of_another_node(process)]
        kill_all(processes)
        psutil.wait_procs(processes, timeout=10)
        if self.process is not None:
            self.process.wait(10)
        shutil.rmtree(self.folder / "ray", ignore_errors=True)  # it was in the memory of a container
        return len(processes)

    def stop(self) -> list[str]:
        """End it as a container's stop would. Returns the processes that outlived it (and are then killed)."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(_STOP_S)
        left = self._end()
        shutil.rmtree(self.folder, ignore_errors=True)
        return left

    def _end(self) -> list[str]:
        """Kill what does not end by itself, and name it."""
        _, left = psutil.wait_procs(self.processes(), timeout=10)
        kill_all(left)
        return [str(process) for process in left]
