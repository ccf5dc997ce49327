"""Row 9: a disk that is full while checkpoints, reports and objects are written to it."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import ray
from disturbed import disturbed_experiment
from disturbed import train as train_on
from injections import record
from mlflow_view import look
from small_disk import Disk, small_disk
from small_runs import STEPS, restored, small_experiment, train

from vitray.cluster.launch import Prepared
from vitray.cluster.local import Cluster
from vitray.cluster.sweeps import sweep
from vitray.data.decode import encode_png
from vitray.data.prepare import prepare
from vitray.errors import CheckpointError
from vitray.experiment import Experiment
from vitray.home import Home
from vitray.tracking.mlflow_store import MlflowTracker
from vitray.train import checkpoint, loop
from vitray.train.checkpoint import CheckpointStore, verify
from vitray.train.report import Report
from vitray.tune.ledger import read_records
from vitray.tune.record import TrialRecord

pytestmark = [pytest.mark.slow, pytest.mark.faults]
_FULL, _FREE = 3, 6  # epochs after which it is filled, and room is made
_MORE_THAN_FITS = 24  # epochs, of whose pixels a store of 100 MiB can only hold a part


@pytest.mark.parametrize("when", ["before it is begun", "in the midst of it"])
def test_a_training_goes_on_says_so_and_saves_when_there_is_room(
    digits: Path, tmp_path: Path, when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Filled up between two saves; once the file system itself has to say so, as a quota would."""
    experiment = small_experiment(digits, train__epochs=8, model__embed_dim=64)
    train(experiment, tmp_path / "undisturbed")
    errors: list[str] = []
    if when == "in the midst of it":
        monkeypatch.setattr(checkpoint, "check_room", lambda folder, needed: None)
    with small_disk(tmp_path / "disk", 8) as disk:
        place = disk.root / "run"
        notes: list[str] = []

        def disturb(report: Report) -> None:
            if report.epoch == _FULL:
                _until(lambda: _newest(place) == report.step)
                disk.fill(leave=300_000)
            if report.epoch == _FULL + 1:
                _until(lambda: len(notes) > 0)  # by then the writer has met the full disk
                errors.extend(notes)
            if report.epoch == _FREE:
                newest = CheckpointStore(place).newest()
                assert newest is not None
                verify(newest)
                assert newest.step == STEPS * _FULL, "the last good one, and whole"
                disk.clear()

        reports = train(experiment, place, on_report=disturb, notes=notes)
        assert [report.epoch for report in reports] == list(range(1, 9))
        assert len(errors) == 1
        assert str(place) in errors[0]
        assert "No space left on device" in errors[0]
        assert "it needs 0." in errors[0] or "it needs 1." in errors[0]
        assert "0.3 MB are free" in errors[0] or when == "in the midst of it"
        assert notes[1:] == ["checkpoints are saved again"]
        ours, theirs = restored(place, experiment), restored(tmp_path / "undisturbed", experiment)
        same = ours[0].step == theirs[0].step and all(ours[1][k].equal(v) for k, v in theirs[1].items())
        half = list(CheckpointStore(place).history().begun)
        held = same and not half
        record(
            9,
            f"checkpoints, noticed {when}: training went on, the last one stayed whole, the error named the place, "
            "what it needs and what is free; the final weights are those of an undisturbed run",
            held=held,
            told=errors[0],
        )
        assert held


def _newest(place: Path) -> int:
    newest = CheckpointStore(place).newest()
    return 0 if newest is None else newest.step


def _until(true: Callable[[], bool]) -> None:
    until = time.monotonic() + 30
    while not true() and time.monotonic() < until:
        time.sleep(0.01)


def test_at_the_end_it_waits_for_room_and_not_for_ever(
    digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "PATIENCE_S", 0.5)
    experiment = small_experiment(digits, train__epochs=2, model__embed_dim=64)
    with small_disk(tmp_path / "disk", 8) as disk:
        place = disk.root / "run"
        with pytest.raises(CheckpointError, match="the checkpoint of step 10 cannot be saved: No space left") as caught:
            train(experiment, place, on_report=lambda report: fill_once(disk, place, report), notes=[])
        assert str(place) in str(caught.value)
        assert "make room there" in str(caught.value)
        disk.clear()
        assert [report.epoch for report in train(experiment, place)] == [1, 2], "what it had is gone on from"


def test_who_comes_back_to_a_full_disk_waits_for_room(digits: Path, tmp_path: Path) -> None:
    """A rank that was replaced marks its attempt before it goes on."""
    experiment = small_experiment(digits, train__epochs=2, model__embed_dim=64)
    train(experiment, tmp_path / "undisturbed")
    with small_disk(tmp_path / "disk", 8) as disk:
        place = disk.root / "run"
        train(experiment, place, stop_at_epoch=1)
        disk.fill()
        notes: list[str] = []
        again: list[Report] = []
        thread = threading.Thread(target=lambda: again.extend(train(experiment, place, notes=notes)))
        thread.start()
        _until(lambda: len(notes) > 0)
        full = list(notes)
        disk.clear()
        thread.join()
        said = f"{place}: No space left on device; going on when there is room"
        ours, theirs = restored(place, experiment), restored(tmp_path / "undisturbed", experiment)
        held = (
            full == [said]
            and notes == [said, f"{place}: there is room again"]
            and again[-1].epoch == 2
            and all(ours[1][k].equal(v) for k, v in theirs[1].items())
        )
        record(9, "a rank that comes back to a full disk: waits, says so, goes on to the same weights", held=held)
        assert held, (notes, again)


