"""A model as one file for others to run: none of the formats needs vitray to be read.

The file is read back and run before it gets its name, so one that does not agree with the model is never left.
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

import safetensors
import torch
from torch import Tensor

from vitray.errors import CheckpointError, DataError, ResourceError
from vitray.models.export_formats import FORMATS, Format
from vitray.models.export_program import PixelsToProbabilities, describe
from vitray.models.package import PackageInfo, load_package

# Other kernels add in another order; anything worse than rounding is another function.
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Exported:
    """What was written.

    Args:
        path: of the file.
        kind: its format.
        bytes: its size.
        difference: the largest between an output of the file, read back, and the model's, on random images.
    """

    path: Path
    kind: str
    bytes: int
    difference: float


def export(
    package: str | os.PathLike[str],
    dest: str | os.PathLike[str],
    kind: str | None = None,
    *,
    preprocessing: bool = False,
) -> Exported:
    """Write the model in the folder ``package`` to the new file ``dest``.

    ``safetensors`` holds the weights under timm's names and the config; ``pt2`` (``torch.export``) and ``onnx`` hold
    the whole computation for any batch size: images (B, C, H, W), float32 and normalised, to logits (B, classes). All
    of them carry the classes, mean and std, image size and what the input is, as :func:`describe` lists.

    Args:
        kind: ``safetensors``, ``pt2`` or ``onnx``; by the suffix of ``dest`` when None.
        preprocessing: the file takes uint8 (B, H, W, C) and gives probabilities instead. Not for ``safetensors``.

    Raises:
        DataError: ``dest`` exists or is named for another format, or there is no package.
        ResourceError: the packages that the format needs are not installed, or the file cannot be written.
        CheckpointError: the package is damaged, or what was written does not agree with it.
    """
    path = Path(dest)
    chosen = check_dest(path, kind)
    if preprocessing and not chosen.whole:
        remedy = f"choose one that holds the computation: {_names(whole=True)}"
        raise DataError(f"{chosen.name} holds weights alone, no preprocessing", where=str(path), remedy=remedy)
    model, info = load_package(package)
    model.requires_grad_(False)
    if chosen.limit is not None and (size := sum(t.nbytes for t in model.state_dict().values())) > chosen.limit:
        what = f"its weights are {size / 1e9:.1f} GB, but one {chosen.name} file holds {chosen.limit / 1e9:.1f} GB"
        raise DataError(what, where=str(package), remedy="export it as pt2 or safetensors")
    program = PixelsToProbabilities(model, info) if preprocessing else model
    facts = describe(info, preprocessing=preprocessing)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as staging:
            new = Path(staging, path.name)
            chosen.write(program, _images(info, 2, pixels=preprocessing), facts, new)
            images = _images(info, 3, pixels=preprocessing)  # another batch size than it was traced with
            difference = _difference(chosen.read(new)(images), program(images), path)
            with new.open("rb") as file:
                os.fsync(file.fileno())
            new.replace(path)
    except (OSError, safetensors.SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ResourceError(f"cannot be written: {reason}", where=str(path), remedy="give another place") from error
    return Exported(path, chosen.name, path.stat().st_size, difference)


def check_dest(path: Path, kind: str | None) -> Format:
    """The format that is named, or that the file's name means; errors as :func:`export`."""
    own = path.suffix.removeprefix(".")
    name = kind or own
    if path.is_dir():
        remedy = f"name a file in it: {path / 'model'}.{name or 'pt2'}"
        raise DataError("is a folder", where=str(path), remedy=remedy)
    if name not in FORMATS:
        what = f"there is no format {name!r}" if name else "its name does not say the format"
        raise DataError(what, where=str(path), remedy=f"name a file that ends in {_names('.')}")
    if own != name:
        other = f"name it {path.with_suffix('.' + name)}, or choose the format {own}"
        remedy = other if own in FORMATS else f"name it {path}.{name}"
        raise DataError(f"is not the name of a file in the format {name}", where=str(path), remedy=remedy)
    if path.exists() or path.is_symlink():
        raise DataError("there is something already", where=str(path), remedy="give a new file, or remove this one")
    found = FORMATS[name]
    missing = found.missing()
    if missing:
        what = f"needs {' and '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not installed"
        raise ResourceError(what, where=f"format {name}", remedy="pip install 'vitray[export]'")
    return found


def _names(prefix: str = "", *, whole: bool = False) -> str:
    return " or ".join(prefix + name for name, kind in FORMATS.items() if kind.whole or not whole)


def _images(info: PackageInfo, batch: int, *, pixels: bool) -> Tensor:
    """Random images, always the same; torch's global generator is left alone."""
    generator = torch.Generator().manual_seed(batch)
    channels = info.model.in_chans or 1
    if pixels:
        return torch.randint(256, (batch, *info.model.size, channels), dtype=torch.uint8, generator=generator)
    return torch.randn(batch, channels, *info.model.size, generator=generator)


def _difference(got: Tensor, wanted: Tensor, path: Path) -> float:
    """The largest one; an error when it is more than rounding."""
    what = None
    if got.shape != wanted.shape:
        what = f"its output has the shape {tuple(got.shape)}, the model's {tuple(wanted.shape)}"
    else:
        difference = float((got - wanted).abs().max())
        if difference <= TOLERANCE * max(1.0, float(wanted.abs().max())):  # so NaN does not pass
            return difference
        what = f"its outputs differ from the model's by up to {difference:.3g}"
    remedy = "nothing was kept; choose another format, and please report this"
    raise CheckpointError(f"what was written does not agree with the model: {what}", where=str(path), remedy=remedy)
