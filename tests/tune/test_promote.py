"""The winner on a real store: tested once, held against the champion on the same images, registered at most once."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from vitray.data import ShardedImages
from vitray.errors import StoreAwayError
from vitray.experiment import Experiment
from vitray.models import VisionTransformer
from vitray.models.package import PackageInfo
from vitray.models.preprocess import normalise
from vitray.tracking import MlflowTracker, registration
from vitray.tracking.mlflow_client import connect, prepare_store
from vitray.tracking.registry import download, list_models, resolve
from vitray.train.checkpoint import CheckpointStore, Progress, TrainState
from vitray.train.optim import make_optimizer
from vitray.tune import promote as promoting
from vitray.tune import promote_champion
from vitray.tune.plan import plan_sweep
from vitray.tune.promote import Winner, promote
from vitray.tune.record import TrialRecord
from vitray.tune.state import Sweep, trial_folder

pytestmark = pytest.mark.slow
Weights = dict[str, torch.Tensor]
SHAPE = {"patch_size": 4, "embed_dim": 32, "depth": 1, "num_heads": 2}


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # models so small are only slowed by more
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def data(digits: Path) -> ShardedImages:
    return ShardedImages.open(str(digits))


@pytest.fixture(scope="module")
def good(data: ShardedImages) -> Weights:
    """A model of about 90 %: a second of training."""
    (batch,) = data.batches("train", global_batch=2000)
    images = normalise(torch.from_numpy(batch.image.copy()), *moments(data))
    labels = torch.from_numpy(batch.label.copy())
    torch.manual_seed(0)
    model = VisionTransformer(experiment(data).model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for step in range(150):
        rows = torch.arange(step * 128, step * 128 + 128) % len(labels)
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(images[rows]), labels[rows]).backward()
        optimizer.step()
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


@pytest.fixture(scope="module")
def poor(good: Weights) -> Weights:
    """The same model with two classes' answers swapped: about 20 % worse."""
    swapped = {name: tensor.clone() for name, tensor in good.items()}
    for name in ("head.weight", "head.bias"):
        swapped[name][[0, 1]] = good[name][[1, 0]]
    return swapped


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mlflow")
    prepare_store(f"sqlite:///{folder}/mlflow.db", folder / "artifacts")
    return folder / "mlflow.db"


def moments(data: ShardedImages) -> tuple[tuple[float, ...], tuple[float, ...]]:
    return tuple(data.store.manifest.mean), tuple(data.store.manifest.std)


def experiment(data: ShardedImages, **search: Any) -> Experiment:
    return data.resolve(
        Experiment(
            data={"path": data.store.shown},
            model=SHAPE,
            train={"epochs": 3, "seed": 7},
            search={"space": {"optim.lr": [0.001, 0.002]}, "trials": 2, "scheduler": "none", **search},
            tracking={"experiment": "digits"},
        )
    )


@dataclass
class Place:
    """A store, and sweeps that end in it with the weights they are told."""

    folder: Path
    data: ShardedImages

    @property
    def uri(self) -> str:
        return f"sqlite:///{self.folder}/mlflow.db"

    def sweep(self, name: str, weights: Weights, **search: Any) -> tuple[Sweep, list[TrialRecord], TrialRecord | None]:
        plan = plan_sweep(experiment(self.data, **search), cpus=2, gpus=0)
        sweep = Sweep(name, f"{name}-0a1b", self.folder / "runs" / name, plan, self.data.fingerprint)
        records = [
            TrialRecord(i, f"trial-{i:04d}", p, values=dict(p), status="done", epoch=3, reports=reports(0.8 + i / 10))
            for i, p in enumerate(plan.points)
        ]
        final = None
        if plan.search.retrain:
            values = {**records[1].values, "train.split": "train+val"}
            final = TrialRecord(9, "final", records[1].point, "final", values=values, status="done", epoch=3)
            final.reports = [{k: v for k, v in r.items() if not k.startswith("val/")} for r in reports(0.9)]
        folder = trial_folder(sweep.folder, final or records[1]) / "checkpoints"
        if not folder.exists():
            self.checkpoint(folder, weights)
        return sweep, records, final

    def checkpoint(self, folder: Path, weights: Weights) -> None:
        trained = experiment(self.data)
        model = VisionTransformer(trained.model)
        model.load_state_dict(weights)
        state = TrainState(model, make_optimizer(model, trained.optim))
        mean, std = moments(self.data)
        info = PackageInfo(
            model=trained.model,
            classes=self.data.classes,
            mean=mean,
            std=std,
            dataset_fingerprint=self.data.fingerprint,
        )
        store = CheckpointStore(folder)
        store.save(state, Progress(30), info)
        store.close()

    def end(self, name: str, weights: Weights, *, force: bool = False, **search: Any) -> Winner:
        """What the engine does at the end of a sweep, in a process of its own as far as the tracker can tell."""
        sweep, records, final = self.sweep(name, weights, **search)
        tracker = MlflowTracker(self.uri, self.folder / "spool", self.folder / "artifacts", interval_s=0.05)
        try:
            sweep.run.begin(tracker)
            winner = promote(sweep, records[1], final, records, self.data, tracker, self.uri, force=force)
            tracker.end_run(sweep.key, "FINISHED")
            assert tracker.flush(30)
        finally:
            tracker.close()
        return winner

    def aliases(self) -> dict[int, tuple[str, ...]]:
        return {v.version: v.aliases for v in list_models(self.uri, "digits")}


