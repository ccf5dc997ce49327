"""What is not images for a model is refused with what would be."""

from __future__ import annotations

import math

import pytest
import torch
from small_models import images, small_vit

from vitray.errors import DataError


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("training", [False, True])
def test_nan_and_infinity_are_refused_with_the_image_that_holds_them(value: float, training: bool) -> None:
    model = small_vit().train(training)
    x = images(model, 4)
    x[2, 1, 0, 3] = value
    with pytest.raises(DataError, match=r"image 2 of a batch of shape \(4, 3, 6, 8\) holds NaN or infinity"):
        model(x)


def test_large_but_finite_values_are_images() -> None:
    model = small_vit().eval()
    x = torch.full((2, 3, 6, 8), 3e38)
    assert x.sum().isinf(), "which is what the first look takes"
    assert model(x).shape == (2, 5)


def test_pixels_that_were_not_normalised_are_refused() -> None:
    with pytest.raises(DataError, match=r"(?s)images are torch.uint8.*float \(batch, 3, height, width\)"):
        small_vit()(torch.zeros(2, 3, 6, 8, dtype=torch.uint8))


def test_images_without_pixels_are_refused() -> None:
    with pytest.raises(DataError, match="do not fit"):
        small_vit()(torch.zeros(2, 3, 0, 8))
    with pytest.raises(DataError, match="do not fit"):
        small_vit()(torch.zeros(2, 3, 6, 0))


def test_images_of_another_precision_than_the_weights_are_refused_unless_autocast_is_on() -> None:
    model = small_vit()
    with pytest.raises(DataError, match=r"(?s)images are torch.float64, the weights torch.float32.*images.to"):
        model(images(model).double())
    with torch.autocast("cpu", torch.bfloat16):
        model(images(model).bfloat16())


@pytest.mark.parametrize("attention", ["full", "axial"])
def test_a_batch_of_no_images_has_no_answers(attention: str) -> None:
    model = small_vit(attention=attention).eval()
    assert model(images(model, 0)).shape == (0, 5)
