"""Everything once over HTTP, against a real MLflow server that proxies its artifacts."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from mlflow_view import look

from vitray.tracking import MlflowTracker, registry

RUN = "sweep/t1"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class MlflowServer:
    """``mlflow server`` on a port that it keeps when it is stopped and started again."""

    def __init__(self, database: Path) -> None:
        self.port = free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self._database = database
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        store = ["--backend-store-uri", f"sqlite:///{self._database}"]
        store += ["--artifacts-destination", str(self._database.parent / "remote")]
        address = ["--host", "127.0.0.1", "--port", str(self.port), "--workers", "1"]
        environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
        with (self._database.parent / "server.log").open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "mlflow", "server", *store, *address],
                env=environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                with urllib.request.urlopen(f"{self.uri}/health", timeout=2):
                    return
            except (urllib.error.URLError, OSError):
                time.sleep(0.1)
        raise AssertionError((self._database.parent / "server.log").read_text())

    def stop(self) -> None:
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None


@pytest.fixture
def server(home: Path) -> Iterator[MlflowServer]:
    made = MlflowServer(home / "mlflow.db")
    yield made
    made.stop()


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
