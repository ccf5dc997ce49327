"""Tracking: reports on disk first, MLflow behind; and the model registry (``vitray.tracking.registry``)."""

from vitray.tracking.mlflow_store import MlflowTracker
from vitray.tracking.tracker import DatasetInput, Point, Status, Tracker
from vitray.tracking.twins import NoTracker, RecordedRun, RecordingTracker

__all__ = [
    "DatasetInput",
    "MlflowTracker",
    "NoTracker",
    "Point",
    "RecordedRun",
    "RecordingTracker",
    "Status",
    "Tracker",
]
