"""What the process that speaks HTTP and the one that holds the model say to each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

Package = Mapping[str, bytes]  # the files of a model's package by name


@dataclass(frozen=True, slots=True)
class Answer:
    """The most probable classes of one image and their probabilities, best first; or why it has no answer."""

    top: tuple[tuple[str, float], ...] = ()
    error: str | None = None


@dataclass(frozen=True)
class Facts:
    """What a loaded model says of itself.

    Args:
        size: (height, width) in pixels of what it sees of an image.
        digest: sha256 of its weights, in hex.
        config: its architecture, as in ``model.json``.
    """

    classes: tuple[str, ...]
    size: tuple[int, int]
    channels: int
    parameters: int
    digest: str
    dataset_fingerprint: str
    config: Mapping[str, Any]


@dataclass(frozen=True)
class Explained:
    """An image's answer and what the model attended to.

    Args:
        pixels: PNG bytes of the image as the model saw it, height x width pixels.
        size: (height, width) of it.
        rollout: (h, w), attention of the query rolled out over all blocks: its share of each patch.
        blocks: (L, h, w), the query's weight on each patch, block by block, mean over heads.
        pool: ``cls`` (the query is the class token) or ``mean`` (the mean over all patches).
    """

    top: tuple[tuple[str, float], ...]
    pixels: bytes
    size: tuple[int, int]
    rollout: list[list[float]]
    blocks: list[list[list[float]]]
    pool: str


class Backend(Protocol):
    """Whoever holds the models. A key stands for one version, which never changes.

    Every method may raise VitrayError: the model cannot be loaded, or nobody is there who could answer.
    """

    async def load(self, key: str, package: Package) -> Facts:
        """Make a version ready beside those that are, and warm: its first request is as fast as the next."""
        ...

    async def predict(self, key: str, images: Sequence[bytes], top_k: int) -> list[Answer]:
        """One answer an image, in order."""
        ...

    async def explain(self, key: str, image: bytes, top_k: int) -> Explained:
        """Raises DataError when the image cannot be decoded."""
        ...

    def drop(self, key: str) -> None:
        """This version is not asked any more."""
        ...

    async def absent(self) -> str | None:
        """Why nobody could answer just now; None where somebody could."""
        ...
