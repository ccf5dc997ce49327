"""Row 15: an hour of a seeded random mix of faults over a looping sweep. ``make soak``.

VITRAY_SOAK_MINUTES shortens it; VITRAY_SOAK_SEED draws the faults of an earlier soak again (their moments are those of
the machine).
"""

from __future__ import annotations

import contextlib
import os
import random
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from injections import record
from soak_faults import FAULTS, Victim
from soak_watch import DRIVER, Watch, unowned
from sweep_drivers import SweepDriver, results
from tracked import Tracked
from tracking_faults import Service

from vitray.tune.state import is_sweep, load_sweep

pytestmark = [pytest.mark.soak, pytest.mark.ray, pytest.mark.timeout(7200)]
_MINUTES = float(os.environ.get("VITRAY_SOAK_MINUTES", "60"))
_SEED = int(os.environ.get("VITRAY_SOAK_SEED") or secrets.randbelow(2**31))
_PAUSE_S = (3.0, 14.0)
_DISK_MIB = 2000  # an hour of sweeps, of 42 each, and room besides
_ENOUGH = 10  # violations
_TRIES = 5  # for a fault that finds nothing to befall
_MOST_SLOPE = 4.0  # MiB a minute
_RECORDS = 8.0  # of Ray's GCS, which remembers the dead (up to limits of its own), of whom there are many here
_CONFIG = """
name: {name}
data: {{path: ds, cache: none, augment: {{shift: 1}}}}
model: {{patch_size: 4, embed_dim: 32, depth: 1, num_heads: 2, dropout: 0.1}}
train: {{epochs: 12}}
cluster: {{use_gpu: false, max_restarts: 20, hang_timeout_s: 8}}
search:
  space: {{optim.lr: {{log: [0.001, 0.004]}}, model.depth: [1, 2]}}
  trials: 60
  concurrent: 2
  scheduler: none
tracking: {{experiment: {name}}}
"""


@pytest.fixture
def disk() -> Iterator[tuple[Path, bool]]:
    """A folder for the home, and whether it is a small file system of its own, which may be filled (as root)."""
    folder = Path(tempfile.mkdtemp(prefix="vs"))  # short: sockets lie below it
    (folder / "home").mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={_DISK_MIB}m", "none", str(folder / "home")]
    mounted = os.geteuid() == 0 and subprocess.run(mount, capture_output=True, check=False).returncode == 0
    yield folder, mounted
    if mounted:
        subprocess.run(["umount", "--lazy", str(folder / "home")], check=True)
    shutil.rmtree(folder, ignore_errors=True)


