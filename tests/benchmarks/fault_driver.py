"""SIGKILL of a sweep's driver, several times, and each time its way to go on: ours, and Ray Tune's with MLflow.

    python tests/benchmarks/fault_driver.py [--quick] [--output json]

Six learning rates on digits, 14 epochs each, two trials at a time, a checkpoint with every report. The peer is
fault_driver_stock.py: a function trainable, MLflowLoggerCallback, ``Tuner.restore``. Both are killed when so many
epochs were reported. Then: runs in MLflow beyond one a trial, those that are RUNNING for ever, epochs trained again,
and seconds from the start of a driver that goes on until the next epoch is reported.
"""

from __future__ import annotations

import os
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS), str(TESTS / "faults")]

from fault_driver_stock import EPOCHS, NAME, RATES  # noqa: E402
from harness import Row, arguments, less_is_better, publish, say, versions  # noqa: E402

KILL_AFTER = (9, 21, 33, 45, 60)  # epochs
_CONFIG = f"""
name: {NAME}
data: {{path: ds}}
model: {{patch_size: 4, embed_dim: 32, depth: 1, num_heads: 2}}
train: {{epochs: {EPOCHS}, global_batch: 32}}
cluster: {{use_gpu: false}}
search:
  space: {{optim.lr: {RATES}}}
  algorithm: grid
  concurrent: 2
  scheduler: none
  retrain: false
tracking: {{experiment: {NAME}}}
"""


@dataclass
class Outcome:
    """``again_s``: by kill, from the next start to the next epoch."""

    kills: int
    runs: int = 0
    running: int = 0
    epochs_again: int = 0
    again_s: list[float] = field(default_factory=list)


def ours(folder: Path, kill_after: tuple[int, ...]) -> Outcome:
    from sweep_drivers import SweepDriver, recomputed
    from tracked import Tracked

    from vitray.data.prepare import prepare

    prepare("builtin:digits", folder / "ds")
    (folder / f"{NAME}.yaml").write_text(_CONFIG)
    driver, outcome = SweepDriver(folder, NAME), Outcome(len(kill_after))

    def reported() -> int:
        return sum(event["event"] == "report" for event in driver.ledger())

    try:
        for most in (*kill_after, None):
            driver.start()
            if driver.starts > 1:
                before = reported()
                driver.until(lambda before=before: reported() > before)  # type: ignore[misc]
                outcome.again_s.append(time.time() - driver.started_at)
            if most is not None:
                assert driver.until(lambda most=most: reported() >= most), driver.log.read_text()  # type: ignore[misc]
                driver.kill()
        assert driver.process is not None
        assert driver.process.wait(900) == 0, driver.log.read_text()
        records = driver.records()
        tracked = Tracked.of(driver.home.tracking_uri, NAME)
    finally:
        driver.end()
    outcome.runs = sum(tracked.runs[record.name] for record in records)
    outcome.running = tracked.statuses["RUNNING"]
    outcome.epochs_again = sum(recomputed(driver.sweep, record) for record in records)
    return outcome


def stock(folder: Path, kill_after: tuple[int, ...]) -> Outcome:
    import psutil
    from processes import kill_all
    from tracked import Tracked

    mark, outcome, epochs = secrets.token_hex(8), Outcome(len(kill_after)), folder / "epochs"
    program = Path(__file__).with_name("fault_driver_stock.py")

    def trained() -> list[str]:
        return epochs.read_text().splitlines() if epochs.exists() else []

    def sweep() -> subprocess.Popen[bytes]:
        with (folder / "log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, str(program), str(folder)], env={**os.environ, "STOCK_MARK": mark},
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip

    def of_mark() -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get("STOCK_MARK") == mark:
                    found.append(process)
            except psutil.Error:
                continue
        return found

    try:
        for most in (*kill_after, None):
            before, started = len(trained()), time.time()
            process = sweep()
            if most != kill_after[0]:
                while len(trained()) <= before:
                    assert process.poll() is None, (folder / "log").read_text()
                    time.sleep(0.02)
                outcome.again_s.append(time.time() - started)
            while most is not None and len(trained()) < most:
                assert process.poll() is None, (folder / "log").read_text()
                time.sleep(0.02)
            if most is not None:
                process.kill()
                process.wait()
                kill_all(of_mark())  # ranks that outlive it would train beside those that come
        assert process.wait(900) == 0, (folder / "log").read_text()
    finally:
        kill_all(of_mark())
    tracked = Tracked.of(f"sqlite:///{folder}/mlflow.db", NAME)
    outcome.runs, outcome.running = sum(tracked.runs.values()), tracked.statuses["RUNNING"]
    times = Counter(tuple(line.split()[:2]) for line in trained())
    outcome.epochs_again = sum(count - 1 for count in times.values())
    return outcome


def row(metric: str, one: int, other: int) -> Row:
    ratio = other / one if one else (1.0 if not other else float("inf"))
    return Row(metric, "", one, other, "Ray Tune, MLflowLoggerCallback", ratio)


def main() -> None:
    args = arguments(str(__doc__)).parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    kill_after = KILL_AFTER[:1] if args.quick else KILL_AFTER
    outcomes = []
    for name, arm in (("ours", ours), ("stock", stock)):
        with tempfile.TemporaryDirectory() as folder:
            outcomes.append(arm(Path(folder), kill_after))
        say(f"{name}: {outcomes[-1]}; from a start to the next epoch {statistics.median(outcomes[-1].again_s):.1f} s")
    a, b = outcomes
    kills = f"{a.kills} kills, {len(RATES)} trials"
    rows = [
        row(f"{kills}: runs in MLflow beyond one a trial", a.runs - len(RATES), b.runs - len(RATES)),
        row(f"{kills}: runs RUNNING for ever", a.running, b.running),
        row(f"{kills}: epochs trained again", a.epochs_again, b.epochs_again),
        less_is_better("from a start to the next epoch", "s", a.again_s, b.again_s, "Tuner.restore"),
    ]
    publish("fault_driver", rows, args.output, versions("ray", "mlflow"))


if __name__ == "__main__":
    main()
