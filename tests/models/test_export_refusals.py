"""What cannot be exported is refused with what would do, and nothing half-made is left."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from exported import EXTRAS, package_of, pt2_of
from small_models import small_vit
from torch import Tensor

from vitray.errors import CheckpointError, DataError, ResourceError
from vitray.models import VisionTransformer
from vitray.models.export import export
from vitray.models.export_formats import FORMATS, Format
from vitray.models.package import load_package


@pytest.fixture
def package(tmp_path: Path) -> Path:
    return package_of(small_vit(pos_encoding="relative", **EXTRAS), tmp_path / "model")


def left_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(
    ("name", "kind", "what", "remedy"),
    [
        ("there.pt2", None, "something already", "give a new file"),
        ("link.pt2", None, "something already", "give a new file"),
        ("folder", "onnx", "is a folder", "folder/model.onnx"),
        ("vit", None, "does not say the format", ".safetensors or .pt2 or .onnx"),
        ("vit.pth", None, "no format 'pth'", ".safetensors or .pt2 or .onnx"),
        ("vit.pt2", "tflite", "no format 'tflite'", ".safetensors or .pt2 or .onnx"),
        ("vit.pt2", "onnx", "not the name", "vit.onnx, or choose the format pt2"),
        ("vit.v2", "pt2", "not the name", "vit.v2.pt2"),
        ("there.pt2/vit.pt2", None, "cannot be written: (Not a directory|File exists)", "another place"),
    ],
)
def test_a_wrong_destination_is_refused(
    tmp_path: Path, package: Path, name: str, kind: str | None, what: str, remedy: str
) -> None:
    (tmp_path / "there.pt2").write_text("mine")
    (tmp_path / "link.pt2").symlink_to(tmp_path / "nowhere")
    (tmp_path / "folder").mkdir()
    before = left_in(tmp_path)
    with pytest.raises((DataError, ResourceError), match=what) as caught:
        export(package, tmp_path / name, kind)
    assert str(tmp_path / name) in str(caught.value)
    assert remedy in str(caught.value.remedy)
    assert left_in(tmp_path) == before
    assert (tmp_path / "there.pt2").read_text() == "mine"


def test_weights_alone_take_no_preprocessing(tmp_path: Path, package: Path) -> None:
    with pytest.raises(DataError, match="no preprocessing") as caught:
        export(package, tmp_path / "vit.safetensors", preprocessing=True)
    assert "pt2 or onnx" in str(caught.value.remedy)


def test_what_is_not_installed_is_named(tmp_path: Path, package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)  # Python's own mark for a module that cannot be imported
    with pytest.raises(ResourceError, match="needs onnxscript, which is not installed") as caught:
        export(package, tmp_path / "vit.onnx")
    assert "vitray[export]" in str(caught.value.remedy)


def test_a_damaged_package_is_not_exported(tmp_path: Path, package: Path) -> None:
    weights = package / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="damaged"):
        export(package, tmp_path / "vit.safetensors")
    with pytest.raises(DataError, match="no such folder"):
        export(tmp_path / "nowhere", tmp_path / "vit.safetensors")
    assert left_in(tmp_path) == ["model"]


def broken(write: Callable[..., None]) -> Format:
    return Format("safetensors", write, FORMATS["safetensors"].read, whole=False)


@pytest.mark.parametrize("change", [1e-2, float("nan")])
def test_a_file_that_computes_something_else_is_not_left(
    tmp_path: Path, package: Path, monkeypatch: pytest.MonkeyPatch, change: float
) -> None:
    def write(module: torch.nn.Module, x: Tensor, facts: Any, path: Path) -> None:
        other = VisionTransformer(load_package(package)[1].model)
        weights = module.state_dict()
        other.load_state_dict(weights | {"head.bias": weights["head.bias"] + change})
        FORMATS["safetensors"].write(other, x, facts, path)

    with monkeypatch.context() as patched:
        patched.setitem(FORMATS, "wrong", broken(write))
        with pytest.raises(CheckpointError, match=r"does not agree.*differ from the model's by up to (0\.01|nan)"):
            export(package, tmp_path / "vit.wrong")
    assert left_in(tmp_path) == ["model"]


def test_a_full_disk_leaves_nothing(tmp_path: Path, package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(module: torch.nn.Module, x: Tensor, facts: Any, path: Path) -> None:
        path.write_bytes(b"half of it")
        Path("/dev/full").write_bytes(b"x" * 100_000)

    monkeypatch.setitem(FORMATS, "full", broken(write))
    with pytest.raises(ResourceError, match="No space left"):
        export(package, tmp_path / "vit.full")
    assert left_in(tmp_path) == ["model"]


def test_a_model_that_one_file_cannot_hold_is_refused(
    tmp_path: Path, package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = sum(tensor.nbytes for tensor in load_package(package)[0].state_dict().values())
    monkeypatch.setitem(FORMATS, "tiny", Format("tiny", FORMATS["safetensors"].write, pt2_of, limit=size - 1))
    with pytest.raises(DataError, match="one tiny file holds"):
        export(package, tmp_path / "vit.tiny")
