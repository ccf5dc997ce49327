"""Images in, classes out: the same decoding, fitting and normalising as evaluation, batch by batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from vitray.data import decode
from vitray.errors import DataError, ResourceError
from vitray.inference.pixels import pixels_of
from vitray.models import VisionTransformer
from vitray.models.package import PackageInfo, load_package
from vitray.models.preprocess import normalise

Image = bytes | str | Path | npt.NDArray[np.uint8]
BATCH = 64


@dataclass(frozen=True)
class Prediction:
    """The answer for one image. Where it could not be decoded, ``error`` says why and there is no label.

    Args:
        label: the most probable class.
        probability: its probability, 0..1.
        top: the most probable classes and their probabilities, best first.
        error: None, or what is wrong with the image.
    """

    label: str | None
    probability: float
    top: tuple[tuple[str, float], ...]
    error: str | None = None


class Predictor:
    """A model ready to classify. Not thread-safe beyond what PyTorch's forward pass is (which is enough here)."""

    def __init__(self, model: VisionTransformer, info: PackageInfo, device: str = "cpu") -> None:
        self.model, self.info, self.device = model, info, device

    @classmethod
    def load(cls, model: str | Path, tracking_uri: str | None = None, device: str = "cpu") -> Predictor:
        """Load ``models:/NAME@alias``, ``models:/NAME/3`` or a package folder (which needs no MLflow).

        Raises:
            TrackingError: the registry has no such model.
            DataError, CheckpointError: the folder holds no model, or a damaged one.
            ResourceError: the device is not there.
        """
        from vitray.tracking.registry import download

        try:
            loaded, info = load_package(download(str(model), tracking_uri=tracking_uri), device)
        except (RuntimeError, AssertionError) as error:  # what torch raises for a device that it lacks
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ResourceError(f"cannot use it: {reason}", where=f"device {device}", remedy="use cpu") from error
        return cls(loaded, info, device)

    def predict(self, images: Sequence[Image], top_k: int = 3) -> list[Prediction]:
        """One prediction an image, in order.

        Args:
            images: encoded JPEG or PNG bytes, file paths, or uint8 arrays (H, W), (H, W, 1) or (H, W, 3) RGB; of any
                size: the largest centred part with the model's shape is resized, as in evaluation.
            top_k: how many classes ``top`` holds, at most all of them.
        """
        answers: list[Prediction] = []
        for start in range(0, len(images), BATCH):
            answers.extend(self._predict_batch(images[start : start + BATCH], min(top_k, len(self.info.classes))))
        return answers

    def _predict_batch(self, images: Sequence[Image], top_k: int) -> list[Prediction]:
        pixels: list[decode.Image] = []
        errors: list[str | None] = []
        for image in images:
            try:
                pixels.append(self.fit(image))
                errors.append(None)
            except DataError as error:
                errors.append(error.what)
        probabilities = iter(self._probabilities(np.stack(pixels)) if pixels else ())
        return [
            Prediction(None, float("nan"), (), error) if error else self._answer(next(probabilities), top_k)
            for error in errors
        ]

    def fit(self, image: Image) -> decode.Image:
        """The pixels that the model sees of an image, uint8 (H, W, C) of its own size. Raises DataError."""
        return decode.fit(_pixels(image, self.info.model.in_chans or 1), self.info.model.size)

    def normalise(self, pixels: npt.NDArray[np.uint8]) -> torch.Tensor:
        """Fitted pixels (B, H, W, C) as the model takes them, float32 (B, C, H, W) on its device."""
        return normalise(torch.from_numpy(pixels).to(self.device), self.info.mean, self.info.std)

    @torch.inference_mode()
    def _probabilities(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
        logits: torch.Tensor = self.model(self.normalise(pixels))
        return logits.double().softmax(dim=1).cpu().numpy()

    def _answer(self, probabilities: npt.NDArray[np.float64], top_k: int) -> Prediction:
        order = np.argsort(-probabilities, kind="stable")[: max(top_k, 1)]
        top = tuple((self.info.classes[i], float(probabilities[i])) for i in order)
        return Prediction(top[0][0], top[0][1], top[: max(top_k, 0)])


def _pixels(image: Any, channels: int) -> decode.Image:
    """uint8 (H, W, channels) of whatever an image was given as. Raises DataError."""
    if isinstance(image, (bytes, bytearray, memoryview)):
        return pixels_of(bytes(image), channels)
    if isinstance(image, (str, Path)):
        try:
            return pixels_of(Path(image).read_bytes(), channels)
        except (OSError, ValueError) as error:  # ValueError: a NUL in the name; DataError is one too
            if isinstance(error, DataError):
                raise
            raise DataError(f"cannot read the file: {getattr(error, 'strerror', None) or error}") from error
    if isinstance(image, np.ndarray):
        return _from_array(image, channels)
    raise DataError(f"a {type(image).__name__} is not an image: give bytes, a path or a uint8 array")


def _from_array(array: npt.NDArray[Any], channels: int) -> decode.Image:
    if array.dtype != np.uint8:
        raise DataError(f"an array of {array.dtype} is not an image: give uint8, 0 to 255")
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim != 3 or array.shape[2] not in (1, 3) or 0 in array.shape:
        raise DataError(f"an array of shape {array.shape} is not an image: give (H, W), (H, W, 1) or (H, W, 3)")
    if array.shape[2] == channels:
        return np.ascontiguousarray(array)
    # Through the same conversions as files take, so that a picture has one answer however it arrives.
    return decode.decode(decode.encode_png(np.ascontiguousarray(array)), channels)
