"""One suite for every tracker: what the protocol promises, whoever keeps it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow_view import look

from vitray.tracking import DatasetInput, MlflowTracker, NoTracker, RecordingTracker, Tracker
from vitray.tracking.mlflow_client import connect

pytestmark = pytest.mark.slow

KINDS = ["none", "recording", "mlflow"]
KEEPING = ["recording", "mlflow"]


class Seen:
    """What a tracker kept of a run, in one form for all of them."""

    def __init__(self, tracker: Tracker, uri: str, run: str) -> None:
        if isinstance(tracker, RecordingTracker):
            known = tracker.runs[run]
            self.points = sorted((p.key, p.step, p.value) for p in known.points)
            self.status, self.name, self.parent = known.status, known.name, known.parent
            self.params = {key: str(value) for key, value in known.params.items()}
            self.tags, self.artifacts = known.tags, sorted(known.artifacts)
        else:
            assert tracker.flush(30)
            (view,) = look(uri)[run]
            self.points, self.status, self.name = view.points, view.status, view.name
            self.params, self.tags, self.artifacts = view.params, view.tags, view.artifacts
            self.parent = view.tags.get("vitray.parent")


@pytest.fixture
def tracker(request: pytest.FixtureRequest, new_tracker: Callable[..., MlflowTracker]) -> Tracker:
    if request.param == "mlflow":
        return new_tracker()
    return RecordingTracker() if request.param == "recording" else NoTracker()


def start(tracker: Tracker, run: str = "sweep/t1", **changes: object) -> None:
    given: dict[str, object] = {"name": "t1", "experiment": "digits", "params": {"model.depth": 4}, "tags": {"a": "b"}}
    tracker.start_run(run, **{**given, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize("tracker", KINDS, indirect=True)
def test_every_tracker_takes_a_whole_life(tracker: Tracker, tmp_path: Path) -> None:
    assert isinstance(tracker, Tracker)
    picture = tmp_path / "curve.txt"
    picture.write_text("a curve")
    start(tracker)
    tracker.log_metrics("sweep/t1", {"loss": 1.0}, step=0, timestamp_ms=1_700_000_000_000)
    tracker.set_tags("sweep/t1", {"c": "d"})
    tracker.log_artifact("sweep/t1", picture)
    tracker.end_run("sweep/t1", "FINISHED")
    assert tracker.flush(30) is True
    tracker.close()
    tracker.close()


@pytest.mark.parametrize("tracker", KINDS, indirect=True)
def test_bad_requests_are_errors_at_once(tracker: Tracker, tmp_path: Path) -> None:
    start(tracker)
    with pytest.raises(FileNotFoundError):
        tracker.log_artifact("sweep/t1", tmp_path / "nothing")
    with pytest.raises(AssertionError):
        tracker.end_run("sweep/t1", "DONE")  # type: ignore[arg-type]


@pytest.mark.parametrize("tracker", KEEPING, indirect=True)
def test_a_run_must_be_started_and_well_named(tracker: Tracker) -> None:
    with pytest.raises(ValueError, match="never started"):
        tracker.log_metrics("unknown", {"loss": 1.0}, step=0)
    for bad in ("", "it's", 'a "b"', "a\nb", "x" * 251):
        with pytest.raises(ValueError, match="cannot name a run"):
            start(tracker, bad)


@pytest.mark.parametrize("tracker", KEEPING, indirect=True)
def test_everything_arrives(tracker: Tracker, uri: str, tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "a.txt").write_text("a")
    (tmp_path / "config.yaml").write_text("x: 1")
    start(tracker, "sweep", name="the sweep")
    start(tracker, parent="sweep", params={"model.depth": 4, "optim.betas": [0.9, 0.99], "none": None})
    for step in range(3):
        tracker.log_metrics("sweep/t1", {"loss": 1 / (step + 1), "val/accuracy": step / 4}, step=step)
    tracker.log_artifact("sweep/t1", tmp_path / "config.yaml")
    tracker.log_artifact("sweep/t1", folder, "plots")
    tracker.set_tags("sweep/t1", {"a": "changed", "é": "ü" * 10})
    tracker.end_run("sweep/t1", "FAILED")

    seen = Seen(tracker, uri, "sweep/t1")
    losses = [("loss", 0, 1.0), ("loss", 1, 0.5), ("loss", 2, 1 / 3)]
    assert seen.points == [*losses, *[("val/accuracy", step, step / 4) for step in range(3)]]
    assert (seen.name, seen.status, seen.parent) == ("t1", "FAILED", "sweep")
    assert seen.params == {"model.depth": "4", "optim.betas": "[0.9, 0.99]", "none": "None"}
    assert seen.tags.items() >= {"a": "changed", "é": "ü" * 10}.items()
    assert seen.artifacts[0].startswith("config.yaml")
    assert seen.artifacts[1].startswith("plots/pictures")
    assert Seen(tracker, uri, "sweep").status == "RUNNING"


@pytest.mark.parametrize("tracker", KEEPING, indirect=True)
def test_secrets_are_masked(tracker: Tracker, uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_0123456789")
    start(tracker, params={"data.path": "s3://me:s3cret@bucket/x", "store.password": "hunter2", "model.depth": 4})
    tracker.set_tags("sweep/t1", {"vitray.failure": "401 for hf_0123456789 at https://me:s3cret@host/x", "a": "b"})
    seen = Seen(tracker, uri, "sweep/t1")
    assert seen.params == {"data.path": "s3://***@bucket/x", "store.password": "***", "model.depth": "4"}
    assert seen.tags["vitray.failure"] == "401 for *** at https://***@host/x"
    assert seen.tags["a"] == "b"


@pytest.mark.parametrize("tracker", KEEPING, indirect=True)
def test_data_are_shown_once(tracker: Tracker, uri: str) -> None:
    columns = (("image", "binary"), ("label", "long"))
    data = DatasetInput("digits", "f00d" * 16, "s3://bucket/digits", columns, {"num_rows": 1797})
    start(tracker)
    for _ in range(2):
        tracker.log_input("sweep/t1", data)
    start(tracker)  # resumed
    tracker.log_input("sweep/t1", data)
    if isinstance(tracker, RecordingTracker):
        assert tracker.runs["sweep/t1"].inputs == [data]
        return
    assert tracker.flush(30)
    run = connect(uri).get_run(look(uri)["sweep/t1"][0].run_id)
    (shown,) = run.inputs.dataset_inputs
    assert (shown.dataset.name, shown.dataset.digest) == ("digits", ("f00d" * 16)[:36])
    assert json.loads(shown.dataset.source) == {"uri": "s3://bucket/digits", "fingerprint": "f00d" * 16}
    assert json.loads(shown.dataset.profile) == {"num_rows": 1797}
    assert [column["name"] for column in json.loads(shown.dataset.schema)["mlflow_colspec"]] == ["image", "label"]
    assert [(tag.key, tag.value) for tag in shown.tags] == [("mlflow.data.context", "training")]


@pytest.mark.parametrize("tracker", KEEPING, indirect=True)
def test_a_step_reported_again_is_not_a_second_point(tracker: Tracker, uri: str) -> None:
    start(tracker)
    for step in (1, 2, 3, 2, 3, 4):  # a worker died after step 3 and went on from the checkpoint of step 1
        tracker.log_metrics("sweep/t1", {"loss": 10.0 - step}, step=step)
    tracker.log_metrics("sweep/t1", {"loss": 99.0, "other": 1.0}, step=2)  # another metric has its own steps
    assert Seen(tracker, uri, "sweep/t1").points == [*[("loss", s, 10.0 - s) for s in (1, 2, 3, 4)], ("other", 2, 1.0)]


@pytest.mark.parametrize("tracker", KEEPING, indirect=True)
def test_an_ended_run_resumes(tracker: Tracker, uri: str) -> None:
    start(tracker)
    tracker.log_metrics("sweep/t1", {"loss": 2.0}, step=1)
    tracker.end_run("sweep/t1", "KILLED")
    assert Seen(tracker, uri, "sweep/t1").status == "KILLED"
    start(tracker, params={"model.depth": 8, "new": 1}, tags={"resumed": "yes"})
    tracker.log_metrics("sweep/t1", {"loss": 2.0}, step=1)
    tracker.log_metrics("sweep/t1", {"loss": 1.0}, step=2)
    seen = Seen(tracker, uri, "sweep/t1")
    assert seen.status == "RUNNING"
    assert seen.params == {"model.depth": "4", "new": "1"}  # what a run was begun with never changes
    assert seen.points == [("loss", 1, 2.0), ("loss", 2, 1.0)]
    tracker.end_run("sweep/t1", "FINISHED")
    assert Seen(tracker, uri, "sweep/t1").status == "FINISHED"


@pytest.mark.parametrize("tracker", KEEPING, indirect=True)
def test_reports_may_follow_the_end(tracker: Tracker, uri: str, tmp_path: Path) -> None:
    (tmp_path / "late.txt").write_text("late")
    start(tracker)
    tracker.end_run("sweep/t1", "FINISHED")
    assert tracker.flush(30)
    tracker.log_metrics("sweep/t1", {"test/accuracy": 0.5}, step=7)
    tracker.log_artifact("sweep/t1", tmp_path / "late.txt")
    seen = Seen(tracker, uri, "sweep/t1")
    assert (seen.status, seen.points, seen.artifacts) == ("FINISHED", [("test/accuracy", 7, 0.5)], ["late.txt"])


@pytest.mark.parametrize("tracker", KEEPING, indirect=True)
def test_numbers_that_are_none_and_texts_that_are_long(tracker: Tracker, uri: str) -> None:
    start(tracker, params={"long": "x" * 7000}, tags={f"t{i}": "v" for i in range(250)})
    many = {f"m{i}": float(i) for i in range(1203)}
    tracker.log_metrics("sweep/t1", {**many, "nan": math.nan, "inf": math.inf}, step=1)
    seen = Seen(tracker, uri, "sweep/t1")
    assert len(seen.points) == 1205
    assert math.isnan(next(value for key, _, value in seen.points if key == "nan"))
    assert len(seen.params["long"]) >= 6000
    assert sum(key.startswith("t") for key in seen.tags) >= 250
