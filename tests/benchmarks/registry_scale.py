"""Lists where there is much to list: `vitray models list` and `vitray sweep list` as whole commands, in a home of 200
sweeps of 25 trials, with 5,000 runs and 500 versions of 20 models in its store; against a script that asks MLflow's
client for the same.

The store is embedded SQLite, then PostgreSQL behind `mlflow server`. It is filled with one sweep, one trial and one
version that our own code wrote (12 epochs, all parameters and tags), which SQL then copies under other names:
`INSERT ... SELECT`, some seconds for 720,000 points. The folders of the sweeps are copies of one ledger and state.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import harness

sys.path.insert(0, str(Path(__file__).parent.parent / "tracking"))
from mlflow_server import MlflowServer, postgres

SWEEPS, TRIALS, EPOCHS, MODELS = 200, 25, 12, 20
GOAL_S = 2.0
EXPERIMENT = "digits"
_COPIED = ("runs", "params", "metrics", "latest_metrics", "tags")

MODELS_SCRIPT = """
import sys
from mlflow import MlflowClient
client = MlflowClient(sys.argv[1], sys.argv[1])
aliases, token = {}, None
while True:
    page = client.search_registered_models(page_token=token)
    for model in page:
        aliases.update({(model.name, int(number)): alias for alias, number in model.aliases.items()})
    token = page.token
    if not token:
        break
versions = client.search_model_versions(max_results=10000)
for v in versions:
    print(v.name, v.version, aliases.get((v.name, int(v.version)), ""), v.tags.get("vitray.metric.test/accuracy"))
"""
SWEEPS_SCRIPT = f"""
import sys
from mlflow import MlflowClient
client = MlflowClient(sys.argv[1], sys.argv[1])
experiment = client.get_experiment_by_name("{EXPERIMENT}").experiment_id
token = None
while True:
    page = client.search_runs([experiment], "tags.`vitray.kind` = 'sweep'", page_token=token)
    for run in page:
        print(run.info.run_name, run.info.status, run.data.tags.get("vitray.best"), run.data.metrics)
    token = page.token
    if not token:
        break
