"""Runs as people know them: names, folders, what the tracker hears, and how each kind of end is entered."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest

from vitray.errors import ConfigError, InterruptedRunError, OutOfMemoryError, TrainingError
from vitray.experiment import Experiment
from vitray.home import Home
from vitray.tracking import DatasetInput, RecordingTracker
from vitray.train.memory import rank_images
from vitray.train.report import OnReport, Report
from vitray.train.resources import GroupPlan
from vitray.train.run import Run, new_name, saved_experiment, train_run

if TYPE_CHECKING:
    from vitray.train.worker_group import WorkerGroup

EXPERIMENT = Experiment(
    data={"path": "/data"},
    model={"image_size": (8, 8), "patch_size": 2, "in_chans": 1, "num_classes": 10},
    optim={"lr": 1e-5},
    tracking={"experiment": "tests"},
    search={"space": {"model.depth": [1, 2]}},
)


class FakeGroup:
    """Reports some epochs, then ends as told. Stands where a worker group would."""

    def __init__(self, epochs: int = 3, end: BaseException | None = None) -> None:
        self._epochs, self._end = epochs, end

    def run(self, experiment: Experiment, run_dir: Path, on_report: OnReport, *_: object) -> None:
        for epoch in range(1, self._epochs + 1):
            metrics: Mapping[str, float] = {"train/loss": 1 / epoch, "val/accuracy": epoch / 10}
            if not on_report(Report(10 * epoch, epoch, metrics, "/ckpt", timestamp_ms=1000 + epoch)):
                return
        if self._end is not None:
            raise self._end

    def stop(self, on_report: OnReport) -> int | None:
        return 10 * self._epochs + 3


def tracked(
    run: Run, tracker: RecordingTracker, epochs: int = 3, end: BaseException | None = None, **options: Any
) -> Report | None:
    return train_run(run, cast("WorkerGroup", FakeGroup(epochs, end)), tracker, **options)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


DATA = DatasetInput("digits", "fingerprint", "/data/digits")


@pytest.fixture
def run(home: Home) -> Run:
    return Run("first-0a1b", "first", "train", home.runs / "first", EXPERIMENT, "fingerprint", "above", DATA)


def test_a_run_is_entered_with_all_that_names_it(run: Run) -> None:
    tracker = RecordingTracker()
    run.begin(tracker, {"vitray.sweep": "s"})
    entry = tracker.runs["first-0a1b"]
    assert (entry.name, entry.experiment, entry.parent, entry.status) == ("first", "tests", "above", "RUNNING")
    assert entry.params["model.patch_size"] == 2
    assert entry.params["optim.lr"] == 1e-5
    assert not any(value is None for value in entry.params.values())
    assert not any(key.startswith("search") for key in entry.params)
    assert entry.tags["vitray.config_hash"] == EXPERIMENT.identity
    assert entry.tags["vitray.dataset_fingerprint"] == "fingerprint"
    assert entry.tags["vitray.kind"] == "train"
    assert entry.tags["vitray.sweep"] == "s"
    assert {"version.ray", "version.torch", "version.mlflow", "version.python"} <= set(entry.tags)
    assert entry.inputs == [DATA]
    assert entry.artifacts == ["experiment.yaml"]


def test_the_saved_config_is_the_experiment_to_the_last_digit(run: Run, home: Home) -> None:
    run.write_config()
    saved = saved_experiment(home, "first")
    assert saved == EXPERIMENT
    assert saved.identity == EXPERIMENT.identity


def test_a_name_that_looks_like_a_number_survives_saving(home: Home) -> None:
    odd = EXPERIMENT.with_values({"name": "1e5", "tracking.experiment": "2024-01-01", "tracking.model": "null"})
    Run("k", "1e5", "train", home.runs / "1e5", odd, "f").write_config()
    assert saved_experiment(home, "1e5") == odd


def test_an_unknown_run_is_an_error_with_the_nearest_name(run: Run, home: Home) -> None:
    run.write_config()
    with pytest.raises(ConfigError, match="did you mean 'first'"):
        saved_experiment(home, "frist")
    with pytest.raises(ConfigError, match="there are none"):
        saved_experiment(Home(home.root / "empty"), "first")


def test_a_taken_name_is_numbered_unless_it_was_asked_for(home: Home) -> None:
    assert new_name(home, "digits", exact=False, remedy="") == "digits"
    for expected in ("digits", "digits-2", "digits-3"):
        name = new_name(home, "digits", exact=False, remedy="")
        assert name == expected
        (home.runs / name).mkdir(parents=True)
        (home.runs / name / "experiment.yaml").touch()
    with pytest.raises(ConfigError, match=r"'digits' exists already\n  -> go on with it"):
        new_name(home, "digits", exact=True, remedy="go on with it")
    assert new_name(home, "other", exact=True, remedy="") == "other"


@pytest.mark.parametrize(
    ("left", "free"),
    [
        ([], True),
        (["key"], True),
        (["key", "ledger.jsonl", "lock"], True),
        (["key", "ledger.jsonl", "lock", "earlier.json", "experiment.yaml", ".sweep.json.7.draft"], True),
        (["key", "ledger.jsonl", "lock", "experiment.yaml", "sweep.json"], False),
        (["key", "experiment.yaml"], False),
        (["notes.txt"], False),
    ],
)
def test_the_name_of_what_died_before_it_could_be_resumed_is_free(home: Home, left: list[str], free: bool) -> None:
    """Else its name would be taken, and nothing there to go on with."""
    (home.runs / "digits").mkdir(parents=True)
    for name in left:
        (home.runs / "digits" / name).touch()
    assert (new_name(home, "digits", exact=False, remedy="") == "digits") == free


def test_a_config_is_whole_or_as_it_was_when_its_writer_is_killed(
    run: Run, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.write_config()
    before = (run.folder / "experiment.yaml").read_bytes()

    def killed(self: Path, text: str, **options: object) -> int:
        with self.open("w") as file:
            file.write(text[:10])
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_text", killed)
    with pytest.raises(KeyboardInterrupt):
        run.write_config()
    assert (run.folder / "experiment.yaml").read_bytes() == before


def test_every_report_reaches_the_tracker_with_its_epoch_and_time(run: Run) -> None:
    tracker, heard = RecordingTracker(), []

    def hear(report: Report) -> bool:
        heard.append(report.epoch)
        return True

    last = tracked(run, tracker, on_report=hear)
    assert last is not None
    assert last.epoch == 3
    assert heard == [1, 2, 3]
    points = [p for p in tracker.runs[run.key].points if p.key == "val/accuracy"]
    assert [(p.step, p.value, p.timestamp_ms) for p in points] == [(1, 0.1, 1001), (2, 0.2, 1002), (3, 0.3, 1003)]
    assert tracker.runs[run.key].status == "FINISHED"


def test_a_decision_to_stop_ends_the_run_well(run: Run) -> None:
    tracker = RecordingTracker()
    last = tracked(run, tracker, on_report=lambda report: report.epoch < 2)
    assert last is not None
    assert last.epoch == 2
    assert tracker.runs[run.key].status == "FINISHED"


def test_a_run_that_had_ended_before_reports_nothing(run: Run) -> None:
    tracker = RecordingTracker()
    assert tracked(run, tracker, epochs=0) is None
    assert tracker.runs[run.key].status == "FINISHED"


@pytest.mark.parametrize(
    ("end", "status"),
    [
        (TrainingError("the loss is nan", remedy="lower it"), "FAILED"),
        (RuntimeError("Ray is gone"), "FAILED"),
        (OSError(28, "No space left on device"), "FAILED"),
    ],
)
def test_however_it_breaks_off_the_tracker_hears_of_it_and_the_error_goes_on(
    run: Run, end: BaseException, status: str
) -> None:
    tracker = RecordingTracker()
    with pytest.raises(type(end)) as caught:
        tracked(run, tracker, epochs=1, end=end)
    assert caught.value is end
    entry = tracker.runs[run.key]
    assert entry.status == status
    assert len(entry.points) == 2
    if status == "FAILED":
        assert str(end) in entry.tags["vitray.failure"]


class HungryGroup:
    """Runs out of memory after an epoch, with more than so many images at a time. Goes on where it was."""

    def __init__(self, most: int) -> None:
        self._most, self.tried = most, list[int]()

    def run(self, experiment: Experiment, run_dir: Path, on_report: OnReport, *_: object) -> None:
        self.tried.append(rank_images(experiment))
        on_report(Report(10, 1, {"train/loss": 1.0}, "/ckpt", timestamp_ms=1000 + len(self.tried)))
        if self.tried[-1] > self._most:
            raise OutOfMemoryError("no memory")
        on_report(Report(20, 2, {"train/loss": 0.5}, "/ckpt", timestamp_ms=2000))


def test_out_of_memory_is_tried_again_once_with_half_the_images_at_a_time(run: Run) -> None:
    tracker, group, notes = RecordingTracker(), HungryGroup(64), list[str]()
    last = train_run(run, cast("WorkerGroup", group), tracker, on_note=notes.append)
    assert last is not None
    assert last.epoch == 2
    assert group.tried == [128, 64]
    entry = tracker.runs[run.key]
    assert entry.status == "FINISHED"
    assert notes == [entry.tags["vitray.retry"]]
    assert "64 images at a time" in notes[0]
    points = [(p.step, p.timestamp_ms) for p in entry.points]
    assert points == [(1, 1001), (2, 2000)]  # what was said again is no second point


@pytest.mark.parametrize(("most", "batch", "tried"), [(16, 128, [128, 64]), (0, 1, [1])])
def test_out_of_memory_again_or_with_one_image_at_a_time_is_the_end(
    run: Run, most: int, batch: int, tried: list[int]
) -> None:
    tracker, group = RecordingTracker(), HungryGroup(most)
    run = replace(run, experiment=run.experiment.with_values({"train.global_batch": batch}))
    with pytest.raises(OutOfMemoryError):
        train_run(run, cast("WorkerGroup", group), tracker)
    assert group.tried == tried
    entry = tracker.runs[run.key]
    assert entry.status == "FAILED"
    assert entry.tags["vitray.failure_class"] == "oom"


def test_a_run_gone_on_with_is_one_entry(run: Run) -> None:
    tracker = RecordingTracker()
    with pytest.raises(InterruptedRunError, match="step 23 is saved"):
        tracked(run, tracker, epochs=2, end=KeyboardInterrupt())
    assert tracker.runs[run.key].status == "KILLED"
    tracked(run, tracker, epochs=3)
    assert list(tracker.runs) == [run.key]
    points = [p.step for p in tracker.runs[run.key].points if p.key == "train/loss"]
    assert points == [1, 2, 3]
    assert tracker.runs[run.key].status == "FINISHED"


def test_a_second_ctrl_c_does_not_wait_for_the_ranks(run: Run) -> None:
    class Hasty(FakeGroup):
        def stop(self, on_report: OnReport) -> int | None:
            raise KeyboardInterrupt

    tracker = RecordingTracker()
    with pytest.raises(KeyboardInterrupt):
        train_run(run, cast("WorkerGroup", Hasty(1, KeyboardInterrupt())), tracker)
    assert tracker.runs[run.key].status == "KILLED"


def test_ctrl_c_after_the_last_report_interrupts_nothing(run: Run) -> None:
    tracker = RecordingTracker()
    last = tracked(run, tracker, epochs=run.experiment.train.epochs, end=KeyboardInterrupt())
    assert last is not None
    assert tracker.runs[run.key].status == "FINISHED"


def test_a_group_plan_knows_its_least_number_of_ranks() -> None:
    assert GroupPlan((2, 4), False, 1, 1, 1).ranks == 2
