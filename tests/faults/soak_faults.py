"""The faults that a soak draws from: each does its worst to a sweep that runs, and says in a line what it did."""

from __future__ import annotations

import contextlib
import random
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil
from sweep_drivers import SweepDriver
from tracking_faults import Service

from vitray.tune.state import trial_folder

_ACTORS = ("RayTrainWorker", "TrainController", "Mailbox", "ResourceTrainable", "NodeCache")


@dataclass
class Victim:
    """What faults befall."""

    driver: SweepDriver
    service: Service
    chance: random.Random
    disk: Path | None  # a small file system of the soak's own, where it may be filled

    def processes(self, kind: str) -> list[psutil.Process]:
        found = []
        for process in self.driver.processes():
            with contextlib.suppress(psutil.Error):
                said = process.name() + " ".join(process.cmdline())
                if kind == "data task":
                    if said.startswith("ray::") and not any(actor in said for actor in _ACTORS):
                        found.append(process)
                elif kind in said:
                    found.append(process)
        return found

    def strike(self, kind: str, number: int = signal.SIGKILL) -> str | None:
        if not (found := self.processes(kind)):
            return None
        process = self.chance.choice(found)
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(number)
            return f"{signal.Signals(number).name} to {kind} {process.pid}"
        return None


Fault = Callable[[Victim], str | None]


def kills(kind: str) -> Fault:
    return lambda victim: victim.strike(kind)


def stops(victim: Victim) -> str | None:
    """A rank is stopped and stays so: it is for the watch to notice."""
    return victim.strike("RayTrainWorker", signal.SIGSTOP)


def driver_killed(victim: Victim) -> str | None:
    return "SIGKILL to the driver" if victim.driver.running and victim.driver.kill() else None


def mlflow_down(victim: Victim) -> str:
    seconds = victim.chance.uniform(2, 12)
    victim.service.killed(seconds)
    return f"MLflow killed for {seconds:.0f} s"


def mlflow_slow(victim: Victim) -> str:
    late, seconds = victim.chance.uniform(1, 5), victim.chance.uniform(3, 12)
    victim.service.spoil_for(late, seconds)
    return f"MLflow's answers {late:.1f} s late for {seconds:.0f} s"


def mlflow_failing(victim: Victim) -> str:
    seconds = victim.chance.uniform(2, 10)
    victim.service.spoil_for(victim.chance.choice((500, 502, 503)), seconds)
    return f"MLflow answers with errors for {seconds:.0f} s"


def checkpoint_damaged(victim: Victim) -> str | None:
    """A bit of the newest checkpoint's weights flips, and the ranks have to begin with it."""
    going_on = [r for r in victim.driver.records() if r.spans and not r.ended and r.epoch]
    if not going_on:
        return None
    folder = trial_folder(victim.driver.sweep, victim.chance.choice(going_on)) / "checkpoints"
    committed = sorted(path.parent for path in folder.glob("step-*/commit.json"))
    if not committed:
        return None
    file = committed[-1] / "model.safetensors"
    with contextlib.suppress(OSError), file.open("r+b") as weights:
        size = file.stat().st_size
        at = victim.chance.randrange(size // 2, size)
        weights.seek(at)
        byte = weights.read(1)[0]
        weights.seek(at)
        weights.write(bytes([byte ^ 1 << victim.chance.randrange(8)]))
        hit = [victim.strike("RayTrainWorker") for _ in range(2)]
        return f"a bit of {file.parent.parent.parent.name}/{file.parent.name} flipped; {[said for said in hit if said]}"
    return None


def disk_full(victim: Victim) -> str | None:
    if victim.disk is None:
        return None
    seconds, ballast = victim.chance.uniform(1, 6), victim.disk / "ballast"
    try:
        with contextlib.suppress(OSError), ballast.open("wb") as file:
            while True:
                file.write(bytes(2**20))
                file.flush()
        free = shutil.disk_usage(victim.disk).free
        time.sleep(seconds)
    finally:
        ballast.unlink(missing_ok=True)
    return f"disk full ({free:,} bytes left) for {seconds:.0f} s"


FAULTS: dict[str, tuple[int, Fault]] = {
    "rank": (3, kills("RayTrainWorker")),
    "data task": (2, kills("data task")),
    "mailbox": (2, kills("Mailbox")),
    "controller": (2, kills("TrainController")),
    "trial actor": (2, kills("ResourceTrainable")),
    "driver": (1, driver_killed),
    "stopped rank": (2, stops),
    "MLflow down": (1, mlflow_down),
    "MLflow slow": (1, mlflow_slow),
    "MLflow failing": (1, mlflow_failing),
    "damaged checkpoint": (2, checkpoint_damaged),
    "full disk": (1, disk_full),
}
