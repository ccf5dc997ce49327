"""``vitray predict`` on folders, patterns and datasets, and ``--to``: the file, the summary, what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from command_line import Here, apart

from vitray.data.decode import encode_png
from vitray.data.images import ShardedImages
from vitray.experiment import ModelConfig
from vitray.inference.score import score_package
from vitray.models import VisionTransformer
from vitray.models.package import PackageInfo, save_package

pytestmark = pytest.mark.slow


@pytest.fixture
def vitray(capsys: pytest.CaptureFixture[str]) -> Here:
    return Here(capsys)


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    shape = {"image_size": 8, "patch_size": 4, "in_chans": 1, "num_classes": 10}
    config = ModelConfig(**shape, embed_dim=16, depth=1, num_heads=2)
    info = PackageInfo(model=config, classes=tuple("0123456789"), mean=(0.3,), std=(0.4,), dataset_fingerprint="f" * 64)
    return save_package(tmp_path_factory.mktemp("model") / "mine", VisionTransformer(config).state_dict(), info)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Forty pictures below folders of classes, one of them bad."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for number in range(40):
        file = tmp_path / "pics" / str(number % 2) / f"{number:02d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(encode_png(rng.integers(0, 256, (8, 8), dtype=np.uint8)))
    (tmp_path / "pics" / "1" / "07.png").write_bytes(b"no picture")
    return tmp_path


def test_a_dataset_into_a_file_agrees_with_its_evaluation(
    vitray: Here, package: Path, digits: Path, folder: Path
) -> None:
    said = vitray("predict", str(package), str(digits), "--to", "scores.parquet", "--output", "json")
    assert said.code == 0, said.err
    facts = json.loads(said.out)
    score = score_package(package, ShardedImages.open(str(digits)), "test")
    assert facts.items() >= {"file": "scores.parquet", "images": 359, "bad": 0, "labelled": 359, "resumed": 0}.items()
    assert facts["accuracy"] == pytest.approx(score.accuracy)
    found = pd.read_parquet("scores.parquet")
    assert found.label.tolist() == [score.classes[i] for i in score.predicted]
    assert found.truth.tolist() == [score.classes[i] for i in score.labels]
    assert facts["classes"] == found.label.value_counts().to_dict()

    again = vitray("predict", str(package), str(digits), "--to", "scores.parquet")
    assert again.code == 0
    assert "was finished already" in again.err
    assert again.out.startswith("scores.parquet: 359 images\n")
    other = vitray("predict", str(package), str(digits), "--to", "scores.parquet", "--split", "val")
    assert (other.code, other.out) == (2, "")
    assert "is a finished scoring of" in other.err
    assert (
        vitray("predict", str(package), str(digits), "--to", "scores.parquet", "--split", "val", "--overwrite").code
        == 0
    )
    assert len(pd.read_parquet("scores.parquet")) == 180


def test_bad_images_are_in_a_column_and_cost_no_exit_code(vitray: Here, package: Path, folder: Path) -> None:
    (folder / "pics" / "notes.txt").write_text("no image")
    said = vitray("predict", str(package), "pics", "--to", "scores.csv", "--top", "2")
    assert said.code == 0
    assert said.out.startswith("scores.csv: 40 images, 1 of them could not be read (see the column error)\naccuracy ")
    assert "pics: 1 files that are no images by their names are left out" in said.err
    found = pd.read_csv("scores.csv", dtype=str)
    assert found.path.tolist() == sorted(found.path)
    bad = found[found.error.notna()]
    assert (bad.path.tolist(), bad.error.tolist()) == (["pics/1/07.png"], ["not a JPEG or PNG"])
    assert found.truth.tolist() == [path.split("/")[1] for path in found.path]
    assert all(len(json.loads(top)) == 2 for top in found.top.dropna())


def test_folders_patterns_and_datasets_are_shown_too(vitray: Here, package: Path, digits: Path, folder: Path) -> None:
    said = vitray("predict", str(package), "pics", "--output", "json")
    assert said.code == 2  # one of them is bad
    assert len(json.loads(said.out)) == 40
    assert "pics/1/07.png: not a JPEG or PNG" in said.err
    said = vitray("predict", str(package), "pics/0/*.png", "pics/1/01.png")
    assert said.code == 0
    assert [line.split()[0] for line in said.out.splitlines()[2:]] == [
        *(f"pics/0/{number:02d}.png" for number in range(0, 40, 2)), "pics/1/01.png"
    ]  # fmt: skip
    said = vitray("predict", str(package), str(digits), "--split", "val", "--output", "json")
    rows = json.loads(said.out)
    assert (said.code, len(rows), rows[0]["file"]) == (0, 180, "val/0")
    assert rows[0]["truth"] in set("0123456789")


def test_too_many_images_for_a_table_are_sent_to_a_file(
    vitray: Here, package: Path, digits: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vitray.cli.predict._SHOWN", 100)
    said = vitray("predict", str(package), str(digits))
    assert (said.code, said.out) == (2, "")
    assert "holds 359 images, too many to be shown\n  -> write the answers to a file: --to" in said.err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("pics", "--to", "scores.txt"), "must end in .parquet, .csv, .jsonl"),
        (("nowhere", "--to", "scores.csv"), "nowhere: there is no such file or folder"),
        (("pics", "--overwrite"), "--overwrite goes with --to"),
        (("pics", "--executor", "ray"), "--executor goes with --to"),
        (("pics", "--to", "s.csv", "--executor", "local", "--address", "h:1"), "--executor local runs without one"),
        (("pics", "--to", "s.csv", "--address", "127.0.0.1:9"), "no Ray cluster answers"),
        (("pics", "--to", "s.csv", "--split", "val"), "none of these has a use for --split"),
        (("pics", "--to", "s.csv", "--executor", "local", "--device", "cuda:77"), "device cuda:77: cannot use it"),
        (("pics", "--to", "s.csv", "--executor", "ray", "--device", "cuda:7"), "Ray chooses its GPUs itself"),
    ],
)
def test_bad_words_end_with_2_and_leave_no_file(
    vitray: Here, package: Path, folder: Path, words: tuple[str, ...], says: str
) -> None:
    said = vitray("predict", str(package), *words)
    assert (said.code, said.out) == (2, "")
    assert says in said.err
    assert not list(folder.glob("s*.csv"))


def test_what_can_be_refused_is_refused_before_torch_is_there(folder: Path) -> None:
    """By processor time: importing torch alone takes seconds of it."""
    for words, says in {
        ("nobody", "pics", "--to", "s.doc"): "must end in",
        ("models:/nobody@x", "pics", "--to", "s.csv"): "there is no model 'nobody'",
        ("nobody", "pics", "--to", "s.csv", "--address", "127.0.0.1:9"): "no Ray cluster answers",
    }.items():
        said = apart("predict", *words, cwd=folder)
        assert said.code == 2
        assert says in said.err
        assert said.cpu_s < 2.0
