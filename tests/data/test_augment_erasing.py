"""Random erasing: torchvision's boxes in distribution, black or noise inside them, nothing changed outside."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torchvision.transforms import v2

from vitray.augment_config import ErasingConfig
from vitray.data.augment_draws import ERASE, draws
from vitray.data.augment_erasing import erase, erasing_box

ALWAYS = ErasingConfig(probability=1.0)


def erased(image: np.ndarray, config: ErasingConfig, u: np.ndarray) -> np.ndarray:
    out = image.copy()
    erase(out, config, u)
    return out


@pytest.mark.parametrize(("height", "width"), [(224, 224), (60, 200), (200, 30)])
@pytest.mark.parametrize("config", [ALWAYS, ErasingConfig(probability=1.0, scale=(0.2, 0.9), ratio=(0.1, 2.0))])
def test_boxes_are_distributed_as_torchvisions(height: int, width: int, config: ErasingConfig) -> None:
    torch.manual_seed(0)
    peer, image = v2.RandomErasing(p=1.0, scale=config.scale, ratio=config.ratio), torch.zeros(3, height, width)
    drawn = [peer.make_params([image]) for _ in range(3000)]
    theirs = np.array([[p["i"], p["j"], p["h"], p["w"]] if p["v"] is not None else [0] * 4 for p in drawn])
    ours = np.array([erasing_box(height, width, config, u) for u in draws(0, 0, np.arange(3000))])

    def features(box: np.ndarray) -> dict[str, np.ndarray]:
        top, left, h, w = box.T / np.array([[height], [width], [height], [width]])
        return {"area": h * w, "top": top, "left": left, "h": h, "w": w, "none": np.asarray(h == 0, float)}

    for name, mine in features(ours).items():
        other = features(theirs)[name]
        error = math.sqrt((mine.var() + other.var()) / len(mine))
        assert abs(mine.mean() - other.mean()) < 4.5 * error + 1e-9, name
        if name != "none":  # too rare for its spread to be compared
            assert mine.std() == pytest.approx(other.std(), rel=0.1, abs=0.005), name


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("value", [0, "random"])
def test_only_the_box_changes(channels: int, value: int | str) -> None:
    image = np.full((50, 40, channels), 100, np.uint8)
    config = ErasingConfig(probability=1.0, value=value)
    for u in draws(0, 0, np.arange(50)):
        top, left, h, w = erasing_box(50, 40, config, u)
        out = erased(image, config, u)
        inside = out[top : top + h, left : left + w]
        assert inside.size > 0
        assert (inside == 0).all() if value == 0 else len(np.unique(inside)) > 10
        inside[...] = 100
        assert np.array_equal(out, image)


def test_random_pixels_are_uniform_and_another_samples_are_others() -> None:
    config = ErasingConfig(probability=1.0, scale=(0.5, 0.5), ratio=(1, 1), value="random")
    image = np.zeros((100, 100, 3), np.uint8)
    boxes = []
    for u in draws(0, 0, np.arange(12)):
        top, left, h, w = erasing_box(100, 100, config, u)
        boxes.append(erased(image, config, u)[top : top + h, left : left + w])
    values = np.stack(boxes)
    counts = np.bincount(values.ravel(), minlength=256)
    assert ((counts - counts.mean()) ** 2 / counts.mean()).sum() < 370  # chi-squared, 255 degrees: p < 1e-5 above
    for a, b in ((values[0], values[1]), (values[:, 1:], values[:, :-1]), (values[..., 0], values[..., 1])):
        assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 4.5 / math.sqrt(a.size)


@pytest.mark.parametrize("probability", [0.0, 0.25, 1.0])
def test_the_probability_is_the_share_of_images(probability: float) -> None:
    image = np.full((16, 16, 1), 9, np.uint8)
    config = ErasingConfig(probability=probability)
    changed = np.array([not np.array_equal(erased(image, config, u), image) for u in draws(0, 0, np.arange(4000))])
    assert changed.mean() == pytest.approx(probability, abs=0.03 if 0 < probability < 1 else 0)


def test_where_no_box_fits_the_image_stays() -> None:
    image = np.full((1, 30, 3), 9, np.uint8)
    for u in draws(0, 0, np.arange(20)):
        u[ERASE] = 0
        assert np.array_equal(erased(image, ALWAYS, u), image)
