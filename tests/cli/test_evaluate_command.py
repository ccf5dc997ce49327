"""``vitray evaluate``: what it prints, and the one run that it leaves in MLflow."""

from __future__ import annotations

import json
import os
import sqlite3
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import Here

from vitray.data.decode import decode
from vitray.data.images import ShardedImages
from vitray.data.prepare import prepare
from vitray.experiment import ModelConfig
from vitray.home import Home
from vitray.inference.evaluation import Evaluation
from vitray.inference.score import score_package
from vitray.models import VisionTransformer
from vitray.models.package import PackageInfo, save_package
from vitray.tracking import RecordingTracker

pytestmark = pytest.mark.slow


@pytest.fixture
def vitray(capsys: pytest.CaptureFixture[str]) -> Here:
    return Here(capsys)


def _model(folder: Path, classes: tuple[str, ...]) -> Path:
    torch.manual_seed(0)
    shape = {"image_size": 8, "patch_size": 4, "in_chans": 1, "num_classes": len(classes)}
    config = ModelConfig(**shape, embed_dim=16, depth=1, num_heads=2, pos_encoding="learned")
    info = PackageInfo(model=config, classes=classes, mean=(0.3,), std=(0.4,), dataset_fingerprint="f" * 64)
    return save_package(folder, VisionTransformer(config).state_dict(), info)


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _model(tmp_path_factory.mktemp("model") / "mine", tuple("0123456789"))


def runs(home: Home) -> list[dict[str, Any]]:
    """Name, status, metrics (each with its points) and tags of every evaluation in the store."""
    found = []
    with sqlite3.connect(home.database) as store:
        kinds = store.execute("SELECT run_uuid FROM tags WHERE key = 'vitray.kind' AND value = 'evaluation'").fetchall()
        for (run,) in kinds:
            name, status, folder = store.execute(
                "SELECT name, status, artifact_uri FROM runs WHERE run_uuid = ?", (run,)
            ).fetchone()
            metrics: dict[str, list[float]] = {}
            for key, value in store.execute("SELECT key, value FROM metrics WHERE run_uuid = ?", (run,)):
                metrics.setdefault(key, []).append(value)
            tags = dict(store.execute("SELECT key, value FROM tags WHERE run_uuid = ?", (run,)).fetchall())
            found.append({"name": name, "status": status, "metrics": metrics, "tags": tags, "folder": folder})
    return found


def test_twice_the_same_is_one_run_with_every_number_once(vitray: Here, package: Path, digits: Path) -> None:
    words = ("evaluate", str(package), str(digits), "--split", "val", "--size", "12", "--size", "8x16", "--size", "8")
    said = [vitray(*words), vitray(*words, "--output", "json")]
    assert [each.code for each in said] == [0, 0]
    facts = json.loads(said[1].out)
    data = ShardedImages.open(str(digits))
    score = score_package(package, data, "val")
    assert facts.items() >= {
        "model": str(package), "data": str(digits), "split": "val", "samples": 180, "accuracy": score.accuracy,
        "interval": list(score.interval), "per_class": score.per_class, "confusion": score.confusion.tolist(),
    }.items()  # fmt: skip
    assert facts["images_per_s"] > 0
    assert [each["size"] for each in facts["sizes"]] == [[8, 8], [12, 12], [8, 16]]
    assert facts["sizes"][0]["nll"] == facts["nll"]
    page = said[0].out
    low, high = score.interval
    first = f"accuracy {score.accuracy:.4f} (95 % interval {low:.3f} to {high:.3f}), 180 images of val"
    assert page.splitlines()[0] == first
    for expected in (f"top-5 accuracy {facts['top5_accuracy']:.4f}", f"ECE {facts['ece']:.4f} (15 bins)", "12x12",
                     f"NLL {facts['nll']:.4f}", f"Brier {facts['brier']:.4f}", "true class (rows)"):  # fmt: skip
        assert expected in page

    (run,) = runs(Home(Path(os.environ["VITRAY_HOME"])))
    assert run["status"] == "FINISHED"
    assert run["name"] == f"mine on {digits.name} val"
    assert run["metrics"]["val/accuracy"] == [score.accuracy]
    assert run["metrics"]["val/size_8x16/ece"] == [facts["sizes"][2]["ece"]]
    assert all(len(points) == 1 for points in run["metrics"].values())
    assert run["tags"].items() >= {
        "vitray.dataset_fingerprint": data.fingerprint, "vitray.split": "val", "vitray.run": facts["run"]
    }.items()  # fmt: skip
    folder = Path(run["folder"].removeprefix("file://"))
    assert sorted(path.name for path in folder.iterdir()) == [
        "confusion_matrix.png", "evaluation.json", "reliability.png"
    ]  # fmt: skip
    assert decode((folder / "reliability.png").read_bytes(), 3).std() > 10
    assert json.loads((folder / "evaluation.json").read_text())["confusion"] == facts["confusion"]