"""


def write_originals(uri: str, home: Any, data: str) -> None:
    """One sweep, one of its trials and one version, written by the code that always writes them."""
    import torch

    from vitray.experiment import ModelConfig
    from vitray.models import VisionTransformer
    from vitray.models.package import PackageInfo, save_package
    from vitray.tracking import MlflowTracker, registry
    from vitray.tune.state import Sweep

    from vitray.cluster.launch import Prepared  # isort: skip
    from vitray.cluster.sweeps import plan  # isort: skip

    prepared = Prepared.of(_experiment(data), "original")
    made = plan(prepared, home=home)
    sweep = Sweep("original", "original-key", home.runs / "original", made, prepared.data.fingerprint)
    trials = _write_folder(sweep)
    tracker = MlflowTracker(uri, home.spool, home.artifacts)
    sweep.run.begin(tracker)
    tracker.set_tags(sweep.key, {"vitray.best": trials[0].name, "vitray.model": "models:/model-0/1"})
    run = sweep.run_of(trials[0])
    run.begin(tracker)
    for report in trials[0].reports:
        metrics = {k: v for k, v in report.items() if k not in ("epoch", "at", "step")}
        tracker.log_metrics(run.key, metrics, step=int(report["epoch"]))
    for key in (run.key, sweep.key):
        tracker.end_run(key, "FINISHED")
    assert tracker.flush(120)
    tracker.close()
    config = ModelConfig(image_size=8, patch_size=4, in_chans=1, num_classes=10, embed_dim=16, depth=2, num_heads=2)
    torch.manual_seed(0)
    info = PackageInfo(
        model=config,
        classes=tuple("0123456789"),
        mean=(0.3,),
        std=(0.4,),
        dataset_fingerprint=prepared.data.fingerprint,
    )
    package = save_package(home.root / "package", VisionTransformer(config).state_dict(), info)
    tags = {"vitray.sweep": "original", "vitray.trial": trials[0].name, "vitray.dataset": "digits"}
    given = {"run": run.key, "tags": tags, "description": "Digits.", "metrics": {"test/accuracy": 0.97}}
    registry.register_model(uri, name="model-0", package=package, **given)


def _experiment(data: str) -> Any:
    from vitray.data import ShardedImages
    from vitray.experiment import Experiment

    return ShardedImages.open(data).resolve(
        Experiment(
            data={"path": data},
            model={"patch_size": 4, "embed_dim": 32, "depth": 2, "num_heads": 2},
            train={"epochs": EPOCHS},
            cluster={"use_gpu": False},
            search={"space": {"model.depth": [1, 2], "optim.lr": {"log": [1e-3, 1e-2]}}, "trials": TRIALS},
            tracking={"experiment": EXPERIMENT},
        )
    )


def _write_folder(sweep: Any) -> list[Any]:
    """A sweep that has ended, by the ledger that sweeps write."""
    from vitray.tune.ledger import Ledger
    from vitray.tune.state import write_state

    with Ledger(sweep.folder) as ledger:
        sweep.run.write_config()
        for index, point in enumerate(sweep.plan.points):
            facts = {"name": f"trial-{index:04d}", "kind": "search", "point": point, "values": point}
            ledger.append("trial", index, **facts)
            ledger.append("begin", index)
            for epoch in range(1, EPOCHS + 1):
                values = ("lr", "train/loss", "images_per_s", "data_wait", "epoch_s", "eval_s", "checkpoint_s")
                values += ("val/loss", "val/accuracy", "val/samples")
                metrics = {name: (epoch + index / 7) / (13 + place) for place, name in enumerate(values)}
                ledger.append("report", index, epoch=epoch, step=10 * epoch, metrics=metrics, start_s=0.1, warm=True)
            ledger.append("end", index, status="done", epoch=EPOCHS)
        facts = {"best": "trial-0000", "test_accuracy": 0.97, "model": "models:/model-0/1", "seconds": 60.0}
        write_state(sweep, "done", **facts)
        return list(ledger.records.values())


def copy_folders(runs: Path) -> None:
    """The folder of the one sweep, under other names and with other ages."""
    original = runs / "original"
    for number in range(SWEEPS - 1):
        folder = runs / f"sweep-{number:03d}"
        shutil.copytree(original, folder)
        state = json.loads((folder / "sweep.json").read_text())
        state |= {"name": folder.name, "time": state["time"] - 60 * number}
        (folder / "sweep.json").write_text(json.dumps(state))


def copy_rows(database: str) -> None:
    """5,000 runs out of two, and 500 versions of 20 models out of one."""
    import sqlalchemy
    from sqlalchemy import text

    engine = sqlalchemy.create_engine(database)
    with engine.begin() as connection:
        inspector = sqlalchemy.inspect(connection)

        def copy(table: str, changed: dict[str, str], source: str, where: str) -> None:
            names = [column["name"] for column in inspector.get_columns(table)]
            chosen = ", ".join(changed.get(name, f"{table}.{name}") for name in names)
            connection.execute(
                text(f"INSERT INTO {table} ({', '.join(names)}) SELECT {chosen} FROM {table}, {source} WHERE {where}")
            )

        found = connection.execute(text("SELECT run_uuid, value FROM tags WHERE key = 'vitray.run'")).all()
        by_key = {key: run for run, key in found}
        (trial,) = [run for key, run in by_key.items() if "/" in key]
        sweep = by_key["original-key"]
        connection.execute(text("CREATE TABLE fresh (original VARCHAR(32), made VARCHAR(32), label VARCHAR(250))"))
        rows = [
            {"original": sweep, "made": f"{number:032x}", "label": f"sweep-{number:03d}"} for number in range(1, SWEEPS)
        ]
        rows += [
            {"original": trial, "made": f"{n + 100000:032x}", "label": f"sweep-{n // TRIALS:03d}/trial-{n % TRIALS}"}
            for n in range(1, SWEEPS * TRIALS)
        ]
        connection.execute(text("INSERT INTO fresh VALUES (:original, :made, :label)"), rows)
        for table in _COPIED:
            changed = {"run_uuid": "fresh.made"}
            if table == "runs":
                changed |= {"name": "fresh.label"}
            if table == "tags":
                named = "tags.key IN ('vitray.run', 'mlflow.runName')"
                changed |= {"value": f"CASE WHEN {named} THEN fresh.label ELSE tags.value END"}
            copy(table, changed, "fresh", f"{table}.run_uuid = fresh.original")
        connection.execute(text("DROP TABLE fresh"))

        connection.execute(text("CREATE TABLE fresh (name VARCHAR(250), version INTEGER)"))
        connection.execute(
            text("INSERT INTO fresh VALUES (:name, 0)"), [{"name": f"model-{n}"} for n in range(1, MODELS)]
        )
        copy("registered_models", {"name": "fresh.name"}, "fresh", "registered_models.name = 'model-0'")
        connection.execute(text("DELETE FROM fresh"))
        versions = [
            {"name": f"model-{n}", "version": v} for n in range(MODELS) for v in range(1, 26) if (n, v) != (0, 1)
        ]
        connection.execute(text("INSERT INTO fresh VALUES (:name, :version)"), versions)
        for table in ("model_versions", "model_version_tags"):
            where = f"{table}.name = 'model-0' AND {table}.version = 1"
            copy(table, {"name": "fresh.name", "version": "fresh.version"}, "fresh", where)
        connection.execute(text("DROP TABLE fresh"))
        ones = "registered_model_aliases.name = 'model-0'"
        source = "(SELECT name FROM registered_models WHERE name != 'model-0') AS others"
        copy("registered_model_aliases", {"name": "others.name"}, source, ones)
        counts = [
            connection.execute(text(f"SELECT count(*) FROM {t}")).scalar()
            for t in ("runs", "model_versions", "metrics")
        ]
    engine.dispose()
    harness.say(f"the store has {counts[0]:,} runs with {counts[2]:,} points, and {counts[1]} versions")


def timed(command: list[str], environment: dict[str, str], expected: int) -> tuple[float, float]:
    """Wall and processor seconds of a command that prints at least ``expected`` lines."""
    before, began = os.times(), time.perf_counter()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    wall, after = time.perf_counter() - began, os.times()
    lines = len(done.stdout.splitlines())
    if done.returncode or lines < expected:
        raise SystemExit(f"{command}: code {done.returncode}, {lines} lines\n{done.stderr[-2000:]}")
    return wall, after.children_user + after.children_system - before.children_user - before.children_system


@contextmanager
def stores(folder: Path) -> Iterator[Iterator[tuple[str, str, str]]]:
    """(name, address, database to fill) of each store, one after the other."""

    def each() -> Iterator[tuple[str, str, str]]:
        sqlite = f"sqlite:///{folder}/home/mlflow.db"
        yield "SQLite", sqlite, sqlite
        with postgres(folder) as database:
            server = MlflowServer(folder, database.database("mlflow"))
            try:
                server.start()
                yield (
                    "PostgreSQL behind a server",
                    server.uri,
                    server.database.replace("postgresql:", "postgresql+psycopg:"),
                )
            finally:
                server.kill()

    yield each()


def main() -> None:
    options = harness.arguments(__doc__ or "").parse_args()
    rounds = 1 if options.quick else 7
    from vitray.data.prepare import prepare
    from vitray.home import Home

    folder = Path(tempfile.mkdtemp(prefix="vitray-bench-"))
    home = Home(folder / "home")
    os.environ["VITRAY_HOME"] = str(home.root)
    home.root.mkdir()
    data = str(folder / "digits")
    prepare("builtin:digits", data)
    vitray = [sys.executable, "-m", "vitray.cli"]
    rows = []
    try:
        with stores(folder) as found:
            for name, uri, database in found:
                shutil.rmtree(home.runs, ignore_errors=True)
                write_originals(uri, home, data)
                copy_rows(database)
                copy_folders(home.runs)
                environment = {**os.environ, "MLFLOW_TRACKING_URI": uri, "MLFLOW_DISABLE_TELEMETRY": "true"}
                arms = {
                    ("models list", "ours"): ([*vitray, "models", "list"], 500),
                    ("models list", "peer"): ([sys.executable, "-c", MODELS_SCRIPT, uri], 500),
                    ("sweep list", "ours"): ([*vitray, "sweep", "list"], SWEEPS),
                    ("sweep list", "peer"): ([sys.executable, "-c", SWEEPS_SCRIPT, uri], SWEEPS),
                }
                times: dict[tuple[str, str], list[tuple[float, float]]] = {arm: [] for arm in arms}
                for number in range(rounds):
                    for arm in list(arms)[:: -1 if number % 2 else 1]:
                        command, expected = arms[arm]
                        times[arm].append(timed(command, environment, expected))
                        harness.say(f"{name}, {arm[1]}: {arm[0]} {times[arm][-1][0]:.2f} s")
                rows += _rows(name, times)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    harness.publish("registry_scale", rows, options.output, harness.versions("vitray", "mlflow"))


def _rows(name: str, times: dict[tuple[str, str], list[tuple[float, float]]]) -> list[harness.Row]:
    rows = []
    for what in ("models list", "sweep list"):
        wall = {arm: [w for w, _ in times[what, arm]] for arm in ("ours", "peer")}
        cpu = {arm: [c for _, c in times[what, arm]] for arm in ("ours", "peer")}
        label = f"{what}, {name}"
        rows.append(harness.less_is_better(f"{label}: wall", "s", wall["ours"], wall["peer"], "MLflow's client"))
        rows.append(harness.less_is_better(f"{label}: CPU", "s", cpu["ours"], cpu["peer"], "MLflow's client"))
        rows.append(
            harness.less_is_better(f"{label}: within {GOAL_S:g} s", "s", wall["ours"], [GOAL_S], "the goal", 1.0)
        )
    return rows


if __name__ == "__main__":
    main()
