"""A whole sweep by the clock: the same 16 points, epochs and early stopping on digits, three ways.

- ours: `vitray sweep run` through its Python entry, tracking, checkpoints, test score and registration included.
- the stock pattern of Ray's documentation: function trainable + TorchTrainer + Ray Data + TuneReportCallback, ASHA.
- the strongest script written by hand: Optuna, tensors in memory, two trials at a time in threads or in processes.

Every arm is a process of its own. Cold start: from its start to the first optimizer step. Marginal time of a trial:
from there to the end of the last trial, divided by the trials. Early stopping depends on who reports first, so the
arms do not train the very same epochs: their number is given too.
"""

from __future__ import annotations

import json
import os
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

ARMS = ("ours", "stock", "optuna threads", "optuna processes")
HERE = Path(__file__).parent


def experiment(data: str, quick: bool) -> Any:
    from vitray.data import ShardedImages
    from vitray.experiment import Experiment

    space = {
        "model.patch_size": [2, 4],
        "model.depth": [2, 4],
        "model.num_heads": [2, 4],
        "model.pos_encoding": ["learned", "rope_2d"],
    }
    if quick:
        space = {"model.depth": [1, 2], "model.num_heads": [2, 4]}
    return ShardedImages.open(data).resolve(
        Experiment(
            data={"path": data, "augment": {"shift": 1}},
            model={"patch_size": 4, "embed_dim": 64, "depth": 4, "num_heads": 4},
            train={"epochs": 3 if quick else 27, "global_batch": 128, "label_smoothing": 0.1},
            optim={"lr": 2e-3},
            cluster={"use_gpu": False},
            search={
                "space": space,
                "trials": 4 if quick else 16,
                "algorithm": "grid",
                "grace_epochs": 1 if quick else 3,
                "retrain": False,
            },
            tracking={"experiment": "digits"},
        )
    )


def ours(work: dict[str, Any], folder: Path) -> dict[str, float]:
    from vitray.cluster.launch import Prepared
    from vitray.cluster.sweeps import sweep
    from vitray.experiment import Experiment
    from vitray.home import Home

    class Silent:
        def update(self, trials: Any) -> None: ...
        def stage(self, text: str) -> None: ...

    home = Home(folder / "home")
    os.environ["VITRAY_HOME"] = str(home.root)
    result = sweep(Prepared.of(Experiment(**work["experiment"]), "wall"), home, lambda plan: Silent())
    starts = [r.spans[0][0] + r.start_s for r in result.trials if r.start_s is not None]
    return {
        "first_step": min(starts),
        "ended": max(r.spans[-1][1] for r in result.trials),
        "epochs": sum(r.epoch for r in result.trials),
        "best": max(r.best("val/accuracy", "max") for r in result.trials),
    }


def stock(work: dict[str, Any], folder: Path) -> dict[str, float]:
    import logging

    import ray
    import stock_trial
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler

    from vitray.cluster.machine import Machine
    from vitray.experiment import Experiment
    from vitray.train.resources import plan_groups

    base = Experiment(**work["experiment"])
    trials = len(work["points"])
    epochs: dict[str, int] = {}
    scores: list[float] = []
    ended: list[float] = []

    class Watch(tune.Callback):
        def __getstate__(self) -> dict[str, Any]:
            return {}

        def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: dict[str, Any], **info: Any) -> None:
            if "val_accuracy" in result:
                epochs[trial.trial_id] = result["epoch"]
                scores.append(result["val_accuracy"])

        def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
            ended.append(time.time())

    # With its dashboard, as by default: without one nobody gives back the CPUs of a trial that ASHA has stopped (Ray
    # Train's cleaner asks the dashboard who is alive), and the third trial waits for ever.
    cpus = Machine.here().cpus
    ray.init(address="local", num_cpus=cpus, log_to_driver=False, logging_level=logging.ERROR)
    try:
        groups = plan_groups(base.cluster, cpus=cpus, gpus=0, groups=work["at_once"])
        experiments = [base.with_values(point) for point in work["points"]]
        driver = stock_trial.trainable(base.data.path, groups, folder, experiments, validate=True)
        asha = ASHAScheduler(
            time_attr="epoch",
            max_t=base.train.epochs,
            grace_period=work["grace_epochs"],
            reduction_factor=work["reduction_factor"],
        )
        results = tune.Tuner(
            tune.with_resources(driver, {"CPU": 0, "memory": 1}),
            param_space={"index": tune.grid_search(list(range(trials)))},
            tune_config=tune.TuneConfig(
                metric="val_accuracy", mode="max", scheduler=asha, max_concurrent_trials=work["at_once"]
            ),
            run_config=tune.RunConfig(name="tune", storage_path=str(folder), callbacks=[Watch()], verbose=0),
        ).fit()
    finally:
        ray.shutdown()
    if results.errors:
        raise SystemExit(f"a trial failed: {results.errors[0]}")
    first = min(float(path.read_text()) for path in (folder / "first_steps").iterdir())
    return {"first_step": first, "ended": max(ended), "epochs": sum(epochs.values()), "best": max(scores)}


