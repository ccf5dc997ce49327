"""A whole small sweep on a real Ray and a real MLflow store: warm trials, one run each, one registered winner."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import mlflow
import pytest

from vitray.cluster.launch import Prepared
from vitray.cluster.sweeps import SweepResult, sweep
from vitray.data.samples import write_samples
from vitray.experiment import Experiment
from vitray.home import Home
from vitray.inference.predictor import Predictor
from vitray.tracking.registry import list_models
from vitray.train.checkpoint import CheckpointStore
from vitray.tune.plan import SweepPlan
from vitray.tune.record import TrialRecord
from vitray.tune.state import list_sweeps, load_sweep

pytestmark = pytest.mark.ray
_EPOCHS = 4


@dataclass
class Watching:
    """A display that remembers what it was shown."""

    stages: list[str] = field(default_factory=list)
    seen_running: set[int] = field(default_factory=set)

    def update(self, trials: Sequence[TrialRecord]) -> None:
        self.seen_running |= {t.index for t in trials if t.status == "running"}

    def stage(self, text: str) -> None:
        self.stages.append(text)


@dataclass
class Done:
    home: Home
    result: SweepResult
    shown: Watching
    plan: SweepPlan

    @property
    def searched(self) -> list[TrialRecord]:
        return [t for t in self.result.trials if t.kind == "search"]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Done]:
    """One sweep for all tests of this module."""
    with pytest.MonkeyPatch.context() as patch:
        home = Home(tmp_path_factory.mktemp("sweep") / "home")
        patch.setenv("VITRAY_HOME", str(home.root))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.delenv("RAY_ADDRESS", raising=False)
        experiment = Experiment(
            data={"path": "builtin:digits", "augment": {"shift": 1}},
            model={"patch_size": 4, "embed_dim": 32, "depth": 2, "num_heads": 2},
            train={"epochs": _EPOCHS},
            optim={"lr": 2e-3, "warmup_epochs": 1},
            search={
                "space": {
                    "model.depth": [1, 2],
                    "model.num_heads": [2, 5],  # 5 does not divide 32: half of the architectures are refused
                    "model.pos_encoding": ["learned", "rope_2d"],
                    "optim.lr": {"log": [1e-3, 4e-3]},
                },
                "trials": 6,
                "grace_epochs": 1,
                "reduction_factor": 2,
            },
            tracking={"experiment": "small"},
        )
        shown, plans = Watching(), []

        def display(plan: SweepPlan) -> Watching:
            plans.append(plan)
            return shown

        result = sweep(Prepared.of(experiment, "small"), home, display)
        yield Done(home, result, shown, plans[0])


def runs(done: Done) -> list[mlflow.entities.Run]:
    client = mlflow.MlflowClient(done.home.tracking_uri)
    experiment = client.get_experiment_by_name("small")
    return client.search_runs([experiment.experiment_id])


def test_only_valid_points_run_and_none_twice(done: Done) -> None:
    points = [tuple(t.point.items()) for t in done.searched]
    assert len(set(points)) == len(points) == 6
    assert all(t.point["model.num_heads"] == 2 for t in done.searched)
    assert done.plan.describe()["architectures"] == 8
    assert done.plan.describe()["valid_architectures"] == 4


def test_asha_stops_some_and_finishes_some(done: Done) -> None:
    states = {t.status for t in done.searched}
    assert "done" in states
    assert states <= {"done", "stopped"}
    assert {t.ended_by for t in done.searched} <= {None, "asha"}
    for trial in done.searched:
        newest = CheckpointStore(done.home.runs / "small" / "trials" / trial.name / "checkpoints").newest()
        assert newest is not None
        # Stopped at its report: the newest checkpoint is of the epoch reported last, so no step was wasted.
        assert int(newest.name.split("-")[1]) == trial.epoch * 10


def test_groups_are_reused(done: Done) -> None:
    warm = [t for t in done.result.trials if t.warm]
    cold = [t for t in done.result.trials if not t.warm]
    assert len(cold) <= done.plan.groups.groups
    assert warm
    assert max(t.start_s or 0 for t in warm) < min(t.start_s or 0 for t in cold)


def test_every_trial_was_shown(done: Done) -> None:
    assert done.shown.seen_running == set(range(7)), "six that search, and the retraining"
    assert any("retraining" in stage for stage in done.shown.stages)


def test_one_parent_one_run_a_trial_one_final(done: Done) -> None:
    found = runs(done)
    kinds = [run.data.tags["vitray.kind"] for run in found]
    assert sorted(kinds) == ["final", "sweep", *["trial"] * 6]
    assert {run.info.status for run in found} == {"FINISHED"}
    parent = next(run for run in found if run.data.tags["vitray.kind"] == "sweep")
    best = next(run for run in found if run.info.run_name == done.result.winner.trial.name)
    for run in found:
        above = {"sweep": None, "trial": parent.info.run_id, "final": best.info.run_id}[run.data.tags["vitray.kind"]]
        assert run.data.tags.get("mlflow.parentRunId") == above


def test_every_run_says_what_it_ran_on(done: Done) -> None:
    for run in runs(done):
        (data,) = run.inputs.dataset_inputs
        assert data.dataset.digest == run.data.tags["vitray.dataset_fingerprint"][:36]
        assert run.data.tags["vitray.ray_job_id"]
        if run.data.tags["vitray.kind"] != "sweep":
            assert 0 <= run.data.metrics["system/cpu_utilization_percentage"] <= 100
            assert run.data.metrics["system/rank_memory_megabytes"] > 100


def test_metrics_are_complete_and_by_epoch(done: Done) -> None:
    client = mlflow.MlflowClient(done.home.tracking_uri)
    by_name = {run.info.run_name: run for run in runs(done)}
    for trial in done.searched:
        run = by_name[trial.name]
        history = client.get_metric_history(run.info.run_id, "val/accuracy")
        assert [point.step for point in history] == list(range(1, trial.epoch + 1))
        assert [point.value for point in history] == [r["val/accuracy"] for r in trial.reports]
        assert run.data.params["model.depth"] == str(trial.point["model.depth"])


def test_the_winner_is_registered_once_and_predicts(done: Done, tmp_path: Path) -> None:
    versions = list_models(done.home.tracking_uri)
    assert len(versions) == 1
    assert list(versions[0].aliases) == ["champion"]
    assert done.result.winner.score.samples == 359  # the test split, whole
    assert done.result.winner.experiment.train.split == "train+val"
    predictor = Predictor.load("models:/small@champion", done.home.tracking_uri)
    files = write_samples(Prepared.of(done.plan.experiment, "small").data, "test", tmp_path, 2)
    assert [p.label in "0123456789" for p in predictor.predict(files)] == [True, True]


def test_the_winner_carries_its_pictures(done: Done) -> None:
    client = mlflow.MlflowClient(done.home.tracking_uri)
    final = next(run for run in runs(done) if run.data.tags["vitray.kind"] == "final")
    names = {item.path for item in client.list_artifacts(final.info.run_id, "figures")}
    assert {"figures/learning_curves.png", "figures/confusion_matrix.png", "figures/positional_encoding.png"} <= names
    assert {"figures/patch_filters.png", "figures/attention_distance.png"} <= names
    for kind in ("attention", "rollout"):  # of the first test images of the first three digits
        assert sorted(Path(name).name[:2] for name in names if name.endswith(f"-{kind}.png")) == ["0-", "1-", "2-"]
    assert final.data.metrics["test/accuracy"] == pytest.approx(done.result.winner.score.accuracy)


def test_the_sweep_is_listed(done: Done) -> None:
    [saved] = list_sweeps(done.home.runs)
    assert (saved.name, saved.status, saved.facts["model"]) == ("small", "done", "models:/small/1")
    whole = load_sweep(done.home.runs, "small")
    assert whole.records == done.result.trials, "what lies on disk is what was returned"
    assert [replace(r, reports=[], epoch=0, start_s=None, warm=False) for r in whole.records] == [
        replace(r, epoch=0, start_s=None, warm=False) for r in saved.records
    ]


def test_the_report_is_beside_it_and_in_the_tracker(done: Done) -> None:
    client = mlflow.MlflowClient(done.home.tracking_uri)
    parent = next(run for run in runs(done) if run.data.tags["vitray.kind"] == "sweep")
    kept = {item.path for item in client.list_artifacts(parent.info.run_id)}
    assert {"report.html", "figures"} <= kept
    assert (done.home.runs / "small" / "report.html").stat().st_size > 10_000
