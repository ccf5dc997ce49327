"""What tracking costs a training that reports after every step of about 20 ms.

- Whole loops, each in a process of its own: our tracker against no tracking at all, wall and processor time (that of
  the uploader's thread included, and of the delivery after the loop). The steps are real: forward, backward and AdamW
  of a small Vision Transformer on one thread.
- Seconds in the training path a report of five metrics: our tracker, Ray's MLflowLoggerCallback (driven as Tune drives
  it, with these five metrics only), `mlflow.log_metric` five times, and `mlflow.log_metrics` once.

Both on embedded SQLite and on an `mlflow server` with SQLite behind it. Every arm must have stored every point.
"""

from __future__ import annotations

import json
import logging
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import harness

sys.path.insert(0, str(Path(__file__).parent.parent / "tracking"))
from mlflow_server import MlflowServer

METRICS = ("train/loss", "train/accuracy", "lr", "images_per_s", "data_wait")
PEERS = ("MLflowLoggerCallback", "mlflow.log_metric", "mlflow.log_metrics")
STEP_S = 0.020
RUN = "bench"
Report = Callable[[int, dict[str, float]], None]


class Training:
    """Steps of a small Vision Transformer on one thread."""

    def __init__(self, batch: int) -> None:
        import torch

        from vitray.experiment import ModelConfig
        from vitray.models import VisionTransformer

        torch.set_num_threads(1)
        torch.manual_seed(0)
        config = ModelConfig(
            image_size=16, patch_size=4, in_chans=3, num_classes=10, embed_dim=64, depth=4, num_heads=4
        )
        self._model = VisionTransformer(config)
        self._optimizer = torch.optim.AdamW(self._model.parameters(), lr=1e-3, fused=True)
        self._images, self._labels = torch.randn(batch, 3, 16, 16), torch.randint(0, 10, (batch,))
        self._loss = torch.nn.CrossEntropyLoss()

    def step(self) -> float:
        loss = self._loss(self._model(self._images), self._labels)
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self._optimizer.step()
        return float(loss.detach())

    def seconds(self, steps: int) -> float:
        """The median of a step."""
        times = []
        for _ in range(steps):
            began = time.perf_counter()
            self.step()
            times.append(time.perf_counter() - began)
        return statistics.median(times)


def batch_for(seconds: float) -> int:
    """The batch whose step takes about so long."""
    batch = 16
    while Training(batch * 2).seconds(12) < seconds:
        batch *= 2
    low, high = Training(batch).seconds(20), Training(batch * 2).seconds(20)
    return round(batch * (1 + (seconds - low) / max(1e-6, high - low)))


def reporter(way: str, uri: str, folder: Path) -> tuple[Report, Callable[[], None]]:
    """How an arm reports, and what it does at the end."""
    if way == "none":
        return (lambda step, metrics: None), (lambda: None)
    if way == "ours":
        from vitray.tracking import MlflowTracker

        tracker = MlflowTracker(uri, folder / "spool", folder / "artifacts")
        tracker.start_run(RUN, name=RUN, experiment=RUN, params={"depth": 4}, tags={})
        assert tracker.flush(60)  # MLflow is imported and the run is there, as for the peers

        def end() -> None:
            tracker.end_run(RUN, "FINISHED")
            assert tracker.flush(60)
            tracker.close()

        return (lambda step, metrics: tracker.log_metrics(RUN, metrics, step=step)), end
    import mlflow

    logging.getLogger("mlflow").setLevel(logging.ERROR)
    if way == "MLflowLoggerCallback":
        from ray.air.integrations.mlflow import MLflowLoggerCallback
        from ray.tune.experiment import Trial

        callback = MLflowLoggerCallback(tracking_uri=uri, experiment_name=RUN)
        callback.setup()
        trial = Trial("bench", config={"depth": 4}, stub=True)
        callback.log_trial_start(trial)

        def by_ray(step: int, metrics: dict[str, float]) -> None:
            callback.log_trial_result(step, trial, {**metrics, "training_iteration": step})

        return by_ray, lambda: callback.log_trial_end(trial)
    mlflow.set_tracking_uri(uri)
    mlflow.set_experiment(RUN)
    mlflow.start_run(run_name=RUN)
    if way == "mlflow.log_metrics":
        return (lambda step, metrics: mlflow.log_metrics(metrics, step=step)), mlflow.end_run

    def one_by_one(step: int, metrics: dict[str, float]) -> None:
        for key, value in metrics.items():
            mlflow.log_metric(key, value, step=step)

    return one_by_one, mlflow.end_run


