"""Exported files, read by the libraries that people will read them with, give what the model gives."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from exported import EXTRAS, READERS, facts_of, package_of
from safetensors.torch import load_file
from small_models import ENCODINGS, images, small_vit

from vitray.models.export import export
from vitray.models.export_formats import FORMATS
from vitray.models.package import load_package
from vitray.models.preprocess import normalise
from vitray.models.pretrained import load_pretrained

CASES = [(encoding, attention) for encoding in ENCODINGS for attention in ("full", "axial")]


@pytest.fixture
def package(tmp_path: Path) -> Path:
    return package_of(small_vit(pos_encoding="relative", **EXTRAS), tmp_path / "model")


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
    model, info = load_package(package)
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


@pytest.mark.slow
def test_other_programs_read_the_files_without_vitray(tmp_path: Path) -> None:
    changes = {"image_size": 32, "patch_size": 8, "embed_dim": 24, "num_heads": 3}
    package = package_of(small_vit(**changes), tmp_path / "model")
    for suffix in FORMATS:
        export(package, tmp_path / f"vit.{suffix}")
    snippet = """
import sys
sys.modules["vitray"] = None  # as where it is not installed
import json, onnxruntime, timm, torch
from safetensors import safe_open
from safetensors.torch import load_file

images = torch.randn(4, 3, 32, 32)
extra = {"vitray.json": ""}
program = torch.export.load("vit.pt2", extra_files=extra).module()
first = program(images)

session = onnxruntime.InferenceSession("vit.onnx")
(second,) = session.run(None, {"images": images.numpy()})

with safe_open("vit.safetensors", "pt") as file:
    classes = json.loads(file.metadata()["classes"])
shape = dict(img_size=32, patch_size=8, embed_dim=24, depth=2, num_heads=3, num_classes=len(classes))
model = timm.create_model("vit_tiny_patch16_224", **shape).eval()
model.load_state_dict(load_file("vit.safetensors"))
third = model(images)

assert classes == json.loads(extra["vitray.json"])["classes"]
print(float((first - torch.from_numpy(second)).abs().max()), float((first - third).abs().max()))
"""
    done = subprocess.run([sys.executable, "-c", snippet], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert all(float(difference) < 1e-5 for difference in done.stdout.split())
