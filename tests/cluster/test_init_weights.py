"""Weights to begin with: found by any of their names, pinned, and refused at once where they do not fit."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from vitray.cli import main
from vitray.cluster import launch, sweeps
from vitray.cluster.launch import Prepared, TrainWatcher
from vitray.cluster.local import Cluster
from vitray.errors import ConfigError, DataError
from vitray.experiment import Experiment, ModelConfig
from vitray.home import Home
from vitray.models import VisionTransformer
from vitray.models.package import PackageInfo, save_package
from vitray.tracking import MlflowTracker, RecordingTracker, registry
from vitray.train.run import Run

SHAPE: dict[str, Any] = {"patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 2, "pos_encoding": "rope_2d"}
TEN = tuple("0123456789")


@pytest.fixture
def folder(project: Path) -> Path:
    """A project with a config for digits; no cluster can start in it."""
    with (project / "c.yaml").open("a") as config:
        config.write("model: {patch_size: 4, embed_dim: 16, depth: 2, num_heads: 2, pos_encoding: rope_2d}\n")
    return project


def package(folder: Path, classes: tuple[str, ...] = TEN, seed: int = 0, **changes: Any) -> Path:
    torch.manual_seed(seed)
    config = ModelConfig(**{"image_size": 8, "in_chans": 1, "num_classes": len(classes)} | SHAPE | changes)
    info = PackageInfo(model=config, classes=classes, mean=(0.3,), std=(0.4,), dataset_fingerprint="f" * 64)
    return save_package(folder, VisionTransformer(config).state_dict(), info)


def prepared(*words: str) -> Prepared:
    return Prepared.load("c.yaml", words)


def refusal(capsys: pytest.CaptureFixture[str], *words: str, code: int = 2) -> str:
    """What the command line says when it refuses at once; nothing is left behind."""
    with pytest.raises(SystemExit) as left:
        main([*words])
    said = capsys.readouterr()
    assert (left.value.code, said.out) == (code, "")
    assert (said.err.count("error: "), said.err.count("Traceback")) == (1, 0)
    assert not Path("home").exists()
    return said.err


def no_cluster(address: str | None = None) -> None:
    raise AssertionError("a cluster was to be started")


def test_a_file_a_model_and_a_run_are_found_and_pinned(folder: Path) -> None:
    """The run's is its best checkpoint, and a weights file inside a model is that model."""
    model = package(folder / "model")
    for name in ("model", "model/model.safetensors"):
        train = prepared(f"train.init_from={name}").experiment.train
        assert train.init_path == str(model)
        assert train.init_from == str(folder / name)
    (folder / "sub").mkdir()
    (folder / "sub" / "c.yaml").write_text((folder / "c.yaml").read_text() + "train: {init_from: ../model}\n")
    below = Prepared.load("sub/c.yaml", ["data.path=ds"]).experiment
    assert below.identity == prepared("train.init_from=model").experiment.identity
    assert below.identity != prepared().experiment.identity


def test_the_best_checkpoint_stands_for_a_run(folder: Path) -> None:
    from vitray.experiment import OptimConfig
    from vitray.models.package import read_info
    from vitray.train.checkpoint import CheckpointStore, Progress, TrainState
    from vitray.train.optim import make_optimizer

    model, info = VisionTransformer(read_info(package(folder / "m"))[0].model), read_info(folder / "m")[0]
    state = TrainState(model, make_optimizer(model, OptimConfig()))
    store = CheckpointStore(folder / "run" / "checkpoints")
    best = store.save(state, Progress(3, best=0.9, best_step=3), info)
    store.save(state, Progress(6, best=0.9, best_step=3), info)
    store.close()
    for name in ("run", "run/checkpoints"):
        assert prepared(f"train.init_from={name}").experiment.train.init_from == str(best)


def test_what_a_config_leaves_unsaid_of_the_model_is_as_it_was_trained(folder: Path) -> None:
    package(folder / "model", pool="mean", registers=2, mlp_ratio=2.0)
    (folder / "c.yaml").write_text("data: {path: ds}\ntrain: {init_from: model}\n")
    model = prepared().experiment.model
    assert (model.embed_dim, model.depth, model.pos_encoding) == (16, 2, "rope_2d")
    assert (model.pool, model.registers, model.mlp_ratio) == ("mean", 2, 2.0)
    assert prepared("model.dropout=0.1").experiment.model == model.model_copy(update={"dropout": 0.1})
    assert prepared("model.depth=3").experiment.model.depth == 3, "said, and refused where it is compared"
    space = "search.space={model.patch_size: [2, 4], model.dropout: [0.0, 0.1]}"
    plan = sweeps.plan(prepared(space, "search.trials=4"))
    assert {plan.trial(i).model.embed_dim for i in range(4)} == {16}
    assert {plan.trial(i).model.patch_size for i in range(4)} == {2, 4}


