"""A sweep that loses its tracking server and its own driver, against the same sweep left in peace.

Both arms are `vitray sweep run` (grid, no scheduler, two groups where they fit, retraining included) against an `mlflow
server` of their own. In the second arm the server is SIGKILLed in mid-sweep for a minute, and within that minute the
driver too, which is then resumed with `vitray sweep resume`. Compared are

- what MLflow has in the end: the sets of (run, key, step, value) over keys that do not depend on time;
- how long after the server's return it has every report that the ledger knew at that moment;
- the time between two reports of a trial while the server was away, against with it. Both are taken relative to the
  same epoch of the same trial in the undisturbed arm, so that cheap and dear trials do not mix. Epochs during which the
  driver died or started do not count.
"""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import harness

sys.path.insert(0, str(Path(__file__).parent.parent / "tracking"))
from mlflow_server import MlflowServer

NAME = "outage"
KEYS = ("train/loss", "train/accuracy", "val/loss", "val/accuracy", "val/samples", "test/accuracy", "lr")
CONFIG = """
name: {name}
data: {{path: {data}, augment: {{shift: 1}}}}
model: {{patch_size: 4, embed_dim: 64, depth: 4, num_heads: 4}}
train: {{epochs: {epochs}, global_batch: 128}}
cluster: {{use_gpu: false}}
search:
  algorithm: grid
  scheduler: none
  space: {{model.depth: {depths}, optim.lr: [0.001, 0.002]}}
tracking: {{experiment: {name}}}
"""
SETTLED_S = 10.0  # after the first report of a driver that resumed: what comes earlier is not compared


@dataclass(frozen=True)
class Scale:
    epochs: int
    depths: str
    away_s: float  # how long the server is away
    driver_dies_s: float  # after the server

    @classmethod
    def of(cls, quick: bool) -> Scale:
        return cls(40, "[1, 2]", 30, 4) if quick else cls(150, "[2, 3, 4]", 60, 20)


@dataclass
class Outcome:
    """``reports``: (trial, epoch) -> Unix time, and seconds since the one before where the same driver heard both.

    ``away``: Unix times at which the server was killed, was started again, and answered.
    """

    points: set[tuple[str, str, int, float]]
    seconds: float
    reports: dict[tuple[str, int], tuple[float, float | None]]
    away: tuple[float, float, float] | None = None
    drained_s: float | None = None
    warnings: list[str] = field(default_factory=list)


class Arm:
    """One sweep with a home and a server of its own."""

    def __init__(self, folder: Path, scale: Scale, data: str) -> None:
        folder.mkdir()
        self.folder, self.scale = folder, scale
        self.home = folder / "home"
        self.sweep = self.home / "runs" / NAME
        self.server = MlflowServer(folder, f"sqlite:///{folder}/mlflow.db")
        self.config = folder / "outage.yaml"
        self.config.write_text(CONFIG.format(name=NAME, data=data, epochs=scale.epochs, depths=scale.depths))
        self._drivers: list[subprocess.Popen[bytes]] = []

    def drive(self, *words: str) -> subprocess.Popen[bytes]:
        environment = {**os.environ, "VITRAY_HOME": str(self.home), "MLFLOW_TRACKING_URI": self.server.uri}
        command = [sys.executable, "-m", "vitray.cli", "sweep", *words]
        with self.log(len(self._drivers)).open("wb") as log:
            driver = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
        self._drivers.append(driver)
        return driver

    def log(self, number: int) -> Path:
        return self.folder / f"driver-{number}.log"

    def wait(self, driver: subprocess.Popen[bytes], condition: Callable[[list[Any]], bool]) -> None:
        """Until the sweep has come so far."""
        from vitray.tune.ledger import read_records

        while not condition(read_records(self.sweep)):
            if driver.poll() is not None:
                raise SystemExit(f"the sweep ended too early:\n{self.log(len(self._drivers) - 1).read_text()[-3000:]}")
            time.sleep(0.1)

    def finish(self, driver: subprocess.Popen[bytes]) -> None:
        if code := driver.wait():
            raise SystemExit(f"code {code}:\n{self.log(len(self._drivers) - 1).read_text()[-3000:]}")

    def end(self) -> None:
        for driver in self._drivers:
            if driver.poll() is None:
                os.killpg(driver.pid, signal.SIGKILL)
                driver.wait()
        self.server.kill()


