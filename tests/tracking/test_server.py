"""Everything once over HTTP, against a real MLflow server that proxies its artifacts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from mlflow_server import MlflowServer
from mlflow_view import look

from vitray.tracking import MlflowTracker, registry

RUN = "sweep/t1"


@pytest.fixture
def server(home: Path) -> Iterator[MlflowServer]:
    made = MlflowServer(home, f"sqlite:///{home}/mlflow.db")
    yield made
    made.kill()


@pytest.mark.slow
def test_late_server_then_tracking_then_registry(
    server: MlflowServer, home: Path, package: Path, new_tracker: Callable[..., MlflowTracker], tmp_path: Path
) -> None:
    (tmp_path / "plot.txt").write_text("a plot")
    tracker = new_tracker(server.uri)
    tracker.start_run(RUN, name="t1", experiment="digits", params={"model.depth": 2}, tags={"a": "b"})
    for step in range(40):
        tracker.log_metrics(RUN, {"loss": 1 / (step + 1)}, step=step)
    assert tracker.flush(0.3) is False  # nobody listens yet
    server.start()
    for step in range(40, 80):
        tracker.log_metrics(RUN, {"loss": 1 / (step + 1)}, step=step)
    tracker.log_artifact(RUN, tmp_path / "plot.txt", "plots")
    tracker.end_run(RUN, "FINISHED")
    assert tracker.flush(60)
    (view,) = look(server.uri)[RUN]
    assert view.points == [("loss", step, 1 / (step + 1)) for step in range(80)]
    assert (view.status, view.params, view.artifacts) == ("FINISHED", {"model.depth": "2"}, ["plots/plot.txt"])
    assert (home / "remote").is_dir()  # the server keeps the files, not this process
    assert not (home / "artifacts").exists()

    given = {"name": "digits", "package": package, "run": RUN, "tags": {}, "description": ""}
    assert registry.register_model(server.uri, **given) == 1  # type: ignore[arg-type]
    assert registry.register_model(server.uri, **given) == 1  # type: ignore[arg-type]
    (version,) = registry.list_models(server.uri)
    assert version.aliases == ("champion",)
    kept = registry.download("models:/digits@champion", tracking_uri=server.uri)
    assert (kept / "model.safetensors").read_bytes() == (package / "model.safetensors").read_bytes()
    stamp = (kept / "model.json").stat().st_ino
    again = registry.download("models:/digits/1", tracking_uri=server.uri)
    assert (again / "model.json").stat().st_ino == stamp  # downloaded once
