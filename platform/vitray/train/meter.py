"""Sums and times of a run: losses by epoch, and where the seconds went."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator

import torch

from vitray.data.unit import Batch
from vitray.train.ranks import Ranks


class Meter:
    """Losses stay on the device until an epoch ends, so that counting never waits for it."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.first_step_at: float | None = None  # Unix time of the run's first finished optimizer step
        self._begin_epoch()

    def _begin_epoch(self) -> None:
        self._sums = torch.zeros(3, dtype=torch.float64, device=self._device)
        self._rows = self._steps = 0
        self._waited = 0.0
        self._start = self._lap = self._shown = time.perf_counter()
        self._shown_rows = 0
        self._shown_waited = 0.0

    def watch(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """The same batches; the time spent waiting for each is kept."""
        iterator = iter(batches)
        while True:
            asked = time.perf_counter()
            batch = next(iterator, None)
            self._waited += time.perf_counter() - asked
            if batch is None:
                return
            yield batch

    def add(self, loss_sum: torch.Tensor, batch: Batch) -> None:
        """Count one finished step of this rank."""
        if self.first_step_at is None:
            self.first_step_at = time.time()
        counts = torch.tensor([float(batch.weight.sum()), float(len(batch.damaged))])
        self._sums += torch.cat([loss_sum.reshape(1), counts.to(self._device, non_blocking=True)])
        self._rows += batch.step_rows
        self._steps += 1

    def show(self, every_s: float) -> dict[str, float] | None:
        """Images a second of all ranks, the share of time spent waiting for data, and the mean loss so far.

        At most once in ``every_s`` seconds.
        """
        now = time.perf_counter()
        if now - self._shown < every_s:
            return None
        rate = (self._rows - self._shown_rows) / (now - self._shown)
        wait = (self._waited - self._shown_waited) / (now - self._shown)
        self._shown, self._shown_rows, self._shown_waited = now, self._rows, self._waited
        loss = float(self._sums[0] / self._sums[1].clamp(min=1))
        return {"images_per_s": rate, "data_wait": wait, "train/loss": loss}

    def loss(self, ranks: Ranks) -> float:
        """The mean loss over all ranks' rows since the epoch began; waits for the device, and for the other ranks."""
        total = ranks.sum(self._sums.clone())
        return float(total[0] / total[1])

    def close_epoch(self, ranks: Ranks) -> dict[str, float]:
        """The epoch's mean loss over all ranks' rows, its rate, and the share of it spent waiting for data.

        ``damaged_rows``, where there were any, are images that could not be decoded and did not count.
        """
        total = ranks.sum(self._sums)
        seconds = time.perf_counter() - self._start
        metrics = {
            "train/loss": float(total[0] / total[1]),
            "images_per_s": self._rows / seconds,
            "data_wait": self._waited / seconds,
            "epoch_s": seconds,
        }
        if total[2]:
            metrics["damaged_rows"] = float(total[2])
        self._begin_epoch()
        return metrics

    def lap(self) -> float:
        """Seconds since the last lap; the next epoch's clock starts here."""
        before, self._lap = self._lap, time.perf_counter()
        self._start = self._shown = self._lap
        return self._lap - before
