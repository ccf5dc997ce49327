"""A model on disk: what is written comes back, and nothing damaged is ever predicted with."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from small_models import images, small_config, small_vit

from vitray.errors import CheckpointError, DataError, VitrayError
from vitray.experiment import ModelConfig
from vitray.models import VisionTransformer
from vitray.models.package import PackageInfo, load_package, save_package


def info_of(model: VisionTransformer) -> PackageInfo:
    return PackageInfo(
        model=model.config,
        classes=tuple("abcde"),
        mean=(0.1, 0.2, 1 / 3),
        std=(0.3, 0.2, 0.1),
        dataset_fingerprint="f" * 64,
    )


@pytest.fixture
def model() -> VisionTransformer:
    return small_vit(pos_encoding="relative", registers=1, layer_scale=0.1, qk_norm=True, dropout=0.1)


@pytest.fixture
def folder(tmp_path: Path, model: VisionTransformer) -> Path:
    return save_package(tmp_path / "deep" / "model", model.state_dict(), info_of(model))


@pytest.mark.parametrize("kind", ["none", "learned", "sinusoidal", "sinusoidal_2d", "relative", "rope_2d"])
def test_round_trip_to_the_bit(tmp_path: Path, kind: str) -> None:
    model = small_vit(pos_encoding=kind)
    save_package(tmp_path / "m", model.state_dict(), info_of(model))
    loaded, info = load_package(tmp_path / "m")
    assert info == info_of(model)
    assert not loaded.training
    x = images(model)
    assert torch.equal(loaded(x), model.eval()(x))
    loaded.train()(x).sum().backward()  # a loaded model can be trained on


def test_files_and_description_are_as_documented(folder: Path) -> None:
    assert sorted(p.name for p in folder.iterdir()) == ["model.json", "model.safetensors"]
    assert sorted(p.name for p in folder.parent.iterdir()) == ["model"], "nothing half-written is left"
    content = json.loads((folder / "model.json").read_text())
    assert content["format"] == 1
    assert ModelConfig(**content["model"]) == small_config(
        pos_encoding="relative", registers=1, layer_scale=0.1, qk_norm=True, dropout=0.1
    )
    assert content["classes"] == list("abcde")
    assert content["mean"] == [0.1, 0.2, 1 / 3]
    assert content["dataset_fingerprint"] == "f" * 64


@pytest.mark.parametrize("mask", [0o022, 0o002, 0o077])
def test_whoever_may_read_the_description_may_read_the_weights(
    tmp_path: Path, model: VisionTransformer, mask: int
) -> None:
    before = os.umask(mask)
    try:
        folder = save_package(tmp_path / "m", model.state_dict(), info_of(model))
        save_package(folder, model.state_dict(), info_of(model))  # over itself
    finally:
        os.umask(before)
    assert {p.name: p.stat().st_mode & 0o777 for p in folder.iterdir()} == dict.fromkeys(
        ("model.json", "model.safetensors"), 0o666 & ~mask
    )


def test_a_package_can_be_replaced(folder: Path, model: VisionTransformer) -> None:
    with torch.no_grad():
        model.head.bias += 1
    save_package(folder, model.state_dict(), info_of(model))
    assert torch.equal(load_package(folder)[0].head.bias, model.head.bias)


def test_low_precision_weights_load_as_float32(tmp_path: Path, model: VisionTransformer) -> None:
    weights = {k: v.to(torch.bfloat16) for k, v in model.state_dict().items()}
    loaded, _ = load_package(save_package(tmp_path / "m", weights, info_of(model)))
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}


@pytest.mark.parametrize("name", ["model.safetensors", "model.json"])
def test_every_flipped_bit_and_every_cut_is_noticed(folder: Path, name: str) -> None:
    path = folder / name
    good = path.read_bytes()
    for at in range(0, len(good), max(1, len(good) // 60)):
        path.write_bytes(good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :])
        if name == "model.json" and json_equal(path.read_bytes(), good):
            continue  # white space says nothing
        with pytest.raises(VitrayError):
            load_package(folder)
        path.write_bytes(good[:at])
        if name == "model.json" and json_equal(path.read_bytes(), good):
            continue  # the line break at its end says nothing either
        with pytest.raises(CheckpointError, match="damaged"):
            load_package(folder)


def json_equal(a: bytes, b: bytes) -> bool:
    try:
        return bool(json.loads(a) == json.loads(b))
    except ValueError:
        return False


@pytest.mark.parametrize(
    "text", ["", "[]", "null", "{}", '"x"', '{"format": 1}', '{"format": 1, "sha256": {}}', "\x00"]
)
def test_wrong_json_is_damage(folder: Path, text: str) -> None:
    (folder / "model.json").write_text(text)
    with pytest.raises(CheckpointError, match="damaged") as caught:
        load_package(folder)
    assert "model.json" in str(caught.value.where)
    assert caught.value.remedy


def test_a_newer_format_asks_for_a_newer_vitray(folder: Path) -> None:
    (folder / "model.json").write_text('{"format": 2}')
    with pytest.raises(DataError, match="format 2"):
        load_package(folder)


def test_missing_parts_are_named(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        load_package(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"no model\.json"):
        load_package(tmp_path)
    (folder / "model.safetensors").unlink()
    with pytest.raises(DataError, match=r"no model\.safetensors"):
        load_package(folder)


def test_weights_of_another_model_are_never_written(tmp_path: Path, model: VisionTransformer) -> None:
    other = small_vit(embed_dim=32)
    with pytest.raises(CheckpointError, match=r"cls_token is \(1, 1, 32\).*and \d+ more"):
        save_package(tmp_path / "m", other.state_dict(), info_of(model))
    assert not (tmp_path / "m").exists()


def test_weights_of_another_package_are_noticed(folder: Path, tmp_path: Path) -> None:
    other = small_vit()
    foreign = save_package(tmp_path / "other", other.state_dict(), info_of(other))
    (foreign / "model.safetensors").replace(folder / "model.safetensors")
    with pytest.raises(CheckpointError, match="not those that were written"):
        load_package(folder)


def test_a_description_that_contradicts_itself_is_refused() -> None:
    config = small_config()
    good = {"classes": tuple("abcde"), "mean": (0.0,) * 3, "std": (1.0,) * 3}
    for wrong in ({"classes": ("a",)}, {"mean": (0.0,)}, {"std": (1.0, 1.0)}, {"std": (1.0, 0.0, 1.0)}):
        with pytest.raises(DataError):
            PackageInfo(model=config, dataset_fingerprint="", **good | wrong)  # type: ignore[arg-type]
