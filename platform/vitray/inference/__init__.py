"""From a trained model to answers: the predictor, and the loader that MLflow calls."""

from vitray.inference.predictor import Prediction, Predictor

__all__ = ["Prediction", "Predictor"]
