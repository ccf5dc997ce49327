"""The work of batch scoring: one unit of images in, one table of answers out, in any process, thread or machine."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from vitray.data import decode
from vitray.data.prefetch import ahead
from vitray.data.sources.source import Item, Source
from vitray.errors import DataError
from vitray.inference.pixels import pixels_of
from vitray.inference.predictor import Predictor
from vitray.inference.schema import SCORED
from vitray.inference.units import Unit
from vitray.models import VisionTransformer
from vitray.models.package import PackageInfo, load_package

_BATCH, _BATCH_ON_GPU = 64, 256
T = TypeVar("T")


@dataclass(frozen=True)
class LoadedModel:
    """A model as arrays, so that all workers of a machine read one copy of its weights in Ray's object store."""

    weights: Mapping[str, npt.NDArray[np.float32]]
    info: PackageInfo

    @classmethod
    def load(cls, package: Path) -> LoadedModel:
        """Errors as :func:`~vitray.models.package.load_package`."""
        model, info = load_package(package)
        return cls({name: tensor.numpy() for name, tensor in model.state_dict().items()}, info)

    def predictor(self, device: str) -> Predictor:
        with torch.device("meta"):
            model = VisionTransformer(self.info.model)
        model.load_state_dict({name: torch.from_numpy(array) for name, array in self.weights.items()}, assign=True)
        return Predictor(model.to(device).eval(), self.info, device)


class BatchScorer:
    """A model and where its images come from.

    Args:
        decoders: threads that decode ahead of the model; 0 decodes in between, which is best where the model itself
            takes every core that there is.
    """

    def __init__(self, predictor: Predictor, source: Source, *, top_k: int, decoders: int = 0) -> None:
        self._predictor, self._source, self._decoders = predictor, source, decoders
        self._classes = pa.array(predictor.info.classes, pa.string())
        self._top_k = min(top_k, len(predictor.info.classes))
        self._batch = _BATCH if predictor.device == "cpu" else _BATCH_ON_GPU

    def score(self, unit: Unit) -> pa.Table:
        """A row of :data:`SCORED` for every image of the unit, in order. A bad image has its reason in ``error``.

        Raises:
            DataError: a file that holds many images cannot be read at all; names it.
        """
        fitted = self._map(self._fit, unit.items(self._source))
        tables = [self._answer(batch) for batch in iter(lambda: list(itertools.islice(fitted, self._batch)), [])]
        return pa.concat_tables(tables).combine_chunks() if tables else SCORED.empty_table()

    def _map(self, function: Callable[[Item], T], items: Iterator[Item]) -> Iterator[T]:
        if self._decoders:
            return ahead(function, items, self._decoders, 2 * self._batch)
        return map(function, items)

    def _fit(self, item: Item) -> tuple[str, str, decode.Image | None, str | None]:
        """Key, true class, the pixels that the model sees, and why there are none."""
        if item.problem is not None:
            return item.key, str(item.label), None, item.problem
        model = self._predictor.info.model
        try:
            pixels = decode.fit(pixels_of(item.data, model.in_chans or 1), model.size)
        except DataError as error:
            return item.key, str(item.label), None, error.what
        return item.key, str(item.label), pixels, None

    def _answer(self, rows: Sequence[tuple[str, str, decode.Image | None, str | None]]) -> pa.Table:
        keys, truths, images, errors = zip(*rows, strict=True)
        good = np.array([image is not None for image in images])
        pixels = [image for image in images if image is not None]
        best, values = self._top(np.stack(pixels)) if pixels else (np.empty((0, 1), int), np.empty((0, 1)))
        labels = self._classes.take(pa.array(best.ravel()))
        each = best.shape[1]
        offsets = np.concatenate([[0], np.cumsum(good)]) * each
        structs = pa.StructArray.from_arrays([labels, pa.array(values.ravel())], ["label", "probability"])
        place = pa.array(np.where(good, np.cumsum(good) - 1, 0) * each, mask=~good)  # of each row's first answer
        first = place if pixels else pa.nulls(len(rows), pa.int64())
        return pa.table(
            {
                "path": pa.array(keys, pa.string()),
                "label": labels.take(first),
                "probability": structs.field(1).take(first),
                "top": pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), structs, mask=pa.array(~good)),
                "truth": pa.array([truth or None for truth in truths], pa.string()),
                "error": pa.array(errors, pa.string()),
            },
            schema=SCORED,
        )

    @torch.inference_mode()
    def _top(self, pixels: npt.NDArray[np.uint8]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
        """The best classes of images (B, H, W, C) and their probabilities, (B, k) each, best first."""
        logits = self._predictor.model(self._predictor.normalise(pixels))
        # Equal ones in the order of the classes, as the predictor has them.
        values, order = logits.double().softmax(dim=1).sort(dim=1, descending=True, stable=True)
        return order[:, : self._top_k].cpu().numpy(), values[:, : self._top_k].cpu().numpy()


def in_threads(scorer: BatchScorer, units: Iterable[Unit], threads: int) -> Iterator[pa.Table]:
    """The tables of the units, in order, by threads of this process, each with a forward pass of its own.

    Two passes on a core each are faster than one on two, and a model's passes share its weights.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield from ahead(scorer.score, iter(units), threads, threads)
    finally:
        torch.set_num_threads(before)
