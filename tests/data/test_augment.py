"""Crops, flips and shifts: the field's distribution, exact pixels, and randomness that belongs to the sample."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms import RandomResizedCrop

from vitray.data.augment import DRAWS, crop_box, draws, transform
from vitray.data.decode import fit
from vitray.experiment import AugmentConfig

CROP = AugmentConfig(crop=True)


def picture(height: int = 9, width: int = 7, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(1).integers(1, 255, (height, width, channels), dtype=np.uint8)


def made(image: np.ndarray, size: tuple[int, int], augment: AugmentConfig | None, u: np.ndarray | None) -> np.ndarray:
    out = np.zeros((*size, image.shape[2]), np.uint8)
    transform(image, out, augment, u)
    return out


def fixed(flip: float = 0.9, down: float = 0.5, across: float = 0.5) -> np.ndarray:
    return np.array([0.5] * (DRAWS - 3) + [flip, down, across])


def boxes(height: int, width: int, augment: AugmentConfig, count: int) -> np.ndarray:
    u = draws(0, 0, np.arange(count))
    return np.array([crop_box(height, width, augment, row) for row in u])


@pytest.mark.parametrize(("height", "width"), [(224, 224), (300, 400), (64, 256), (500, 90)])
def test_crops_are_distributed_as_torchvisions(height: int, width: int) -> None:
    torch.manual_seed(0)
    image = torch.zeros(1, height, width)
    theirs = np.array(
        [RandomResizedCrop.get_params(image, list(CROP.crop_scale), list(CROP.crop_ratio)) for _ in range(3000)]
    )
    ours = boxes(height, width, CROP, 3000)

    def features(box: np.ndarray) -> dict[str, np.ndarray]:
        top, left, h, w = box.T
        return {
            "area": h * w / (height * width),
            "log ratio": np.log(w / h),
            "top": top / height,
            "left": left / width,
            "centre": (top + h / 2) / height,
        }

    for name, mine in features(ours).items():
        other = features(theirs)[name]
        error = math.sqrt((mine.var() + other.var()) / len(mine))
        assert abs(mine.mean() - other.mean()) < 4.5 * error + 1e-9, name
        assert mine.std() == pytest.approx(other.std(), rel=0.1, abs=1e-9), name
        assert np.quantile(mine, [0.1, 0.9]) == pytest.approx(np.quantile(other, [0.1, 0.9]), abs=0.06), name


@pytest.mark.parametrize(("height", "width"), [(10, 200), (200, 10), (50, 60), (1, 1), (3, 4), (1, 9)])
def test_where_no_crop_fits_it_is_torchvisions_central_one(height: int, width: int) -> None:
    whole = AugmentConfig(crop=True, crop_scale=(1.0, 1.0), crop_ratio=(0.9, 0.95))
    theirs = RandomResizedCrop.get_params(torch.zeros(1, height, width), [1.0, 1.0], [0.9, 0.95])
    assert crop_box(height, width, whole, draws(0, 0, np.array([1]))[0]) == tuple(theirs)


@settings(max_examples=200)
@given(
    st.tuples(*[st.integers(1, 600)] * 2), st.floats(0.001, 1), st.floats(0.1, 5), st.floats(1, 9), st.integers(0, 9**9)
)
def test_a_crop_lies_in_the_image(size: tuple[int, int], low: float, narrow: float, wide: float, i: int) -> None:
    height, width = size
    augment = AugmentConfig(crop=True, crop_scale=(low, 1), crop_ratio=(narrow, narrow * wide))
    for row in (draws(0, 0, np.array([i]))[0], np.zeros(DRAWS), np.full(DRAWS, 1 - 2.0**-53)):
        top, left, h, w = crop_box(height, width, augment, row)
        assert 0 <= top <= top + h <= height
        assert 0 <= left <= left + w <= width
        assert h > 0
        assert w > 0


def test_every_place_of_a_crop_is_equally_likely() -> None:
    nine_sixteenths = AugmentConfig(crop=True, crop_scale=(0.5625, 0.5625), crop_ratio=(1, 1))
    places, counts = np.unique(boxes(4, 4, nine_sixteenths, 8000), axis=0, return_counts=True)
    assert places.tolist() == [[top, left, 3, 3] for top in (0, 1) for left in (0, 1)]
    assert ((counts - 2000) ** 2 / 2000).sum() < 21  # chi-squared, 3 degrees of freedom: p < 1e-4 above


@pytest.mark.parametrize("channels", [1, 3])
def test_a_crop_is_resized_to_what_is_wanted(channels: int) -> None:
    image = picture(40, 30, channels)
    u = draws(0, 0, np.array([5]))[0]
    top, left, h, w = crop_box(40, 30, CROP, u)
    expected = cv2.resize(image[top : top + h, left : left + w], (50, 60), interpolation=cv2.INTER_LINEAR)
    assert np.array_equal(made(image, (60, 50), CROP, u), expected.reshape(60, 50, channels))
    assert made(image, (2, 3), CROP, u).shape == (2, 3, channels)


def test_without_augmentation_it_is_the_evaluation_transform() -> None:
    image = picture(40, 30)
    assert np.array_equal(made(image, (20, 20), None, fixed()), fit(image, (20, 20)))
    assert np.array_equal(made(image, (20, 20), AugmentConfig(), fixed()), fit(image, (20, 20)))
    assert np.array_equal(made(image, (20, 20), AugmentConfig(flip=True), None), fit(image, (20, 20)))


@pytest.mark.parametrize("channels", [1, 3])
def test_a_flip_is_a_mirror_image_for_half_of_the_samples(channels: int) -> None:
    image, config = picture(channels=channels), AugmentConfig(flip=True)
    assert np.array_equal(made(image, (9, 7), config, fixed(flip=0.49)), image[:, ::-1])
    assert np.array_equal(made(image, (9, 7), config, fixed(flip=0.5)), image)
    assert (draws(0, 0, np.arange(10_000))[:, -3] < 0.5).mean() == pytest.approx(0.5, abs=0.02)


@given(st.integers(1, 12), st.floats(0, 1, exclude_max=True), st.floats(0, 1, exclude_max=True))
def test_a_shift_moves_pixels_and_fills_with_black(most: int, down: float, across: float) -> None:
    image = picture()
    dy, dx = int(down * (2 * most + 1)) - most, int(across * (2 * most + 1)) - most
    expected = np.zeros_like(image)
    for y in range(9):
        for x in range(7):
            if 0 <= y - dy < 9 and 0 <= x - dx < 7:
                expected[y, x] = image[y - dy, x - dx]
    assert np.array_equal(made(image, (9, 7), AugmentConfig(shift=most), fixed(down=down, across=across)), expected)


def test_every_shift_is_equally_likely_down_and_across() -> None:
    u = draws(3, 1, np.arange(50_000))
    shifts = (u[:, -2:] * 5).astype(int)
    _, counts = np.unique(shifts, axis=0, return_counts=True)
    assert len(counts) == 25
    assert ((counts - 2000) ** 2 / 2000).sum() < 60  # chi-squared, 24 degrees of freedom: p < 1e-4 above


def test_draws_belong_to_seed_epoch_and_sample() -> None:
    base = draws(1, 2, np.array([10, 20, 30]))
    assert base.shape == (3, DRAWS)
    assert np.array_equal(draws(1, 2, np.array([30]))[0], base[2])
    for other in (draws(2, 2, np.array([10])), draws(1, 3, np.array([10])), draws(2, 1, np.array([10]))):
        assert not np.isclose(other, base[0]).any()


def test_the_source_image_is_left_alone() -> None:
    image = picture(8, 8)
    before = image.copy()
    for u in draws(0, 0, np.arange(50)):
        made(image, (8, 8), AugmentConfig(crop=True, flip=True, shift=3), u)
        made(image, (8, 8), AugmentConfig(flip=True, shift=3), u)
    assert np.array_equal(image, before)