def undisturbed(arm: Arm) -> Outcome:
    began = time.time()
    arm.server.start()
    arm.finish(arm.drive("run", str(arm.config)))
    return outcome(arm, time.time() - began)


def disturbed(arm: Arm) -> Outcome:
    from vitray.tune.ledger import read_records

    began = time.time()
    arm.server.start()
    driver = arm.drive("run", str(arm.config))
    half = arm.scale.epochs // 2
    arm.wait(driver, lambda records: any(r.ended for r in records) and any(10 < r.epoch < half for r in records))
    harness.say("the server is killed")
    arm.server.kill()
    left = time.time()
    time.sleep(arm.scale.driver_dies_s)
    harness.say("the driver is killed")
    driver.kill()
    driver.wait()
    time.sleep(2)
    driver = arm.drive("resume", NAME)
    time.sleep(max(0.0, left + arm.scale.away_s - time.time()))
    starting = time.time()
    arm.server.start()
    back = time.time()
    if driver.poll() is not None:
        raise SystemExit("the sweep ended before the server was back: nothing was measured")
    known = {r.name: r.epoch for r in read_records(arm.sweep) if r.epoch}
    while not has(arm.server.uri, known):
        if time.time() - back > 120:
            raise SystemExit("two minutes after its return the server does not have everything")
        time.sleep(0.1)
    drained = time.time() - back
    harness.say(f"the server is back, and has everything after {drained:.1f} s")
    arm.finish(driver)
    found = outcome(arm, time.time() - began)
    found.away, found.drained_s = (left, starting, back), drained
    return found


def has(uri: str, known: dict[str, int]) -> bool:
    """Whether MLflow has every trial up to this epoch."""
    return all(max(s for s in steps.values()) >= known[name] if steps else False for name, steps in latest(uri, known))


def latest(uri: str, names: dict[str, int]) -> list[tuple[str, dict[str, int]]]:
    """The highest step of the training's loss, by trial."""
    from vitray.tracking.mlflow_client import connect

    client = connect(uri)
    experiment = client.get_experiment_by_name(NAME)
    runs = {r.info.run_name: r for r in client.search_runs([experiment.experiment_id], max_results=1000)}
    return [
        (name, {m.key: m.step for m in runs[name].data.to_proto().metrics if m.key == "train/loss"})
        if name in runs
        else (name, {})
        for name in names
    ]


def outcome(arm: Arm, seconds: float) -> Outcome:
    """What there is in the end; refuses what must not be."""
    from vitray.tracking.mlflow_client import connect
    from vitray.tune.ledger import read_records

    records = read_records(arm.sweep)
    if failed := [r.name for r in records if r.status != "done"]:
        raise SystemExit(f"trials that failed: {failed}")
    client = connect(arm.server.uri)
    experiment = client.get_experiment_by_name(NAME)
    runs = client.search_runs([experiment.experiment_id], max_results=1000)
    names = [run.info.run_name for run in runs]
    expected = sorted([NAME, *(r.name for r in records)])
    if sorted(names) != expected:
        raise SystemExit(f"runs in MLflow: {sorted(names)}, not {expected}")
    if unfinished := [run.info.run_name for run in runs if run.info.status != "FINISHED"]:
        raise SystemExit(f"runs that are not at their end: {unfinished}")
    points = [
        (run.info.run_name, key, point.step, point.value)
        for run in runs
        for key in KEYS
        if key in run.data.metrics
        for point in client.get_metric_history(run.info.run_id, key)
    ]
    if len(points) != len({(run, key, step) for run, key, step, _ in points}):
        raise SystemExit("there are points twice")
    if waiting := list((arm.home / "spool").glob("*/log.jsonl")):
        raise SystemExit(f"left in the spool: {waiting}")
    reports: dict[tuple[str, int], tuple[float, float | None]] = {}
    for record in records:
        starts = [span[0] for span in record.spans]
        before: dict[str, float] | None = None
        for report in record.reports:
            at = report["at"]
            same = before is not None and not any(before["at"] < start < at for start in starts)
            reports[record.name, int(report["epoch"])] = (at, at - before["at"] if same and before else None)
            before = report
    said = [
        line
        for n in range(2)
        if arm.log(n).exists()
        for line in arm.log(n).read_text().splitlines()
        if "MLflow at" in line
    ]
    return Outcome(set(points), seconds, reports, warnings=said)


