"""``vitray sweep`` in a process of its own, killed and started again as a supervisor would."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from processes import kill_all

from vitray.home import Home
from vitray.train.checkpoint import CheckpointStore, verify
from vitray.tune.ledger import FILE, read_records
from vitray.tune.record import TrialRecord
from vitray.tune.state import is_sweep, trial_folder

_MARK = "VITRAY_TEST_DRIVER"
_AGENTS = ("ray::Dashboard", "ray::RuntimeEnv")  # of Ray; they notice after a minute that their node was killed


@dataclass
class SweepDriver:
    """One sweep, and the drivers that it needs until it is done. All they start carries a mark in its environment.

    Args:
        folder: where it runs; ``NAME.yaml`` lies there, and the home.
        name: the sweep's, and its config's.
        environment: more variables.
    """

    folder: Path
    name: str
    environment: Mapping[str, str] = field(default_factory=dict)
    mark: str = field(default_factory=lambda: secrets.token_hex(8))
    process: subprocess.Popen[bytes] | None = None
    starts: int = 0
    started_at: float = 0.0

    @property
    def home(self) -> Home:
        return Home(self.folder / "home")

    @property
    def sweep(self) -> Path:
        return self.home.runs / self.name

    @property
    def log(self) -> Path:
        return self.folder / f"driver-{self.starts}.log"

    def start(self, *overrides: str) -> None:
        """Begin the sweep, or go on with it."""
        words = ("resume", self.name) if is_sweep(self.sweep) else ("run", f"{self.name}.yaml", *overrides)
        variables = {"VITRAY_HOME": str(self.home.root), _MARK: self.mark, **self.environment}
        self.starts += 1
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "vitray.cli", "sweep", *words],
                cwd=self.folder, env={**os.environ, **variables}, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip
        self.started_at = time.time()

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def records(self) -> list[TrialRecord]:
        return read_records(self.sweep)

    def ledger(self) -> list[dict[str, object]]:
        """Its events, but for a last line that is being written."""
        with contextlib.suppress(FileNotFoundError):
            lines = (self.sweep / FILE).read_bytes().splitlines(keepends=True)
            return [json.loads(line) for line in lines if line.endswith(b"\n")]
        return []

    def until(self, condition: Callable[[], bool]) -> bool:
        """Wait until the sweep has come so far; False when the driver ended before."""
        while self.running:
            if condition():
                return True
            time.sleep(0.01)
        return False

    def kill(self) -> bool:
        """SIGKILL to the driver alone; False when there was nothing to kill any more."""
        assert self.process is not None
        if self.process.poll() is not None:
            return False
        self.process.kill()
        self.process.wait()
        return True

    def processes(self) -> list[psutil.Process]:
        """Everything that any of its drivers started and that lives."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get(_MARK) == self.mark and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def left(self, timeout: float = 60.0) -> list[str]:
        """What outlived its drivers, Ray's two agents aside, which hold nothing. Nothing lives on after this."""
        until = time.monotonic() + timeout
        while (living := [p for p in self.processes() if not _is_agent(p)]) and time.monotonic() < until:
            time.sleep(0.2)
        said = [str(process) for process in living]
        self.end()
        return said

    def end(self) -> None:
        """Kill whatever there is."""
        if self.running:
            self.kill()
        kill_all(self.processes())


def _is_agent(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return process.name().startswith(_AGENTS)
    return True  # it is gone


def recomputed(sweep: Path, record: TrialRecord) -> int:
    """Epochs of a trial that were trained once more after they had been reported.

    The ledger has each report as it was made first; the trial's newest checkpoint as the weights in it were made.
    """
    newest = CheckpointStore(trial_folder(sweep, record) / "checkpoints").newest()
    assert newest is not None, f"{record.name} has no checkpoint"
    made = {r["epoch"]: r["timestamp_ms"] for r in verify(newest).reports}
    return sum(made[int(r["epoch"])] != round(r["at"] * 1000) for r in record.reports)


TIMES = ("images_per_s", "data_wait", "epoch_s", "eval_s", "checkpoint_s", "latency_ms", "at", "start_s")


def results(record: TrialRecord) -> list[dict[str, float]]:
    """What a trial reported, without times and what the machine did."""
    return [{k: v for k, v in r.items() if k not in TIMES} for r in record.reports]
