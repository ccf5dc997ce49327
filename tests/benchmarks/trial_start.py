"""How long a trial takes to begin: from the end of the trial before it to its first optimizer step.

Ours: a class Trainable that owns a warm worker group. Peer: the stock pattern of Ray's documentation, a function
trainable that builds a TorchTrainer with Ray Data and TuneReportCallback. Both arms: the same prepared digits, the
same model and batch size, a real first batch, one trial at a time, the same threads for a rank, one Ray for all
rounds, the arms taking turns; a rank reserves 1 CPU, or what the reader leaves of it. The first trial of a group pays
the cold start; it is given apart.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import harness

EPOCHS = 1
BATCH = 128


def ours(data: str, workers: int, trials: int, folder: Path) -> tuple[float, list[float]]:
    """(cold start, warm starts) in seconds."""
    from ray import tune

    from vitray.train.report import Report
    from vitray.train.resources import plan_groups
    from vitray.tune.asides import Asides
    from vitray.tune.trial import WarmTrial

    class Stamped(WarmTrial):
        def _result(self, report: Report) -> dict[str, Any]:
            return {**super()._result(report), "first_step_at": report.first_step_at}

    search = {"space": {"train.seed": list(range(trials))}, "trials": trials, "scheduler": "none"}
    experiment = _experiment(data, workers, search=search)
    groups = plan_groups(experiment.cluster, cpus=os.cpu_count() or 1, gpus=0)
    begins: dict[str, Any] = {"asks_at": None, "known_epoch": 0, "retried": False}
    jobs = [
        {"index": i, "name": f"t{i}", "values": {"train.seed": i}, "folder": str(folder / f"t{i}"), **begins}
        for i in range(trials)
    ]
    first_steps: dict[int, float] = {}
    ended: list[float] = []

    class Watch(tune.Callback):
        def __getstate__(self) -> dict[str, Any]:
            return {}

        def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: dict[str, Any], **info: Any) -> None:
            first_steps.setdefault(trial.config["job"]["index"], result["first_step_at"])

        def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
            ended.append(time.time())

    trainable = tune.with_resources(
        tune.with_parameters(Stamped, experiment=experiment, groups=groups, asides=Asides()), {"CPU": 0, "memory": 1}
    )
    start = time.time()
    _fit(trainable, {"job": tune.grid_search(jobs)}, folder, Watch(), reuse=True)
    return _starts(start, ended, [first_steps[i] for i in range(trials)])


def stock(data: str, workers: int, trials: int, folder: Path) -> tuple[float, list[float]]:
    """The same for the stock pattern: every trial is cold, so its warm starts are those after the first."""
    import stock_trial
    from ray import tune

    from vitray.train.resources import plan_groups

    experiment = _experiment(data, workers)
    groups = plan_groups(experiment.cluster, cpus=os.cpu_count() or 1, gpus=0)
    experiments = [experiment.with_values({"train.seed": i}) for i in range(trials)]
    ended: list[float] = []

    class Watch(tune.Callback):
        def __getstate__(self) -> dict[str, Any]:
            return {}

        def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
            ended.append(time.time())

    driver = stock_trial.trainable(data, groups, folder, experiments, validate=False)
    start = time.time()
    space = {"index": tune.grid_search(list(range(trials)))}
    _fit(tune.with_resources(driver, {"CPU": 0, "memory": 1}), space, folder, Watch(), reuse=False)
    return _starts(start, ended, stock_trial.first_steps(folder, trials))


def _experiment(data: str, workers: int, **search: Any) -> Any:
    from vitray.data import ShardedImages
    from vitray.experiment import Experiment

    return ShardedImages.open(data).resolve(
        Experiment(
            data={"path": data},
            model={"patch_size": 4, "embed_dim": 64, "depth": 4, "num_heads": 4},
            train={"epochs": EPOCHS, "global_batch": BATCH},
            cluster={"workers": workers, "use_gpu": False},
            **search,
        )
    )


def _fit(trainable: Any, space: dict[str, Any], folder: Path, watch: Any, *, reuse: bool) -> None:
    from ray import tune

    with contextlib.redirect_stdout(sys.stderr):  # Tune prints its settings; stdout is for the result
        results = tune.Tuner(
            trainable,
            param_space=space,
            tune_config=tune.TuneConfig(max_concurrent_trials=1, reuse_actors=reuse),
            run_config=tune.RunConfig(name="tune", storage_path=str(folder), callbacks=[watch], verbose=0),
        ).fit()
    if results.errors:
        raise SystemExit(f"a trial failed: {results.errors[0]}")


def _starts(start: float, ended: list[float], first_steps: list[float]) -> tuple[float, list[float]]:
    before = [start, *ended[:-1]]
    waits = [step - end for step, end in zip(first_steps, before, strict=True)]
    return waits[0], waits[1:]


def main() -> None:
    options = harness.arguments(__doc__ or "").parse_args()
    rounds, trials = (1, 2) if options.quick else (2, 3)
    from vitray.cluster.local import connect
    from vitray.data.prepare import prepare

    scratch = Path(tempfile.mkdtemp(prefix="vitray-bench-"))
    data = str(scratch / "digits")
    prepare("builtin:digits", data)
    rows = []
    with connect():
        for workers in (1, 2):
            cold: dict[str, list[float]] = {"ours": [], "stock": []}
            warm: dict[str, list[float]] = {"ours": [], "stock": []}
            cpu: dict[str, list[float]] = {"ours": [], "stock": []}
            for number in range(rounds):
                for name, arm in (("ours", ours), ("stock", stock)):
                    before = harness.cpu_seconds()
                    first, later = arm(data, workers, trials, scratch / f"{name}-{workers}-{number}")
                    cpu[name].append((harness.cpu_seconds() - before) / trials)
                    cold[name].append(first)
                    warm[name] += later
                    harness.say(
                        f"{workers} workers, round {number}, {name}: first {first:.2f} s, later "
                        + ", ".join(f"{s:.2f}" for s in later)
                    )
            unit, peer = "s", "function trainable + TorchTrainer"
            label = f"{workers} worker{'s' if workers > 1 else ''}"
            rows += [
                harness.less_is_better(f"trial start, {label}", unit, warm["ours"], warm["stock"], peer, goal=50),
                harness.less_is_better(f"first trial of a group, {label}", unit, cold["ours"], cold["stock"], peer),
                harness.less_is_better(f"CPU-seconds a trial, {label}", unit, cpu["ours"], cpu["stock"], peer),
            ]
    shutil.rmtree(scratch, ignore_errors=True)
    harness.publish("trial_start", rows, options.output, harness.versions("vitray", "ray", "torch"))


if __name__ == "__main__":
    main()
