"""Sweeps on a real Ray that are no plain search: a population that trades weights, and one with a trial that fails."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import psutil
import pytest
from silent import Silent

from vitray.cluster.launch import Prepared
from vitray.cluster.sweeps import SweepResult, sweep
from vitray.experiment import Experiment
from vitray.home import Home
from vitray.train.checkpoint import committed_in
from vitray.tune.ledger import read_records
from vitray.tune.record import TrialRecord

pytestmark = pytest.mark.ray
_STEPS = 10  # an epoch's


@dataclass
class Done:
    home: Home
    name: str
    result: SweepResult

    @property
    def searched(self) -> list[TrialRecord]:
        return [t for t in self.result.trials if t.kind == "search"]

    @property
    def runs(self) -> dict[str, mlflow.entities.Run]:
        client = mlflow.MlflowClient(self.home.tracking_uri)
        experiment = client.get_experiment_by_name(self.name)
        return {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}

    def epochs_of(self, run: mlflow.entities.Run) -> list[int]:
        client = mlflow.MlflowClient(self.home.tracking_uri)
        return [point.step for point in client.get_metric_history(run.info.run_id, "val/accuracy")]

    def checkpoint(self, trial: TrialRecord, epoch: int) -> list[Path]:
        folder = self.home.runs / self.name / "trials" / trial.name / "checkpoints"
        return [p for p in committed_in(folder) if p.name.startswith(f"step-{epoch * _STEPS:09d}-")]


def swept(folder: Path, digits: Path, name: str, train: dict[str, Any], **search: Any) -> Iterator[Done]:
    with pytest.MonkeyPatch.context() as patch:
        home = Home(folder / "home")
        patch.setenv("VITRAY_HOME", str(home.root))
        for variable in ("MLFLOW_TRACKING_URI", "RAY_ADDRESS"):
            patch.delenv(variable, raising=False)
        experiment = Experiment(
            data={"path": str(digits), "augment": {"shift": 1}},
            model={"patch_size": 4, "embed_dim": 32, "depth": 1, "num_heads": 2},
            train=train,
            optim={"warmup_epochs": 1},
            cluster={"use_gpu": False},
            search=search,
            tracking={"experiment": name},
        )
        yield Done(home, name, sweep(Prepared.of(experiment, name), home, lambda plan: Silent()))


@pytest.fixture(scope="module")
def population(tmp_path_factory: pytest.TempPathFactory, digits: Path) -> Iterator[Done]:
    space = {"optim.lr": {"log": [1e-6, 4e-3]}, "train.label_smoothing": [0.0, 0.1]}
    train = {"epochs": 6, "keep_last": 10}
    folder = tmp_path_factory.mktemp("population")
    yield from swept(folder, digits, "population", train, space=space, scheduler="pbt", perturb_epochs=2, trials=4)


def test_the_worst_go_on_from_the_weights_of_the_best(population: Done) -> None:
    members = population.searched
    assert [(m.status, m.epoch) for m in members] == [("done", 6)] * 4
    changes = [(m, change) for m in members for change in m.changes]
    assert [change["epoch"] for _, change in changes].count(2) == 1, "a quarter of four"
    assert [change["epoch"] for _, change in changes].count(4) == 1
    for member, change in changes:
        donor, epoch = members[change["donor"]], change["epoch"]
        scores = {m.index: m.score_at(epoch, "val/accuracy") or 0.0 for m in members}
        assert scores[donor.index] == max(scores.values())
        assert scores[member.index] == min(scores.values())
        adopted, own = population.checkpoint(member, epoch)  # the newest first
        [given] = population.checkpoint(donor, epoch)[-1:]
        for file in ("model.safetensors", "optimizer.safetensors"):
            assert (adopted / file).read_bytes() == (given / file).read_bytes()
            assert (own / file).read_bytes() != (given / file).read_bytes()
        following = member.score_at(epoch + 1, "val/accuracy") or 0.0
        assert following > scores[member.index], "it has learned at once what the other knew"


def test_a_population_is_tracked_without_gaps_or_doubles(population: Done) -> None:
    runs = population.runs
    for member in population.searched:
        run = runs[member.name]
        assert run.info.status == "FINISHED"
        assert population.epochs_of(run) == list(range(1, 7))
        said = [run.data.tags[f"vitray.change.{n}"] for n in range(1, len(member.changes) + 1)]
        for text, change in zip(said, member.changes, strict=True):
            assert text.startswith(f"epoch {change['epoch']}: weights of {population.searched[change['donor']].name}, ")
            assert f"optim.lr={change['point']['optim.lr']}" in text


def test_a_populations_winner_is_what_it_has_become(population: Done) -> None:
    """Not a retraining: the values that it was trained with changed on the way."""
    assert {t.kind for t in population.result.trials} == {"search"}
    winner = population.result.winner
    assert winner.package.parent.parent.name == winner.trial.name
    assert winner.uri == "models:/population/1"


@pytest.fixture(scope="module")
def spoilt(tmp_path_factory: pytest.TempPathFactory, digits: Path) -> Iterator[Done]:
    """Three trials, of which one cannot work, and two finalists with another seed each; nothing is retrained."""
    yield from swept(
        tmp_path_factory.mktemp("spoilt"), digits, "spoilt", {"epochs": 3, "clip_grad": None},
        space={"optim.lr": [1e30, 2e-3, 4e-3]}, algorithm="grid", scheduler="none", finalists=2, concurrent=1,
        retrain=False,
    )  # fmt: skip


def test_a_trial_that_turns_nan_ends_itself_and_not_its_group(spoilt: Done) -> None:
    nan, *others = spoilt.searched
    assert (nan.status, nan.failure_class, nan.epoch) == ("failed", "nan", 0)
    assert [t.status for t in others] == ["done", "done"]
    assert all(t.warm for t in others), "the group that had the first goes on"
    run = spoilt.runs[nan.name]
    assert run.info.status == "FAILED"
    assert run.data.tags["vitray.outcome"] == "failed"
    assert run.data.tags["vitray.failure_class"] == "nan"
    assert "loss is" in run.data.tags["vitray.failure"]


def test_finalists_are_repeated_with_another_seed_and_the_better_mean_wins(spoilt: Done) -> None:
    repeats = [t for t in spoilt.result.trials if t.kind == "repeat"]
    assert {t.repeats for t in repeats} == {1, 2}
    assert {t.values["train.seed"] for t in repeats} == {1}
    scores = {t.repeats: t.reports for t in repeats}
    winner = spoilt.result.winner
    assert winner.standing.repeated
    best = max(scores, key=lambda index: max(r["val/accuracy"] for r in scores[index]))
    assert winner.trial.index == best
    tags = {name: run.data.tags for name, run in spoilt.runs.items()}
    for repeat in repeats:
        assert repeat.repeats is not None
        assert tags[repeat.name]["vitray.repeats"] == spoilt.result.trials[repeat.repeats].name


class Killer(threading.Thread):
    """Kills one process of each kind, each when a trial is in the midst of its epochs."""

    def __init__(self, folder: Path, *kinds: str) -> None:
        super().__init__(daemon=True)
        self._folder, self._kinds, self.killed = folder, kinds, list[str]()

    def run(self) -> None:
        for kind in self._kinds:
            while kind not in self.killed:  # between two groups there is none
                self._kill(kind)

    def _kill(self, kind: str) -> None:
        before = time.time()
        while not any(r.reports and r.reports[-1]["at"] > before and not r.ended for r in read_records(self._folder)):
            time.sleep(0.05)
        for process in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):
                if kind in process.name() + " ".join(process.cmdline()):
                    process.kill()
                    self.killed.append(kind)
                    break


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory, digits: Path) -> Iterator[tuple[Done, Killer]]:
    folder = tmp_path_factory.mktemp("killed")
    killer = Killer(folder / "home" / "runs" / "killed", "ResourceTrainable", "TrainController", "RayTrainWorker")
    killer.start()
    space = {"optim.lr": {"log": [1e-3, 4e-3]}}
    swept_by = swept(
        folder, digits, "killed", {"epochs": 60}, space=space, scheduler="none", trials=3, concurrent=1, retrain=False
    )
    for done in swept_by:
        yield done, killer


def test_whatever_process_of_a_trial_dies_it_goes_on_from_its_checkpoint(killed: tuple[Done, Killer]) -> None:
    done, killer = killed
    assert killer.killed == ["ResourceTrainable", "TrainController", "RayTrainWorker"]
    assert [(t.status, t.epoch, t.failure) for t in done.searched] == [("done", 60, None)] * 3
    assert sum(len(t.spans) for t in done.searched) >= 4, "most of them cost the trial its process"
    for trial in done.searched:
        run = done.runs[trial.name]
        assert run.info.status == "FINISHED"
        assert done.epochs_of(run) == list(range(1, 61))