def tell(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


class Soak:
    """The sweep that loops, who starts its drivers again, and what must never be."""

    def __init__(self, folder: Path, service: Service, digits: Path) -> None:
        self.folder, self.service = folder, service
        (folder / "ds").symlink_to(digits)
        (folder / "tmp").mkdir()
        self.began = time.monotonic()
        self.rounds = self.killed = self.interventions = 0
        self.violations: list[str] = []
        self.expected: list[list[dict[str, float]]] | None = None
        self.driver = self.next_driver()
        self.watch = Watch(self.driver)

    def next_driver(self) -> SweepDriver:
        name = f"soak-{self.rounds}"
        (self.folder / f"{name}.yaml").write_text(_CONFIG.format(name=name))
        variables = {"MLFLOW_TRACKING_URI": self.service.uri, "TMPDIR": str(self.folder / "tmp")}
        driver = SweepDriver(self.folder, name, variables)
        if self.rounds:
            driver.mark = self.driver.mark
        self.driver = driver
        driver.start()
        return driver

    def say(self, text: str) -> None:
        tell(f"[{time.monotonic() - self.began:6.0f} s] {text}")

    def violated(self, what: str) -> None:
        self.violations.append(what)
        self.say(f"VIOLATION: {what}")

    def tend(self, killed: bool = False) -> None:
        """Start the driver again if it was killed; go on with the next sweep if it is through."""
        if not self.driver.running:
            assert self.driver.process is not None
            code = self.driver.process.returncode
            if code == 0 or (is_sweep(self.driver.sweep) and self.state() == "done"):  # killed in its last instant
                self.check_sweep()
                self.rounds += 1
                self.next_driver()
            else:
                if not killed:
                    self.interventions += 1
                    log = self.driver.log.read_text()
                    self.violated(f"the driver of {self.driver.name} ended with code {code}:\n{log[-3000:]}")
                self.killed += killed
                self.driver.start()
        self.watch.driver = self.driver
        self.watch.look()
        for zombie in self.watch.old_zombies():
            self.violated(zombie)

    def check_sweep(self) -> None:
        """Every trial is done, with the very results of the first sweep, which nobody disturbed."""
        records = self.driver.records()
        found = [results(r) for r in records]
        for trial in records:
            if trial.status != "done":
                self.violated(f"{self.driver.name}/{trial.name} {trial.status}: {trial.failure}")
        if self.expected is None:
            self.expected = found
        elif found != self.expected:
            pairs = zip(records, found, self.expected, strict=False)
            differing = [r.name for r, one, other in pairs if one != other]
            self.violated(f"{self.driver.name} came to other results: {differing}")
        if self.state() != "done":
            self.violated(f"{self.driver.name} is not done")
        self.say(f"{self.driver.name} is through: {len(records)} trials, {sum(len(r.spans) for r in records)} starts")

    def state(self) -> str:
        return load_sweep(self.driver.home.runs, self.driver.name).status

    def check_tracking(self) -> None:
        """All that was reported is in MLflow once, of every sweep."""
        for number in range(self.rounds):
            name = f"soak-{number}"
            driver = SweepDriver(self.folder, name)
            for what in Tracked.of(self.service.uri, name).wrong(name, driver.records()):
                self.violated(f"in MLflow, {name}: {what}")


def test_soak(disk: tuple[Path, bool], digits: Path, tmp_path: Path) -> None:
    folder, small = disk
    shm = {path.name for path in Path("/dev/shm").iterdir()}
    chance, done, bag, tries = random.Random(_SEED), Counter[str](), list[str](), Counter[str]()
    tell(f"\nseed {_SEED}; again with VITRAY_SOAK_SEED={_SEED} VITRAY_SOAK_MINUTES={_MINUTES:g} make soak")
    with Service(tmp_path / "mlflow").running() as service:
        soak = Soak(folder, service, digits)
        try:
            while soak.rounds == 0 and not soak.violations:  # in peace: what all others are compared with
                soak.tend()
                time.sleep(0.2)
            until = time.monotonic() + 60 * _MINUTES
            while time.monotonic() < until and len(soak.violations) < _ENOUGH:
                next_at = time.monotonic() + chance.uniform(*_PAUSE_S)
                while time.monotonic() < next_at:
                    soak.tend()
                    time.sleep(0.2)
                if not bag:  # so that each kind has its turn soon
                    bag += [kind for kind, (weight, _) in FAULTS.items() for _ in range(weight)]
                    chance.shuffle(bag)
                    tries.clear()
                kind = bag.pop()
                victim = Victim(soak.driver, service, chance, folder / "home" if small else None)
                if (said := FAULTS[kind][1](victim)) is not None:
                    done[kind] += 1
                    soak.say(said)
                elif tries[kind] < _TRIES:  # there was nothing that it could befall
                    tries[kind] += 1
                    bag.insert(0, kind)
                soak.tend(killed=kind == "driver")
            soak.say("no more faults: the last sweep ends in peace, and one more")
            last, patience = soak.rounds + 2, time.monotonic() + 900
            while soak.rounds < last and time.monotonic() < patience and len(soak.violations) < _ENOUGH:
                soak.tend()
                time.sleep(0.2)
            if soak.rounds < last:
                soak.violated(f"{soak.driver.name} does not end:\n{soak.driver.log.read_text()[-2000:]}")
            soak.driver.kill()
            soak.check_tracking()
        finally:
            left = soak.driver.left()
    for what in left:
        soak.violated(f"outlived its driver: {what}")
    young = time.time() - 180  # the driver that was killed just now has left what the next would remove
    stale = [p.name for p in (folder / "tmp").glob("vitray-*") if p.stat().st_mtime < young]
    for name in [*stale, *unowned(Path("/dev/shm"), shm)]:
        soak.violated(f"left behind: {name}")
    tell("\n".join(soak.watch.said()))
    slopes = soak.watch.slopes()
    if DRIVER not in slopes:
        soak.violated("no driver lived long enough to say whether its memory grows")
    for kind, steep in slopes.items():
        if steep > (_RECORDS if kind == "gcs_server" else _MOST_SLOPE):
            soak.violated(f"{kind} grows by {steep:.1f} MiB a minute")
    outcome = f"{_MINUTES:g} minutes, {sum(done.values())} faults of {len(done)} kinds over {soak.rounds} sweeps, "
    outcome += (
        f"{soak.killed} drivers killed: {len(soak.violations)} violations, {soak.interventions} interventions; MiB "
    )
    outcome += f"a minute: {', '.join(f'{kind} {steep:+.1f}' for kind, steep in slopes.items())}"
    record(15, outcome, held=not soak.violations, seed=_SEED, minutes=_MINUTES, faults=dict(done), slopes=slopes)
    tell(outcome)
    assert not soak.violations, f"seed {_SEED}"
    with contextlib.suppress(psutil.Error):
        assert not soak.driver.processes()
