"""MixUp (Zhang et al. 2018) and CutMix (Yun et al. 2019), whose partners, weights and boxes follow from the position.

Rows 2i and 2i+1 of a step are partners, with one weight or box a pair drawn from (seed, step, i), so that a changed
number of ranks mixes the same images in the same way. The order aligns ranks to pairs where either is on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from vitray.data.rng import I64, key, uniforms
from vitray.experiment import TrainConfig

F32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Mix:
    """How each row of a rank's batch is mixed with its partner.

    Args:
        partner: int64 (rows,); a row left over is its own partner.
        own: weight of the row's own label, float32 (rows,).
        pixels: weight of its own pixels outside the box, float32 (rows,).
        boxes: top, bottom, left, right of the pixels that are the partner's alone, int64 (rows, 4); None: no CutMix.
    """

    partner: torch.Tensor
    own: torch.Tensor
    pixels: torch.Tensor
    boxes: torch.Tensor | None

    def images(self, images: torch.Tensor) -> torch.Tensor:
        """Mixed images, (rows, C, H, W) float, where ``images`` are."""
        share = _beside(images, self.pixels).to(images).view(-1, 1, 1, 1)
        if self.boxes is not None:
            top, bottom, left, right = _beside(images, self.boxes).view(-1, 4, 1, 1, 1).unbind(1)
            down = torch.arange(images.shape[-2], device=images.device).view(-1, 1)
            across = torch.arange(images.shape[-1], device=images.device)
            inside = (down >= top) & (down < bottom) & (across >= left) & (across < right)
            share = torch.where(inside, 0.0, share)
        return torch.lerp(images[_beside(images, self.partner)], images, share)

    def targets(self, targets: torch.Tensor) -> torch.Tensor:
        """Mixed targets, (rows, classes) float, where ``targets`` are."""
        own = _beside(targets, self.own).to(targets).view(-1, 1)
        return torch.lerp(targets[_beside(targets, self.partner)], targets, own)


def _beside(there: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """``values`` on the device of ``there``; a GPU need not finish what it does to receive them."""
    return values.to(there.device, non_blocking=True)


def draw_mix(config: TrainConfig, step: int, first_row: int, weight: F32, size: tuple[int, int]) -> Mix:
    """The mix of rows ``first_row ..`` of a step, images being of ``size`` (height, width).

    ``weight`` (rows,) is 0 for rows that must not count, such as damaged images: nothing of them is mixed in.
    """
    rows = len(weight)
    partner = partners(rows)
    own = pair_weights(config.seed, step, first_row, rows, config.mixup) if config.mixup else torch.ones(rows)
    pixels, boxes = own.clone(), None
    if config.cutmix:
        # With both on, each pair's own draw says which of the two it gets.
        chance = config.switch_prob if config.mixup else 1.0
        cut = _of_rows(_pair_draws(config.seed, step, first_row, rows)[:, 0] < chance, rows)
        boxes = _of_rows(pair_boxes(config, step, first_row, rows, size), rows)
        boxes[~cut] = 0
        top, bottom, left, right = boxes.unbind(1)
        pasted = (bottom - top) * (right - left) / (size[0] * size[1])
        own, pixels = torch.where(cut, 1 - pasted, own), torch.where(cut, 1.0, pixels)
    spoilt = torch.tensor(weight)[partner] == 0
    own[spoilt] = pixels[spoilt] = 1.0
    if boxes is not None:
        boxes[spoilt] = 0
    return Mix(partner, own, pixels, boxes)


def pair_weights(seed: int, step: int, first_row: int, rows: int, alpha: float) -> torch.Tensor:
    """MixUp's weight of each row's own image, float32 (rows,), for rows ``first_row ..`` of a step; in [0.5, 1]."""
    drawn = _betas("mixup", seed, step, first_row, rows, alpha)
    return _of_rows(np.maximum(drawn, 1 - drawn), rows).float()


def pair_boxes(config: TrainConfig, step: int, first_row: int, rows: int, size: tuple[int, int]) -> I64:
    """CutMix's box of each pair, int64 (pairs, 4): top, bottom, left, right.

    Of the images' shape and 1 - lambda of their area, centred anywhere, cut off at the edges.
    """
    part = np.sqrt(1 - _betas("cutmix", config.seed, step, first_row, rows, config.cutmix))
    u = _pair_draws(config.seed, step, first_row, rows)
    edges = []
    for length, draw in zip(size, (u[:, 1], u[:, 2]), strict=True):
        centre, half = (draw * length).astype(np.int64), (part * length / 2).astype(np.int64)
        edges += [np.maximum(centre - half, 0), np.minimum(centre + half, length)]
    return np.stack(edges, axis=1)


def partners(rows: int) -> torch.Tensor:
    """Index of each row's partner, int64 (rows,); a row left over is its own."""
    index = torch.arange(rows) ^ 1
    return torch.where(index < rows, index, torch.arange(rows))


def _of_rows(pairs: npt.NDArray[Any], rows: int) -> torch.Tensor:
    """What was drawn for pairs, given to both rows of each."""
    return torch.from_numpy(np.repeat(pairs, 2, axis=0)[:rows])


def _pair_draws(seed: int, step: int, first_row: int, rows: int) -> npt.NDArray[np.float64]:
    """Uniform numbers of each pair, (pairs, 3): which of the two methods, and the centre of the box."""
    return uniforms(key("mix", seed, step), first_row // 2 + np.arange((rows + 1) // 2), 3)


def _betas(name: str, seed: int, step: int, first_row: int, rows: int, alpha: float) -> npt.NDArray[np.float64]:
    """Lambda of each pair, drawn from Beta(alpha, alpha)."""
    assert first_row % 2 == 0, "a rank starts at a pair"
    generator = np.random.Generator(np.random.Philox(key=key(name, seed, step)))
    return generator.beta(alpha, alpha, size=(first_row + rows + 1) // 2)[first_row // 2 :]
