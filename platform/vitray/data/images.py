"""A dataset as people use it: open a folder, ask for the order, iterate over batches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from vitray.data.order import WINDOW, Order
from vitray.data.rng import I64
from vitray.data.shards import ShardStore
from vitray.data.stream import Executor, StreamOptions, stream
from vitray.data.unit import Batch, Plan
from vitray.data.view import SplitView
from vitray.errors import ConfigError, DataError
from vitray.experiment import AugmentConfig, Experiment, ImageSize

__all__ = ["Batch", "ShardedImages"]


@dataclass(frozen=True)
class ShardedImages:
    """A prepared dataset. ``split`` is a split's name, or names joined by ``+`` (``train+val``)."""

    store: ShardStore

    @classmethod
    def open(cls, path: str, *, check: bool = True) -> ShardedImages:
        """Open a dataset folder, a pyarrow.fs URI, or ``builtin:digits`` (prepared on first use).

        ``check``: look at every shard's size and footer, which somebody should do, but not each of a thousand ranks.

        Raises:
            DataError: there is no dataset, or it is damaged; names the file.
        """
        from vitray.data.builtin import dataset_folder

        return cls(ShardStore.open(dataset_folder(path), check=check))

    @property
    def fingerprint(self) -> str:
        return self.store.fingerprint

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(self.store.manifest.classes)

    @property
    def channels(self) -> int:
        return self.store.manifest.channels

    @property
    def image_size(self) -> tuple[int, int] | None:
        """(height, width) when all images share it."""
        return self.store.manifest.image_size

    def resolve(self, experiment: Experiment) -> Experiment:
        """The experiment with what these data decide filled in (image size, channels, classes).

        Raises:
            ConfigError: it was set to something else.
        """
        return experiment.resolve(image_size=self.image_size, in_chans=self.channels, num_classes=len(self.classes))

    def num_samples(self, split: str) -> int:
        return SplitView(self.store, split).rows

    def order(
        self, split: str, *, global_batch: int, seed: int = 0, window: int | None = None, shuffle: bool | None = None
    ) -> Order:
        """Which samples make up each step. Splits other than ``train...`` keep their stored order unless told.

        Raises:
            DataError: no such split, or one without images.
        """
        if not SplitView(self.store, split).rows:
            raise DataError(
                f"has no images in its {split} split", where=self.store.shown, remedy="prepare it with a share for it"
            )
        return Order(
            fingerprint=self.fingerprint,
            split=split,
            rows=SplitView(self.store, split).rows,
            rows_per_group=self.store.rows_per_group,
            global_batch=global_batch,
            seed=seed,
            window=window or WINDOW,
            shuffle=split.startswith("train") if shuffle is None else shuffle,
        )

    def step_samples(self, split: str, step: int, *, global_batch: int, seed: int = 0) -> I64:
        """Sample ids of a global step, int64 (at most ``global_batch``,): the order itself."""
        return self.order(split, global_batch=global_batch, seed=seed).step_samples(step)

    def batches(
        self,
        split: str,
        *,
        global_batch: int,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        start_step: int = 0,
        stop_step: int | None = None,
        size: ImageSize | None = None,
        augment: AugmentConfig | None = None,
        executor: Executor = "local",
        window: int | None = None,
        shuffle: bool | None = None,
        options: StreamOptions | None = None,
    ) -> Iterator[Batch]:
        """The batches of one rank, steps ``start_step .. stop_step - 1`` (default: to the end of the epoch).

        Images are uint8 (B, H, W, C), possibly read-only views. ``options`` overrides ``executor`` and says how bytes
        are fetched; it never changes what is seen.

        Raises:
            ConfigError: no size where the images differ in size; a rank outside the world.
            DataError: unknown split; a row that does not decode.
        """
        if not 0 <= rank < world_size:
            raise ConfigError(f"rank {rank} is not in a world of {world_size}", remedy="ranks count from 0")
        order = self.order(split, global_batch=global_batch, seed=seed, window=window, shuffle=shuffle)
        found = size or self.image_size
        if found is None:
            raise ConfigError("the images differ in size", where="size", remedy="say which size batches should have")
        plan = Plan(
            view=SplitView(self.store, split),
            order=order,
            rank=rank,
            world_size=world_size,
            size=(found, found) if isinstance(found, int) else found,
            augment=augment,
        )
        stop = (order.epoch_of(start_step) + 1) * order.steps_per_epoch if stop_step is None else stop_step
        return stream(plan, start_step, stop, options or StreamOptions(executor=executor))
