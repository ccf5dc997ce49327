"""Nodes that join a real head, emulated on its machine, and what can happen to them."""

from __future__ import annotations

import contextlib
import subprocess
import time

import psutil
from ray_head import NODE, Head, free_port

from vitray.cluster.job_client import Dashboard

_START_S = 60.0


def start_node(head: Head, name: str, address: str, *, cpus: int = 1, **more: str) -> subprocess.Popen[bytes]:
    """A node as ``docker/compose.yaml`` starts it.

    ``address``: one of its own (127.0.0.2, ...), else drivers would take it for theirs; ``more``: its variables.
    """
    command = ["ray", "start", "--address", head.address, "--block", "--num-cpus", str(cpus), "--num-gpus", "0"]
    # Nodes that share a folder delete each other's working directories, of jobs that run in them too.
    command += ["--node-ip-address", address, "--temp-dir", str(head.folder / name)]
    command += ["--object-store-memory", str(100 * 2**20), "--dashboard-agent-listen-port", str(free_port())]
    with (head.folder / f"{name}.log").open("ab") as log:
        environment = head.environment(**{NODE: name, **more})
        return subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)


def processes_of(head: Head, name: str) -> list[psutil.Process]:
    """Of a node: its raylet, agents, and all workers."""
    found = []
    for process in head.processes():
        with contextlib.suppress(psutil.Error):
            if process.environ().get(NODE) == name:
                found.append(process)
    return found


def crash(head: Head, name: str) -> int:
    """The node's power fails: all its processes are gone at once. Returns how many there were."""
    processes = processes_of(head, name)
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    return len(processes)


def addresses(head: Head) -> set[str]:
    """Of the nodes that the head takes for alive."""
    summary = Dashboard(head.url, head.token).get("/nodes", view="summary")["data"]["summary"]
    raylets = [node.get("raylet", {}) for node in summary]
    return {raylet["nodeManagerAddress"] for raylet in raylets if raylet.get("state") == "ALIVE"}


def wait_for_node(head: Head, address: str, process: subprocess.Popen[bytes]) -> None:
    """Until the head knows it. Nodes of one machine that start at the same time get in each other's way."""
    until = time.monotonic() + _START_S
    while address not in addresses(head):
        assert process.poll() is None, f"the node at {address} has ended"
        assert time.monotonic() < until, f"the node at {address} does not come up"
        time.sleep(0.2)
