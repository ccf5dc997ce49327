"""A sweep that never ran: its folder, written event by event as the engine writes it, with scores of a known law."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vitray.experiment import Experiment
from vitray.tune.keys import Point
from vitray.tune.ledger import Ledger
from vitray.tune.plan import SweepPlan, plan_sweep
from vitray.tune.state import SavedSweep, Sweep, load_sweep, write_state

BEGAN = 1_780_000_000.0
EPOCH_S, EVAL_S, CHECKPOINT_S, START_S = 1.1, 0.2, 0.05, 0.3
ENCODINGS = {"none": -0.03, "learned": 0.0, "sinusoidal_2d": 0.01, "rope_2d": 0.02}
PATCHES = {1: -0.05, 2: 0.0, 4: 0.015}
SPACE: dict[str, Any] = {
    "model.patch_size": list(PATCHES),
    "model.pos_encoding": list(ENCODINGS),
    "model.depth": [2, 4],
    "optim.lr": {"log": [1e-3, 1e-2]},
}


def effect(point: Point) -> float:
    """What a point's parts add to the accuracy of 0.9 that a trial comes to, without noise."""
    rate = point.get("optim.lr", 3e-3)
    return (
        ENCODINGS.get(point.get("model.pos_encoding", "learned"), 0.0)
        + PATCHES.get(point.get("model.patch_size", 2), 0.0)
        + 0.005 * (point.get("model.depth", 2) == 4)
        - 0.04 * math.log10(rate / 3e-3) ** 2
    )


def accuracy(point: Point, index: int, epoch: int, noise: float = 0.004) -> float:
    """It rises to 0.9 and the point's own effect, with the luck of the trial and the epoch."""
    luck = random.Random(1000 * index + epoch).gauss(0, noise) + random.Random(index).gauss(0, noise)
    return (0.9 + effect(point)) * (1 - 0.8 * math.exp(-epoch / 4)) + luck


class Written:
    """Writes a sweep; ``finish`` closes its ledger and says what it came to."""

    def __init__(self, runs: Path, name: str = "digits", epochs: int = 40, model: Any = None, **search: Any) -> None:
        search = {"space": SPACE, "trials": 24, "grace_epochs": 4, **search}
        shape = {"image_size": 8, "in_chans": 1, "num_classes": 10, "embed_dim": 64, "depth": 2, "num_heads": 4}
        experiment = Experiment(
            data={"path": "builtin:digits"},
            model={**shape, "patch_size": 2, **(model or {})},
            train={"epochs": epochs},
            search=search,
        )
        plan: SweepPlan = plan_sweep(experiment, cpus=8, gpus=0)
        folder = runs / name
        self.ledger = Ledger(folder)
        self.sweep = Sweep(name, f"{name}-0a1b", folder, plan, "5eed" * 8)
        self.sweep.run.write_config()
        write_state(self.sweep, "running")
        self.clocks = [BEGAN, BEGAN]  # of two groups, side by side

    @property
    def clock(self) -> float:
        """Of the group that has the trial at hand."""
        return self.clocks[0]

    @clock.setter
    def clock(self, at: float) -> None:
        self.clocks[0] = at

    def add(self, point: Point, *, kind: str = "search", repeats: int | None = None, **values: Any) -> int:
        """Propose a trial and begin it in the group that is free first; returns its index."""
        self.clocks.sort()
        index = len(self.ledger.records)
        name = {"search": f"trial-{index:04d}", "repeat": f"repeat-{index:04d}", "final": "final"}[kind]
        facts = {"name": name, "point": dict(point), "kind": kind, "repeats": repeats, "values": {**point, **values}}
        self.ledger.append("trial", index, at=self.clock, **facts)
        self.ledger.append("begin", index, at=self.clock)
        self.clock += START_S
        return index

    def train(self, index: int, until: int) -> None:
        """Report every epoch up to ``until``."""
        record = self.ledger.records[index]
        for epoch in range(record.epoch + 1, until + 1):
            self.clock += EPOCH_S + EVAL_S + CHECKPOINT_S
            score = accuracy(record.begun_with, index, epoch)
            validated = {"val/accuracy": min(1.0, round(score, 4)), "val/loss": 2 * (1 - score), "val/samples": 360.0}
            metrics = {
                **(validated if record.kind != "final" else {}),  # which has seen these images
                "train/loss": 2.2 * (1 - score),
                "epoch_s": EPOCH_S,
                "data_wait": 0.1,
                "eval_s": EVAL_S,
                "checkpoint_s": CHECKPOINT_S,
            }
            start = {"start_s": START_S, "warm": index > 0} if epoch == 1 else {}
            self.ledger.append("report", index, at=self.clock, epoch=epoch, metrics=metrics, **start)

    def end(self, index: int, status: str = "done", **facts: Any) -> None:
        self.clock += 0.02
        self.ledger.append("end", index, at=self.clock, status=status, **facts)

    def finish(self, status: str = "done", **facts: Any) -> SavedSweep:
        """Close the ledger (a running sweep's stays open), and read the sweep back as everybody else does."""
        write_state(self.sweep, status, **facts)
        if status != "running":
            self.ledger.close()
        return load_sweep(self.sweep.folder.parent, self.sweep.name)