@pytest.mark.parametrize("verb", [("train",), ("sweep", "plan"), ("sweep", "run")])
def test_another_architecture_is_refused_before_anything_starts(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, verb: tuple[str, ...]
) -> None:
    monkeypatch.setattr(launch, "connect", no_cluster)
    package(folder / "model", depth=3)
    said = refusal(capsys, *verb, "c.yaml", "train.init_from=model")
    assert f"train.init_from: {folder / 'model'}: " in said
    assert "of another architecture: model.depth was 3, is 2" in said
    assert "set model.depth=3" in said
    timm_vit = timm.create_model("vit_tiny_patch16_224", img_size=8, patch_size=4, embed_dim=16, depth=2, num_heads=2)
    save_file(timm_vit.state_dict(), folder / "timm.safetensors")
    said = refusal(capsys, *verb, "c.yaml", "train.init_from=timm.safetensors")
    assert "the weights are for images of 3 channels, the model for 1 channel" in said


def test_shapes_that_are_searched_must_all_fit(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    package(folder / "model")
    start = ("sweep", "plan", "c.yaml", "train.init_from=model")
    said = refusal(capsys, *start, "search.space={model.depth: [1, 2]}")
    assert "a trial cannot begin with it" in said
    assert "model.depth was 2, is 1" in said
    assert "is the same for every trial" in refusal(capsys, *start, "search.space={train.init_from: [a, b]}")
    for fits in ("{train.freeze: [none, first_1]}", "{model.patch_size: [2, 4], model.dropout: [0.0, 0.1]}"):
        with pytest.raises(SystemExit) as left:
            main([*start, f"search.space={fits}"])
        table = capsys.readouterr().out
        assert left.value.code == 0
        assert f"begins with {folder / 'model'}: " in " ".join(table.split())
        assert ("patch kernel: resized from 4 to 2 pixels" in table) == ("patch_size" in fits)


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("text.pth", "is damaged, or is no file of weights: its bytes"),
        ("nowhere", "there are no such weights"),
        ("digits@champion", "did you mean models:/digits@champion?"),
        ("models:/digits@champion", "there is no model 'digits'"),
        ("models:/", "is not a model's name"),
        ("ds", "is not a model: no model.json in it"),
        ("c.yaml", "weights are not read from .yaml"),
        ("code.pth", "could run code"),
    ],
)
def test_what_holds_no_weights_is_refused(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, value: str, says: str
) -> None:
    monkeypatch.setattr(launch, "connect", no_cluster)
    torch.save({"patch_embed.proj.weight": nullcontext()}, folder / "code.pth")
    (folder / "text.pth").write_text("hello there")
    assert says in refusal(capsys, "train", "c.yaml", f"train.init_from={value}", code=1 if "damaged" in says else 2)


def test_weights_that_changed_are_not_begun_with(folder: Path) -> None:
    package(folder / "model")
    pinned = prepared("train.init_from=model").experiment.train.init_sha256
    prepared("train.init_from=model", f"train.init_sha256={pinned}")
    shutil.rmtree(folder / "model")
    package(folder / "model", seed=1)
    with pytest.raises(ConfigError, match="the weights have changed"):
        prepared("train.init_from=model", f"train.init_sha256={pinned}")


class Watcher(TrainWatcher):
    def __init__(self) -> None:
        self.heard: list[str] = []

    def begins_with(self, weights: str) -> None:
        self.heard.append(weights)


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> RecordingTracker:
    """Stands for a cluster and a store: what would be trained is entered, and nothing trains."""
    tracker = RecordingTracker()

    def train_run(run: Run, *_: object, extra_tags: dict[str, str], **__: object) -> None:
        run.begin(tracker, extra_tags)

    monkeypatch.setattr(launch, "tracking", lambda *_, **__: nullcontext(tracker))
    monkeypatch.setattr(launch, "connect", lambda address: nullcontext(Cluster("", cpus=2.0, gpus=0.0, node_cpus=2.0)))
    monkeypatch.setattr(launch, "caching", lambda *_: "")
    monkeypatch.setattr(launch, "train_run", train_run)
    monkeypatch.setattr("vitray.train.worker_group.WorkerGroup", lambda *_, **__: SimpleNamespace(close=lambda: None))
    return tracker


