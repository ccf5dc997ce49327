"""What the loop consumes: the training and evaluation streams of one experiment, and batches as device tensors."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import torch

from vitray.data.images import ShardedImages
from vitray.data.order import Order
from vitray.data.stream import StreamOptions, stream
from vitray.data.unit import Batch, Plan
from vitray.data.view import SplitView
from vitray.experiment import AugmentConfig, Experiment
from vitray.models.package import PackageInfo
from vitray.models.preprocess import normalise
from vitray.train.device_feed import CudaCopier, copied_ahead, tensors_of
from vitray.train.ranks import Ranks

_EVAL_BATCH = 512


@dataclass(frozen=True)
class Feed:
    """Streams of a resolved experiment for one rank."""

    experiment: Experiment
    data: ShardedImages
    ranks: Ranks
    options: StreamOptions

    @cached_property
    def order(self) -> Order:
        """The training order."""
        train, data = self.experiment.train, self.experiment.data
        order = self.data.order(
            train.split, global_batch=train.global_batch, seed=train.seed, window=data.shuffle_window, shuffle=True
        )
        return replace(order, align=2) if train.mixup or train.cutmix else order

    def train(self, start: int, stop: int) -> Iterator[Batch]:
        return self._stream(self.order, self.experiment.data.augment, start, stop)

    def evaluation(self, split: str) -> Iterator[Batch]:
        """One pass over a split, in stored order, as it is."""
        rows = self.data.num_samples(split)
        order = self.data.order(split, global_batch=min(_EVAL_BATCH, rows), shuffle=False)
        return self._stream(order, None, 0, order.steps_per_epoch)

    def to_input(self, batch: Batch) -> torch.Tensor:
        """uint8 (B, H, W, C) to normalised float (B, C, H, W) on the device."""
        return normalise(tensors_of(batch, self.ranks.device).image, *self._mean_and_std)

    @cached_property
    def _mean_and_std(self) -> tuple[torch.Tensor, torch.Tensor]:
        """On the device once for all steps: sent with each, a GPU would have to finish one before it gets the next."""
        mean, std = (
            torch.tensor(values, dtype=torch.float32, device=self.ranks.device)
            for values in (self.data.store.manifest.mean, self.data.store.manifest.std)
        )
        return mean, std

    def package_info(self) -> PackageInfo:
        manifest = self.data.store.manifest
        return PackageInfo(
            model=self.experiment.model,
            classes=tuple(manifest.classes),
            mean=tuple(manifest.mean),
            std=tuple(manifest.std),
            dataset_fingerprint=self.data.fingerprint,
        )

    def _stream(self, order: Order, augment: AugmentConfig | None, start: int, stop: int) -> Iterator[Batch]:
        plan = Plan(
            view=SplitView(self.data.store, order.split),
            order=order,
            rank=self.ranks.rank,
            world_size=self.ranks.world_size,
            size=self.experiment.model.size,
            augment=augment,
        )
        batches = stream(plan, start, stop, self.options)
        device = self.ranks.device
        return copied_ahead(batches, CudaCopier(device)) if device.type == "cuda" else batches