def measure(arm: str, work: Path, folder: Path) -> dict[str, float]:
    """Run one arm in a process of its own: seconds of wall, cold start and margin, epochs and the best accuracy."""
    folder.mkdir(parents=True)
    name, _, way = arm.partition(" ")
    script = (
        [HERE / "optuna_digits.py", work, folder, way] if way else [HERE / "sweep_wall.py", "--arm", name, work, folder]
    )
    start = time.time()
    with (folder / "log").open("w") as log:
        done = subprocess.run([sys.executable, *map(str, script)], stdout=log, stderr=log, check=False)
    wall = time.time() - start
    if done.returncode:
        raise SystemExit(f"{arm} failed:\n{(folder / 'log').read_text()[-3000:]}")
    said = json.loads((folder / "result.json").read_text())
    points = len(json.loads(work.read_text())["points"])
    marginal = (said["ended"] - said["first_step"]) / points
    return {**said, "wall": wall, "cold": said["first_step"] - start, "marginal": marginal}


def main() -> None:
    if sys.argv[1:2] == ["--arm"]:
        arm: dict[str, Callable[[dict[str, Any], Path], dict[str, float]]] = {"ours": ours, "stock": stock}
        folder = Path(sys.argv[4])
        said = arm[sys.argv[2]](json.loads(Path(sys.argv[3]).read_text()), folder)
        (folder / "result.json").write_text(json.dumps(said))
        return
    parser = harness.arguments(__doc__ or "")
    parser.add_argument("--arms", default=",".join(ARMS), help="some of them, separated by commas")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--stock-rounds", type=int, default=1, help="of the stock pattern, which takes 20 minutes")
    options = parser.parse_args()
    from vitray.cluster.launch import Prepared
    from vitray.cluster.sweeps import plan
    from vitray.data.prepare import prepare

    scratch = Path(tempfile.mkdtemp(prefix="vitray-bench-"))
    os.environ["VITRAY_HOME"] = str(scratch / "plan")
    data = str(scratch / "digits")
    prepare("builtin:digits", data)
    base = experiment(data, options.quick)
    made = plan(Prepared.of(base, "wall"))
    work = scratch / "work.json"
    work.write_text(
        json.dumps(
            {
                "experiment": base.model_dump(mode="json"),
                "points": [dict(point) for point in made.points],
                "at_once": made.groups.groups,
                "grace_epochs": made.search.grace_epochs,
                "reduction_factor": made.search.reduction_factor,
            }
        )
    )
    arms = [arm for arm in ARMS if arm in options.arms.split(",")]
    found: dict[str, list[dict[str, float]]] = {arm: [] for arm in arms}
    for number in range(options.rounds or (1 if options.quick else 3)):
        for arm in arms[number % len(arms) :] + arms[: number % len(arms)]:
            if arm == "stock" and len(found[arm]) >= options.stock_rounds:
                continue
            said = measure(arm, work, scratch / f"{arm.replace(' ', '-')}-{number}")
            found[arm].append(said)
            harness.say(
                f"round {number}, {arm}: wall {said['wall']:.1f} s, cold start {said['cold']:.1f} s, marginal "
                f"{said['marginal']:.2f} s a trial, {said['epochs']:.0f} epochs, best {said['best']:.4f}"
            )
    shutil.rmtree(scratch, ignore_errors=True)
    harness.publish("sweep_wall", _rows(found), options.output, harness.versions("vitray", "ray", "torch", "optuna"))


def _rows(found: dict[str, list[dict[str, float]]]) -> list[harness.Row]:
    def of(arm: str, what: str) -> list[float]:
        return [said[what] for said in found[arm]]

    def per_epoch(arm: str) -> list[float]:
        return [(said["ended"] - said["first_step"]) / said["epochs"] for said in found[arm]]

    rows = []
    scripts = [arm for arm in found if arm.startswith("optuna")]
    fastest = min(scripts, key=lambda arm: statistics.median(of(arm, "marginal")), default=None)
    for peer in [arm for arm in found if arm == "stock" or arm == fastest]:
        if "ours" not in found:
            break
        is_stock = peer == "stock"
        name = "function trainable + TorchTrainer" if is_stock else peer
        wall, margin = ("wall", 4) if is_stock else ("marginal", 1 / 1.1)
        for what, unit, text in (
            ("wall", "s", "wall of all trials"),
            ("marginal", "s", "marginal wall of a trial"),
            ("cold", "s", "cold start to the first step"),
        ):
            goal = margin if what == wall else None
            rows.append(harness.less_is_better(text, unit, of("ours", what), of(peer, what), name, goal))
        rows.append(
            harness.less_is_better("wall of an epoch that was trained", "s", per_epoch("ours"), per_epoch(peer), name)
        )
        rows.append(harness.more_is_better("epochs trained", "epochs", of("ours", "epochs"), of(peer, "epochs"), name))
        rows.append(harness.more_is_better("best validation accuracy", "", of("ours", "best"), of(peer, "best"), name))
    return rows


if __name__ == "__main__":
    main()