def fill_once(disk: Disk, place: Path, report: Report) -> None:
    if report.epoch == 1:
        _until(lambda: _newest(place) == report.step)
        disk.fill(leave=100_000)


def test_reports_are_kept_until_there_is_room_for_them(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    with small_disk(tmp_path / "disk", 1) as disk:
        tracker = MlflowTracker(uri, disk.root / "spool", tmp_path / "artifacts", interval_s=0.05)
        tracker.start_run("run", name="run", experiment="full", params={}, tags={})
        steps = range(1, 201)
        for step in steps:
            if step == 50:
                disk.fill()
                assert disk.free == 0
            if step == 150:
                disk.clear()
            tracker.log_metrics("run", {"loss": 1 / step}, step=step)
        tracker.end_run("run", "FINISHED")
        assert tracker.flush(60)
        tracker.close()
    (view,) = look(uri)["run"]
    points = [step for key, step, _ in view.points if key == "loss"]
    held = points == list(steps)
    record(9, f"reports: {len(points)} of 200 delivered, 100 of them made on a full disk", held=held)
    assert held


@pytest.mark.ray
def test_where_objects_can_be_spilled_no_more_training_waits_for_room(tmp_path: Path) -> None:
    """Somebody else fills the object store of a node whose disk is full."""
    for number in range(320):
        file = tmp_path / "in" / str(number % 2) / f"{number:04d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(encode_png(np.random.default_rng(number).integers(0, 255, (96, 96, 3), dtype=np.uint8)))
    prepare(str(tmp_path / "in"), tmp_path / "ds")
    run = disturbed_experiment(tmp_path / "ds", _MORE_THAN_FITS, model__patch_size=32, train__global_batch=64)
    others: list[ray.ObjectRef] = []
    notes: list[str] = []
    whole: list[bool] = []

    with small_disk(tmp_path / "disk", 400) as disk:

        def disturb(report: Report) -> None:
            if report.epoch != _FULL:
                return
            disk.fill()
            until = time.monotonic() + 60
            while not notes and time.monotonic() < until:
                try:
                    others.append(ray.put(np.zeros(2**20, np.uint8)))
                except ray.exceptions.OutOfDiskError:
                    time.sleep(0.1)
            newest = CheckpointStore(tmp_path / "full" / "checkpoints").newest()
            whole.append(newest is not None and verify(newest).step > 0)
            time.sleep(3)
            disk.clear()

        ray.init(
            address="local", num_cpus=2, object_store_memory=100 * 2**20, include_dashboard=False, log_to_driver=False,
            object_spilling_directory=str(disk.root),
        )  # fmt: skip
        try:
            here = Cluster("local", cpus=2, gpus=0, node_cpus=2)
            undisturbed = train_on(here, run, tmp_path / "peace", 1)
            thread: list[threading.Thread] = []

            def begin(report: Report) -> None:  # beside the training, which goes on
                thread.append(threading.Thread(target=disturb, args=(report,)))
                thread[-1].start()

            disturbed = train_on(here, run, tmp_path / "full", 1, on_report=begin, notes=notes)
            for one in thread:
                one.join()
        finally:
            others.clear()
            ray.shutdown()
    held = (
        len(notes) == 2
        and str(disk.root) in notes[0]
        and re.search(r"[1-9] MB are needed", notes[0]) is not None
        and notes[1] == "there is room for data again"
        and whole == [True]
        and all(disturbed.tensors[name].equal(value) for name, value in undisturbed.tensors.items())
    )
    record(9, "objects that can be spilled no more: training waited, said so, went on to the same weights", held=held,
           told=notes)  # fmt: skip
    assert held, (notes, whole)


class Clears:
    """Whoever waits for a sweep: fills the disk at the first reports, and clears it when told that it is full."""

    def __init__(self, disk: Disk) -> None:
        self._disk, self._filled = disk, False
        self.texts: list[str] = []

    def update(self, trials: Sequence[TrialRecord]) -> None:
        if not self._filled and any(trial.epoch >= _FULL for trial in trials):
            self._filled = True
            self._disk.fill()

    def stage(self, text: str) -> None:
        self.texts.append(text)
        if "cannot be saved" in text:
            self._disk.clear()


@pytest.mark.ray
def test_a_sweep_says_that_the_disk_is_full_and_goes_on_when_there_is_room(
    digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While its trials wait for room they have no results: what they say has to come without them."""
    home = Home(tmp_path / "home")
    monkeypatch.setenv("VITRAY_HOME", str(home.root))
    with small_disk(tmp_path / "disk", 40) as disk:
        experiment = Experiment(
            data={"path": str(digits)},
            model={"patch_size": 4, "embed_dim": 64, "depth": 2, "num_heads": 2},
            train={"epochs": 6, "checkpoints": str(disk.root / "saved")},
            cluster={"use_gpu": False},
            search={
                "space": {"optim.lr": [1e-3, 2e-3]},
                "algorithm": "grid",
                "scheduler": "none",
                "concurrent": 1,
                "retrain": False,
            },
            tracking={"experiment": "full"},
        )
        waits = Clears(disk)
        sweep(Prepared.of(experiment, "full"), home, lambda plan: waits)
        assert [record.status for record in read_records(home.runs / "full")] == ["done", "done"]
    (told,) = [text for text in waits.texts if "cannot be saved" in text]
    assert re.match(rf"trial-0000-\w+: {disk.root}/saved.*: No space left on device; it needs \d", told.splitlines()[0])
    record(
        9, "a sweep whose checkpoints' disk is full: it says so while it waits, and ends when there is room", held=True
    )
