"""``vitray models export`` as a person uses it: one file, a table or JSON, one message where it cannot be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import Here, apart, contents
from safetensors.torch import load_file

from vitray.home import Home
from vitray.model_config import ModelConfig
from vitray.models import VisionTransformer
from vitray.models.export_formats import FORMATS
from vitray.models.package import PackageInfo, load_package, save_package


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Here:
    return Here(capsys)


@pytest.fixture
def package(tmp_path: Path) -> Path:
    config = ModelConfig(image_size=8, patch_size=4, in_chans=1, num_classes=3, embed_dim=16, depth=1, num_heads=2)
    info = PackageInfo(model=config, classes=("a", "b", "c"), mean=(0.3,), std=(0.4,), dataset_fingerprint="f" * 64)
    return save_package(tmp_path / "model", VisionTransformer(config).state_dict(), info)


def test_the_file_holds_the_weights_and_the_table_names_it(run: Here, package: Path, tmp_path: Path) -> None:
    file = tmp_path / "new" / "digits.safetensors"
    said = run("models", "export", str(package), str(file))
    assert (said.code, said.err) == (0, "")
    head, _, row = said.out.splitlines()
    assert head.split() == ["file", "format", "bytes", "largest", "difference", "from", "MODEL"]
    assert row.split() == [str(file), "safetensors", f"{file.stat().st_size:,}", "0"]
    written = load_file(file)
    weights = load_package(package)[0].state_dict()
    assert written.keys() == weights.keys()
    assert all(torch.equal(written[name], tensor) for name, tensor in weights.items())
    again = run("models", "export", str(package), str(file))
    assert (again.code, again.out) == (2, "")
    assert f"error: {file}: there is something already\n  -> give a new file" in again.err


def test_json_stands_alone_on_stdout(run: Here, package: Path, tmp_path: Path) -> None:
    file = tmp_path / "digits.safetensors"
    said = run("models", "export", str(package), str(file), "--format", "safetensors", "--output", "json")
    assert json.loads(said.out) == {
        "model": str(package),
        "file": str(file),
        "format": "safetensors",
        "bytes": file.stat().st_size,
        "largest_difference": 0,
    }


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("{model}", "x.pth"), "there is no format 'pth'"),
        (("{model}", "x.pt2", "--format", "onnx"), "name it x.onnx, or choose the format pt2"),
        (("{model}", "x.pt2", "--format", "tflite"), "'tflite' is not one of"),
        (("{model}", "x.safetensors", "--with-preprocessing"), "holds weights alone"),
        (("{model}", "."), "is a folder"),
        (("nowhere", "x.pt2"), "there is no such folder"),
        (("models:/digits@champion", "x.pt2"), "there is no model 'digits'"),
        (("digits@champion", "x.pt2"), "did you mean models:/digits@champion?"),
    ],
)
def test_what_cannot_be_is_one_message_and_leaves_nothing(
    run: Here, package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], message: str
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    said = run("models", "export", *(word.format(model=package) for word in words))
    assert (said.code, said.out) == (2, "")
    assert message in said.err
    assert "Traceback" not in said.err
    assert contents(tmp_path / "here") == {}


def test_the_help_offers_every_format(run: Here) -> None:
    assert f"[{'|'.join(FORMATS)}]" in run("models", "export", "--help").out


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["pt2", "onnx"])
def test_other_formats_say_nothing_but_the_table(package: Path, tmp_path: Path, suffix: str) -> None:
    """In a process of its own, where the exporters' own messages would be seen."""
    said = apart("models", "export", str(package), f"m.{suffix}", "--with-preprocessing", cwd=tmp_path)
    assert (said.code, said.err) == (0, "")
    head, _, row = said.out.splitlines()
    assert row.split()[:2] == [f"m.{suffix}", suffix]
    assert float(row.split()[3]) < 1e-5
    assert head.startswith("file")


@pytest.mark.slow
def test_a_registered_model(run: Here, package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from vitray.tracking import MlflowTracker, registry

    home = Home(tmp_path / "state")
    monkeypatch.setenv("VITRAY_HOME", str(home.root))
    uri = f"sqlite:///{home.database}"
    tracker = MlflowTracker(uri, home.spool, home.artifacts)
    tracker.start_run("r", name="r", experiment="digits", params={}, tags={})
    tracker.end_run("r", "FINISHED")
    assert tracker.flush(60)
    given: dict[str, Any] = {"name": "digits", "package": package, "run": "r", "description": "", "tags": {}}
    registry.register_model(uri, **given, metrics={"test/accuracy": 0.9})
    tracker.close()
    for reference in ("models:/digits@champion", "models:/digits/1"):
        file = tmp_path / f"{reference[-1]}.safetensors"
        said = run("models", "export", reference, str(file), "--output", "json")
        assert said.code == 0, said.err
        assert json.loads(said.out)["model"] == reference
        assert load_file(file).keys() == load_package(package)[0].state_dict().keys()
