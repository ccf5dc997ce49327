"""MLflow's own pages, served by ``vitray ui`` and opened in a real browser: what people see of a run and of a model."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from browser import Browser

from vitray.plots.confusion import confusion_matrix
from vitray.plots.figure import save
from vitray.tracking import DatasetInput, MlflowTracker, registry
from vitray.tracking.card_text import RUN_HERE
from vitray.tracking.mlflow_client import connect

pytestmark = pytest.mark.slow

PATIENCE_S = 60.0
CARD = f"""Says **98 %**.

## Results

| class | accuracy |
|---|---|
| zero | 0.98 |

![c](get-artifact?run_uuid={RUN_HERE}&path=figures%2Fconfusion.png)
"""
LINKS = "[...document.querySelectorAll('a')].map(a => a.href).join(' ')"
PICTURE = """(() => { const found = document.querySelector("img[src*='get-artifact']");
    return found && found.complete ? `${found.naturalWidth} pixels` : ""; })()"""
CHARTS = "document.querySelector('.js-plotly-plot') ? document.body.innerText : ''"


@pytest.fixture
def run_id(home: Path, uri: str, package: Path, tmp_path: Path, new_tracker: Callable[..., MlflowTracker]) -> str:
    """A sweep, its trial and its final retraining, registered twice. The id of the last."""
    import numpy as np

    tracker = new_tracker()
    keys = [("s", None, "the-sweep"), ("s/t1", "s", "trial-0001"), ("s/t1/final", "s/t1", "final")]
    for key, parent, name in keys:
        tracker.start_run(key, name=name, experiment="digits", params={"model.depth": 2}, tags={}, parent=parent)
        tracker.log_input(key, DatasetInput("tiny-digits", "f00d" * 16, "/data/digits", (("image", "binary"),)))
        for epoch in range(1, 4):
            values = {"val/accuracy": 0.3 * epoch, "system/cpu_utilization_percentage": 30.0 * epoch}
            tracker.log_metrics(key, values, step=epoch)
    (tmp_path / "figures").mkdir()
    save(
        confusion_matrix(np.eye(3, dtype=np.int64), ("a", "b", "c"), title="test"),
        tmp_path / "figures" / "confusion.png",
    )
    tracker.log_artifact("s/t1/final", tmp_path / "figures")
    for key, *_ in reversed(keys):
        tracker.end_run(key, "FINISHED")
    assert tracker.flush(60)
    given = {"name": "digits", "package": package, "tags": {"vitray.sweep": "the-sweep"}, "description": CARD}
    registry.register_model(uri, run="s/t1", **given)  # type: ignore[arg-type]
    registry.register_model(uri, run="s/t1/final", metrics={"test/accuracy": 0.98}, **given)  # type: ignore[arg-type]
    run: str = connect(uri).get_model_version("digits", "2").run_id
    return run


@pytest.fixture
def pages(home: Path, run_id: str) -> Iterator[str]:
    """The address of ``vitray ui`` on the store."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "vitray.cli", "ui", "--no-browser", "--port", str(port)]
    environment = {**os.environ, "VITRAY_HOME": str(home)}
    server = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert server.stdout is not None
        yield server.stdout.readline().strip()
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(60)
        server.stdout.close()


def test_runs_and_models_are_readable(pages: str, run_id: str, tmp_path: Path) -> None:
    with Browser(tmp_path / "profile") as browser:

        def see(path: str, *texts: str, script: str = "document.body.innerText") -> str:
            """Open a page and wait until it says all of this."""
            browser.open("about:blank", width=1280)
            browser.open(f"{pages}/#/{path}", width=1280)
            deadline, said = time.monotonic() + PATIENCE_S, ""
            while not all(text in said for text in texts):
                missing = [text for text in texts if text not in said]
                assert time.monotonic() < deadline, f"{path} does not say {missing}, but: {said[:2000]}"
                time.sleep(0.2)
                said = str(browser.run(script))
            return said

        see("models", "digits", "champion", "task: image-classification", "v2 registered")
        see("models/digits", "Version 2", "champion", "trained with vitray", "10 classes: 0, 1, 2")
        page = see("models/digits/versions/2", "champion", "vitray.sweep", "the-sweep", "final", "98 %", "zero")
        assert "**" not in page  # Markdown, rendered
        assert "| class |" not in page
        see("models/digits/versions/2", f"/runs/{run_id}", script=LINKS)
        assert int(see("models/digits/versions/2", " pixels", script=PICTURE).split()[0]) > 100  # the run's own picture
        see(f"experiments/1/runs/{run_id}", "tiny-digits", "val/accuracy", "model.depth", "Parent run", "trial-0001")
        see(f"experiments/1/runs/{run_id}/model-metrics", "val", "accuracy", script=CHARTS)
        see(f"experiments/1/runs/{run_id}/system-metrics", "cpu_utilization_percentage", "Model metrics")
        see(f"experiments/1/runs/{run_id}/artifacts", "figures")
