"""How good a model is on a split, measured in this process, every sample once."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from vitray.data.images import ShardedImages
from vitray.errors import DataError
from vitray.inference.answers import Answers
from vitray.inference.calibration import Reliability, reliability
from vitray.models import VisionTransformer
from vitray.models.package import PackageInfo, load_package
from vitray.models.preprocess import normalise
from vitray.train.evaluate import logits_of
from vitray.train.intervals import wilson

_BATCH = 256
Size = tuple[int, int]


@dataclass(frozen=True)
class ClassScore:
    """One class: ``samples`` it has, ``correct`` of them recognised, and the share's 95 % Wilson interval."""

    samples: int
    correct: int

    @property
    def accuracy(self) -> float:
        return self.correct / self.samples

    @property
    def interval(self) -> tuple[float, float]:
        return wilson(self.accuracy, self.samples)


@dataclass(frozen=True)
class Score:
    """``rows`` (sample ids in the split), ``labels`` and ``predicted`` (indices of classes): int64 (samples,).

    Args:
        images_per_s: from stored bytes to predictions, decoding included.
        answers: what calibration and top-k need, 28 bytes a sample; None where a score was kept without.
        probabilities: float32 (samples, classes), where they were asked for.
        size: (height, width) that the model was given.
        left_out: rows of the split that are damaged and do not count.
    """

    split: str
    classes: tuple[str, ...]
    rows: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]
    predicted: npt.NDArray[np.int64]
    images_per_s: float
    answers: Answers | None = None
    probabilities: npt.NDArray[np.float32] | None = None
    size: Size | None = None
    left_out: int = 0

    @property
    def samples(self) -> int:
        return len(self.rows)

    @property
    def accuracy(self) -> float:
        return float((self.labels == self.predicted).mean())

    @property
    def interval(self) -> tuple[float, float]:
        """Accuracy's 95 % Wilson interval."""
        return wilson(self.accuracy, self.samples)

    @cached_property
    def confusion(self) -> npt.NDArray[np.int64]:
        """Counts, int64 (true class, predicted class)."""
        counts = np.zeros((len(self.classes), len(self.classes)), dtype=np.int64)
        np.add.at(counts, (self.labels, self.predicted), 1)
        return counts

    @property
    def per_class(self) -> dict[str, float]:
        """Share of each class's samples that were recognised; classes without samples are left out."""
        return {name: found.accuracy for name, found in self.by_class.items()}

    @property
    def by_class(self) -> dict[str, ClassScore]:
        """Each class's counts; classes without samples are left out."""
        totals, right = self.confusion.sum(axis=1).tolist(), self.confusion.diagonal().tolist()
        return {c: ClassScore(totals[i], right[i]) for i, c in enumerate(self.classes) if totals[i]}

    def confused(self, most: int) -> list[tuple[str, str, int]]:
        """The most frequent mistakes: true class, predicted class, how often; at most ``most``."""
        wrong = self.confusion - np.diag(self.confusion.diagonal())
        order = np.argsort(-wrong, axis=None, kind="stable")[:most]
        pairs = zip(*np.unravel_index(order, wrong.shape), strict=True)
        return [(self.classes[i], self.classes[j], int(wrong[i, j])) for i, j in pairs if wrong[i, j]]

    @cached_property
    def reliability(self) -> Reliability | None:
        """By 15 bins of confidence; None without ``answers``."""
        return None if self.answers is None else reliability(self.answers.confidence, self.labels == self.predicted)


def score_package(
    package: Path,
    data: ShardedImages,
    split: str,
    device: str = "cpu",
    *,
    size: Size | None = None,
    batch: int = _BATCH,
    keep_probabilities: bool = False,
) -> Score:
    """Evaluate a model package on one split.

    Args:
        size: (height, width) of the images given to the model; its own when None.
        batch: images of a forward pass.
        keep_probabilities: all of them, 4 bytes a sample and class. Without, memory does not depend on the classes.

    Raises:
        DataError: the dataset's classes or channels are not the model's, it has no such split, or the size is none
            that the model can take.
    """
    model, info = load_package(package, device=device)
    return score_model(model, info, data, split, device, size=size, batch=batch, keep_probabilities=keep_probabilities)


def score_model(
    model: VisionTransformer,
    info: PackageInfo,
    data: ShardedImages,
    split: str,
    device: str = "cpu",
    *,
    size: Size | None = None,
    batch: int = _BATCH,
    keep_probabilities: bool = False,
) -> Score:
    """As :func:`score_package`, of a model that is loaded."""
    check_match(info, data)
    size = size or info.model.size
    check_size(size, info)
    rows = data.num_samples(split)
    order = data.order(split, global_batch=min(batch, max(1, rows)), shuffle=False)
    found, answers, kept = [np.empty((3, 0), dtype=np.int64)], list[Answers](), list[npt.NDArray[np.float32]]()
    batches = data.batches(
        split, global_batch=order.global_batch, stop_step=order.steps_per_epoch, size=size, shuffle=False
    )
    with torch.inference_mode():
        blank = torch.zeros(1, *size, data.channels, dtype=torch.uint8, device=device)
        model.eval()(normalise(blank, info.mean, info.std))  # the first pass of a process takes tenths of a second
        start = time.perf_counter()
        for logits, given in logits_of(
            model, batches, lambda batch: normalise(torch.tensor(batch.image).to(device), info.mean, info.std)
        ):
            counts = given.weight > 0
            logits, labels = logits[torch.from_numpy(counts)], torch.tensor(given.label[counts])
            found.append(np.stack([given.sample_id[counts], given.label[counts], logits.argmax(1).numpy()]))
            answers.append(Answers.of(logits, labels))
            if keep_probabilities:
                kept.append(logits.softmax(dim=1).numpy())
        seconds = time.perf_counter() - start
    ids, labels_, predicted = np.concatenate(found, axis=1)
    return Score(
        split,
        data.classes,
        ids,
        labels_,
        predicted,
        rows / seconds,
        Answers.joined(answers),
        np.concatenate(kept) if keep_probabilities else None,
        size,
        rows - len(ids),
    )


def check_match(info: PackageInfo, data: ShardedImages) -> None:
    """Raises DataError: the dataset's classes or channels are not the model's."""
    if tuple(info.classes) == data.classes and info.model.in_chans == data.channels:
        return
    what = (
        f"has {len(data.classes)} classes and {data.channels} channels that are not those of the model "
        f"({len(info.classes)} classes, {info.model.in_chans} channels)"
    )
    raise DataError(what, where=data.store.shown, remedy="evaluate on a dataset prepared with the same classes")


def check_size(size: Size, info: PackageInfo) -> None:
    """Raises DataError: an image of this size (height, width) cannot be cut into the model's patches."""
    patch, shown = info.model.patch_size, f"{size[0]}x{size[1]}"
    if size[0] % patch or size[1] % patch:
        near = [max(patch, patch * round(side / patch)) for side in size]
        remedy = f"sides are multiples of {patch}, for one {near[0]}x{near[1]}; the model was made for " + "x".join(
            map(str, info.model.size)
        )
        raise DataError(f"cannot be cut into patches of {patch} pixels", where=f"size {shown}", remedy=remedy)
