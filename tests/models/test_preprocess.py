"""Normalisation is the formula, pixel by pixel."""

from __future__ import annotations

import pytest
import torch

from vitray.errors import DataError
from vitray.models.preprocess import normalise


def test_every_pixel_is_the_formula() -> None:
    images = torch.randint(0, 256, (2, 3, 4, 3), dtype=torch.uint8)
    mean, std = (0.1, 0.5, 0.9), (0.2, 0.3, 0.4)
    got = normalise(images, mean, std)
    assert got.shape == (2, 3, 3, 4)
    assert got.dtype == torch.float32
    for b in range(2):
        for y in range(3):
            for x in range(4):
                for c in range(3):
                    expected = (images[b, y, x, c].item() / 255 - mean[c]) / std[c]
                    assert got[b, c, y, x].item() == pytest.approx(expected, abs=1e-6)


def test_tensors_and_sequences_give_the_same_and_dtype_is_kept() -> None:
    images = torch.randint(0, 256, (2, 3, 4, 1), dtype=torch.uint8)
    a = normalise(images, [0.3], [0.2], torch.bfloat16)
    assert a.dtype == torch.bfloat16
    assert torch.equal(a, normalise(images, torch.tensor([0.3]), torch.tensor([0.2])).to(torch.bfloat16))


@pytest.mark.parametrize(
    ("images", "mean"),
    [
        (torch.zeros(2, 3, 4, 3), (0.0,) * 3),
        (torch.zeros(3, 4, 3, dtype=torch.uint8), (0.0,) * 3),
        (torch.zeros(2, 3, 4, 3, dtype=torch.uint8), (0.0,)),
        (torch.zeros(2, 3, 4, 1, dtype=torch.uint8), (0.0,) * 3),
    ],
)
def test_wrong_images_are_refused(images: torch.Tensor, mean: tuple[float, ...]) -> None:
    with pytest.raises(DataError):
        normalise(images, mean, [1.0] * len(mean))
