"""A training on a head that trains nothing and two nodes of one CPU, of which one is killed now and then."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from ray_head import Head
from ray_nodes import crash, start_node, wait_for_node

_BACK_S = 5.0  # from a node's death to the start of another
_DEAD_S = 30.0
_BEGIN_S = 120.0
CONFIG = """
name: nodes
data: {path: DATA}
model: {patch_size: 2, embed_dim: 128, depth: 6, num_heads: 4}
train: {epochs: 100000, global_batch: 64}
cluster: {workers: WORKERS, use_gpu: false}
"""


@dataclass
class Outcome:
    """``killed``: when nodes were; ``log``: what the command printed; ``code``: None if it ran to the end."""

    killed: list[float] = field(default_factory=list)
    log: str = ""
    code: int | None = None


def train_while_nodes_die(folder: Path, command: list[str], *, kills: int, every_s: float, **variables: str) -> Outcome:
    """Run a command that trains on the cluster (``RAY_ADDRESS``) and writes a ledger into ``folder/ledger``.

    A node is killed ``every_s``, and some seconds later another one comes.

    The first kill is half of that time after the first step, and the last one as much before the end.
    """
    ledger, log = folder / "ledger", folder / "log"
    ledger.mkdir()
    outcome = Outcome()
    head = Head(cpus=0)
    driver: subprocess.Popen[bytes] | None = None
    nodes: list[tuple[str, str, subprocess.Popen[bytes]]] = []  # name, address, process

    def bring(number: int) -> None:
        name, address = f"node-{number}", f"127.0.0.{number + 2}"
        nodes.append((name, address, start_node(head, name, address)))

    def keep() -> None:
        """On a machine that is very busy a node ends while it comes up: whoever brings nodes starts it again."""
        for at, (name, address, process) in enumerate(nodes):
            if process.poll() is not None:
                nodes[at] = (name, address, start_node(head, name, address))

    def wait(seconds: float) -> None:
        assert driver is not None
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            assert driver.poll() is None, log.read_text()
            keep()
            time.sleep(0.1)

    try:
        head.start()
        for number in range(2):
            bring(number)
            try:
                wait_for_node(head, *nodes[-1][1:])
            except AssertionError:
                keep()
                wait_for_node(head, *nodes[-1][1:])
        environment = head.environment(
            VITRAY_HOME=str(folder / "home"), VITRAY_TEST_LEDGER=str(ledger), RAY_ADDRESS=head.address, **variables
        )
        with log.open("wb") as file:
            driver = subprocess.Popen(
                [sys.executable, *command], cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=file,
                stderr=file, start_new_session=True,
            )  # fmt: skip
        until = time.monotonic() + _BEGIN_S
        while not any(ledger.iterdir()):
            wait(0.1)
            assert time.monotonic() < until, log.read_text()
        for kill in range(kills):
            wait(every_s / 2)
            name, _, process = nodes.pop(0)
            killed = time.monotonic()
            outcome.killed.append(time.time())
            assert crash(head, name) > 3  # raylet, agents and at least a rank
            assert process.wait(_DEAD_S)
            wait(_BACK_S)
            bring(2 + kill)
            wait(killed + every_s / 2 - time.monotonic())
        outcome.code = driver.poll()
        driver.send_signal(signal.SIGINT)
        driver.wait(90)
    finally:
        if driver is not None and driver.poll() is None:
            driver.kill()
            driver.wait()
        for name, _, _ in nodes:
            crash(head, name)
        left = head.stop()
    assert not left
    outcome.log = log.read_text()
    return outcome
