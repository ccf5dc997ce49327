"""A server that comes back with less than it had gets all of a sweep again, by itself, and nothing twice."""

from __future__ import annotations

import contextlib
import gzip
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from mlflow_view import View, look

from vitray.tracking import MlflowTracker
from vitray.tracking.again import LostFamilies
from vitray.tracking.finished import compacted, first_record
from vitray.tracking.mlflow_client import connect
from vitray.tracking.waiting import SpoolFolder

pytestmark = pytest.mark.slow
Trackers = Callable[..., MlflowTracker]


def start(tracker: MlflowTracker, run: str, parent: str | None = "s") -> None:
    tracker.start_run(run, name=run, experiment="digits", params={"depth": 4}, tags={"a": "b"}, parent=parent)


def log(tracker: MlflowTracker, run: str, steps: range) -> None:
    for step in steps:
        tracker.log_metrics(run, {"loss": 1 / step}, step=step)


def lose(home: Path, runs: Sequence[str]) -> None:
    """The store as it would be in a backup of before these runs."""
    with sqlite3.connect(home / "mlflow.db") as store:
        for run in runs:
            for table in ("metrics", "latest_metrics", "params", "tags", "runs"):
                store.execute(f"DELETE FROM {table} WHERE run_uuid = ?", (run,))
    store.close()


def lose_step(home: Path, run_id: str, step: int) -> None:
    """A backup of before this step, to which later ones were reported."""
    with sqlite3.connect(home / "mlflow.db") as store:
        store.execute("DELETE FROM metrics WHERE run_uuid = ? AND step = ?", (run_id, step))
    store.close()


def ids(uri: str) -> dict[str, str]:
    return {run: view.run_id for run, [view] in look(uri).items()}


@pytest.fixture
def swept(home: Path, new_tracker: Trackers) -> MlflowTracker:
    """A sweep that goes on: a trial is over, one was interrupted and has been resumed, one is not wanted by anybody."""
    tracker = new_tracker()
    start(tracker, "s", None)
    for run in ("s/over", "s/unwanted"):
        start(tracker, run)
        log(tracker, run, range(1, 4))
        tracker.end_run(run, "FINISHED")
    start(tracker, "s/resumed")
    log(tracker, "s/resumed", range(1, 4))
    tracker.end_run("s/resumed", "KILLED")
    assert tracker.flush(30)
    start(tracker, "s/resumed")
    log(tracker, "s/resumed", range(4, 6))
    assert tracker.flush(30)
    return tracker


def test_all_of_a_sweep_is_sent_again_when_one_run_of_it_is_lost(
    home: Path, uri: str, swept: MlflowTracker, caplog: Any
) -> None:
    connect(uri).delete_run(ids(uri)["s/unwanted"])
    lose(home, [run_id for run, run_id in ids(uri).items() if run != "s/unwanted"])
    assert look(uri) == {}

    log(swept, "s/resumed", range(6, 7))
    assert swept.flush(60)
    assert "s/over" in look(uri)
    swept.end_run("s/resumed", "FINISHED")
    swept.end_run("s", "FINISHED")
    assert swept.flush(60)
    swept.close()

    views: dict[str, list[View]] = look(uri)
    assert {run: len(found) for run, found in views.items()} == {"s": 1, "s/over": 1, "s/resumed": 1}
    assert views["s/over"][0].points == [("loss", step, 1 / step) for step in (1, 2, 3)]
    assert views["s/resumed"][0].points == [("loss", step, 1 / step) for step in range(1, 7)]
    assert {found[0].status for found in views.values()} == {"FINISHED"}
    for run in ("s/over", "s/resumed"):
        assert views[run][0].params == {"depth": "4"}
        assert views[run][0].tags["mlflow.parentRunId"] == views["s"][0].run_id
    assert "had lost are there again" in caplog.text
    assert [path.name for path in (home / "spool").iterdir()] == ["finished"]


def test_what_is_to_be_brought_back_outlives_the_process(
    home: Path, uri: str, swept: MlflowTracker, new_tracker: Trackers
) -> None:
    swept.close()
    lose(home, list(ids(uri).values()))
    LostFamilies(home / "spool").add("s")  # the last that the process before could do
    tracker = new_tracker()
    start(tracker, "another", None)
    assert tracker.flush(30)
    wait(lambda: "s/over" in look(uri))
    assert look(uri)["s/over"][0].points == [("loss", step, 1 / step) for step in (1, 2, 3)]


def test_two_processes_of_one_home_leave_each_other_what_they_found(tmp_path: Path) -> None:
    one, another = LostFamilies(tmp_path), LostFamilies(tmp_path)
    one.add("s")
    another.add("s: 2 % 3/")
    one.done("s")
    assert LostFamilies(tmp_path).names == {"s: 2 % 3/"}
    another.done("s: 2 % 3/")
    another.done("of nobody")
    assert LostFamilies(tmp_path).names == set()


