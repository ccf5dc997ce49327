"""What the peers that train on digits have in common: a step, its augmentation and a validation, as one would write
them by hand, with our model class, optimizer, schedule and arithmetic."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from vitray.experiment import Experiment
from vitray.models import VisionTransformer
from vitray.train.optim import lr_at, make_optimizer
from vitray.train.precision import autocast

CPU = torch.device("cpu")
TRAIN_IMAGES = 1258  # of digits with seed 0, and their pixels' mean and deviation
MEAN, STD = 0.305, 0.376


class Training:
    """A model and its optimizer. ``stamp``: a file that gets the Unix time of the first step, if it is not there."""

    def __init__(self, experiment: Experiment, steps_per_epoch: int, stamp: Path | None = None) -> None:
        torch.manual_seed(experiment.train.seed)
        self.experiment, self._per_epoch, self._stamp = experiment, steps_per_epoch, stamp
        self.model: torch.nn.Module = VisionTransformer(experiment.model)
        self._optimizer = make_optimizer(self.model, experiment.optim)  # type: ignore[arg-type]
        self._step = 0

    def step(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """One optimizer step on normalised images (B, 1, H, W); returns the loss."""
        train, optim = self.experiment.train, self.experiment.optim
        total = train.epochs * self._per_epoch
        lr = lr_at(self._step, total_steps=total, steps_per_epoch=self._per_epoch, config=optim)
        for group in self._optimizer.param_groups:
            group["lr"] = lr
        with autocast(self.experiment, CPU):
            loss = F.cross_entropy(self.model(images), labels, label_smoothing=train.label_smoothing)
        loss.backward()
        if train.clip_grad:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), train.clip_grad)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self._step += 1
        if self._step == 1 and self._stamp is not None and not self._stamp.exists():
            self._stamp.write_text(str(time.time()))
        return loss.detach()

    @torch.inference_mode()
    def right(self, images: torch.Tensor, labels: torch.Tensor) -> int:
        """How many of these are recognised."""
        self.model.eval()
        found = int((self.model(images).argmax(1) == labels).sum())
        self.model.train()
        return found


def padded(pixels: Any, shift: int) -> torch.Tensor:
    """uint8 (N, H, W) or (N, H, W, 1) as float32 (N, H + 2 shift, W + 2 shift), normalised, black around."""
    images = torch.as_tensor(pixels).reshape(*pixels.shape[:3]).float() / 255
    return (F.pad(images, (shift, shift, shift, shift)) - MEAN) / STD


def shifted(images: torch.Tensor, rows: torch.Tensor, shift: int) -> torch.Tensor:
    """Rows of padded images, each moved by up to ``shift`` pixels either way: (B, 1, H, W)."""
    height, width = images.shape[1] - 2 * shift, images.shape[2] - 2 * shift
    down, across = torch.randint(0, 2 * shift + 1, (2, len(rows), 1, 1))
    return images[rows[:, None, None], down + torch.arange(height)[:, None], across + torch.arange(width)].unsqueeze(1)