@pytest.mark.slow
def test_the_user_and_the_run_are_told_what_was_adapted(folder: Path, recorded: RecordingTracker) -> None:
    package(folder / "model", classes=tuple("abcdefghij"))
    watcher, home = Watcher(), Home.find()
    launch.train(prepared("train.init_from=model", "name=r", "train.freeze=first_1"), home, watcher)
    assert len(watcher.heard) == 1
    assert "head: fresh, since its classes are others (number 0 was 'a', is '0')" in watcher.heard[0]
    (run,) = recorded.runs.values()
    assert "head: fresh" in run.tags["vitray.init_adapted"]
    assert run.params["train.init_from"] == str(folder / "model")
    saved = Experiment.load(home.runs / "r" / "experiment.yaml")
    assert saved.train.init_sha256 == run.params["train.init_sha256"]


@pytest.mark.slow
def test_a_run_goes_on_without_its_weights_once_it_has_a_checkpoint(folder: Path, recorded: RecordingTracker) -> None:
    model, home = package(folder / "model"), Home.find()
    launch.train(prepared("train.init_from=model", "name=r"), home, TrainWatcher())
    shutil.move(model, folder / "away")
    with pytest.raises(ConfigError, match="there are no such weights"):
        launch.train(None, home, TrainWatcher(), resume="r")
    package(folder / "model", seed=1)
    with pytest.raises(ConfigError, match="the weights have changed"):
        launch.train(None, home, TrainWatcher(), resume="r")
    shutil.rmtree(model)
    checkpoint = home.runs / "r" / "checkpoints" / "step-000000001-00000000"
    checkpoint.mkdir(parents=True)
    (checkpoint / "commit.json").touch()
    watcher = Watcher()
    assert launch.train(None, home, watcher, resume="r").name == "r"
    assert watcher.heard == []


@pytest.fixture
def registered(folder: Path) -> Iterator[str]:
    """Two versions of a model in this home's registry; the second is the champion."""
    home = Home.find()
    tracker = MlflowTracker(home.tracking_uri, home.spool, home.artifacts)
    for number in (1, 2):
        tracker.start_run(f"run-{number}", name="winner", experiment="digits", params={}, tags={})
        tracker.end_run(f"run-{number}", "FINISHED")
        assert tracker.flush(60)
        weights = package(folder / f"version-{number}", seed=number)
        given: dict[str, Any] = {"name": "digits", "package": weights, "run": f"run-{number}", "description": ""}
        registry.register_model(home.tracking_uri, **given, tags={}, metrics={})
    yield home.tracking_uri
    tracker.close()


@pytest.mark.slow
def test_an_alias_is_pinned_to_its_version(
    folder: Path, registered: str, recorded: RecordingTracker, capsys: pytest.CaptureFixture[str]
) -> None:
    home, champion = Home.find(), "train.init_from=models:/digits@champion"
    watcher = Watcher()
    launch.train(prepared(champion, "name=r"), home, watcher)
    assert watcher.heard[0].startswith("models:/digits/2: ")
    (run,) = recorded.runs.values()
    assert run.params["train.init_from"] == "models:/digits/2"
    same = prepared(f"train.init_from={folder / 'version-2'}")
    assert same.experiment.identity == prepared(champion).experiment.identity  # the same weights by another name
    registry.set_alias(registered, "digits", 1, "champion")
    launch.train(None, home, TrainWatcher(), resume="r")
    assert Experiment.load(home.runs / "r" / "experiment.yaml").train.init_from == "models:/digits/2"
    launch.train(prepared("train.init_from=models:/digits/2"), home, TrainWatcher(), resume="r")
    with pytest.raises(ConfigError, match=r"train\.init_from was 'models:/digits/2', is 'models:/digits/1'"):
        launch.train(prepared(champion), home, TrainWatcher(), resume="r")
    with pytest.raises(SystemExit) as left:
        main(["train", "c.yaml", "train.init_from=models:/digits"])
    assert left.value.code == 2
    assert "which version of 'digits'?" in capsys.readouterr().err


def test_a_damaged_model_is_not_begun_with(folder: Path) -> None:
    (package(folder / "model") / "model.json").unlink()
    with pytest.raises(DataError, match="not a model"):
        prepared("train.init_from=model")


@pytest.mark.ray
@pytest.mark.slow
def test_a_head_is_trained_on_a_model_of_the_registry(
    folder: Path, registered: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """The whole way: the alias, the workers, the tracker; what was kept is the registered model's to the bit."""
    words = ("train.epochs=1", "train.freeze=all_but_head", "name=probe", "--output", "json")
    with pytest.raises(SystemExit) as left:
        main(["train", "c.yaml", "train.init_from=models:/digits@champion", *words])
    said = capfd.readouterr()
    assert left.value.code == 0, said.err
    assert "begins with models:/digits/2: " in said.err
    before = load_file(registry.download("models:/digits/2") / "model.safetensors")
    after = load_file(Path(json.loads(said.out)["checkpoint"]) / "model.safetensors")
    assert {name for name in before if not torch.equal(before[name], after[name])} == {"head.weight", "head.bias"}
