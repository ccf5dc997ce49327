"""Models in memory, by key: the side of serving that imports torch."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from threading import Lock

import numpy as np

from vitray.data.decode import encode_png
from vitray.inference.explain import look
from vitray.inference.predictor import Predictor
from vitray.inference.serving.contract import Answer, Explained, Facts, Package
from vitray.models.package import read_info

KEPT = 2  # versions at once: the one that answers, and the one before or after it
_DIGITS = 5  # of the weights in an explanation: more than a picture shows


class Shelf:
    """Loads packages and answers with them. Loading may go on in another thread than answering does.

    Args:
        device: where the models run.
        max_batch: images that one call will bring at most; a model is warmed with as many.
    """

    def __init__(self, device: str = "cpu", max_batch: int = 32) -> None:
        self._device, self._max_batch = device, max_batch
        self._ready: dict[str, tuple[Predictor, Facts]] = {}
        self._loading = Lock()

    def __contains__(self, key: str) -> bool:
        return key in self._ready

    def load(self, key: str, package: Package) -> Facts:
        """Load, warm and keep a version; the oldest beyond :data:`KEPT` is forgotten. Loaded already: nothing is done.

        Raises:
            DataError, CheckpointError, ResourceError: as :meth:`Predictor.load`.
        """
        with self._loading:
            if key not in self._ready:
                with tempfile.TemporaryDirectory(prefix="vitray-serve-") as folder:
                    for name, content in package.items():
                        Path(folder, name).write_bytes(content)
                    predictor = Predictor.load(Path(folder), device=self._device)
                    _, digest = read_info(folder)
                self._warm(predictor)
                # A new dictionary: whoever answers in another thread sees the old one or the new one.
                kept = dict(list(self._ready.items())[-(KEPT - 1) :])
                self._ready = {**kept, key: (predictor, _facts(predictor, digest))}
            return self._ready[key][1]

    def _warm(self, predictor: Predictor) -> None:
        """The first pass allocates, and on a GPU chooses kernels by shape."""
        height, width = predictor.info.model.size
        blank = np.zeros((height, width, predictor.info.model.in_chans or 1), np.uint8)
        for count in {1, self._max_batch}:
            predictor.predict([blank] * count)

    def predict(self, key: str, images: Sequence[bytes], top_k: int) -> list[Answer]:
        """One answer an image, in order. Raises KeyError when the version is not here."""
        predictor, _ = self._ready[key]
        return [Answer(found.top, found.error) for found in predictor.predict(images, top_k)]

    def explain(self, key: str, image: bytes, top_k: int) -> Explained:
        """Raises KeyError when the version is not here, DataError as :func:`look`.

        Not at the same time as :meth:`predict`: it looks into the model's blocks while they work.
        """
        predictor, facts = self._ready[key]
        seen = look(predictor, image)
        probabilities = seen.attention.logits[0].double().softmax(0)
        best = probabilities.argsort(descending=True, stable=True)[:top_k].tolist()
        return Explained(
            top=tuple((facts.classes[i], float(probabilities[i])) for i in best),
            pixels=encode_png(seen.pixels),
            size=facts.size,
            rollout=_rounded(seen.attention.rollout[0].double().numpy()).tolist(),
            blocks=_rounded(seen.attention.query[0].mean(1).double().numpy()).tolist(),
            pool=predictor.model.config.pool,
        )


def _facts(predictor: Predictor, digest: str) -> Facts:
    info = predictor.info
    return Facts(
        classes=info.classes,
        size=info.model.size,
        channels=info.model.in_chans or 1,
        parameters=sum(p.numel() for p in predictor.model.parameters()),
        digest=digest,
        dataset_fingerprint=info.dataset_fingerprint,
        config=info.model.model_dump(mode="json"),
    )


def _rounded(weights: np.ndarray) -> np.ndarray:
    """To a few digits that count: decimals would lose the small weights of models with many patches."""
    exponent = np.floor(np.log10(np.maximum(np.abs(weights), 1e-12)))
    scale = 10.0 ** (_DIGITS - 1 - exponent)
    return np.round(weights * scale) / scale
