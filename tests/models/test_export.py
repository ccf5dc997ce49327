"""Exported files, read by the libraries that people will read them with, give what the model gives."""

from __future__ import annotations

import json
import os
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from small_models import ENCODINGS, images, small_vit
from torch import Tensor

from vitray.errors import CheckpointError, DataError, ResourceError
from vitray.models import VisionTransformer
from vitray.models.export import export
from vitray.models.export_formats import FORMATS, Format
from vitray.models.package import PackageInfo, load_package, save_package
from vitray.models.preprocess import normalise
from vitray.models.pretrained import load_pretrained

EXTRAS: dict[str, Any] = {
    "registers": 2,
    "pool": "mean",
    "patch_embed": "linear",
    "qk_norm": True,
    "layer_scale": 0.1,
    "dropout": 0.3,
    "attn_dropout": 0.3,
    "drop_path": 0.3,
}
CASES = [(encoding, attention) for encoding in ENCODINGS for attention in ("full", "axial")]


def package_of(model: VisionTransformer, folder: Path) -> Path:
    info = PackageInfo(
        model=model.config,
        classes=("zero", "één", 'two "2"', "3", "4", "5", "6")[: model.config.num_classes],
        mean=(0.1, 0.2, 1 / 3),
        std=(0.3, 0.2, 0.1),
        dataset_fingerprint="f" * 64,
    )
    return save_package(folder, model.state_dict(), info)


@pytest.fixture
def package(tmp_path: Path) -> Path:
    return package_of(small_vit(pos_encoding="relative", **EXTRAS), tmp_path / "model")


def pt2_of(path: Path) -> Callable[[Tensor], Tensor]:
    return torch.export.load(path).module()


def onnx_of(path: Path) -> Callable[[Tensor], Tensor]:
    import onnx
    import onnxruntime

    onnx.checker.check_model(path, full_check=True)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda x: torch.from_numpy(session.run(["output"], {"images": x.numpy()})[0])


READERS = {"pt2": pt2_of, "onnx": onnx_of}


def facts_of(path: Path) -> dict[str, Any]:
    """What a file says of itself, as its own library tells it."""
    if path.suffix == ".pt2":
        extra = {"vitray.json": ""}
        torch.export.load(path, extra_files=extra)
        return dict(json.loads(extra["vitray.json"]))
    if path.suffix == ".onnx":
        import onnxruntime

        text = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).get_modelmeta()
        found = dict(text.custom_metadata_map)
    else:
        with safe_open(path, framework="pt") as file:
            found = dict(file.metadata())
    plain = ("vitray", "input", "output", "dataset_fingerprint", "format")
    return {name: value if name in plain else json.loads(value) for name, value in found.items()}


