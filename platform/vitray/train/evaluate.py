"""Exact evaluation: every sample counts once, whatever the batch size and the number of ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import nn

from vitray.data.unit import Batch
from vitray.train.ranks import Ranks

ToInput = Callable[[Batch], torch.Tensor]


@torch.inference_mode()
def evaluate(
    model: nn.Module, batches: Iterable[Batch], to_input: ToInput, ranks: Ranks
) -> Iterator[tuple[str, float]]:
    """Yield (name, value): ``loss`` (mean cross-entropy in nats), ``accuracy`` and ``samples`` over all ranks' rows.

    Rows of weight 0 take part in the work and not in the counts.
    """
    sums = torch.zeros(3, dtype=torch.float64)
    for logits, batch in logits_of(model, batches, to_input):
        label, weight = torch.from_numpy(batch.label), torch.from_numpy(batch.weight.copy())
        loss = F.cross_entropy(logits, label, reduction="none")
        sums += torch.stack([(loss * weight).sum(), ((logits.argmax(1) == label) * weight).sum(), weight.sum()])
    total = ranks.sum(sums.to(ranks.device)).cpu()
    yield "loss", float(total[0] / total[2])
    yield "accuracy", float(total[1] / total[2])
    yield "samples", float(total[2])


@torch.inference_mode()
def predictions(model: nn.Module, batches: Iterable[Batch], to_input: ToInput) -> npt.NDArray[np.int64]:
    """Sample id, true class and predicted class of every row that counts, int64 (3, rows)."""
    found = [np.empty((3, 0), dtype=np.int64)]
    for logits, batch in logits_of(model, batches, to_input):
        rows = np.stack([batch.sample_id, batch.label, logits.argmax(1).numpy()])
        found.append(rows[:, batch.weight > 0])
    return np.concatenate(found, axis=1)


def logits_of(model: nn.Module, batches: Iterable[Batch], to_input: ToInput) -> Iterator[tuple[torch.Tensor, Batch]]:
    """Logits in float32 on the CPU, batch by batch; the model's mode is put back."""
    training = model.training
    model.eval()
    try:
        for batch in batches:
            yield model(to_input(batch)).float().cpu(), batch
    finally:
        model.train(training)
