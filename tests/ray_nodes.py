"""Nodes that join a real head, emulated on its machine, and what can happen to them."""

from __future__ import annotations

import contextlib
import subprocess

import psutil
from ray_head import Head, free_port

_NODE = "VITRAY_TEST_NODE"


def start_node(head: Head, name: str, address: str, *, cpus: int = 1, **more: str) -> subprocess.Popen[bytes]:
    """A node as ``docker/compose.yaml`` starts it.

    ``address``: one of its own (127.0.0.2, ...), else drivers would take it for theirs; ``more``: its variables.
    """
    command = ["ray", "start", "--address", head.address, "--block", "--num-cpus", str(cpus), "--num-gpus", "0"]
    command += ["--node-ip-address", address]
    command += ["--object-store-memory", str(100 * 2**20), "--dashboard-agent-listen-port", str(free_port())]
    with (head.folder / f"{name}.log").open("ab") as log:
        environment = head.environment(**{_NODE: name, **more})
        return subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)


def processes_of(head: Head, name: str) -> list[psutil.Process]:
    """Of a node: its raylet, agents, and all workers."""
    found = []
    for process in head.processes():
        with contextlib.suppress(psutil.Error):
            if process.environ().get(_NODE) == name:
                found.append(process)
    return found


def crash(head: Head, name: str) -> int:
    """The node's power fails: all its processes are gone at once. Returns how many there were."""
    processes = processes_of(head, name)
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    return len(processes)
