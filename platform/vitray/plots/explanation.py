"""All pictures that explain a model, written to one folder under names that stay."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from vitray.models.attention_maps import AttentionMaps, distances
from vitray.models.vit import VisionTransformer
from vitray.plots.attention import attention_figure, distance_figure, rollout_figure
from vitray.plots.encoding import encoding_figure
from vitray.plots.figure import save
from vitray.plots.filters import filters_figure

_LONGEST_NAME = 48  # characters; in any script they fit into the 255 bytes that a file name may have


@dataclass(frozen=True)
class Picture:
    """A file that was written, what it shows, and which image it is about, if one."""

    path: Path
    shows: str
    image: str | None = None


class Explanation:
    """Writes ``positional_encoding.png`` and ``patch_filters.png``, then an image's pictures as images are added, and
    ``attention_distance.png`` at the end. ``pictures`` lists what was written. Files of an earlier call are replaced.
    """

    def __init__(self, model: VisionTransformer, folder: Path) -> None:
        self.model, self.folder = model, folder
        self.pictures: list[Picture] = []
        self._names: set[str] = set()
        self._distances: list[npt.NDArray[np.floating]] = []

    def model_pictures(self) -> None:
        self._write(encoding_figure(self.model), "positional_encoding", "how positions are encoded")
        weight = self.model.patch_embed.proj.weight.detach().float().cpu().numpy()
        self._write(filters_figure(weight), "patch_filters", "what the patch embedding reads, by principal component")

    def add(
        self,
        name: str,
        pixels: npt.NDArray[np.uint8],
        label: str,
        probability: float,
        attention: AttentionMaps,
        image: str | None = None,
    ) -> None:
        """The two pictures of one image.

        Args:
            name: what its pictures' names begin with, numbered where two are alike.
            pixels: uint8 (H, W, C), as the model saw them.
            label, probability: the model's answer.
            attention: of a batch of one.
            image: where it lies, if in a file.
        """
        pool, title, name = self.model.config.pool, Path(image).name if image else name, self._unique(name)
        maps, rollout = attention.query[0].numpy(), attention.rollout[0].numpy()
        self._distances.append(attention.distance.numpy())
        self._write(
            attention_figure(pixels, maps, pool=pool, title=title),
            f"{name}-attention",
            "attention by block and head",
            image,
        )
        figure = rollout_figure(pixels, rollout, pool=pool, label=label, probability=probability, title=title)
        self._write(figure, f"{name}-rollout", f"{label} ({probability:.4f}) and attention rollout", image)

    def distance_picture(self) -> None:
        """How far heads looked, over all images that were added; without any, nothing."""
        if self._distances:
            even = float(distances(self.model.config.grid, self.model.config.patch_size).mean())
            figure = distance_figure(np.concatenate(self._distances), even=even)
            self._write(figure, "attention_distance", "mean attention distance by depth, a dot a head")

    def _write(self, figure: Figure, name: str, shows: str, image: str | None = None) -> None:
        self.pictures.append(Picture(save(figure, self.folder / f"{name}.png"), shows, image))

    def _unique(self, name: str) -> str:
        stem = name.replace("/", "_")[:_LONGEST_NAME] or "image"
        unique, number = stem, 2
        while unique.casefold() in self._names:  # some file systems take a and A for one name
            unique, number = f"{stem}-{number}", number + 1
        self._names.add(unique.casefold())
        return unique
