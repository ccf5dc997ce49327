"""Start from weights that others trained: timm's, torchvision's, or an earlier model of one's own.

Shapes: D width, N patches of the source.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from vitray.errors import CheckpointError, DataError
from vitray.model_config import COMPUTED, ModelConfig
from vitray.models.adapt import adapt
from vitray.models.package import INFO, PackageInfo, check_weights, load_package
from vitray.models.resize import Grid
from vitray.models.vit import VisionTransformer
from vitray.models.weight_names import Source, to_our_names
from vitray.models.weights_file import first_few, mismatches, read_weights
from vitray.models.weights_info import weights_info

# What must be as it was: all of it shapes the function that the weights make, though not all of it their own shapes.
SHAPE = ("embed_dim", "depth", "num_heads", "mlp_ratio", "pos_encoding", "registers", "qk_norm")
# What may change without a new weight: the model has to learn its way from there.
USE = ("attention", "pool")


@dataclass(frozen=True)
class LoadReport:
    """What was loaded, from whose naming, and every change that was made to fit it. ``str`` is for people."""

    path: str
    source: Source
    tensors: int
    adapted: tuple[str, ...]

    def __str__(self) -> str:
        head = f"{self.path}: {self.tensors} tensors in {self.source}'s naming"
        return "\n".join(
            [head, *(f"  adapted: {change}" for change in self.adapted)] if self.adapted else [f"{head}, as they are"]
        )


@dataclass(frozen=True)
class Pretrained:
    """Weights as they were read, to begin one or several models with.

    ``info``: what they say of themselves, see :func:`vitray.models.weights_info.weights_info`.
    """

    path: str
    source: Source
    weights: Mapping[str, Tensor]
    info: PackageInfo | None = None

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Pretrained:
        """Read a file or a package's folder. Errors as :func:`load_pretrained`, but for the architecture."""
        if Path(path).is_dir():
            model, said = load_package(path)
            return cls(str(path), "timm", model.state_dict(), said)
        weights, source = to_our_names(read_weights(path), str(path))
        info = weights_info(path)
        if info is not None:
            check_weights(weights, info.model, str(path))
        return cls(str(path), source, weights, info)

    def fit(
        self, model: VisionTransformer, *, classes: Sequence[str] | None = None, source_grid: Grid | None = None
    ) -> tuple[dict[str, Tensor], LoadReport]:
        """The weights as ``model`` needs them, and what was adapted. The model may be on the meta device, to ask only.

        Raises:
            CheckpointError: they are of another architecture.
        """
        if self.info is not None:
            self._check_shape(self.info.model, model.config)
            source_grid = source_grid or self.info.model.grid
        weights, adapted = adapt(self.weights, model, source_grid, self.path)
        wrong = mismatches(weights, model)
        if wrong:
            raise self._another(
                first_few(wrong),
                "configure the model that they were trained as; only classes, image size and patch size may differ",
            )
        had = self.info.classes if self.info is not None else None
        if had is not None and classes is not None and len(had) == len(classes) and had != tuple(classes):
            own = model.state_dict()
            weights |= {"head.weight": own["head.weight"], "head.bias": own["head.bias"]}
            adapted.append(_why_fresh(had, classes))
        if had is None and classes is not None and not any(line.startswith("head:") for line in adapted):
            adapted.append(f"head: kept, as it has {len(classes)} classes too (the file does not name them)")
        if self.info is not None:
            adapted += _used_otherwise(self.info.model, model.config)
        return weights, LoadReport(self.path, self.source, len(weights), tuple(adapted))

    def _check_shape(self, before: ModelConfig, now: ModelConfig) -> None:
        """A description says more of a model than shapes do: the number of heads changes none of them."""
        changed = [key for key in SHAPE if getattr(before, key) != getattr(now, key)]
        wrong = [f"model.{key} was {getattr(before, key)}, is {getattr(now, key)}" for key in changed]
        if wrong:
            wanted = " ".join(f"model.{key}={getattr(before, key)}" for key in changed)
            raise self._another(first_few(wrong), f"set {wanted}")

    def _another(self, why: str, remedy: str) -> CheckpointError:
        return CheckpointError(f"the weights are of another architecture: {why}", where=self.path, remedy=remedy)


def load_pretrained(
    model: VisionTransformer,
    path: str | os.PathLike[str],
    *,
    classes: Sequence[str] | None = None,
    source_grid: Grid | None = None,
) -> LoadReport:
    """Load weights into ``model`` in place. Strict: every tensor finds its place, or nothing is changed.

    Adapted, and reported: a head for other classes keeps its fresh start; learned and relative positions are
    interpolated to the model's grid; a patch kernel of another size is resized (FlexiViT). Anything else that differs
    is another architecture.

    Args:
        path: a ``.safetensors``, ``.pth``, ``.pt`` or ``.bin`` file, or a vitray package's folder.
        classes: what the model is to tell apart. A package, and a file that ``vitray models export`` wrote, know their
            own classes, and their head is kept for the same ones in the same order. Other files know none: then, as
            without ``classes``, their number decides.
        source_grid: patches (down, across) of the source; needed only when it does not say so itself and its grid was
            neither the model's own nor square.

    Raises:
        DataError: no weights of a Vision Transformer there, the file could run code, or ``source_grid`` is not theirs.
        CheckpointError: damaged, or of another architecture; the first mismatches are named.
    """
    weights, report = Pretrained.read(path).fit(model, classes=classes, source_grid=source_grid)
    model.load_state_dict(weights)
    return report


def weights_digest(path: str | os.PathLike[str]) -> str:
    """Hex sha256 that names the weights: of a file its own, of a package its description's, which holds theirs.

    Raises:
        DataError: there is nothing to read.
    """
    file = Path(path) / INFO if Path(path).is_dir() else Path(path)
    try:
        with file.open("rb") as content:
            return hashlib.file_digest(content, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", where=str(file), remedy="check the path") from error


def _why_fresh(had: Sequence[str], wanted: Sequence[str]) -> str:
    if set(had) == set(wanted):
        return f"head: fresh, since its {len(had)} classes are in another order"
    index = next(i for i, (a, b) in enumerate(zip(had, wanted, strict=True)) if a != b)
    return f"head: fresh, since its classes are others (number {index} was {had[index]!r}, is {wanted[index]!r})"


def _used_otherwise(before: ModelConfig, now: ModelConfig) -> list[str]:
    """What the same weights will mean something else for, in a model that counts places and tokens otherwise."""
    lines = [
        f"model.{key}: {getattr(now, key)} (the weights were trained with {getattr(before, key)})"
        for key in USE
        if getattr(before, key) != getattr(now, key)
    ]
    (h, w), (h0, w0), (known_h, known_w) = now.grid, now.reference_grid, before.reference_grid
    if now.pos_encoding in COMPUTED and now.reference_grid != before.reference_grid:
        keep = f"model.pos_grid=[{known_h}, {known_w}] keeps their places"
        lines.append(
            f"positions: {now.pos_encoding} counts {h0} x {w0} patches (the weights know {known_h} x {known_w}; {keep})"
        )
    elif now.pos_encoding in COMPUTED and now.grid != before.grid:
        lines.append(
            f"positions: {now.pos_encoding} places {h} x {w} patches on the grid of {h0} x {w0} that the weights know"
        )
    return lines
