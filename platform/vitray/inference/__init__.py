"""From a trained model to answers: the predictor, its server, and the loader that MLflow calls."""

from typing import Any

__all__ = ["Prediction", "Predictor"]


def __getattr__(name: str) -> Any:  # lazily, so that the process that serves HTTP costs no torch
    if name in __all__:
        from vitray.inference import predictor

        return getattr(predictor, name)
    raise AttributeError(name)
