"""A file that was exported says as much of itself as the package did, and is a start for training on the same terms."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from small_models import images, small_vit

from vitray.errors import CheckpointError, DataError
from vitray.models import VisionTransformer
from vitray.models.export import export
from vitray.models.package import PackageInfo, load_package, save_package
from vitray.models.pretrained import load_pretrained
from vitray.models.weights_info import weights_info

pytestmark = pytest.mark.slow

CLASSES = ("a", "é", 'c "2"', "4", "e")


def exported(model: VisionTransformer, folder: Path) -> tuple[Path, Path]:
    """A package of the model, and the file made of it."""
    info = PackageInfo(
        model=model.config, classes=CLASSES, mean=(0.1, 0.2, 1 / 3), std=(0.3, 0.2, 0.1), dataset_fingerprint="f" * 64
    )
    package = save_package(folder / "model", model.state_dict(), info)
    return package, export(package, folder / "vit.safetensors").path


def header(path: Path) -> dict[str, str]:
    with safe_open(path, framework="pt") as file:
        return dict(file.metadata() or {})


def test_a_file_says_what_its_package_says(tmp_path: Path) -> None:
    package, file = exported(small_vit(pos_encoding="rope_2d", pos_grid=(5, 7)), tmp_path)
    assert weights_info(file) == weights_info(package) == load_package(package)[1]


@pytest.mark.parametrize(
    ("source", "target", "classes"),
    [
        ({}, {}, CLASSES),
        ({}, {}, CLASSES[::-1]),
        ({}, {"num_classes": 2}, CLASSES[:2]),
        ({}, {"image_size": (8, 8), "patch_size": 4}, CLASSES),
        ({"pos_encoding": "relative"}, {"pos_encoding": "relative", "image_size": (8, 8)}, CLASSES),
        ({"pos_encoding": "rope_2d"}, {"pos_encoding": "rope_2d", "image_size": (8, 8)}, CLASSES),
        ({"pos_encoding": "rope_2d", "pos_grid": (5, 7)}, {"pos_encoding": "rope_2d", "pos_grid": (5, 7)}, CLASSES),
        ({"pool": "mean"}, {"attention": "axial"}, None),
    ],
)
def test_a_file_is_begun_with_as_its_package_is(
    tmp_path: Path, source: dict[str, Any], target: dict[str, Any], classes: tuple[str, ...] | None
) -> None:
    package, file = exported(small_vit(**source), tmp_path)
    one, two = small_vit(**target).eval(), small_vit(**target).eval()
    two.load_state_dict(one.state_dict())  # a fresh head is the same one
    assert load_pretrained(one, package, classes=classes).adapted == load_pretrained(two, file, classes=classes).adapted
    x = images(one)
    assert torch.equal(one(x), two(x))


@pytest.mark.parametrize("changes", [{"num_heads": 4}, {"pos_encoding": "sinusoidal"}, {"num_heads": 1, "depth": 3}])
def test_what_no_shape_shows_is_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    _, file = exported(small_vit(pos_encoding="rope_2d"), tmp_path)
    with pytest.raises(CheckpointError, match="another architecture: model") as caught:
        load_pretrained(small_vit(**{"pos_encoding": "rope_2d"} | changes), file)
    assert caught.value.where == str(file)
    assert str(caught.value.remedy).startswith("set model.")


def test_files_of_others_say_nothing(tmp_path: Path) -> None:
    weights = small_vit().state_dict()
    for number, metadata in enumerate((None, {}, {"format": "pt", "model": "vit_tiny_patch16_224", "classes": "1000"})):
        save_file(weights, tmp_path / f"{number}.safetensors", metadata=metadata)
        assert weights_info(tmp_path / f"{number}.safetensors") is None
    torch.save(weights, tmp_path / "w.pth")
    assert weights_info(tmp_path / "w.pth") is None
    with pytest.raises(DataError, match="no such file"):
        weights_info(tmp_path / "nothing.safetensors")
    with pytest.raises(DataError, match="not a model"):
        weights_info(tmp_path)


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("model", None, "is damaged"),
        ("model", "{", "is damaged"),
        ("model", "[]", "is damaged"),
        ("model", "{}", "image_size is not set"),
        ("classes", "7", "is damaged"),
        ("classes", '["a"]', "classes has 1 entries, but model.num_classes is 5"),
        ("mean", '["x", 0, 0]', "is damaged"),
        ("std", "[0, 1, 1]", "must be finite"),
        ("model", {"depth": 3}, "the weights are not those of the model described"),
        ("model", {"image_size": [8, 8]}, r"pos_embed is \(1, 13, 16\), the model's is \(1, 17, 16\)"),
        ("model", {"embed_dim": 15}, "describes an impossible model"),
        ("model", {"hue": 3}, "describes an impossible model: unknown key 'hue'"),
    ],
)
def test_a_header_that_lies_is_damage(tmp_path: Path, key: str, value: Any, says: str) -> None:
    _, file = exported(small_vit(), tmp_path)
    facts = header(file)
    if value is None:
        del facts[key]
    else:
        facts[key] = value if isinstance(value, str) else json.dumps(json.loads(facts[key]) | value)
    lying = tmp_path / "lying.safetensors"
    save_file(load_file(file), lying, metadata=facts)
    with pytest.raises(CheckpointError, match=says) as caught:
        load_pretrained(small_vit(), lying)
    assert caught.value.where == str(lying)
