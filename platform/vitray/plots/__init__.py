"""Figures: data in, figure out. Nothing here reads files, asks MLflow or uses pyplot's global state."""

from vitray.plots.confusion import confusion_matrix
from vitray.plots.curves import learning_curves
from vitray.plots.figure import save

__all__ = ["confusion_matrix", "learning_curves", "save"]