@pytest.mark.slow
@pytest.mark.parametrize("suffix", READERS)
@pytest.mark.parametrize(("encoding", "attention"), CASES)
def test_every_encoding_and_attention_at_any_batch_size(
    tmp_path: Path, suffix: str, encoding: str, attention: str
) -> None:
    parts = EXTRAS if (CASES.index((encoding, attention)) + list(READERS).index(suffix)) % 2 else {}
    model = small_vit(pos_encoding=encoding, attention=attention, depth=1, **parts).eval()
    done = export(package_of(model, tmp_path / "model"), tmp_path / f"vit.{suffix}")
    assert done.path == tmp_path / f"vit.{suffix}"
    assert done.bytes == done.path.stat().st_size
    assert 0 <= done.difference < 1e-5
    read = READERS[suffix](done.path)
    for batch in (1, 3, 17):
        x = images(model, batch)
        torch.testing.assert_close(read(x), model(x).detach(), rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("suffix", READERS)
def test_a_deeper_model_from_pixels_to_probabilities(tmp_path: Path, package: Path, suffix: str) -> None:
    done = export(package, tmp_path / f"vit.{suffix}", preprocessing=True)
    read, (model, info) = READERS[suffix](done.path), load_package(package)
    for batch in (1, 3, 17):
        pixels = torch.randint(256, (batch, 6, 8, 3), dtype=torch.uint8)
        wanted = model(normalise(pixels, info.mean, info.std)).softmax(1).detach()
        torch.testing.assert_close(read(pixels), wanted, rtol=0, atol=1e-5)
    facts = facts_of(done.path)
    assert facts["input"] == "images: uint8 (batch, 6, 8, 3), RGB"
    assert facts["output"] == "probabilities: float32 (batch, 5)"


@pytest.mark.slow
@pytest.mark.parametrize("suffix", READERS)
def test_a_file_tells_nothing_of_the_machine_and_hides_no_code(tmp_path: Path, package: Path, suffix: str) -> None:
    path = export(package, tmp_path / f"vit.{suffix}").path
    if suffix == "pt2":
        with zipfile.ZipFile(path) as archive:
            parts = [archive.read(name) for name in archive.namelist()]
    else:
        parts = [path.read_bytes()]
    sources = str(Path(__file__).parent.parent.parent).encode()
    for part in parts:
        assert sources not in part
        assert b"ctorch._utils" not in part  # how a pickled tensor starts
    assert path.stat().st_mode & 0o777 == 0o666 & ~umask()


def umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@pytest.mark.parametrize(
    "suffix", ["safetensors", *(pytest.param(suffix, marks=pytest.mark.slow) for suffix in READERS)]
)
def test_a_file_says_what_it_is(tmp_path: Path, package: Path, suffix: str) -> None:
    facts = facts_of(export(package, tmp_path / "deep" / f"vit.{suffix}").path)
    if suffix == "safetensors":
        assert facts.pop("format") == "pt"
    (info, model) = (load_package(package)[1], load_package(package)[0])
    assert facts["classes"] == ["zero", "één", 'two "2"', "3", "4"]
    assert (facts["mean"], facts["std"]) == (list(info.mean), list(info.std))
    assert facts["image_size"] == [6, 8]
    assert facts["input"] == "images: float32 (batch, 3, 6, 8), RGB, (pixel / 255 - mean) / std by channel"
    assert facts["output"] == "logits: float32 (batch, 5), softmax makes them probabilities"
    assert type(model.config)(**facts["model"]) == model.config
    assert facts["dataset_fingerprint"] == "f" * 64
    assert facts["vitray"]


@pytest.mark.parametrize("pool", ["cls", "mean"])
def test_timm_takes_the_weights(tmp_path: Path, pool: str) -> None:
    shape = {"image_size": 32, "patch_size": 8, "num_classes": 7, "embed_dim": 24, "num_heads": 3}
    model = small_vit(**shape, pool=pool, layer_scale=0.1, qk_norm=True).eval()
    path = export(package_of(model, tmp_path / "model"), tmp_path / "vit.safetensors").path
    options: dict[str, Any] = {"img_size": 32, "patch_size": 8, "num_classes": 7, "embed_dim": 24, "num_heads": 3}
    if pool == "mean":
        options |= {"global_pool": "avg", "fc_norm": False}
    theirs = timm.create_model("vit_tiny_patch16_224", depth=2, init_values=0.1, qk_norm=True, **options).eval()
    theirs.load_state_dict(load_file(path))
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(theirs(x), model(x), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("encoding", "attention"), CASES)
def test_exported_weights_are_a_start_for_training(tmp_path: Path, encoding: str, attention: str) -> None:
    changes: dict[str, Any] = {"pos_encoding": encoding, "attention": attention, "image_size": 8, "registers": 1}
    model, fresh = small_vit(**changes).eval(), small_vit(**changes).eval()
    path = export(package_of(model, tmp_path / "model"), tmp_path / "vit.safetensors").path
    assert load_pretrained(fresh, path).adapted == ()
    x = images(model)
    assert torch.equal(fresh(x), model(x))


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
