"""Row 14: a notice that a node goes in 30 seconds: what was done is committed before, and nothing is done twice."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from disturbed import spread
from injections import record
from ledger import Ledger, missing_and_doubled
from ray_head import Head
from ray_nodes import crash, processes_of, start_node, wait_for_node

from vitray.data import ShardedImages
from vitray.train.checkpoint_names import COMMIT
from vitray.train.whereabouts import EVALUATING, SAVING, STARTING, STEP

pytestmark = [pytest.mark.ray, pytest.mark.faults, pytest.mark.timeout(1500)]
_DEADLINE_S = 30.0
_CONFIG = """
name: noticed
data: {path: DATA}
model: {patch_size: 4, embed_dim: 32, depth: 2, num_heads: 2}
train: {epochs: 100000, global_batch: 64, keep_last: 100000}
cluster: {workers: 2, use_gpu: false, threads: 1}
"""
_ROWS, _STEPS = 1258, 20  # of an epoch
_SLOW = "slow steps"
_MOMENTS = [STEP, STEP, STEP, EVALUATING, EVALUATING, SAVING, SAVING, STARTING, _SLOW, STEP]


@dataclass
class Notice:
    """A node's: in which moment it came; when the next step was begun, and when the checkpoint before was committed."""

    moment: str
    node: str
    at: float
    step: int = 0  # the last before
    next_s: float = 0.0
    committed_s: float | None = None


@dataclass
class Nodes:
    """Two of two CPUs, of which one can hold both ranks; another comes for each that goes."""

    head: Head
    names: list[str] = field(default_factory=list)
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    started: int = 0

    def bring(self) -> None:
        """Another node; a machine that is very busy may take two attempts."""
        for last in (False, True):
            try:
                self._bring()
            except AssertionError:
                if last:
                    raise
            else:
                return

    def _bring(self) -> None:
        number = self.started = self.started + 1
        name, address = f"spot-{number}", f"127.0.0.{number + 1}"
        self.processes[name] = start_node(self.head, name, address, cpus=2)
        wait_for_node(self.head, address, self.processes[name])
        self.names.append(name)

    def with_ranks(self) -> str:
        """A node that has some."""
        while True:
            for name in self.names:
                if any("RayTrainWorker" in (p.cmdline() or [""])[0] for p in processes_of(self.head, name)):
                    return name
            time.sleep(0.05)

    def notice(self, name: str) -> float:
        """As a spot machine gets it; Ray makes it a drain of 30 seconds. Then it is gone, whatever runs there."""
        at = time.time()
        self.processes[name].send_signal(signal.SIGTERM)
        self.names.remove(name)
        return at

    def gone(self, name: str, at: float) -> None:
        while self.processes[name].poll() is None and time.time() < at + _DEADLINE_S:
            time.sleep(0.1)
        crash(self.head, name)
        self.processes[name].wait()


def test_ten_notices_lose_no_step(tmp_path: Path, digits: Path) -> None:
    begun = time.monotonic()
    (tmp_path / "c.yaml").write_text(_CONFIG.replace("DATA", str(digits)))
    ledger, log = tmp_path / "ledger", tmp_path / "log"
    ledger.mkdir()
    head, rng = Head(cpus=0), random.Random(14)
    nodes = Nodes(head)
    notices: list[Notice] = []
    driver: subprocess.Popen[bytes] | None = None

    def wait(condition: Callable[[], object]) -> None:
        assert driver is not None
        while not condition():
            assert driver.poll() is None, log.read_text()
            time.sleep(0.02)

    def doing() -> str:
        newest = max(ledger.glob("*.doing"), default=None)
        return newest.read_text() if newest is not None else ""

    def give(moment: str) -> Notice:
        slow = ledger / f"slow {STEP if moment == _SLOW else moment}"
        if moment in (STEP, STARTING):
            time.sleep(rng.uniform(0.0, 1.0))
        else:
            slow.touch()
            wait(lambda: doing() == (STEP if moment == _SLOW else moment))
        node = nodes.with_ranks()
        given = Notice(moment, node, nodes.notice(node), Ledger(ledger).steps)
        if moment != _SLOW:
            slow.unlink(missing_ok=True)
        return given

    try:
        head.start()
        nodes.bring()
        nodes.bring()
        environment = head.environment(
            VITRAY_HOME=str(tmp_path / "home"), VITRAY_TEST_LEDGER=str(ledger), RAY_ADDRESS=head.address
        )
        with log.open("wb") as file:
            driver = subprocess.Popen(
                [sys.executable, str(Path(__file__).parent / "ledger_driver.py"), "train", "c.yaml"],
                cwd=tmp_path, env=environment, stdin=subprocess.DEVNULL, stdout=file, stderr=file,
                start_new_session=True,
            )  # fmt: skip
        for number, moment in enumerate(_MOMENTS):
            if moment == STARTING:  # of the ranks that come for those that had a notice just before
                time.sleep(rng.uniform(0.0, 4.0))
            else:
                goal = Ledger(ledger).steps + rng.randint(10, 40)
                wait(lambda goal=goal: Ledger(ledger).steps >= goal)
            given = give(moment)
            notices.append(given)
            nodes.bring()
            if STARTING not in _MOMENTS[number + 1 : number + 2]:
                for before in notices:
                    nodes.gone(before.node, before.at)
                wait(lambda at=given.at: Ledger(ledger).next_step_after(at) is not None)
            (ledger / f"slow {STEP}").unlink(missing_ok=True)
        goal = Ledger(ledger).steps + 10
        wait(lambda: Ledger(ledger).steps >= goal)
        driver.send_signal(signal.SIGINT)
        assert driver.wait(120) == 130
    finally:
        if driver is not None and driver.poll() is None:
            driver.kill()
            driver.wait()
        for name in nodes.names:
            crash(head, name)
        left = head.stop()
    assert not left

    done = Ledger(ledger)
    committed: dict[int, float] = {}
    for record_file in (tmp_path / "home" / "runs" / "noticed" / "checkpoints").glob(f"step-*/{COMMIT}"):
        step, at = int(record_file.parent.name.split("-")[1]), record_file.stat().st_mtime
        committed[step] = min(at, committed.get(step, at))
    for given in notices:
        given.next_s = done.next_step_after(given.at) or float("inf")
        first = next(p[0].step for p in done.processes if p[0].at > given.at)
        given.committed_s = committed[first - 1] - given.at if first > 1 else 0.0
    order = ShardedImages.open(str(digits)).order("train", global_batch=64, seed=0)
    seen, again = done.seen(), done.done_again()
    whole = {step: taken for step, taken in seen.items() if step <= max(seen) // _STEPS * _STEPS}
    missing, doubled = missing_and_doubled(whole, _ROWS, _STEPS)
    in_time = [given for given in notices if given.committed_s is not None and given.committed_s <= _DEADLINE_S]
    latest = max(given.committed_s or 0.0 for given in notices)
    held = len(in_time) == len(_MOMENTS) and again == missing == doubled == 0
    times = spread([given.next_s for given in notices])
    record(
        14,
        f"{len(in_time)} of {len(notices)} notices: committed within {latest:.1f} s, {again} steps done "
        f"again, {missing} samples missing, {doubled} doubled; next step after {times['median_s']} s (median)",
        held=held,
        latest_commit_s=round(latest, 1),
        **times,
        row_s=round(time.monotonic() - begun),
    )
    assert again == 0
    assert (missing, doubled) == (0, 0)
    assert [given.moment for given in in_time] == _MOMENTS
    for step, samples in seen.items():
        assert list(samples) == order.step_samples(step - 1).tolist()