def test_no_log_leaves_no_trace_and_a_server_that_is_away_costs_nothing_but_the_run(
    vitray: Here, package: Path, digits: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = vitray("evaluate", str(package), str(digits), "--no-log", "--output", "json")
    assert (said.code, said.err, json.loads(said.out)["run"]) == (0, "", None)
    assert not Path(os.environ["VITRAY_HOME"]).exists()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setattr("vitray.cli.evaluate._DELIVERY_S", 0.5)
    monkeypatch.setattr("vitray.tracking.mlflow_store.CLOSE_WAIT_S", 0.5)
    said = vitray("evaluate", str(package), str(digits))
    assert said.code == 0
    assert said.out.startswith("accuracy 0.")
    assert "logged" not in said.err


def test_a_builtin_dataset_is_prepared_when_it_is_first_named(vitray: Here, package: Path) -> None:
    said = vitray("evaluate", str(package), "builtin:digits", "--no-log", "--output", "json")
    assert (said.code, json.loads(said.out)["samples"]) == (0, 359)


def test_many_classes_are_told_by_the_worst_of_them(vitray: Here, tmp_path: Path) -> None:
    spec = "builtin:synthetic?classes=25&count=200&size=8&channels=1"
    prepare(spec, tmp_path / "ds", fractions=(0.5, 0, 0.5), executor="local")
    classes = ShardedImages.open(str(tmp_path / "ds")).classes
    said = vitray("evaluate", str(_model(tmp_path / "model", classes)), str(tmp_path / "ds"), "--no-log")
    assert said.code == 0, said.err
    assert "the 15 worst of 25 classes" in said.out
    assert "most confused:" in said.out
    assert "true class (rows)" not in said.out


def test_top_k_only_where_there_are_more_classes(package: Path, digits: Path) -> None:
    data = ShardedImages.open(str(digits))
    score = score_package(package, data, "val")
    with_k, without = (Evaluation("m", None, "d" * 64, data, score, (), k) for k in (5, None))
    assert "val/top5_accuracy" in with_k.metrics()
    assert not [name for name in without.metrics() if "top" in name]
    assert with_k.key == without.key
    other = score_package(package, data, "val", size=(16, 16))
    keys = {with_k.key, Evaluation("m", None, "e" * 64, data, score).key,
            Evaluation("m", None, "d" * 64, data, score, (other,)).key,
            Evaluation("m", None, "d" * 64, data, score_package(package, data, "test")).key}  # fmt: skip
    assert len(keys) == 4
    both = Evaluation("models:/digits@champion", "models:/digits/7", "d" * 64, data,
                      score_package(package, data, "val+test"))  # fmt: skip
    assert both.name == f"digits/7 on {digits.name} val+test"
    assert "val_test/accuracy" in both.metrics()  # MLflow allows no plus


def test_what_is_tagged_tells_where_a_version_came_from(package: Path, digits: Path, tmp_path: Path) -> None:
    data, tracker = ShardedImages.open(str(digits)), RecordingTracker()
    found = Evaluation(
        "models:/digits@champion", "models:/digits/7", "d" * 64, data, score_package(package, data, "val")
    )
    found.log(tracker, "digits", tmp_path)
    run = tracker.runs[found.key]
    assert (run.experiment, run.status) == ("digits", "FINISHED")
    assert run.tags.items() >= {
        "vitray.kind": "evaluation", "vitray.model": "models:/digits@champion",
        "vitray.model_version": "models:/digits/7", "vitray.model_digest": "d" * 64,
    }.items()  # fmt: skip


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--size", "9"), "size 9x9: cannot be cut into patches of 4 pixels"),
        (("--size", "8x"), "'8x' is no size: give N, or HEIGHTxWIDTH"),
        (("--split", "tset"), "has no split 'tset'"),
        (("--device", "cuda:77"), "device cuda:77: cannot use it"),
        (("--top-k", "1"), "--top-k"),
    ],
)
def test_bad_words_end_with_2_and_a_reason(
    vitray: Here, package: Path, digits: Path, words: tuple[str, ...], says: str
) -> None:
    said = vitray("evaluate", str(package), str(digits), *words)
    assert (said.code, said.out) == (2, "")
    assert says in said.err
