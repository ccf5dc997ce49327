"""A battery of files that would run code, through the real commands: the canary is never made, and most are refused."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import ray.data  # noqa: F401  # registers Arrow types that can hold pickles, as it does in every data task
import yaml
from command_line import Here
from malicious import Canary, cifar, configs, mlflow_model, parquet_with_pickles, tar, weights_files

from vitray.data.decode import encode_png
from vitray.data.images import ShardedImages
from vitray.errors import ConfigError, VitrayError
from vitray.experiment import Experiment, ModelConfig
from vitray.home import Home
from vitray.models import VisionTransformer
from vitray.models.package import PackageInfo, save_package
from vitray.tracking.mlflow_client import connect

_CONFIG = "data: {path: ds}\nmodel: {patch_size: 4, embed_dim: 32, depth: 1, num_heads: 2}\ncluster: {use_gpu: false}\n"


@pytest.fixture
def canary(tmp_path: Path) -> Iterator[Canary]:
    made = Canary(tmp_path / "canary")
    yield made
    assert not made.fired, "something ran the code of a file"


@pytest.fixture
def vitray(capsys: pytest.CaptureFixture[str]) -> Here:
    return Here(capsys)


@pytest.fixture
def project(tmp_path: Path, digits: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ds").symlink_to(digits)
    (tmp_path / "c.yaml").write_text(_CONFIG)
    (tmp_path / "a.png").write_bytes(image(0))
    return tmp_path


def image(seed: int) -> bytes:
    return encode_png(np.random.default_rng(seed).integers(0, 256, (8, 8, 1), dtype=np.uint8))


@pytest.fixture
def package(tmp_path: Path) -> Path:
    config = ModelConfig(image_size=8, patch_size=4, in_chans=1, num_classes=10, embed_dim=32, depth=1, num_heads=2)
    classes = tuple("0123456789")
    info = PackageInfo(model=config, classes=classes, mean=(0.3,), std=(0.4,), dataset_fingerprint="f" * 64)
    return save_package(tmp_path / "package", VisionTransformer(config).state_dict(), info)


def test_the_canary_works(tmp_path: Path) -> None:
    canary = Canary(tmp_path / "canary")
    pickle.loads(canary.pickled()).close()
    assert canary.fired
    canary.path.unlink()
    subprocess.run(canary.command, shell=True, check=True)
    assert canary.fired
    canary.path.unlink()
    (tag,) = [path for path in configs(tmp_path / "configs", canary) if path.stem == "apply"]
    yaml.unsafe_load(tag.read_text())
    assert canary.fired


def test_weights(project: Path, canary: Canary, vitray: Here) -> None:
    for file in weights_files(project / "weights", canary):
        said = vitray("train", "c.yaml", f"train.init_from={file}")
        assert said.code in (1, 2), file
        assert said.err.count("error: ") == 1, file
        assert str(file) in said.err
        assert "Traceback" not in said.err
    assert not Home.find().runs.exists()


@pytest.mark.parametrize("of", ["model.safetensors", "model.json"])
def test_a_model_folder_whose_files_were_replaced(
    package: Path, of: str, project: Path, canary: Canary, vitray: Here
) -> None:
    info = json.loads((package / "model.json").read_text())
    for content in (canary.pickled(), json.dumps({**info, "classes": ["x"] * 10}).encode()):
        (package / of).write_bytes(content)
        for words in (
            ("predict", str(package), "a.png"),
            ("evaluate", str(package), "ds", "--no-log"),
            ("models", "export", str(package), "out.safetensors"),
            ("models", "explain", str(package), "a.png", "--to", "pictures"),
            ("train", "c.yaml", f"train.init_from={package}"),
        ):
            said = vitray(*words)
            assert said.code in (1, 2), (words, said)
            assert said.err.count("error: ") == 1
            assert "Traceback" not in said.err
    assert not (project / "out.safetensors").exists()


def test_yaml_tags(project: Path, canary: Canary, vitray: Here) -> None:
    for file in configs(project / "configs", canary):
        for words in (("train", str(file)), ("sweep", "plan", str(file)), ("models", "cost", str(file))):
            said = vitray(*words)
            assert (said.code, said.err.count("error: ")) == (2, 1), (words, said)
    for value in (
        f"!!python/object/apply:os.system ['{canary.command}']",
        f"$({canary.command})",
        f"`{canary.command}`",
    ):
        for key in ("name", "train.seed", "train.init_from", "data.path"):
            said = vitray("train", "c.yaml", f"{key}={value}")
            assert said.code == 2, (key, value, said)
            assert "Traceback" not in said.err


@pytest.mark.parametrize(
    "name", ["../up", "/abs", "a/b", "..", "$(x)", "`x`", "a b", "a\nb", "{0.__class__}", "-x", ""]
)
def test_a_name_is_a_name(name: str, project: Path, canary: Canary) -> None:
    with pytest.raises(ConfigError):
        Experiment.load("c.yaml", [f"name={json.dumps(name)}"])


def test_names_to_resume_and_report_lead_nowhere(project: Path, canary: Canary, vitray: Here) -> None:
    outside = project / "outside"
    outside.mkdir()
    (outside / "experiment.yaml").write_text(f"name: !!python/object/apply:os.system ['{canary.command}']\n")
    for words in (("train", "--resume"), ("sweep", "resume"), ("sweep", "report")):
        for name in ("../../outside", str(outside), f"$({canary.command})"):
            said = vitray(*words, name)
            assert (said.code, said.err.count("error: ")) == (2, 1), (words, name, said)


def test_state_that_was_tampered_with(project: Path, canary: Canary, vitray: Here) -> None:
    home = Home.find()
    for kind, files in {
        "train": ("experiment.yaml", "key", "checkpoints/step-000000010-00000000/commit.json"),
        "sweep": ("experiment.yaml", "sweep.json", "ledger.jsonl", "key"),
    }.items():
        folder = home.runs / kind
        for file in files:
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / file).write_bytes(canary.pickled())
            verb = ("train", "--resume", kind) if kind == "train" else ("sweep", "resume", kind)
            for words in (verb, ("sweep", "list"), ("sweep", "report", kind)):
                said = vitray(*words)
                assert "Traceback" not in said.err, (words, said)
            if file.endswith("yaml"):
                (folder / file).write_text(f"name: !!python/object/apply:os.system ['{canary.command}']\n")
                assert vitray(*verb).code in (1, 2)
    spool = home.spool / "r"
    spool.mkdir(parents=True)
    (spool / "log.jsonl").write_bytes(canary.pickled() + b"\n")
    (spool / "state.json").write_bytes(canary.pickled())
    assert vitray("track", "status").code == 0
    assert "Traceback" not in vitray("track", "sync").err


def test_a_tar_that_leads_out(project: Path, canary: Canary, vitray: Here) -> None:
    outside = project / "outside"
    tar(project / "evil.tar", outside, [image(i) for i in range(400)])
    before = {path for path in project.rglob("*") if "made" not in path.parts}
    said = vitray("data", "prepare", str(project / "evil.tar"), str(project / "made"), "--executor", "local")
    assert "Traceback" not in said.err
    assert not outside.exists()
    assert {path for path in project.rglob("*") if "made" not in path.parts} - before <= {Home.find().root}
    assert said.code == 0, said
    reasons = sorted(row["reason"] for row in pq.read_table(project / "made" / "quarantine.parquet").to_pylist())
    assert len(reasons) == 6
    assert {reason.split(":")[0] for reason in reasons} == {
        *("its path leads out of the archive", "is a link", "is no regular file")
    }


def test_parquet_with_pickles(project: Path, canary: Canary, vitray: Here) -> None:
    for shapes in (True, False):
        source = project / f"evil-{shapes}.parquet"
        parquet_with_pickles(source, canary, [image(i) for i in range(40)], shapes=shapes)
        for column in ("label", "old"):
            words = ("data", "prepare", str(source), str(project / "made"), "--executor", "local")
            said = vitray(*words, "--label-column", column)
            assert (said.code, said.err.count("error: ")) == (2, 1), (shapes, column, said)
            assert "could run code" in said.err or not shapes
            assert "Traceback" not in said.err
            assert "AUTOLOAD" not in said.err, "no advice to let it run"


def test_cifar_that_is_not_the_published_one(project: Path, canary: Canary, vitray: Here) -> None:
    cifar(project / "cifar", canary)
    said = vitray("data", "prepare", f"torchvision:CIFAR10?root={project / 'cifar'}", "made", "--executor", "local")
    assert (said.code, said.err.count("error: ")) == (2, 1), said


def test_a_dataset_whose_manifest_names_files_elsewhere(project: Path, digits: Path, canary: Canary) -> None:
    (project / "secret.parquet").write_bytes(canary.pickled())
    folder = project / "copy"
    shutil.copytree(digits, folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    for name in ("../secret.parquet", str(project / "secret.parquet"), "train/../../secret.parquet"):
        manifest["splits"]["train"]["shards"][0]["file"] = name
        (folder / "manifest.json").write_text(json.dumps(manifest))
        with pytest.raises(VitrayError):
            next(iter(ShardedImages.open(str(folder)).batches("train", global_batch=8, stop_step=1, executor="local")))


@pytest.mark.slow
def test_a_registered_version_that_somebody_made_by_hand(
    project: Path, package: Path, canary: Canary, vitray: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = Home.find()
    evil = mlflow_model(project / "evil", canary)
    client = connect(home.tracking_uri, home.artifacts)
    client.create_registered_model("m")
    client.create_model_version("m", source=evil.as_uri())
    for words in (
        ("predict", "models:/m/1", "a.png"),
        ("models", "pull", "m/1", "pulled"),
        ("models", "show", "m/1"),
        ("models", "export", "models:/m/1", "out.safetensors"),
        ("evaluate", "models:/m/1", "ds", "--no-log"),
        ("train", "c.yaml", "train.init_from=models:/m/1"),
    ):
        said = vitray(*words)
        assert "Traceback" not in said.err, (words, said)
        assert said.code in (1, 2) or words[1] in ("pull", "show"), (words, said)
    # A good package inside: its weights are used, and what MLflow would run around it is not.
    shutil.rmtree(evil / "data" / "package")
    shutil.copytree(package, evil / "data" / "package")
    assert vitray("predict", "models:/m/1", "a.png").code == 0
    assert os.listdir(project / "evil" / "code") == ["evil_loader.py"]  # noqa: PTH208  # and nothing compiled it
