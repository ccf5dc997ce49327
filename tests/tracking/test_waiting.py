"""``vitray track``: seeing what waits, bringing it by hand, and sending again what a server lost."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from mlflow_view import look

from vitray.cli.track import track
from vitray.errors import ConfigError, TrackingError
from vitray.tracking import MlflowTracker
from vitray.tracking.delivery import is_for
from vitray.tracking.finished import compacted, forget_oldest, unpack
from vitray.tracking.spool import Spool, folder_of, leftovers
from vitray.tracking.waiting import SpoolFolder, sync

pytestmark = pytest.mark.slow

RUN = "sweep/t1"
ALL = [("loss", 0, 1.0), ("loss", 1, 0.5), ("loss", 2, 1 / 3)]
Trackers = Callable[..., MlflowTracker]


def leave_behind(home: Path, store: str, *, run: str = RUN, points: int = 3, ended: bool = True) -> None:
    """A spool as a process leaves it that was killed before it delivered anything."""
    spool = Spool(folder_of(home / "spool", run))
    start = {"run": run, "store": store, "name": run, "experiment": "digits", "parent": None, "timestamp_ms": 1}
    spool.append("start", {**start, "params": {"depth": 4}, "tags": {}})
    for step in range(points):
        spool.append("metrics", {"step": step, "timestamp_ms": 1000 + step, "values": {"loss": 1.0 / (step + 1)}})
    if ended:
        spool.append("end", {"status": "FINISHED", "timestamp_ms": 2000})
    spool.close()


def points(uri: str, run: str = RUN) -> list[tuple[str, int, float]]:
    (view,) = look(uri)[run]
    return view.points


def test_what_waits_is_seen_without_touching_it(home: Path, uri: str) -> None:
    assert SpoolFolder.look(home / "nothing").runs == ()
    leave_behind(home, uri)
    leave_behind(home, "http://elsewhere:5000", run="other", ended=False)
    before = {path: path.read_bytes() for path in (home / "spool").rglob("*") if path.is_file()}
    found = {run.run: run for run in SpoolFolder.look(home / "spool").runs}
    assert (found[RUN].records, found[RUN].waiting, found[RUN].ended, found[RUN].held) == (5, 5, True, False)
    assert (found["other"].waiting, found["other"].ended, found["other"].store) == (4, False, "http://elsewhere:5000")
    assert {path: path.read_bytes() for path in (home / "spool").rglob("*") if path.is_file()} == before
    with (folder_of(home / "spool", RUN) / "log.jsonl").open("ab") as file:
        file.write(b'{"seq":6,"kind":"metr')  # a power cut
    assert {run.run: run.records for run in SpoolFolder.look(home / "spool").runs}[RUN] == 5


def test_a_spool_in_use_is_shown_as_such_and_left_alone(home: Path, uri: str) -> None:
    leave_behind(home, uri)
    holder = Spool(folder_of(home / "spool", RUN))
    assert SpoolFolder.look(home / "spool").runs[0].held
    done = sync(uri, home / "spool", home / "artifacts")
    assert (done.delivered, done.held) == (0, (RUN,))
    holder.close()
    assert sync(uri, home / "spool", home / "artifacts").delivered == 1
    assert points(uri) == ALL


def test_delivered_runs_are_compacted_and_sent_again_to_a_server_that_lost_them(
    home: Path, uri: str, empty_store: Path, new_tracker: Trackers
) -> None:
    tracker = new_tracker()
    tracker.start_run(RUN, name="t1", experiment="digits", params={"depth": 4}, tags={"a": "b"})
    for key, step, value in ALL:
        tracker.log_metrics(RUN, {key: value}, step=step)
    (home / "config.yaml").write_text("x: 1")
    tracker.log_artifact(RUN, home / "config.yaml")
    tracker.end_run(RUN, "FINISHED")
    assert tracker.flush(30)
    tracker.close()
    (file,) = compacted(home / "spool")
    assert file.stat().st_size < 2000
    assert leftovers(home / "spool") == []

    assert sync(uri, home / "spool", home / "artifacts", again=[]).delivered == 1
    assert points(uri) == ALL  # the server had it: nothing is there twice
    assert len(compacted(home / "spool")) == 1

    shutil.copy(empty_store, home / "mlflow.db")  # an old backup
    assert sync(uri, home / "spool", home / "artifacts", again=[RUN]).delivered == 1
    (view,) = look(uri)[RUN]
    assert (view.points, view.status, view.params, view.tags["a"]) == (ALL, "FINISHED", {"depth": "4"}, "b")
    assert view.artifacts == ["config.yaml"]  # from where it lies; the copy went with the spool
    with pytest.raises(ConfigError, match="are not kept"):
        sync(uri, home / "spool", home / "artifacts", again=["unknown"])


def test_points_are_sent_again_that_an_older_backup_lacks_in_the_middle(home: Path, uri: str) -> None:
    leave_behind(home, uri)
    assert sync(uri, home / "spool", home / "artifacts").delivered == 1
    with sqlite3.connect(home / "mlflow.db") as store:
        store.execute("DELETE FROM metrics WHERE step = 1")
    store.close()
    assert sync(uri, home / "spool", home / "artifacts", again=[RUN]).delivered == 1
    assert points(uri) == ALL


def test_a_resumed_run_adds_to_its_compacted_file(home: Path, uri: str) -> None:
    leave_behind(home, uri)
    assert sync(uri, home / "spool", home / "artifacts").delivered == 1
    leave_behind(home, uri, points=5)
    assert sync(uri, home / "spool", home / "artifacts").delivered == 1
    (file,) = compacted(home / "spool")
    folder = unpack(file)
    assert folder is not None
    spool = Spool(folder)
    records, _ = spool.read(0)
    spool.close()
    assert [record.kind for record in records].count("metrics") == 8
    assert [step for _, step, _ in points(uri)] == [0, 1, 2, 3, 4]


def test_only_the_newest_compacted_files_are_kept(home: Path, uri: str) -> None:
    for number in range(4):
        leave_behind(home, uri, run=f"r{number}", points=1)
        assert sync(uri, home / "spool", home / "artifacts").delivered == 1
    forget_oldest(home / "spool", limit=2)
    assert [path.name[:2] for path in compacted(home / "spool")] == ["r2", "r3"]


def test_the_commands(home: Path, uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VITRAY_HOME", str(home))
    run = CliRunner().invoke
    assert "nothing waits" in run(track, ["status"]).stdout
    leave_behind(home, uri)
    leave_behind(home, "http://elsewhere:5000", run="other")
    table = run(track, ["status"]).stdout
    assert RUN in table
    assert "http://elsewhere:5000" in table
    facts = json.loads(run(track, ["status", "--output", "json"]).stdout)
    assert {r["run"]: r["waiting"] for r in facts["runs"]} == {RUN: 5, "other": 5}
    done = run(track, ["sync"])
    assert (done.exit_code, done.stdout) == (0, "delivered: 1 run\n")
    assert "--here" in done.stderr
    assert run(track, ["sync", "--here"]).stdout == "delivered: 1 run\n"
    assert "finished and delivered: 2 runs" in run(track, ["status"]).stdout
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:s3cret@127.0.0.1:9")
    leave_behind(home, "http://***@127.0.0.1:9", run="third")
    away = run(track, ["sync"])
    assert isinstance(away.exception, TrackingError)
    assert away.exception.exit_code == 1
    assert "s3cret" not in str(away.exception) + away.output


def test_what_a_lost_file_said_is_not_believed_of_the_next(home: Path, uri: str) -> None:
    folder = folder_of(home / "spool", RUN)
    folder.mkdir(parents=True)
    (folder / "state.json").write_text(json.dumps({"offset": 400, "ended": True, "high": {"loss": 9}}))
    leave_behind(home, uri)
    assert sync(uri, home / "spool", home / "artifacts").delivered == 1
    assert points(uri) == ALL


def test_a_run_that_is_resumed_under_another_store_is_whole_there(
    home: Path, uri: str, empty_store: Path, tmp_path: Path
) -> None:
    leave_behind(home, uri, ended=False)
    sync(uri, home / "spool", home / "artifacts")
    shutil.copy(empty_store, tmp_path / "other.db")
    other = f"sqlite:///{tmp_path}/other.db"
    leave_behind(home, other, points=0)  # the same run goes on, and ends
    assert sync(other, home / "spool", home / "artifacts").delivered == 1
    assert points(other) == ALL


def test_which_store_is_meant_does_not_hang_on_who_logs_in(home: Path, uri: str) -> None:
    assert is_for("http://host:5000", "http://me:pa55@host:5000/")
    assert is_for("http://***@host:5000", "http://host:5000")
    assert not is_for("http://host:5000", "http://host:5001")
    assert is_for("sqlite:////where/it/was/mlflow.db", uri)  # the home was moved
    assert not is_for("sqlite:////where/it/was/mlflow.db", "http://host:5000")


def test_what_another_store_lost_is_not_sent_to_this_one(home: Path, uri: str) -> None:
    leave_behind(home, "http://elsewhere:5000")
    assert sync(uri, home / "spool", home / "artifacts", here=True).delivered == 1
    assert sync(uri, home / "spool", home / "artifacts", again=[]).delivered == 0
    assert len(compacted(home / "spool")) == 1