def test_what_goes_on_waits_for_its_beginning(
    home: Path, uri: str, swept: MlflowTracker, new_tracker: Trackers
) -> None:
    swept.close()
    lose(home, list(ids(uri).values()))
    LostFamilies(home / "spool").add("s")
    with away(home):
        tracker = new_tracker()
        start(tracker, "s", None)
        start(tracker, "s/resumed")
        log(tracker, "s/resumed", range(6, 8))
        wait(lambda: tracker.away)
    assert tracker.flush(60)
    assert look(uri)["s/resumed"][0].points == [("loss", step, 1 / step) for step in range(1, 8)]


def test_points_are_sent_again_that_are_missing_below_the_newest(home: Path, uri: str, swept: MlflowTracker) -> None:
    start(swept, "s/whole")
    log(swept, "s/whole", range(1, 5))
    assert swept.flush(30)
    for run in ("s/over", "s/whole", "s/resumed"):
        lose_step(home, ids(uri)[run], 2)
    lose(home, [ids(uri)["s"]])  # which the next report to it finds out
    swept.set_tags("s", {"note": "why"})
    assert swept.flush(60)
    views = look(uri)
    for run, last in (("s/over", 3), ("s/whole", 4), ("s/resumed", 5)):
        assert [step for _, step, _ in views[run][0].points] == list(range(1, last + 1)), run


def test_a_server_that_was_emptied_between_two_processes_gets_all_again(
    home: Path, uri: str, swept: MlflowTracker, new_tracker: Trackers, caplog: Any
) -> None:
    swept.close()
    lose(home, list(ids(uri).values()))
    tracker = new_tracker()
    start(tracker, "s", None)
    start(tracker, "s/resumed")
    log(tracker, "s/resumed", range(6, 8))
    assert tracker.flush(60)
    views = look(uri)
    for run, last in (("s/over", 3), ("s/unwanted", 3), ("s/resumed", 7)):
        assert [step for _, step, _ in views[run][0].points] == list(range(1, last + 1)), run
    assert views["s/over"][0].tags["mlflow.parentRunId"] == views["s"][0].run_id
    assert "lost run" in caplog.text


def test_what_is_resumed_after_others_were_brought_back_is_whole(
    home: Path, uri: str, swept: MlflowTracker, new_tracker: Trackers
) -> None:
    swept.close()
    lose(home, list(ids(uri).values()))
    LostFamilies(home / "spool").add("s")
    tracker = new_tracker()
    start(tracker, "s", None)
    assert tracker.flush(60)
    assert "s/over" in look(uri)
    start(tracker, "s/resumed")
    log(tracker, "s/resumed", range(6, 8))
    assert tracker.flush(60)
    assert [step for _, step, _ in look(uri)["s/resumed"][0].points] == list(range(1, 8))


def test_what_a_kill_left_of_sending_again_is_begun_anew(
    home: Path, uri: str, swept: MlflowTracker, new_tracker: Trackers
) -> None:
    swept.close()
    lose(home, list(ids(uri).values()))
    LostFamilies(home / "spool").add("s")
    (file,) = (file for file in compacted(home / "spool") if first_record(file)["run"] == "s/over")
    left = home / "spool" / file.name.replace(".jsonl.gz", ".again")
    left.mkdir()
    (left / "log.jsonl").write_bytes(b"".join(gzip.decompress(file.read_bytes()).splitlines(keepends=True)[:3]))
    assert left not in [waits.folder for waits in SpoolFolder.look(home / "spool").runs]
    tracker = new_tracker()
    start(tracker, "s", None)
    assert tracker.flush(60)
    (over,) = look(uri)["s/over"]
    assert ([step for _, step, _ in over.points], over.status) == ([1, 2, 3], "FINISHED")
    assert not left.exists()


@pytest.mark.parametrize("damaged", [False, True])
def test_a_run_that_was_over_is_missed_when_it_is_resumed(
    home: Path, uri: str, new_tracker: Trackers, damaged: bool
) -> None:
    tracker = new_tracker()
    start(tracker, "t", None)
    log(tracker, "t", range(1, 4))
    tracker.end_run("t", "FINISHED")
    assert tracker.flush(30)
    tracker.close()
    lose(home, list(ids(uri).values()))
    if damaged:
        (file,) = compacted(home / "spool")
        file.write_bytes(file.read_bytes()[:60])
    tracker = new_tracker()
    start(tracker, "t", None)
    log(tracker, "t", range(4, 6))
    assert tracker.flush(30)
    assert [step for _, step, _ in look(uri)["t"][0].points] == ([4, 5] if damaged else [1, 2, 3, 4, 5])


@contextlib.contextmanager
def away(home: Path) -> Iterator[None]:
    """The store cannot be opened meanwhile."""
    store = home / "mlflow.db"
    store.rename(home / "kept.db")
    store.mkdir()
    yield
    store.rmdir()
    (home / "kept.db").rename(store)


def wait(condition: Callable[[], bool]) -> None:
    for _ in range(300):
        if condition():
            return
        time.sleep(0.1)
    raise AssertionError("it does not happen")
