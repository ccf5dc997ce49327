"""MLflow is away: training goes on at full speed, nothing is lost, and a person hears of it twice."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow_view import look

from vitray.tracking import MlflowTracker
from vitray.tracking.waiting import sync

pytestmark = pytest.mark.slow

RUN = "sweep/t1"
Trackers = Callable[..., MlflowTracker]


@pytest.fixture
def closed_port() -> str:
    """An address where nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


def report(tracker: MlflowTracker, steps: range) -> float:
    """Reports as a training does; returns the slowest call in seconds."""
    slowest = 0.0
    for step in steps:
        began = time.perf_counter()
        tracker.log_metrics(RUN, {"loss": 1 / (step + 1)}, step=step)
        slowest = max(slowest, time.perf_counter() - began)
    return slowest


def start(tracker: MlflowTracker) -> None:
    tracker.start_run(RUN, name="t1", experiment="digits", params={"depth": 4}, tags={})


def test_a_dead_server_holds_nobody_and_loses_nothing(
    home: Path, uri: str, new_tracker: Trackers, closed_port: str, caplog: Any
) -> None:
    tracker = new_tracker(closed_port)
    start(tracker)
    began = time.perf_counter()
    report(tracker, range(500))
    assert time.perf_counter() - began < 2.0  # 500 reports; one unanswered request alone would be longer
    tracker.end_run(RUN, "FINISHED")
    assert tracker.flush(0.5) is False
    began = time.perf_counter()
    tracker.close()
    assert time.perf_counter() - began < 20  # mlflow's import may be under way; a dead server costs no retries
    assert caplog.text.count("takes no reports") <= 1
    assert caplog.text.count("wait in") >= 1

    second = new_tracker()  # another store: what was meant for the first is not its business
    second.start_run("next", name="next", experiment="digits", params={}, tags={})
    assert second.flush(30)
    second.close()
    assert RUN not in look(uri)

    done = sync(uri, home / "spool", home / "artifacts")
    assert (done.delivered, done.elsewhere, done.obstacle) == (0, ((RUN, closed_port),), None)
    done = sync(closed_port, home / "spool", home / "artifacts")
    assert done.obstacle is not None  # still away, and still there
    assert sync(uri, home / "spool", home / "artifacts", here=True).delivered == 1
    (view,) = look(uri)[RUN]
    assert view.status == "FINISHED"
    assert view.points == [("loss", step, 1 / (step + 1)) for step in range(500)]


def test_a_server_that_never_answers_holds_nobody(
    home: Path, new_tracker: Trackers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vitray.tracking.mlflow_store.CLOSE_WAIT_S", 1.0)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        tracker = new_tracker(f"http://127.0.0.1:{silent.getsockname()[1]}")
        start(tracker)
        assert tracker.flush(0.5) is False  # its request is on the way by now, for up to a minute
        began = time.perf_counter()
        report(tracker, range(500))
        tracker.end_run(RUN, "FINISHED")
        tracker.close()
        assert time.perf_counter() - began < 5.0
    assert (home / "spool").is_dir()


def test_a_store_that_comes_back_gets_everything(
    tmp_path: Path, home: Path, empty_store: Path, new_tracker: Trackers, caplog: Any
) -> None:
    place = tmp_path / "mount"
    place.write_text("not a folder yet")
    address = f"sqlite:///{place}/mlflow.db"
    tracker = new_tracker(address)
    start(tracker)
    report(tracker, range(50))
    deadline = time.monotonic() + 60
    while "takes no reports" not in caplog.text and time.monotonic() < deadline:
        time.sleep(0.05)
    report(tracker, range(50, 100))
    assert tracker.flush(0.2) is False
    place.unlink()
    place.mkdir()
    (place / "mlflow.db").write_bytes(empty_store.read_bytes())
    tracker.end_run(RUN, "FINISHED")
    assert tracker.flush(30)
    (view,) = look(address)[RUN]
    assert [step for _, step, _ in view.points] == list(range(100))
    assert caplog.text.count("takes no reports") == 1
    deadline = time.monotonic() + 10
    while "is back" not in caplog.text and time.monotonic() < deadline:
        time.sleep(0.05)
    assert caplog.text.count("is back") == 1


def test_a_spool_folder_that_cannot_be_written_does_not_stop_training(
    tmp_path: Path, uri: str, home: Path, caplog: Any
) -> None:
    (tmp_path / "file").write_text("")
    tracker = MlflowTracker(uri, tmp_path / "file" / "spool", home / "artifacts")
    start(tracker)
    report(tracker, range(5))
    tracker.end_run(RUN, "FINISHED")
    tracker.close()
    assert caplog.text.count("reports are being lost") == 1


def test_nothing_stays_behind(new_tracker: Trackers, home: Path) -> None:
    before, environment = set(threading.enumerate()), dict(os.environ)
    tracker = new_tracker()
    start(tracker)
    report(tracker, range(3))
    tracker.end_run(RUN, "FINISHED")
    tracker.flush(30)
    tracker.close()
    left = {t for t in set(threading.enumerate()) - before if "vitray" in t.name}
    assert not left
    ours = {key: value for key, value in os.environ.items() if key != "PYTEST_CURRENT_TEST"}
    environment.pop("PYTEST_CURRENT_TEST", None)
    assert ours == environment
    assert [path.name for path in (home / "spool").iterdir()] == ["finished"]
