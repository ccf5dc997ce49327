"""Weights of timm and torchvision: same logits where nothing differs, a true report where something does."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from small_models import small_config, small_vit
from timm.layers import resample_patch_embed
from torchvision.models.vision_transformer import VisionTransformer as TorchvisionViT

from vitray.errors import CheckpointError, DataError
from vitray.models import VisionTransformer
from vitray.models.package import PackageInfo, save_package
from vitray.models.pretrained import load_pretrained
from vitray.models.resize import resize_kernel, resize_table

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


@pytest.mark.parametrize("attention", ["full", "axial"])
def test_relative_positions_are_interpolated_for_another_size(tmp_path: Path, attention: str) -> None:
    old = small_vit(pos_encoding="relative", attention=attention)
    new = small_vit(pos_encoding="relative", attention=attention, image_size=(10, 12))
    report = load_pretrained(new, saved(old, tmp_path / "w.safetensors"))
    assert "interpolated" in report.adapted[0]
    x = torch.randn(2, 3, 10, 12)
    torch.testing.assert_close(new.eval()(x), old.eval()(x), rtol=0, atol=1e-4)  # as it does on the fly


def test_resized_patches_give_the_same_tokens() -> None:
    """FlexiViT's equation 4: the product of patch and kernel survives when both are enlarged."""
    kernel, patch = torch.randn(5, 3, 4, 4), torch.randn(2, 3, 4, 4)
    for size in (6, 8, 16):
        larger = torch.nn.functional.interpolate(patch, (size, size), mode="bilinear", antialias=True)
        before = torch.einsum("dcij,bcij->bd", kernel, patch)
        after = torch.einsum("dcij,bcij->bd", resize_kernel(kernel, size), larger)
        torch.testing.assert_close(after, before, rtol=0, atol=1e-4)


@pytest.mark.parametrize("size", [2, 7, 16])
def test_kernel_resize_is_timms(size: int) -> None:
    kernel = torch.randn(5, 3, 8, 8)
    theirs = resample_patch_embed(kernel, [size, size], interpolation="bilinear")
    torch.testing.assert_close(resize_kernel(kernel, size), theirs, rtol=1e-4, atol=1e-5)


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


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("ran"),)


def test_a_file_with_code_inside_is_refused_and_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"patch_embed.proj.weight": Evil()}, "evil.pth")
    Path("plain.pth").write_bytes(pickle.dumps(Evil(), protocol=2))
    for name in ("evil.pth", "plain.pth"):
        with pytest.raises(DataError, match="could run code"):
            load_pretrained(model_of(), name)
    assert not Path("ran").exists()


def test_damage_and_strangers_are_told_apart(tmp_path: Path) -> None:
    for suffix in (".safetensors", ".pth"):
        path = saved(timm_of(), tmp_path / f"w{suffix}")
        path.write_bytes(path.read_bytes()[:-500])
        with pytest.raises(CheckpointError, match="damaged"):
            load_pretrained(model_of(), path)
    with pytest.raises(DataError, match="no such file"):
        load_pretrained(model_of(), tmp_path / "nothing.pth")
    save_file({"fc.weight": torch.zeros(2)}, tmp_path / "resnet.safetensors")
    with pytest.raises(DataError, match="no Vision Transformer"):
        load_pretrained(model_of(), tmp_path / "resnet.safetensors")
    (tmp_path / "w.npz").touch()
    with pytest.raises(DataError, match="not read from"):
        load_pretrained(model_of(), tmp_path / "w.npz")
