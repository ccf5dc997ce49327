"""What a model sees in one image, what it answers, and what it attends to: the data of its pictures."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vitray.inference.predictor import Image, Predictor
from vitray.models.attention_maps import AttentionMaps, attention_maps


@dataclass(frozen=True)
class Look:
    """Pixels uint8 (H, W, C) as the model saw them, its answer, and its attention for a batch of this one image."""

    pixels: npt.NDArray[np.uint8]
    label: str
    probability: float
    attention: AttentionMaps


def look(predictor: Predictor, image: Image) -> Look:
    """Classify one image as :meth:`Predictor.predict` does, and keep what the model attended to.

    Raises:
        DataError: the image cannot be read, or has more tokens than attention maps can be made of.
    """
    pixels = predictor.fit(image)
    attention = attention_maps(predictor.model, predictor.normalise(pixels[None]))
    probabilities = attention.logits[0].double().softmax(0)
    best = int(probabilities.argmax())
    return Look(pixels, predictor.info.classes[best], float(probabilities[best]), attention)
