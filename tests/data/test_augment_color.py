"""Colour operations: torchvision's pixels within two grey levels, and its distribution of strengths and orders."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as F
from sklearn.datasets import load_sample_image

from vitray.augment_config import ColorJitterConfig
from vitray.data.augment_color import brightness, contrast, jitter, saturation, turn_hue
from vitray.data.augment_draws import JITTER, draws

PEERS = {
    "brightness": (brightness, F.adjust_brightness, (0.0, 0.3, 1.0, 1.4, 2.5)),
    "contrast": (contrast, F.adjust_contrast, (0.0, 0.3, 1.0, 1.4, 2.5)),
    "saturation": (saturation, F.adjust_saturation, (0.0, 0.3, 1.0, 1.4, 2.5)),
    "hue": (turn_hue, F.adjust_hue, (-0.5, -0.31, -0.1, 0.0, 0.05, 0.2, 0.5)),
}
CASES = [(name, strength) for name, (_, _, strengths) in PEERS.items() for strength in strengths]


def photo(channels: int = 3) -> np.ndarray:
    image = cv2.resize(load_sample_image("china.jpg"), (60, 40), interpolation=cv2.INTER_AREA)
    return np.ascontiguousarray(image[:, :, :channels])


def noise(channels: int = 3) -> np.ndarray:
    """Every kind of colour, with the corners of the cube and grays among them."""
    image = np.random.default_rng(0).integers(0, 256, (50, 40, channels), dtype=np.uint8)
    image[:8] = np.random.default_rng(1).integers(0, 2, (8, 40, channels)) * 255
    image[8:12] = image[8:12, :, :1]
    return image


def as_torch(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(image.copy()).permute(2, 0, 1)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("name", "strength"), CASES)
def test_pixels_are_torchvisions(name: str, strength: float, channels: int) -> None:
    ours, theirs, _ = PEERS[name]
    for image in (photo(channels), noise(channels)):
        before = image.copy()
        expected = theirs(as_torch(image), strength).permute(1, 2, 0).numpy().astype(int)
        found = ours(image, strength)
        assert found.shape == image.shape
        assert found.dtype == np.uint8
        assert np.abs(found - expected).max() <= 2
        assert np.array_equal(image, before)


@pytest.mark.parametrize("name", ["saturation", "hue"])
def test_gray_has_no_colour_to_change(name: str) -> None:
    ours, _, strengths = PEERS[name]
    for strength in strengths:
        assert np.array_equal(ours(photo(1), strength), photo(1))
        gray = np.repeat(photo(1), 3, axis=2)
        assert np.abs(ours(gray, strength).astype(int) - gray).max() <= 1


def test_a_full_turn_of_hue_comes_back() -> None:
    image = noise()
    for turns in (0.25, 0.4):
        there = turn_hue(image, turns)
        assert np.abs(there.astype(int) - image).max() > 100
        assert np.abs(turn_hue(there, -turns).astype(int) - image).max() <= 3


# One pixel of three channels shows what was drawn: brightness scales it, and no clipping hides how much.
PIXEL = np.full((1, 1, 3), 100, np.uint8)


@pytest.mark.parametrize(("strength", "low", "high"), [(0.4, 0.6, 1.4), (1.0, 0.0, 2.0), (1.5, 0.0, 2.5)])
def test_strengths_are_uniform_about_one_and_never_negative(strength: float, low: float, high: float) -> None:
    config = ColorJitterConfig(brightness=strength)
    factors = np.array([jitter(PIXEL, config, u)[0, 0, 0] / 100 for u in draws(0, 0, np.arange(4000))])
    seen, _ = np.histogram(factors, bins=8, range=(low, high))
    assert ((seen - 500) ** 2 / 500).sum() < 35  # chi-squared, 7 degrees of freedom: p < 2e-5 above
    assert seen.sum() == 4000


def test_all_orders_are_equally_likely() -> None:
    """Contrast before or after brightness, and saturation between, give other pixels: 24 orders, 24 images."""
    config = ColorJitterConfig(brightness=0.4, contrast=0.9, saturation=0.9, hue=0.3)
    u = draws(0, 0, np.arange(2400))
    u[:, JITTER + 1 : JITTER + 5] = (0.8, 0.9, 0.9, 0.8)
    image = noise()[12:20, :8]
    made = np.stack([jitter(image, config, row).ravel() for row in u])
    _, counts = np.unique(made, axis=0, return_counts=True)
    assert len(counts) == 24
    assert ((counts - 100) ** 2 / 100).sum() < 65  # chi-squared, 23 degrees of freedom: p < 1e-5 above


def test_a_part_that_is_off_changes_nothing() -> None:
    image = photo()
    for u in draws(0, 0, np.arange(20)):
        assert np.array_equal(jitter(image, ColorJitterConfig(), u), image)
        only = jitter(image, ColorJitterConfig(hue=0.2), u)
        assert np.array_equal(only, turn_hue(image, 0.2 * (2 * u[JITTER + 4] - 1)))
