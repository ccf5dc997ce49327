"""What is watched all along a soak: memory that grows, processes that nobody collects, files that stay."""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from scipy.stats import theilslopes
from sweep_drivers import SweepDriver

_EVERY_S = 3.0
_WARM_S = 120.0  # of a process's life, in which it loads what it needs
_LONG_S = 120.0  # who is seen so long after that says something about growth
_ZOMBIE_S = 30.0
DRIVER = "vitray.cli"
_KINDS = ("TrainController", "Mailbox", "ResourceTrainable", "RayTrainWorker", "raylet", "gcs_server", DRIVER)


@dataclass
class Watch:
    """Samples every few seconds; ``wrong`` says what it has found."""

    driver: SweepDriver  # the one of now
    rss: dict[tuple[int, float, str], list[tuple[float, float]]] = field(default_factory=dict)
    zombies: dict[tuple[int, float], float] = field(default_factory=dict)
    _looked: float = 0.0

    def look(self) -> None:
        now = time.monotonic()
        if now - self._looked < _EVERY_S:
            return
        self._looked = now
        ours = {p.pid for p in self.driver.processes()} | {os.getpid()}
        # To measure and to draw a winner the driver loads torch and half a gigabyte with it: no slope, but a step.
        promoting = any(r.kind == "final" for r in self.driver.records())
        seen: dict[tuple[int, float], float] = {}
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                born = process.create_time()
                if process.status() == psutil.STATUS_ZOMBIE:
                    if process.ppid() in ours:
                        seen[process.pid, born] = self.zombies.get((process.pid, born), now)
                elif process.pid in ours and process.pid != os.getpid():
                    kind = next((k for k in _KINDS if k in process.name() + " ".join(process.cmdline())), None)
                    if kind is not None and not (kind == DRIVER and promoting) and time.time() - born > _WARM_S:
                        rss = process.memory_info().rss / 2**20
                        self.rss.setdefault((process.pid, born, kind), []).append((now, rss))
        self.zombies = seen

    def old_zombies(self) -> list[str]:
        now = time.monotonic()
        return [f"zombie {pid}" for (pid, _), since in self.zombies.items() if now - since > _ZOMBIE_S]

    def slopes(self) -> dict[str, float]:
        """MiB a minute of the processes that lived long, the steepest of each kind."""
        found: dict[str, float] = {}
        for (_, _, kind), samples in self._long().items():
            found[kind] = max(found.get(kind, -1e9), slope(samples) * 60)
        return found

    def said(self) -> list[str]:
        """A line for each process that lived long."""
        return [
            f"{kind} {pid}: {(samples[-1][0] - samples[0][0]) / 60:.1f} minutes, {samples[0][1]:.0f} to "
            f"{samples[-1][1]:.0f} MiB, {slope(samples) * 60:+.1f} MiB a minute"
            for (pid, _, kind), samples in self._long().items()
        ]

    def _long(self) -> dict[tuple[int, float, str], list[tuple[float, float]]]:
        return {who: samples for who, samples in self.rss.items() if samples[-1][0] - samples[0][0] > _LONG_S}


def slope(samples: list[tuple[float, float]]) -> float:
    """Of (seconds, MiB), by Theil and Sen: the median of the slopes between any two. What grows always shows; what is
    loaded once, on the first occasion, does not."""
    times, sizes = zip(*samples, strict=True)
    return float(theilslopes(sizes, times).slope)


def unowned(folder: Path, before: set[str]) -> list[str]:
    """New entries of a folder (of /dev/shm) that no process has open or mapped."""
    new = {path.name for path in folder.iterdir()} - before
    if not new:
        return []
    used = set()
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            used |= {Path(m.path).name for m in process.memory_maps(grouped=True) if str(folder) in m.path}
            used |= {Path(f.path).name for f in process.open_files() if str(folder) in f.path}
    return sorted(new - used)
