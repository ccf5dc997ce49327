"""Crops, flips and shifts: the field's distribution, exact pixels, and randomness that belongs to the sample."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms import RandomResizedCrop

from vitray.data.augment import DRAWS, Augmenter, crop_box, draws, transform
from vitray.data.augment_draws import ACROSS, DOWN, FLIP
from vitray.data.decode import fit
from vitray.data.images import ShardedImages
from vitray.experiment import AugmentConfig

CROP = AugmentConfig(crop=True)
PARTS = {
    "crop": CROP,
    "flip": AugmentConfig(flip=True),
    "shift": AugmentConfig(shift=3),
    "policy": AugmentConfig(policy="randaugment", randaugment={"num_ops": 3, "magnitude": 20}),
    "color_jitter": AugmentConfig(color_jitter={"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1}),
    "erasing": AugmentConfig(erasing={"probability": 0.7, "value": "random"}),
}


def changed(config: AugmentConfig) -> dict[str, Any]:
    return {name: getattr(config, name) for name in config.model_fields_set}


EVERYTHING = AugmentConfig(**{k: v for part in PARTS.values() for k, v in changed(part).items()})


def picture(height: int = 9, width: int = 7, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(1).integers(1, 255, (height, width, channels), dtype=np.uint8)


def made(image: np.ndarray, size: tuple[int, int], augment: AugmentConfig | None, u: np.ndarray | None) -> np.ndarray:
    out = np.zeros((*size, image.shape[2]), np.uint8)
    transform(image, out, augment, u)
    return out


def fixed(flip: float = 0.9, down: float = 0.5, across: float = 0.5) -> np.ndarray:
    u = np.full(DRAWS, 0.5)
    u[[FLIP, DOWN, ACROSS]] = flip, down, across
    return u


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
    assert (draws(0, 0, np.arange(10_000))[:, FLIP] < 0.5).mean() == pytest.approx(0.5, abs=0.02)


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
    shifts = (u[:, [DOWN, ACROSS]] * 5).astype(int)
    _, counts = np.unique(shifts, axis=0, return_counts=True)
    assert len(counts) == 25
    assert ((counts - 2000) ** 2 / 2000).sum() < 60  # chi-squared, 24 degrees of freedom: p < 1e-4 above


def test_draws_belong_to_seed_epoch_and_sample() -> None:
    base = draws(1, 2, np.array([10, 20, 30]))
    assert base.shape == (3, DRAWS)
    assert np.array_equal(draws(1, 2, np.array([30]))[0], base[2])
    for other in (draws(2, 2, np.array([10])), draws(1, 3, np.array([10])), draws(2, 1, np.array([10]))):
        assert not np.isclose(other, base[0]).any()


def augmented(
    image: np.ndarray, augment: AugmentConfig, ids: list[int], size: tuple[int, int] = (24, 20)
) -> np.ndarray:
    augmenter = Augmenter(augment)
    out = np.zeros((len(ids), *size, image.shape[2]), np.uint8)
    for made_here, u in zip(out, augmenter.draws(5, 2, np.array(ids)), strict=True):
        augmenter.apply(image, made_here, u)
    return out


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("augment", [*PARTS.values(), EVERYTHING], ids=[*PARTS, "everything"])
def test_an_image_depends_on_its_own_id_alone(augment: AugmentConfig, channels: int) -> None:
    """Whoever makes it, beside whichever others, and one by one as well as in a block."""
    image = picture(40, 30, channels)
    ids = list(range(40))
    together = augmented(image, augment, ids)
    backwards = augmented(image, augment, ids[::-1])
    alone = [made(image, (24, 20), augment, draws(5, 2, np.array([i]))[0]) for i in ids]
    assert np.array_equal(together, backwards[::-1])
    assert np.array_equal(together, np.stack(alone))
    assert len(np.unique(together.reshape(40, -1), axis=0)) > 1, "all samples alike"


@pytest.mark.parametrize("name", PARTS)
def test_turning_one_part_on_leaves_the_draws_of_the_others(name: str) -> None:
    u = np.array(Augmenter(PARTS[name]).draws(1, 2, np.arange(6)))
    assert np.array_equal(u, draws(1, 2, np.arange(6))[:, : u.shape[1]])


@pytest.mark.parametrize("channels", [1, 3])
def test_parts_are_combined_in_the_order_of_the_config(channels: int) -> None:
    """Each part alone, applied to what the parts before it made, is the whole."""
    image = picture(24, 20, channels)
    for i in range(20):
        expected, u = image, draws(5, 2, np.array([i]))[0]
        for part in PARTS.values():
            expected = made(expected, (24, 20), part, u)
        assert np.array_equal(made(image, (24, 20), EVERYTHING, u), expected)


def test_the_source_image_is_left_alone() -> None:
    image = picture(8, 8)
    before = image.copy()
    image.flags.writeable = False  # as a cache in shared memory is
    for u in draws(0, 0, np.arange(50)):
        made(image, (8, 8), EVERYTHING, u)
        made(image, (8, 8), EVERYTHING.model_copy(update={"crop": False}), u)
    assert np.array_equal(image, before)


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (2, 2), (3, 1)])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_smallest_images_pass(size: tuple[int, int], channels: int) -> None:
    for u in draws(0, 0, np.arange(60)):
        for policy in ("randaugment", "trivialaugment"):
            out = made(picture(2, 1, channels), size, EVERYTHING.model_copy(update={"policy": policy}), u)
            assert out.shape == (*size, channels)


def test_the_stream_makes_the_same_images_for_any_batch_and_any_number_of_ranks(photos: Path) -> None:
    data = ShardedImages.open(str(photos))

    def seen(global_batch: int, world_size: int) -> dict[int, bytes]:
        return {
            int(sample): image.tobytes()
            for rank in range(world_size)
            for batch in data.batches(
                "train",
                global_batch=global_batch,
                seed=4,
                rank=rank,
                world_size=world_size,
                size=32,
                augment=EVERYTHING,
            )
            for sample, image, weight in zip(batch.sample_id, batch.image, batch.weight, strict=True)
            if weight
        }

    alone = seen(16, 1)
    assert len(alone) == data.num_samples("train")
    assert seen(16, 3) == alone
    assert seen(7, 2) == alone
