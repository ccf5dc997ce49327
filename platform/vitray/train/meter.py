"""Sums and times of a run: losses by epoch, and where the seconds went."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence

import torch

from vitray.data.unit import Batch
from vitray.train.ranks import Ranks


class Meter:
    """Losses stay on the device until an epoch ends, so that counting never waits for it.

    ``so_far``: what was counted of the epoch before this process began (:meth:`so_far`), given to the first rank.
    """

    def __init__(self, device: torch.device, so_far: Sequence[float] | None = None) -> None:
        self._device = device
        self.first_step_at: float | None = None  # Unix time of the run's first finished optimizer step
        self.closed: tuple[float, ...] = ()  # what so_far said when the last epoch was closed
        self._begin_epoch()
        if so_far is not None:
            self._sums += torch.tensor(so_far[:3], dtype=torch.float64).to(device)
            self._rows, self._waited = int(so_far[3]), so_far[4]
            self._start -= so_far[5]
            self._shown_rows, self._shown_waited = self._rows, self._waited

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

    def so_far(self, ranks: Ranks) -> tuple[float, ...]:
        """The epoch up to here, over all ranks: for a checkpoint, so that its mean loss and rate count all of it."""
        loss, rows, damaged = ranks.sum(self._sums.clone()).tolist()
        return loss, rows, damaged, float(self._rows), self._waited, time.perf_counter() - self._start

    def close_epoch(self, ranks: Ranks) -> dict[str, float]:
        """The epoch's mean loss over all ranks' rows, its rate, and the share of it spent waiting for data.

        ``damaged_rows``, where there were any, are images that could not be decoded and did not count.
        """
        self.closed = loss, rows, damaged, _, waited, seconds = self.so_far(ranks)
        metrics = {
            "train/loss": loss / rows,
            "images_per_s": self._rows / seconds,
            "data_wait": waited / seconds,
            "epoch_s": seconds,
        }
        if damaged:
            metrics["damaged_rows"] = damaged
        self._begin_epoch()
        return metrics

    def lap(self) -> float:
        """Seconds since the last lap; the next epoch's clock starts here."""
        before, self._lap = self._lap, time.perf_counter()
        self._start = self._shown = self._lap
        return self._lap - before