def arm(way: str, uri: str, steps: int, batch: int, folder: Path) -> dict[str, float]:
    """One loop: its seconds, those of a report, and the processor seconds of the process from there to the end."""
    training = Training(batch)
    training.seconds(20)
    report, end = reporter(way, uri, folder)
    training.seconds(5)
    reporting = 0.0
    cpu, began = _cpu(), time.perf_counter()
    for step in range(steps):
        loss = training.step()
        value = step / steps
        metrics = dict(zip(METRICS, (loss, value, 1e-3 * value, 1e4 * value, 0.1 * value), strict=True))
        at = time.perf_counter()
        report(step, metrics)
        reporting += time.perf_counter() - at
    wall = time.perf_counter() - began
    end()
    return {"wall": wall, "report": reporting / steps, "cpu": _cpu() - cpu}


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def check_stored(uri: str, steps: int) -> None:
    """Every point of every metric is there, once."""
    from vitray.tracking.mlflow_client import connect

    client = connect(uri)
    (experiment,) = [e for e in client.search_experiments() if e.name == RUN]
    (run,) = client.search_runs([experiment.experiment_id])
    for key in METRICS:
        found = [point.step for point in client.get_metric_history(run.info.run_id, key)]
        assert found == list(range(steps)), f"{key}: {len(found)} of {steps} points"


def measure(way: str, store: str, steps: int, batch: int, empty: Path, scratch: Path) -> dict[str, float]:
    """One arm in a process of its own, on a fresh copy of an empty store."""
    folder = Path(tempfile.mkdtemp(dir=scratch))
    shutil.copy(empty, folder / "mlflow.db")
    database = f"sqlite:///{folder}/mlflow.db"
    server = MlflowServer(folder, database) if store == "server" and way != "none" else None
    try:
        if server:
            server.start()
        uri = server.uri if server else database
        command = [sys.executable, __file__, "--arm", way, uri, steps, batch, folder]
        environment = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"}
        done = subprocess.run(list(map(str, command)), env=environment, capture_output=True, check=False)
        if done.returncode:
            raise SystemExit(f"{way} on {store} failed:\n{done.stderr.decode()[-3000:]}")
        if way != "none":
            check_stored(uri, steps)
    finally:
        if server:
            server.kill()
    said: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    harness.say(
        f"{store}, {way}: {said['wall'] / steps * 1e3:.2f} ms a step, {said['report'] * 1e6:.0f} us a report, "
        f"{said['cpu'] / steps * 1e3:.2f} ms CPU a step"
    )
    return said


def main() -> None:
    if sys.argv[1:2] == ["--arm"]:
        way, uri, steps, batch, folder = sys.argv[2:]
        print(json.dumps(arm(way, uri, int(steps), int(batch), Path(folder))))
        return
    parser = harness.arguments(__doc__ or "")
    parser.add_argument("--rounds", type=int, help="of the loops with and without our tracker (default 9)")
    options = parser.parse_args()
    rounds = options.rounds or (1 if options.quick else 9)
    steps, fewer = (100, 40) if options.quick else (500, 150)
    from vitray.tracking.mlflow_client import prepare_store

    scratch = Path(tempfile.mkdtemp(prefix="vitray-bench-"))
    empty = scratch / "empty.db"
    prepare_store(f"sqlite:///{empty}", scratch)
    batch = batch_for(STEP_S)
    harness.say(f"a batch of {batch}")
    loops: dict[tuple[str, str], list[dict[str, float]]] = {}
    peers: dict[tuple[str, str], list[dict[str, float]]] = {}
    try:
        whole = [("SQLite", "none"), ("SQLite", "ours"), ("server", "ours")]
        for number in range(rounds):
            for store, way in whole[number % 3 :] + whole[: number % 3]:
                loops.setdefault((store, way), []).append(measure(way, store, steps, batch, empty, scratch))
        for _ in range(1 if options.quick else 3):
            for store in ("SQLite", "server"):
                for way in ("ours", *PEERS):
                    peers.setdefault((store, way), []).append(measure(way, store, fewer, batch, empty, scratch))
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    rows = _rows(loops, peers, steps, fewer)
    harness.publish("tracking_overhead", rows, options.output, harness.versions("vitray", "mlflow", "ray", "torch"))


def _rows(loops: Any, peers: Any, steps: int, fewer: int) -> list[harness.Row]:
    def of(found: list[dict[str, float]], what: str, scale: float) -> list[float]:
        return [one[what] * scale for one in found]

    rows = []
    alone = loops["SQLite", "none"]
    for store in ("SQLite", "server"):
        ours = loops[store, "ours"]
        for what, name, goal in (("wall", "wall a step", 1 / 1.01), ("cpu", "CPU a step", None)):
            mine, base = of(ours, what, 1e3 / steps), of(alone, what, 1e3 / steps)
            rows.append(harness.less_is_better(f"{name}, {store}", "ms", mine, base, "no tracking", goal))
    for store in ("SQLite", "server"):
        ours = peers[store, "ours"]
        for way in PEERS:
            mine, theirs = of(ours, "report", 1e6), of(peers[store, way], "report", 1e6)
            rows.append(harness.less_is_better(f"in the training path a report, {store}", "us", mine, theirs, way, 20))
        for way in PEERS:
            mine, theirs = of(ours, "cpu", 1e3 / fewer), of(peers[store, way], "cpu", 1e3 / fewer)
            rows.append(harness.less_is_better(f"CPU of a step and its report, {store}", "ms", mine, theirs, way))
    return rows


if __name__ == "__main__":
    main()
