"""What the loop consumes: the training and evaluation streams of one experiment, and batches as device tensors."""

from __future__ import annotations

import warnings
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
from vitray.train.ranks import Ranks

# The stream hands out views of shared memory, which must not be written to, and nobody here does.
warnings.filterwarnings("ignore", message="The given NumPy array is not writable")

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
        """uint8 (B, H, W, C) on the host to normalised float (B, C, H, W) on the device."""
        manifest = self.data.store.manifest
        return normalise(torch.from_numpy(batch.image).to(self.ranks.device), manifest.mean, manifest.std)

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
        return stream(plan, start, stop, self.options)
