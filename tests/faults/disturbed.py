"""A training that is disturbed while it runs: real ranks on a real Ray, a ledger, and somebody who kills processes."""

from __future__ import annotations

import contextlib
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
import torch
from ledger import Ledger, missing_and_doubled, serving
from small_runs import restored, small_experiment

from vitray.cluster.local import Cluster
from vitray.experiment import ClusterConfig, Experiment
from vitray.train.checkpoint_names import COMMIT
from vitray.train.report import Report
from vitray.train.resources import plan_groups
from vitray.train.whereabouts import EVALUATING, STEP
from vitray.train.worker_group import WorkerGroup

ROWS, STEPS = 1258, 79  # of an epoch of digits in batches of 16
RANK, TASK, MAILBOX, CONTROLLER = "RayTrainWorker", "ReadVitrayUnits", "Mailbox", "TrainController"
_STARTING, _SAVING, _PATIENCE_S = "starting", "a checkpoint is written", 120.0
MOMENTS = (STEP, EVALUATING, _SAVING, _STARTING)


def disturbed_experiment(digits: Path, epochs: int, **values: Any) -> Experiment:
    """Much dropout and a checkpoint every seven steps; its images are read by data tasks in every epoch."""
    chosen = {"model__depth": 2, "train__global_batch": 16, "train__checkpoint_steps": 7, "data__cache": "none"}
    return small_experiment(digits, **{**chosen, "train__epochs": epochs, **values})


def processes(kind: str) -> list[psutil.Process]:
    """Those of this process's own Ray that bear such a name: Ray names each after what it is or does."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            title = (process.cmdline() or [""])[0]
            if title.startswith("ray::") and kind in title and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def awaited(kind: str) -> list[psutil.Process]:
    """The same, as soon as there is one: a process that Ray names anew, at each call, has no name for an instant."""
    until = time.monotonic() + 10
    while not (found := processes(kind)):
        assert time.monotonic() < until, f"there is no {kind}"
        time.sleep(0.005)
    return found


@contextlib.contextmanager
def ranks_that_do(serve: Callable[[dict[str, Any]], None], *modules: Any) -> Iterator[None]:
    """All ranks that are started inside do this instead of serving; it goes to them by value, with these modules."""
    with pytest.MonkeyPatch.context() as patch:
        for module in modules:
            ray.cloudpickle.register_pickle_by_value(module)
        patch.setattr("vitray.train.worker_group.serve", serve)
        try:
            yield
        finally:
            for module in modules:
                ray.cloudpickle.unregister_pickle_by_value(module)


@dataclass
class Trained:
    """What a training came to: its tensors, what was heard of it, and its ledger."""

    tensors: dict[str, torch.Tensor]
    reports: list[Report]
    notes: list[str]
    ledger: Ledger

    def missing_and_doubled(self) -> tuple[int, int]:
        """Of an epoch's samples in what the final weights have seen, over all epochs."""
        return missing_and_doubled(self.ledger.seen(), ROWS, STEPS)


def train(
    cluster: Cluster,
    run: Experiment,
    folder: Path,
    ranks: int,
    *,
    serve: Callable[[dict[str, Any]], None] | None = None,
    max_restarts: int = 20,
    on_report: Callable[[Report], None] = lambda report: None,
    stop_at: int | None = None,
    notes: list[str] | None = None,
) -> Trained:
    """Train with so many ranks of a thread each, in a group of its own."""
    import ledger

    reports: list[Report] = []
    notes = [] if notes is None else notes

    def take(report: Report) -> bool:
        reports.append(report)
        on_report(report)
        return report.epoch != stop_at

    with ranks_that_do(serve or serving(folder / "ledger"), ledger):
        plan = plan_groups(ClusterConfig(workers=ranks, use_gpu=False, threads=1), cpus=max(2, cluster.cpus), gpus=0)
        group = WorkerGroup(plan, max_restarts=max_restarts)
        try:
            group.run(run, folder, take, on_note=lambda note: notes.append(note.text))
        finally:
            group.close()
    return Trained(restored(folder / "checkpoints", run)[1], reports, notes, Ledger(folder / "ledger"))


@dataclass
class Kill:
    """A process that was killed. ``at``: Unix time; ``found``: in which moment of a rank's; ``recovery_s``: until the
    next step."""

    kind: str
    moment: str
    at: float
    step: int
    recovery_s: float = field(default=0.0)


class Killer(threading.Thread):
    """Kills one process after another, each at a random moment of the kind that is asked for, and waits for training.

    Args:
        folder: of the run, with its ledger.
        plan: kinds of processes and moments.
    """

    def __init__(self, folder: Path, plan: list[tuple[str, str]], seed: int) -> None:
        super().__init__(daemon=True)
        self._folder, self._plan, self._random = folder, plan, random.Random(seed)
        self.kills: list[Kill] = []
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            for number, (kind, moment) in enumerate(self._plan):
                # A new epoch and some steps each time, so that a run of so many epochs is enough.
                self._await_step(number * STEPS + self._random.randint(5, 60))
                self._kill(kind, moment)
        except BaseException as error:
            self.error = error

    def _kill(self, kind: str, moment: str) -> None:
        if moment == _STARTING:  # of the ranks that come for one that is killed
            self._strike(RANK)
            time.sleep(self._random.uniform(0.5, 8.0))
        elif moment == STEP:
            time.sleep(self._random.uniform(0.0, 0.5))
        else:
            self._wait(self._saving if moment == _SAVING else lambda: self._doing() == moment, 0.0005)
        at, step = self._strike(kind), self._step()
        kill = Kill(kind, moment, at, step)
        self.kills.append(kill)
        replaced = kind != TASK or moment == _STARTING
        self._wait(lambda: self._recovery(kill, replaced) is not None)
        kill.recovery_s = self._recovery(kill, replaced) or 0.0

    def _strike(self, kind: str) -> float:
        found: list[psutil.Process] = []
        self._wait(lambda: bool(found.extend(processes(kind)) or found), 0.005)
        victim = self._random.choice(found)
        with contextlib.suppress(psutil.NoSuchProcess):  # a data task that ended since: another
            victim.send_signal(signal.SIGKILL)
            return time.time()
        return self._strike(kind)

    def _recovery(self, kill: Kill, replaced: bool) -> float | None:
        ledger = Ledger(self._folder / "ledger")
        return ledger.next_step_after(kill.at, of_new_processes=replaced)

    def _await_step(self, least: int) -> None:
        self._wait(lambda: self._step() >= least)

    def _step(self) -> int:
        return Ledger(self._folder / "ledger").steps

    def _doing(self) -> str:
        newest = max((self._folder / "ledger").glob("*.doing"), default=None)
        return newest.read_text() if newest is not None else ""

    def _saving(self) -> bool:
        folders = list((self._folder / "checkpoints").glob("step-*"))
        return any(not (folder / COMMIT).exists() and folder.exists() for folder in folders)

    def _wait(self, condition: Callable[[], bool], every_s: float = 0.05) -> None:
        deadline = time.monotonic() + _PATIENCE_S
        while not condition():
            if time.monotonic() > deadline:
                raise TimeoutError(f"after {self.kills}")
            time.sleep(every_s)


def spread(seconds: list[float]) -> dict[str, float]:
    """Median, 95th percentile and greatest of some times."""
    ordered = sorted(seconds)
    last = len(ordered) - 1
    return {
        "median_s": round(ordered[last // 2], 1),
        "p95_s": round(ordered[min(last, round(0.95 * last))], 1),
        "max_s": round(ordered[-1], 1),
    }