def reports(best: float) -> list[dict[str, float]]:
    scores = [best - 0.2, best, best - 0.1]
    return [
        {"epoch": i + 1.0, "train/loss": 1.0 - s, "val/accuracy": s, "val/loss": 1 - s, "val/samples": 180.0}
        for i, s in enumerate(scores)
    ]


@pytest.fixture
def place(tmp_path: Path, template: Path, data: ShardedImages) -> Place:
    folder = tmp_path / "home"
    folder.mkdir()
    shutil.copy(template, folder / "mlflow.db")
    return Place(folder, data)


@pytest.fixture
def without_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """They take seconds, and have no part in what is registered."""
    monkeypatch.setattr(promoting, "draw", lambda folder, *args: folder.mkdir(exist_ok=True))


def test_the_first_winner_is_champion_with_its_lineage(place: Place, data: ShardedImages, good: Weights) -> None:
    winner = place.end("first", good)
    assert (winner.version, winner.alias, winner.champion, winner.uri) == (1, "champion", None, "models:/digits/1")
    assert winner.describe() == "registered: models:/digits/1, alias champion"
    assert winner.score.accuracy > 0.8
    (version,) = list_models(place.uri, "digits")
    assert version.tags["vitray.sweep"] == "first"
    assert version.tags["vitray.trial"] == "trial-0001"
    assert version.tags["vitray.seed"] == "7"
    assert version.tags["vitray.dataset_fingerprint"] == data.fingerprint
    assert version.tags["vitray.config_hash"] == winner.experiment.identity
    assert winner.experiment.train.split == "train+val"
    assert version.tags["vitray.validation"] == "val/accuracy 0.9000 (95 % interval 0.8475 to 0.9358)"
    assert version.metrics == {"test/accuracy": winner.score.accuracy, "val/accuracy": 0.9}
    client = connect(place.uri)
    run = client.get_run(version.run_id)
    assert run.info.status == "FINISHED"
    names = {f.path for f in client.list_artifacts(version.run_id)}
    assert {"figures", "test.json"} <= names
    shown = {Path(f.path).name for f in client.list_artifacts(version.run_id, "figures")}
    assert {"learning_curves.png", "learning_curves_retrained.png", "confusion_matrix.png"} <= shown
    parent = client.get_run(run.data.tags["mlflow.parentRunId"])
    assert parent.data.metrics == {"test/accuracy": winner.score.accuracy}


@pytest.mark.usefixtures("without_pictures")
def test_a_champion_is_replaced_unless_it_is_better_beyond_chance(place: Place, good: Weights, poor: Weights) -> None:
    place.end("poor", poor)
    better = place.end("better", good)
    assert (better.version, better.alias) == (2, "champion")
    assert better.champion is not None
    assert better.champion.interval is not None
    assert better.champion.interval[0] > 0
    assert "better than version 1, the champion" in better.describe()
    equal = place.end("equal", {name: tensor + 1e-5 for name, tensor in good.items()})
    assert (equal.version, equal.alias) == (3, "champion")
    assert "not worse than version 2" in equal.describe()
    assert place.aliases() == {1: (), 2: (), 3: ("champion",)}

    worse = place.end("worse", poor)
    assert (worse.version, worse.alias, worse.uri) == (None, None, None)
    said = worse.describe()
    assert said.startswith("nothing was registered: it is worse than version 3, the champion")
    assert f"{worse.score.accuracy:.4f} against {equal.score.accuracy:.4f} on the same 359 test images" in said
    assert said.endswith("vitray sweep resume worse --force")
    assert place.aliases() == {1: (), 2: (), 3: ("champion",)}
    client = connect(place.uri)
    experiment_id = client.get_experiment_by_name("digits").experiment_id
    assert len(client.search_logged_models([experiment_id])) == 3  # nor is there a model without a version

    forced = place.end("worse", poor, force=True)  # the command that it named
    assert (forced.version, forced.alias) == (4, "challenger")
    assert forced.describe().endswith("vitray models promote digits 4")
    assert place.end("worse", poor).version == 4  # once registered, a repeat without the flag changes nothing
    assert place.aliases() == {1: (), 2: (), 3: ("champion",), 4: ("challenger",)}


