"""What ``mlflow.pyfunc.load_model`` and ``mlflow models serve`` call: no pickle, no code from the artifact.

The artifact names this module as its loader and holds ``model.safetensors`` and ``model.json``; nothing else.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vitray.data.decode import sniff
from vitray.inference.predictor import Predictor

if TYPE_CHECKING:
    import pandas as pd


def _load_pyfunc(data_path: str) -> ImageClassifier:
    """MLflow's hook. ``data_path``: the package folder inside the artifact."""
    device = os.environ.get("MLFLOW_DEFAULT_PREDICTION_DEVICE") or "cpu"
    return ImageClassifier(Predictor.load(Path(data_path), device=device))


class ImageClassifier:
    """The pyfunc: a column of images in; label, probability, top-k and error out, one row each."""

    def __init__(self, predictor: Predictor) -> None:
        self.predictor = predictor

    def predict(self, model_input: Any, params: Mapping[str, Any] | None = None) -> pd.DataFrame:
        """Classify.

        Args:
            model_input: a DataFrame with a column ``image``, a Series, list or array. An image is encoded JPEG or PNG
                bytes, their base64 text (also as a data: URI), a file path, or uint8 pixels (H, W[, C]), which may be
                nested lists.
            params: ``top_k``: how many classes ``top`` lists (3).

        Returns:
            label: the most probable class; probability: 0..1; top: JSON list of [class, probability], best first;
            error: why this row could not be decoded (then it has no label or probability), else None. The input's
            index is kept.
        """
        import pandas as pd

        cells, index = _cells(model_input)
        found = self.predictor.predict([_image(cell) for cell in cells], top_k=int((params or {}).get("top_k", 3)))
        # None rather than NaN where there is no answer: NaN is not JSON, and this goes out over HTTP.
        values = [None if p.error else p.probability for p in found]
        return pd.DataFrame(
            {
                "label": pd.Series([p.label for p in found], dtype=object, index=index),
                "probability": pd.Series(values, dtype=object if None in values else float, index=index),
                "top": pd.Series([json.dumps(p.top) for p in found], dtype=object, index=index),
                "error": pd.Series([p.error for p in found], dtype=object, index=index),
            }
        )


def _cells(model_input: Any) -> tuple[list[Any], Any]:
    """The images as a list, and the index that their answers shall carry."""
    import pandas as pd

    if isinstance(model_input, pd.DataFrame):
        column = "image" if "image" in model_input.columns else model_input.columns[0]
        model_input = model_input[column]
    if isinstance(model_input, pd.Series):
        cells = model_input.tolist()
        if len(cells) == 1 and isinstance(cells[0], list) and all(isinstance(c, (str, bytes)) for c in cells[0]):
            return cells[0], None  # MLflow folds {"image": ["...", "..."]} into one row
        return cells, model_input.index
    if isinstance(model_input, Mapping):
        return _cells(model_input["image"])
    if isinstance(model_input, np.ndarray):
        one_picture = model_input.dtype == np.uint8 and model_input.ndim == 2
        return ([model_input] if one_picture else list(model_input.reshape(-1)) if model_input.dtype == object
                else list(model_input)), None  # fmt: skip
    if isinstance(model_input, (bytes, str)):
        return [model_input], None
    return list(model_input), None


def _image(cell: Any) -> Any:
    """A cell as the predictor takes it."""
    if isinstance(cell, str):
        encoded = cell.partition(",")[2] if cell.startswith("data:") else cell
        try:
            data = base64.b64decode("".join(encoded.split()), validate=True)
        except (binascii.Error, ValueError):
            return cell  # a path
        # Short paths are valid base64 too, so text counts as an image only when it decodes to something like one.
        return data if sniff(data) or not Path(cell[:4096]).is_file() else cell
    if isinstance(cell, list):
        try:
            pixels = np.asarray(cell)
        except ValueError:  # ragged
            return cell
        fits = pixels.dtype.kind in "iu" and pixels.size and pixels.min() >= 0 and pixels.max() <= 255
        return pixels.astype(np.uint8) if fits else pixels
    return cell
