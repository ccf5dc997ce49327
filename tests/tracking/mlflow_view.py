"""What MLflow shows of a run, in the words of our protocol."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vitray.tracking.mlflow_client import connect


@dataclass
class View:
    """One run as the store has it; ``points`` are (key, step, value), sorted, doubles included."""

    run_id: str
    name: str
    status: str
    params: dict[str, str]
    tags: dict[str, str]
    points: list[tuple[str, int, float]]
    artifacts: list[str]


def look(uri: str) -> dict[str, list[View]]:
    """Every run in the store by our key: a list, since that there is only one is what tests assert."""
    client = connect(uri)
    experiments = [e.experiment_id for e in client.search_experiments()]
    views: dict[str, list[View]] = {}
    for run in client.search_runs(experiments, max_results=1000):
        points = [
            (m.key, m.step, m.value)
            for key in run.data.metrics
            for m in client.get_metric_history(run.info.run_id, key)
        ]
        view = View(
            run_id=run.info.run_id,
            name=run.info.run_name,
            status=run.info.status,
            params=run.data.params,
            tags=run.data.tags,
            points=sorted(points),
            artifacts=sorted(_files(client, run.info.run_id, "")),
        )
        views.setdefault(run.data.tags.get("vitray.run", "?"), []).append(view)
    return views


def _files(client: Any, run_id: str, folder: str) -> list[str]:
    found = []
    for entry in client.list_artifacts(run_id, folder or None):
        found += _files(client, run_id, entry.path) if entry.is_dir else [entry.path]
    return found