def slowdown(peace: Outcome, trouble: Outcome) -> tuple[list[float], list[float]]:
    """Relative times of an epoch while the server was away, and with it.

    Left out is what happened while the driver was away and settled again, and while the server started: two cores have
    no room for that beside two trainings.
    """
    assert trouble.away is not None
    left, starting, back = trouble.away
    times = sorted(at for at, _ in trouble.reports.values())
    died, resumed = max(itertools.pairwise(times), key=lambda pair: pair[1] - pair[0])
    away, there = [], []
    for key, (at, seconds) in trouble.reports.items():
        usual = peace.reports.get(key, (0.0, None))[1]
        if seconds is None or usual is None:
            continue
        began = at - seconds
        if (at > died and began < resumed + SETTLED_S) or (at > starting and began < back):
            continue
        if began > left and at < starting:
            away.append(seconds / usual)
        elif at < left or began > back:
            there.append(seconds / usual)
    return away, there


def main() -> None:
    parser = harness.arguments(__doc__ or "")
    parser.add_argument("--rounds", type=int, default=1)
    options = parser.parse_args()
    from vitray.data.prepare import prepare

    scratch = Path(tempfile.mkdtemp(prefix="vitray-bench-"))
    scale = Scale.of(options.quick)
    data = str(scratch / "digits")
    os.environ["VITRAY_HOME"] = str(scratch / "unused")
    prepare("builtin:digits", data)
    pairs: list[tuple[Outcome, Outcome]] = []
    ways: list[tuple[str, Callable[[Arm], Outcome]]] = [("undisturbed", undisturbed), ("disturbed", disturbed)]
    try:
        for number in range(options.rounds):
            found: dict[str, Outcome] = {}
            for name, way in ways[:: -1 if number % 2 else 1]:
                arm = Arm(scratch / f"{name}-{number}", scale, data)
                try:
                    found[name] = way(arm)
                finally:
                    arm.end()
                harness.say(f"round {number}, {name}: {found[name].seconds:.0f} s, {len(found[name].points)} points")
                for line in found[name].warnings:
                    harness.say(f"  said: {line}")
            pairs.append((found["undisturbed"], found["disturbed"]))
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    harness.publish("outage", _rows(pairs), options.output, harness.versions("vitray", "ray", "mlflow", "torch"))


def _rows(pairs: list[tuple[Outcome, Outcome]]) -> list[harness.Row]:
    rows = []
    lost = sum(len(peace.points - trouble.points) for peace, trouble in pairs)
    more = sum(len(trouble.points - peace.points) for peace, trouble in pairs)
    total = sum(len(peace.points) for peace, _ in pairs)
    same = total - lost
    rows.append(
        harness.Row("equal points", "", same, total, "the undisturbed sweep", 1.0 if lost == more == 0 else 0.0, 1.0)
    )
    drained = [trouble.drained_s or 0.0 for _, trouble in pairs]
    rows.append(harness.less_is_better("drained after the server's return", "s", drained, [10.0], "the goal", 1.0))
    away, there = [], []
    for peace, trouble in pairs:
        a, b = slowdown(peace, trouble)
        away += a
        there += b
    harness.say(f"{len(away)} epochs while the server was away, {len(there)} with it")
    ratio = statistics.median(there) / statistics.median(away)
    name = "time of an epoch while the server is away"
    rows.append(
        harness.Row(name, "x", statistics.median(away), statistics.median(there), "with the server", ratio, 1 / 1.02)
    )
    took = ([trouble.seconds for _, trouble in pairs], [peace.seconds for peace, _ in pairs])
    rows.append(harness.less_is_better("the whole sweep, restart included", "s", *took, "the undisturbed sweep"))
    return rows


if __name__ == "__main__":
    main()
