"""Weights of timm and torchvision: same logits where nothing differs, a true report where something does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from small_models import images, small_config, small_vit
from torchvision.models.vision_transformer import VisionTransformer as TorchvisionViT

from vitray.errors import CheckpointError, DataError
from vitray.model_config import COMPUTED
from vitray.models import VisionTransformer
from vitray.models.package import PackageInfo, load_package, save_package
from vitray.models.pretrained import Pretrained, load_pretrained, weights_digest
from vitray.models.resize import resize_table

pytestmark = pytest.mark.slow

SHAPE: dict[str, Any] = {
    "image_size": 32,
    "patch_size": 8,
    "in_chans": 3,
    "num_classes": 7,
    "embed_dim": 24,
    "depth": 2,
}


def model_of(**changes: Any) -> VisionTransformer:
    return VisionTransformer(small_config(**SHAPE | {"num_heads": 3} | changes)).eval()


def timm_of(**changes: Any) -> torch.nn.Module:
    options = {"img_size": 32, "patch_size": 8, "num_classes": 7, "embed_dim": 24, "depth": 2, "num_heads": 3} | changes
    return timm.create_model("vit_tiny_patch16_224", **options).eval()


@pytest.fixture
def torchvision_model() -> torch.nn.Module:
    model = TorchvisionViT(
        image_size=32, patch_size=8, num_layers=2, num_heads=3, hidden_dim=24, mlp_dim=96, num_classes=7
    )  # fmt: skip
    with torch.no_grad():
        for parameter in model.parameters():  # its head and class token start at zero
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


def saved(model: torch.nn.Module, path: Path) -> Path:
    if path.suffix == ".safetensors":
        save_file(model.state_dict(), path)
    else:
        torch.save(model.state_dict(), path)
    return path


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_timm_weights_give_timms_logits(tmp_path: Path, suffix: str) -> None:
    theirs, ours = timm_of(), model_of()
    report = load_pretrained(ours, saved(theirs, tmp_path / f"w{suffix}"))
    assert (report.source, report.adapted) == ("timm", ())
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(ours(x), theirs(x), rtol=0, atol=1e-5)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_torchvision_weights_give_torchvisions_logits(
    tmp_path: Path, suffix: str, torchvision_model: torch.nn.Module
) -> None:
    ours = model_of()
    report = load_pretrained(ours, saved(torchvision_model, tmp_path / f"w{suffix}"))
    assert (report.source, report.adapted) == ("torchvision", ())
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(ours(x), torchvision_model(x), rtol=0, atol=1e-5)


def test_registers_layer_scale_and_qk_norm_of_timm(tmp_path: Path) -> None:
    theirs = timm_of(reg_tokens=2, no_embed_class=True, init_values=0.1, qk_norm=True)
    ours = model_of(registers=2, layer_scale=0.1, qk_norm=True)
    report = load_pretrained(ours, saved(theirs, tmp_path / "w.pth"))
    assert report.adapted == ("positions: the class token had none, so it gets zeros",)
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(ours(x), theirs(x), rtol=0, atol=1e-5)


def test_another_head_size_and_patch_are_adapted_and_told(tmp_path: Path) -> None:
    theirs, ours = timm_of(), model_of(num_classes=3, image_size=(48, 32), patch_size=16)
    fresh = ours.head.weight.clone()
    report = load_pretrained(ours, saved(theirs, tmp_path / "w.pth"))
    assert torch.equal(ours.head.weight, fresh)
    assert "3 classes" in report.adapted[0]
    assert "from 8 to 16 pixels" in report.adapted[1]
    assert "from 4 x 4 to 3 x 2 patches" in report.adapted[2]
    assert all(change in str(report) for change in report.adapted)
    assert ours.pos_embed is not None
    expected = resize_table(theirs.pos_embed.detach(), (4, 4), (3, 2))  # type: ignore[operator]
    assert torch.equal(ours.pos_embed.detach(), expected)


def test_an_earlier_model_of_ours_is_a_start(tmp_path: Path) -> None:
    old, new = small_vit(pos_encoding="rope_2d"), small_vit(pos_encoding="rope_2d", num_classes=2)
    info = PackageInfo(
        model=old.config, classes=tuple("abcde"), mean=(0.0,) * 3, std=(1.0,) * 3, dataset_fingerprint=""
    )
    folder = save_package(tmp_path / "m", old.state_dict(), info)
    report = load_pretrained(new, folder)
    assert len(report.adapted) == 1
    assert torch.equal(new.norm.weight, old.norm.weight)
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[:-1] + bytes([weights[-1] ^ 1]))
    with pytest.raises(CheckpointError, match="damaged"):
        load_pretrained(new, folder)


def packaged(model: VisionTransformer, folder: Path, classes: tuple[str, ...] = tuple("abcde")) -> Path:
    channels = model.config.in_chans or 0
    info = PackageInfo(
        model=model.config, classes=classes, mean=(0.0,) * channels, std=(1.0,) * channels, dataset_fingerprint=""
    )
    return save_package(folder, model.state_dict(), info)


@pytest.mark.parametrize(
    ("classes", "says"),
    [
        (tuple("abcde"), None),
        (tuple("abced"), "its 5 classes are in another order"),
        (("a", "b", "x", "d", "e"), "number 2 was 'c', is 'x'"),
        (tuple("abc"), "fresh for 3 classes (the weights had 5 classes)"),
    ],
)
def test_a_head_is_kept_for_the_same_classes_in_the_same_order(
    tmp_path: Path, classes: tuple[str, ...], says: str | None
) -> None:
    old, new = small_vit(), small_vit(num_classes=len(classes))
    fresh = new.head.weight.clone()
    report = load_pretrained(new, packaged(old, tmp_path / "m"), classes=classes)
    assert torch.equal(new.head.weight, old.head.weight if says is None else fresh)
    assert torch.equal(new.norm.weight, old.norm.weight)
    assert len(report.adapted) == (says is not None)
    assert says is None or says in report.adapted[0]


def test_a_file_does_not_name_its_classes_and_the_report_says_so(tmp_path: Path) -> None:
    ours, path = model_of(), saved(timm_of(), tmp_path / "w.safetensors")
    assert load_pretrained(ours, path, classes=tuple("abcdefg")).adapted == (
        "head: kept, as it has 7 classes too (the file does not name them)",
    )
    assert load_pretrained(ours, path).adapted == ()


def test_a_wrong_number_of_channels_is_named_with_what_to_do(tmp_path: Path) -> None:
    path = saved(timm_of(), tmp_path / "w.safetensors")
    with pytest.raises(CheckpointError, match="are for images of 3 channels, the model for 1 channel ") as caught:
        load_pretrained(model_of(in_chans=1), path)
    assert caught.value.remedy == "give weights that were trained on 1 channel, or images that have 3 channels"


def test_a_package_says_what_no_shape_shows(tmp_path: Path) -> None:
    folder = packaged(small_vit(pos_encoding="sinusoidal"), tmp_path / "m")
    with pytest.raises(CheckpointError, match=r"model\.num_heads was 2, is 4; model\.pos_encoding was sinus") as caught:
        load_pretrained(small_vit(num_heads=4, pos_encoding="none"), folder)
    assert caught.value.remedy == "set model.num_heads=2 model.pos_encoding=sinusoidal"
    report = load_pretrained(small_vit(pool="mean", attention="axial", pos_encoding="sinusoidal", dropout=0.1), folder)
    assert report.adapted == (  # the same grid, so the places are the same
        "model.attention: axial (the weights were trained with full)",
        "model.pool: mean (the weights were trained with cls)",
    )


def test_places_by_a_formula_on_another_grid_are_told(tmp_path: Path) -> None:
    folder = packaged(small_vit(pos_encoding="rope_2d"), tmp_path / "m")
    report = load_pretrained(small_vit(pos_encoding="rope_2d", image_size=(12, 8)), folder)
    assert report.adapted == (
        "positions: rope_2d counts 6 x 4 patches (the weights know 3 x 4; model.pos_grid=[3, 4] keeps their places)",
    )
    report = load_pretrained(small_vit(pos_encoding="rope_2d", image_size=(12, 8), pos_grid=(3, 4)), folder)
    assert report.adapted == ("positions: rope_2d places 6 x 4 patches on the grid of 3 x 4 that the weights know",)
    assert load_pretrained(small_vit(pos_encoding="rope_2d", pos_grid=(3, 4)), folder).adapted == ()


@pytest.mark.parametrize("attention", ["full", "axial"])
@pytest.mark.parametrize("kind", COMPUTED)
@torch.no_grad()
def test_at_another_size_the_grid_of_the_weights_keeps_what_they_answer(
    tmp_path: Path, kind: str, attention: str
) -> None:
    """To the bit, and on through a second change of size, where the first package names that grid too."""
    old = small_vit(pos_encoding=kind, attention=attention, registers=1).eval()
    folder = packaged(old, tmp_path / "old")
    for step, size in enumerate([(12, 16), (4, 14)]):
        grid = load_package(folder)[1].model.reference_grid
        new = small_vit(pos_encoding=kind, attention=attention, registers=1, image_size=size, pos_grid=grid).eval()
        load_pretrained(new, folder)
        x = images(new)
        assert torch.equal(new(x), old(x))
        stray = small_vit(pos_encoding=kind, attention=attention, registers=1, image_size=size).eval()
        load_pretrained(stray, folder)
        assert not torch.allclose(stray(x), old(x), atol=1e-3)
        folder = packaged(new, tmp_path / str(step))


def test_a_package_knows_its_grid_though_it_is_not_square(tmp_path: Path) -> None:
    old = small_vit()  # 3 x 4 patches
    new = small_vit(image_size=(8, 8))
    report = load_pretrained(new, packaged(old, tmp_path / "m"))
    assert report.adapted == ("positions: interpolated from 3 x 4 to 4 x 4 patches",)
    plain = saved(old, tmp_path / "w.safetensors")
    with pytest.raises(DataError, match="13 positions are neither of 4 x 4 patches, as the model's, nor of a square"):
        load_pretrained(new, plain)
    with pytest.raises(DataError, match="its 13 positions are no grid of 4 x 4 patches"):
        load_pretrained(new, plain, source_grid=(4, 4))
    assert load_pretrained(new, plain, source_grid=(3, 4)).adapted == report.adapted


def test_torchvision_weights_without_their_patch_kernel_are_told(
    tmp_path: Path, torchvision_model: torch.nn.Module
) -> None:
    weights = torchvision_model.state_dict()
    del weights["conv_proj.weight"]
    save_file(weights, tmp_path / "w.safetensors")
    with pytest.raises(CheckpointError, match=r"patch_embed\.proj\.weight is missing"):
        load_pretrained(model_of(), tmp_path / "w.safetensors")


def test_a_model_without_memory_is_enough_to_ask(tmp_path: Path) -> None:
    weights = Pretrained.read(saved(timm_of(), tmp_path / "w.safetensors"))
    with torch.device("meta"):
        fits, too_deep = model_of(num_classes=3, image_size=64, patch_size=16), model_of(depth=3)
    asked = weights.fit(fits)[1]
    assert asked == load_pretrained(model_of(num_classes=3, image_size=64, patch_size=16), tmp_path / "w.safetensors")
    with pytest.raises(CheckpointError, match=r"blocks\.2\.norm1\.weight is missing"):
        weights.fit(too_deep)


def test_the_digest_follows_the_weights_and_not_their_place(tmp_path: Path) -> None:
    model = small_vit()
    one, two = packaged(model, tmp_path / "one"), packaged(model, tmp_path / "two")
    assert weights_digest(one) == weights_digest(two)
    assert weights_digest(packaged(small_vit(), tmp_path / "three")) != weights_digest(one)
    assert weights_digest(packaged(model, tmp_path / "four", classes=tuple("edcba"))) != weights_digest(one)
    files = [saved(m, tmp_path / name) for m, name in ((model, "a.pth"), (small_vit(), "b.pth"))]
    assert weights_digest(files[0]) != weights_digest(files[1])
    with pytest.raises(DataError, match="cannot be read"):
        weights_digest(tmp_path / "nothing")


@pytest.mark.parametrize("attention", ["full", "axial"])
def test_relative_positions_are_interpolated_for_another_size(tmp_path: Path, attention: str) -> None:
    old = small_vit(pos_encoding="relative", attention=attention)
    new = small_vit(pos_encoding="relative", attention=attention, image_size=(10, 12))
    report = load_pretrained(new, saved(old, tmp_path / "w.safetensors"))
    assert "interpolated" in report.adapted[0]
    x = torch.randn(2, 3, 10, 12)
    torch.testing.assert_close(new.eval()(x), old.eval()(x), rtol=0, atol=1e-4)  # as it does on the fly


def test_another_architecture_names_the_first_mismatches_and_changes_nothing(tmp_path: Path) -> None:
    ours = model_of(depth=3, pos_encoding="rope_2d")
    before = {k: v.clone() for k, v in ours.state_dict().items()}
    with pytest.raises(CheckpointError, match=r"blocks\.2\.norm1\.weight is missing.*and \d+ more"):
        load_pretrained(ours, saved(timm_of(), tmp_path / "w.pth"))
    with pytest.raises(CheckpointError, match=r"cls_token is \(1, 1, 24\), the model's is \(1, 1, 48\)"):
        load_pretrained(model_of(embed_dim=48), tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match="pos_embed is unknown"):
        load_pretrained(model_of(pos_encoding="rope_2d"), tmp_path / "w.pth")
    assert all(torch.equal(before[k], v) for k, v in ours.state_dict().items())