@pytest.mark.usefixtures("without_pictures")
@pytest.mark.parametrize("obstacle", ["other classes", "its files are gone"])
def test_a_champion_that_cannot_be_compared_stays(
    place: Place, good: Weights, obstacle: str, data: ShardedImages
) -> None:
    first = place.end("first", good)
    package = download("models:/digits/1", tracking_uri=place.uri)
    if obstacle == "other classes":
        from vitray.models.package import load_package, save_package

        model, info = load_package(first.package)
        save_package(package, model.state_dict(), replace(info, classes=tuple("abcdefghij")))
    else:
        shutil.rmtree(package)
    winner = place.end("second", good)
    assert (winner.version, winner.alias) == (2, "challenger")
    expected = {"other classes": "(10: a, b, c, ...) than these data have (10: 0, 1, 2, ...)"}
    assert "cannot be compared with version 1, the champion: " in winner.describe()
    assert expected.get(obstacle, "is not a model") in winner.describe()
    assert place.aliases() == {1: ("champion",), 2: ("challenger",)}


@pytest.mark.usefixtures("without_pictures")
def test_without_a_retraining_the_trials_best_checkpoint_is_the_model(place: Place, good: Weights) -> None:
    winner = place.end("plain", good, retrain=False)
    assert winner.package.is_relative_to(place.folder / "runs" / "plain" / "trials" / "trial-0001")
    assert winner.experiment.train.split == "train"
    (version,) = list_models(place.uri, "digits")
    client = connect(place.uri)
    run = client.get_run(version.run_id)
    assert (run.info.run_name, run.info.status, run.data.tags["vitray.kind"]) == ("final", "FINISHED", "final")


@pytest.mark.usefixtures("without_pictures")
def test_a_store_that_is_away_is_no_verdict_on_the_champion(
    place: Place, good: Weights, poor: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.end("before", poor)

    def away(*args: Any, **kwargs: Any) -> Path:
        raise StoreAwayError("the MLflow store does not answer: connection refused", where=place.uri)

    with monkeypatch.context() as patch:
        patch.setattr(promote_champion, "download", away)
        with pytest.raises(StoreAwayError):
            place.end("after", good)
    assert place.end("after", good).alias == "champion"


STEPS: list[tuple[Any, str]] = [
    (promoting, "draw"),
    (promoting, "list_models"),
    (promoting, "compare_with"),
    (promoting, "register_model"),
    (None, "create_logged_model"),
    (None, "create_model_version"),
    (None, "set_registered_model_alias"),
]


@pytest.mark.usefixtures("without_pictures")
@pytest.mark.parametrize(("owner", "step"), STEPS, ids=[step for _, step in STEPS])
def test_killed_after_a_step_and_resumed_it_ends_as_if_it_had_not_been(
    place: Place, good: Weights, poor: Weights, owner: Any, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.end("before", poor)
    scored: list[Path] = []
    measure: Callable[..., Any] = promoting.score_package

    def counted(package: Path, *args: Any, **kwargs: Any) -> Any:
        scored.append(package)
        return measure(package, *args, **kwargs)

    monkeypatch.setattr(promoting, "score_package", counted)
    with monkeypatch.context() as patch:
        if owner is not None:
            real = getattr(owner, step)

            def dies(*args: Any, **kwargs: Any) -> Any:
                real(*args, **kwargs)
                raise KeyboardInterrupt

            patch.setattr(owner, step, dies)
        else:
            patch.setattr(registration, "connect", lambda *args: Mortal(connect(*args), step))
        with pytest.raises(KeyboardInterrupt):
            place.end("killed", good)
    winner = place.end("killed", good)
    assert len(scored) == 1  # the test split was looked at once
    assert (winner.version, winner.alias) == (2, "champion")
    assert winner.champion is not None
    assert winner.champion.version == 1  # not itself
    assert place.aliases() == {1: (), 2: ("champion",)}
    client = connect(place.uri)
    experiment_id = client.get_experiment_by_name("digits").experiment_id
    assert len(client.search_logged_models([experiment_id])) == 2
    run_id = resolve(place.uri, "models:/digits/2").run_id
    assert client.get_run(run_id).info.status == "FINISHED"
    assert len(client.get_metric_history(run_id, "test/accuracy")) == 1


class Mortal:
    """MLflow's client in a process that dies after one call."""

    def __init__(self, real: Any, step: str) -> None:
        self._real, self._step = real, step

    def __getattr__(self, name: str) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            answer = getattr(self._real, name)(*args, **kwargs)
            if name == self._step:
                raise KeyboardInterrupt
            return answer

        return call