def searched(runs: Path, trials: int = 24, status: str = "done", name: str = "digits") -> SavedSweep:
    """A sweep under ASHA with rungs at 4 and 12 of 40 epochs, failures of three classes, repeats and a retraining."""
    written = Written(runs, name, trials=trials)
    points = list(written.sweep.plan.points)
    failing = {1: ("oom", "CUDA out of memory: tried to allocate 3.2 GiB"), 3: ("nan", "the training loss is nan")}
    failing[5] = ("code", "ValueError: <script>document.title='taken'</script> is no class & no \"name\"")
    last = _asha({i: p for i, p in enumerate(points) if i not in failing})
    for index, point in enumerate(points):
        written.add(point)
        if status != "done" and index == len(points) - 1:
            written.train(index, 2)
            return written.finish(status)
        if index in failing:
            kind, why = failing[index]
            written.train(index, 2 if kind == "nan" else 0)
            written.end(index, "failed", failure=why, failure_class=kind)
        else:
            written.train(index, last[index])
            written.end(index, **({} if last[index] == 40 else {"status": "stopped", "ended_by": "asha"}))
    done = [r for r in written.ledger.records.values() if r.status == "done"]
    best = max(done, key=lambda r: r.best("val/accuracy", "max")).index
    point = points[best]
    for seed in (1, 2, 3):
        index = written.add(point, kind="repeat", repeats=best, **{"train.seed": seed})
        written.train(index, 40)
        written.end(index)
    final = written.add(point, kind="final", **{"train.split": "train+val"})
    written.train(final, 40)
    written.end(final)
    return written.finish(
        best=written.ledger.records[best].name,
        test_accuracy=0.9417,
        test_interval=[0.9126, 0.9616],
        test_samples=360,
        model="models:/digits/3",
        alias="champion",
        seconds=max(written.clocks) - BEGAN,
        trials=len(points),
    )


def in_full(
    runs: Path, points: Sequence[Point], space: Mapping[str, Any], score: Callable[[Point], float], **search: Any
) -> SavedSweep:
    """A sweep whose trials all ran to their end, a few epochs, and came to exactly ``score(point)``."""
    written = Written(runs, epochs=3, space=space, scheduler="none", **search)
    for point in points:
        index = written.add(point)
        written.train(index, 2)
        written.clock += EPOCH_S
        metrics = {"val/accuracy": score(point), "val/loss": 1 - score(point)}
        written.ledger.append("report", index, at=written.clock, epoch=3, metrics=metrics)
        written.end(index)
    return written.finish()


def _asha(points: Mapping[int, Point]) -> dict[int, int]:
    """The last epoch of each trial: at each rung the best third goes on."""
    last, alive = {}, list(points)
    for rung in (4, 12):
        alive.sort(key=lambda i: -accuracy(points[i], i, rung))
        kept = max(1, len(alive) // 3)
        last |= dict.fromkeys(alive[kept:], rung)
        alive = alive[:kept]
    return last | dict.fromkeys(alive, 40)
