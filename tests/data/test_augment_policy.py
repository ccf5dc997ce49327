"""RandAugment and TrivialAugment beside torchvision's: each operation's pixels, each magnitude, each frequency."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from sklearn.datasets import load_sample_image
from torchvision.transforms import v2

from vitray.data import augment_policy
from vitray.data.augment_draws import draws
from vitray.data.augment_policy import LEVELS, OPERATIONS, SIGNED, Name, apply_operation, apply_policy, magnitude
from vitray.experiment import AugmentConfig

PEERS = {"randaugment": v2.RandAugment(), "trivialaugment": v2.TrivialAugmentWide()}
SIZE = (40, 60)


def photo(channels: int = 3) -> np.ndarray:
    image = cv2.resize(load_sample_image("flower.jpg"), SIZE[::-1], interpolation=cv2.INTER_AREA)
    return np.ascontiguousarray(image[:, :, :channels])


def peers_magnitude(policy: Name, operation: str, level: int, backwards: bool) -> float:
    values_of, signed = PEERS[policy]._AUGMENTATION_SPACE[operation]
    values = values_of(LEVELS + 1, *SIZE)
    if values is None:
        return 0.0
    return -float(values[level]) if signed and backwards else float(values[level])


@pytest.mark.parametrize("policy", PEERS)
def test_operations_and_magnitudes_are_torchvisions(policy: Name) -> None:
    space = PEERS[policy]._AUGMENTATION_SPACE
    assert set(space) == set(OPERATIONS)
    for operation in OPERATIONS:
        assert space[operation][1] == (operation in SIGNED)
        unit = 255 if operation == "Solarize" else 1
        for level in range(LEVELS + 1):
            for u_sign in (0.0, 0.499, 0.5, 0.99):
                expected = peers_magnitude(policy, operation, level, u_sign < 0.5) * unit
                assert magnitude(policy, operation, level, u_sign, SIZE) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_pixels_are_torchvisions(operation: str, channels: int) -> None:
    image = photo(channels)
    before = image.copy()
    tensor = torch.from_numpy(image.copy()).permute(2, 0, 1).contiguous()
    strengths: list[tuple[Name, int]] = [("randaugment", 9), ("trivialaugment", 0), ("trivialaugment", 30)]
    for policy, level in strengths:
        peer = PEERS[policy]
        for u_sign in (0.2, 0.8):
            value = peers_magnitude(policy, operation, level, u_sign < 0.5)
            theirs = peer._apply_image_or_video_transform(tensor, operation, value, peer.interpolation, peer._fill)
            found = apply_operation(image, policy, operation, level, u_sign)
            far = np.abs(found - theirs.permute(1, 2, 0).numpy().astype(int)) > 2
            # A pixel whose source lies half-way between two may go to either; about one in a thousand does.
            assert far.mean() <= (0.005 if operation == "Rotate" else 0), (level, u_sign)
            assert found.shape == image.shape
    assert np.array_equal(image, before)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("value", [0, 7, 255])
def test_an_image_of_one_colour_passes_every_operation(value: int, channels: int) -> None:
    image = np.full((9, 8, channels), value, np.uint8)
    for operation in ("AutoContrast", "Equalize", "Posterize", "Sharpness", "Contrast"):
        found = apply_operation(image, "randaugment", operation, 0, 0.9)
        assert np.array_equal(found, image), operation


def recorded(monkeypatch: pytest.MonkeyPatch, config: AugmentConfig, samples: int) -> list[list[tuple[str, int, bool]]]:
    """The operations, levels and signs of each of some samples."""
    seen: list[tuple[str, int, bool]] = []
    real = augment_policy.apply_operation

    def record(image: np.ndarray, policy: Name, operation: str, level: int, u_sign: float) -> np.ndarray:
        seen.append((operation, level, u_sign < 0.5))
        return real(image, policy, operation, level, u_sign)

    monkeypatch.setattr(augment_policy, "apply_operation", record)
    image, taken = np.zeros((1, 1, 1), np.uint8), []
    for u in draws(0, 0, np.arange(samples)):
        seen.clear()
        apply_policy(image, config, u)
        taken.append(list(seen))
    return taken


def chi_squared(values: list[int], kinds: int) -> float:
    counts = np.bincount(values, minlength=kinds)
    assert len(counts) == kinds
    expected = len(values) / kinds
    return float(((counts - expected) ** 2 / expected).sum())


@pytest.mark.parametrize("num_ops", [1, 10])
def test_randaugment_draws_every_operation_and_sign_alike(monkeypatch: pytest.MonkeyPatch, num_ops: int) -> None:
    config = AugmentConfig(policy="randaugment", randaugment={"num_ops": num_ops, "magnitude": 11})
    taken = recorded(monkeypatch, config, 1400)
    for place in range(num_ops):
        assert chi_squared([OPERATIONS.index(t[place][0]) for t in taken], 14) < 50  # p < 1e-5 above
        assert chi_squared([t[place][2] for t in taken], 2) < 20
    assert {len(t) for t in taken} == {num_ops}
    assert {level for t in taken for _, level, _ in t} == {11}
    if num_ops > 1:  # the places are unrelated: all pairs of operations occur
        assert len({(t[0][0], t[1][0]) for t in taken}) == 14 * 14


def test_trivialaugment_draws_one_operation_at_any_level(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = recorded(monkeypatch, AugmentConfig(policy="trivialaugment"), 3000)
    assert {len(t) for t in taken} == {1}
    assert chi_squared([OPERATIONS.index(t[0][0]) for t in taken], 14) < 50
    assert chi_squared([t[0][1] for t in taken], LEVELS + 1) < 80  # 30 degrees of freedom: p < 3e-6 above
    assert chi_squared([t[0][2] for t in taken], 2) < 20
