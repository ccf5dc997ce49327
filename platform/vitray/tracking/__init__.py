"""Tracking: reports on disk first, MLflow behind; and the model registry (``vitray.tracking.registry``)."""

from vitray.tracking.mlflow_store import MlflowTracker
from vitray.tracking.tracker import NoTracker, Point, RecordedRun, RecordingTracker, Status, Tracker

__all__ = ["MlflowTracker", "NoTracker", "Point", "RecordedRun", "RecordingTracker", "Status", "Tracker"]
