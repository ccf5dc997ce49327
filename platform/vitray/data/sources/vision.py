"""Datasets that torchvision reads and that are on this disk already."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from vitray.data.decode import encode_png
from vitray.data.sources.query import parse_query
from vitray.data.sources.source import Chunk, Item, Splits
from vitray.data.sources.splits import split_named
from vitray.errors import DataError, nearest

PREFIX = "torchvision:"
_ROWS = 128  # a chunk
# What a dataset whose constructor takes `split` calls its parts; those that take `train` have train and test.
_PARTS = {
    "Country211": ("train", "valid", "test"),
    "DTD": ("train", "val", "test"),
    "FGVCAircraft": ("train", "val", "test"),
    "Flowers102": ("train", "val", "test"),
    "Food101": ("train", "test"),
    "GTSRB": ("train", "test"),
    "Imagenette": ("train", "val"),
    "OxfordIIITPet": ("trainval", "test"),
    "PCAM": ("train", "val", "test"),
    "RenderedSST2": ("train", "val", "test"),
    "StanfordCars": ("train", "test"),
    "STL10": ("train", "test"),
    "SVHN": ("train", "test"),
}
_BY_FLAG = ("CIFAR10", "CIFAR100", "FashionMNIST", "KMNIST", "MNIST", "USPS")
_WHOLE = ("Caltech101", "Caltech256", "EuroSAT", "SEMEION", "SUN397")
NAMES = (*_PARTS, *_BY_FLAG, *_WHOLE)


class TorchVision:
    """``torchvision:CIFAR10?root=/data/cifar``: a dataset as torchvision has laid it out below ``root``.

    Nothing is ever downloaded. Images are stored as PNG, pixel by pixel what torchvision gives. All parts of the
    dataset are used, ``&split=train`` takes one; with splits="folders" each image stays in the part it came from.

    CIFAR's own files are pickles, which can run code when they are read: torchvision checks first that their MD5 sums
    are those of the published files. MNIST and its kin, SVHN, STL10 and USPS are plain arrays.
    """

    rereads: ClassVar[bool] = True

    def __init__(self, spec: str, splits: Splits) -> None:
        """Raises DataError: unknown dataset or option, or it is not there."""
        dataset = spec.removeprefix(PREFIX).partition("?")[0]
        if dataset not in NAMES:
            raise DataError(f"is no dataset of torchvision that can be used: {dataset!r}", where=spec,
                            remedy=nearest(dataset, NAMES))  # fmt: skip
        parts = _PARTS.get(dataset) or (("train", "test") if dataset in _BY_FLAG else ())
        options = parse_query(spec, ("root", "split") if parts else ("root",))
        if "root" not in options:
            raise DataError("does not say where the dataset is", where=spec, remedy=f"{PREFIX}{dataset}?root=FOLDER")
        chosen = options.get("split")
        if chosen is not None and chosen not in parts:
            raise DataError(f"{dataset} has no split {chosen!r}", where=spec, remedy=nearest(chosen, parts))
        if splits == "folders" and not parts:
            raise DataError(f"{dataset} has no splits", where=spec, remedy="leave out --splits folders")
        self._dataset, self._root = dataset, str(Path(options["root"]).expanduser().resolve())
        self._parts: tuple[str | None, ...] = (chosen,) if chosen else parts or (None,)
        self._keep_splits = splits == "folders"
        self.name = f"{PREFIX}{dataset}?root={self._root}" + (f"&split={chosen}" if chosen else "")
        self.class_names = _names(_open(dataset, self._root, self._parts[0]))

    def chunks(self) -> list[Chunk]:
        """Some rows of one part each. Raises DataError: a part is not on the disk."""
        chunks: list[Chunk] = []
        for part in self._parts:
            count = len(_open(self._dataset, self._root, part))
            for start in range(0, count, _ROWS):
                stop = min(start + _ROWS, count)
                chunks.append(Chunk(len(chunks), (part, start, stop), stop - start))
        return chunks

    def items(self, chunk: Chunk) -> Iterator[Item]:
        part, start, stop = chunk.place
        split = split_named(part.removesuffix("val") or part) if part and self._keep_splits else None
        for row in range(start, stop):
            key = f"{part or 'all'}/{row:07d}"
            label: int | str = ""
            try:
                picture, label = _open(self._dataset, self._root, part)[row]
                data, why = _png(picture), None
                label = int(label)
            except (OSError, ValueError, TypeError) as error:  # a damaged file of a dataset that is a folder of them
                data, why = b"", f"cannot be read: {str(error)[:200]}"
            yield Item(key, label, data, why, split, (part, row))

    def reread(self, place: Any) -> bytes:
        part, row = place
        return _png(_open(self._dataset, self._root, part)[row][0])


def _png(picture: Any) -> bytes:
    """PNG bytes of a PIL image: gray and RGB as they are, others as RGB."""
    return encode_png(np.asarray(picture if picture.mode in ("L", "RGB") else picture.convert("RGB")))


@lru_cache(4)  # once a process: CIFAR10 takes half a second and 150 MB
def _open(dataset: str, root: str, part: str | None) -> Any:
    from torchvision import datasets

    make = getattr(datasets, dataset)
    known = inspect.signature(make).parameters
    options: dict[str, Any] = {"download": False} if "download" in known else {}
    if part is not None:
        options |= {"train": part == "train"} if dataset in _BY_FLAG else {"split": part}
    try:
        return make(root, **options)
    except Exception as error:  # what is missing shows itself in as many ways as there are datasets
        why = str(error).splitlines()[0].partition(" You can use download")[0]
        raise DataError(
            f"torchvision finds no {dataset}{f' ({part})' if part else ''} there: {why}",
            where=root,
            remedy="name the folder it was downloaded to with ?root=; vitray never downloads a dataset",
        ) from None


def _names(dataset: Any) -> tuple[str, ...] | None:
    """Class names, where the dataset has them; a name used twice is told apart by its number."""
    classes = getattr(dataset, "classes", None)
    if not isinstance(classes, list | tuple) or not classes:
        return None
    names = [", ".join(name) if isinstance(name, list | tuple) else str(name) for name in classes]
    seen = Counter(names)
    return tuple(f"{name} ({number})" if seen[name] > 1 else name for number, name in enumerate(names))
