"""What is made to fit, and what is left for the comparison to name: grids, patch kernels, odd shapes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from small_models import images, small_vit
from timm.layers import resample_patch_embed

from vitray.errors import CheckpointError, DataError
from vitray.models.pretrained import load_pretrained
from vitray.models.resize import resize_kernel


def saved(model: torch.nn.Module, folder: Path) -> Path:
    save_file(model.state_dict(), folder / "w.safetensors")
    return folder / "w.safetensors"


@pytest.mark.parametrize("size", [(8, 16), (8, 24), (12, 20)])
def test_a_table_with_the_models_own_count_is_of_its_grid(tmp_path: Path, size: tuple[int, int]) -> None:
    """A grid of n x (n + 2) has as many rows as a square one without a class token: 9 of 2 x 4, 16 of 3 x 5."""
    old, new = (small_vit(image_size=size, patch_size=4) for _ in range(2))
    assert load_pretrained(new, saved(old, tmp_path)).adapted == ()
    assert torch.equal(new.state_dict()["pos_embed"], old.state_dict()["pos_embed"])
    x = images(old)
    assert torch.equal(new.eval()(x), old.eval()(x))
    bare = old.state_dict() | {"pos_embed": old.state_dict()["pos_embed"][:, 1:].contiguous()}
    save_file(bare, tmp_path / "bare.safetensors")
    report = load_pretrained(new, tmp_path / "bare.safetensors")
    assert report.adapted == ("positions: the class token had none, so it gets zeros",)
    assert torch.equal(new.state_dict()["pos_embed"][:, 1:], bare["pos_embed"])


def test_a_grid_that_nobody_knows_is_refused_with_what_helps(tmp_path: Path) -> None:
    path = saved(small_vit(), tmp_path)  # 3 x 4 patches
    with pytest.raises(DataError, match="neither") as caught:
        load_pretrained(small_vit(image_size=(8, 8)), path)
    assert caught.value.remedy is not None
    assert "a config whose image and patch size are those it was trained with" in caught.value.remedy
    assert load_pretrained(small_vit(), path).adapted == ()  # that helps
    assert load_pretrained(small_vit(image_size=(8, 8)), path, source_grid=(3, 4)).adapted  # and so does the other


@pytest.mark.parametrize(
    ("name", "shape", "encoding"),
    [
        ("head.weight", (), "none"),
        ("head.weight", (5,), "none"),
        ("head.weight", (4, 16, 1), "none"),
        ("pos_embed", (), "learned"),
        ("pos_embed", (1, 0, 16), "learned"),
        ("pos_embed", (1, 1, 16), "learned"),
        ("pos_embed", (13, 16), "learned"),
        ("pos_embed", (2, 5, 16), "learned"),
        ("pos_embed", (1, 5, 0), "learned"),
        ("patch_embed.proj.weight", (), "none"),
        ("patch_embed.proj.weight", (16, 3, 0, 0), "none"),
        ("position.offset", (), "relative"),
        ("position.offset", (2, 2, 5), "relative"),
        ("position.offset", (2, 2, 0, 7), "relative"),
    ],
)
def test_a_tensor_of_an_odd_shape_is_named(tmp_path: Path, name: str, shape: tuple[int, ...], encoding: str) -> None:
    model = small_vit(pos_encoding=encoding)
    weights = model.state_dict()
    assert name in weights
    torch.save(weights | {name: torch.zeros(shape)}, tmp_path / "w.pth")
    with pytest.raises(
        CheckpointError, match=re.escape(f"{name} is {shape}, the model's is {(*weights[name].shape,)}")
    ):
        load_pretrained(model, tmp_path / "w.pth")


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


def test_a_square_table_with_a_class_row_is_not_taken_for_a_rectangle_without(tmp_path: Path) -> None:
    """ViT-B/32's 50 rows are 7 x 7 and a class token, though 5 x 10 patches are 50 too."""
    old, new = small_vit(image_size=(14, 14)), small_vit(image_size=(10, 20))
    save_file(old.state_dict(), tmp_path / "w.safetensors")
    report = load_pretrained(new, tmp_path / "w.safetensors")
    assert report.adapted == ("positions: interpolated from 7 x 7 to 5 x 10 patches",)
