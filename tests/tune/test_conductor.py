"""The conductor without Ray: what runs next, what stops, what a restart knows. The groups here are played by a loop."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from silent import Silent

from vitray.errors import ConfigError
from vitray.experiment import Experiment
from vitray.search_config import BudgetConfig
from vitray.tracking import RecordingTracker
from vitray.tune.budget import over_budget
from vitray.tune.conductor import FAILURE, FAILURE_CLASS, MOST_CRASHES, RETRY, Conductor
from vitray.tune.ledger import Ledger, is_running, read_records
from vitray.tune.plan import plan_sweep
from vitray.tune.proposer import make_proposer
from vitray.tune.record import TrialRecord
from vitray.tune.state import Sweep, load_sweep, write_state

EPOCHS = 4


class KilledError(Exception):
    """The driver is gone, between two events."""


@dataclass
class Clock:
    """Seconds pass only when a trial trains."""

    seconds: float = 1_000_000.0

    def __call__(self) -> float:
        return self.seconds


@dataclass
class Groups:
    """Plays the worker groups: every running trial trains an epoch in turn. ``fails``: failure classes by index."""

    tracker: RecordingTracker = field(default_factory=RecordingTracker)
    clock: Clock = field(default_factory=Clock)
    fails: dict[int, str] = field(default_factory=dict)
    trained: list[tuple[str, int]] = field(default_factory=list)

    def run(self, conductor: Conductor, kill_after: int | None = None) -> None:
        events = 0
        running: list[TrialRecord] = []

        def event() -> None:
            nonlocal events
            events += 1
            if events == kill_after:
                raise KilledError

        while True:
            while isinstance(record := conductor.next(), TrialRecord):
                event()
                conductor.begun(record.index)
                running.append(record)
                event()
            if not running:
                assert record == "finished", "nothing runs, and nothing comes"
                return
            for record in list(running):
                event()
                result = self.train(conductor, record)
                conductor.reported(record.index, result)
                event()
                if result["done"] or conductor.must_stop(record.index):
                    running.remove(record)
                    conductor.stopped(record.index, result)

    def train(self, conductor: Conductor, record: TrialRecord) -> dict[str, Any]:
        self.clock.seconds += 60.0
        experiment = conductor.sweep.experiment_of(record)
        # One that has its last checkpoint only says its last report again.
        epoch = min(record.epoch + 1, experiment.train.epochs)
        if record.index in self.fails:
            return {"epoch": EPOCHS, FAILURE: "why", FAILURE_CLASS: self.fails[record.index], "done": True}
        self.trained.append((record.name, epoch))
        score = 1.0 - 0.3 / epoch - abs(experiment.optim.lr - 3e-3) * 10 + 0.001 * experiment.train.seed
        stamp = int(self.clock.seconds * 1000)
        done = epoch >= experiment.train.epochs
        return {"epoch": epoch, "step": 10 * epoch, "timestamp_ms": stamp, "val/accuracy": score, "val/loss": 1 - score,
                "start_s": 0.1, "warm": True, "done": done}  # fmt: skip


def sweep_of(folder: Path, groups: int = 2, **search: Any) -> Sweep:
    space = {"optim.lr": {"log": [1e-4, 1e-2]}, "model.depth": [1, 2], "optim.betas": [[0.9, 0.95], [0.9, 0.999]]}
    experiment = Experiment(
        data={"path": "/data"},
        model={"image_size": 8, "patch_size": 2, "in_chans": 1, "num_classes": 10},
        train={"epochs": EPOCHS},
        search={"space": space, "trials": 5, "scheduler": "none", **search},
    )
    plan = plan_sweep(experiment, cpus=groups, gpus=0)
    return Sweep("s", "s-0a1b", folder / "s", plan, "fingerprint")


@contextmanager
def conducting(sweep: Sweep, groups: Groups) -> Iterator[Conductor]:
    with Ledger(sweep.folder) as ledger:
        proposer = make_proposer(sweep.plan)
        yield Conductor(sweep, ledger, proposer, groups.tracker, Silent(), now=groups.clock)


def run(sweep: Sweep, groups: Groups, kill_after: int | None = None) -> list[TrialRecord]:
    with conducting(sweep, groups) as conductor:
        groups.run(conductor, kill_after)
        return conductor.records


def seen(records: list[TrialRecord]) -> list[Any]:
    """What a person would compare of two sweeps: all but the times."""
    return [
        (r.name, r.kind, dict(r.point), r.status, [(p["epoch"], p["val/accuracy"]) for p in r.reports]) for r in records
    ]


@pytest.mark.slow
@settings(max_examples=25)
@given(
    st.lists(st.integers(1, 40), max_size=4),
    st.integers(1, 3),
    st.sampled_from(["random", "grid", "tpe"]),
    st.sampled_from([{}, {"finalists": 2, "seeds": 2}, {"retrain": False}]),
)
def test_a_driver_killed_at_any_moments_ends_where_it_would_have_ended(
    kills: list[int], groups: int, algorithm: str, more: dict[str, Any]
) -> None:
    space = {"space": {"model.depth": [1, 2, 3], "optim.lr": [1e-3, 3e-3]}} if algorithm == "grid" else {}
    asked = {"algorithm": algorithm, **space, **more}
    with TemporaryDirectory() as one, TemporaryDirectory() as two:
        undisturbed = run(sweep_of(Path(one), groups, **asked), Groups())
        sweep, played = sweep_of(Path(two), groups, **asked), Groups()
        for kill in kills:
            try:
                run(sweep, played, kill)
            except KilledError:
                # What the process knew when it died is what the next one reads.
                assert all(not r.ended or r.reports for r in read_records(sweep.folder))
        records = run(sweep, played)
        if algorithm != "tpe" or groups == 1:  # what tpe knows when it proposes depends on who ended first
            assert seen(records) == seen(undisturbed)
        assert all(r.ended for r in records)
        assert len({str(r.values) for r in records}) == len(records), "no point ran twice"
        # One run a trial in the tracker, none left running, every epoch once and in order.
        runs = played.tracker.runs
        assert sorted(runs) == sorted(f"s-0a1b/{r.name}" for r in records)
        assert {r.status for r in runs.values()} == {"FINISHED"}
        for record in records:
            points = [p for p in runs[f"s-0a1b/{record.name}"].points if p.key == "val/accuracy"]
            assert [p.step for p in points] == [p["epoch"] for p in record.reports] == list(range(1, record.epoch + 1))


def test_finalists_are_repeated_with_other_seeds_and_the_best_of_these_is_retrained(tmp_path: Path) -> None:
    records = run(sweep_of(tmp_path, finalists=2, seeds=3), Groups())
    searched, repeats = ([r for r in records if r.kind == kind] for kind in ("search", "repeat"))
    best = sorted(searched, key=lambda r: -r.best("val/accuracy", "max"))[:2]
    assert len(repeats) == 6
    assert {(r.repeats, r.values["train.seed"]) for r in repeats} == {(b.index, s) for b in best for s in (1, 2, 3)}
    assert all(r.point == records[r.repeats].point for r in repeats if r.repeats is not None)
    (final,) = (r for r in records if r.kind == "final")
    assert final.point == best[0].point
    assert final.values["train.split"] == "train+val"
    assert records[-1] is final, "it comes when all else is known"


@pytest.mark.parametrize(
    ("budget", "trained"),
    [({"trials": 2}, 8), ({"minutes": 9.5}, 10), ({"worker_hours": 0.4}, 24 // 2 + 1)],
)
def test_a_budget_ends_the_search_and_there_is_a_winner(tmp_path: Path, budget: dict[str, float], trained: int) -> None:
    groups = Groups()
    records = run(sweep_of(tmp_path, budget=budget), groups)
    searched = [r for r in records if r.kind == "search"]
    assert len([name for name, _ in groups.trained if name.startswith("trial")]) <= trained + 1
    assert len(searched) < 5 or any(r.ended_by == "budget" for r in searched)
    assert {r.status for r in searched} <= {"done", "stopped"}
    assert [r.status for r in records if r.kind == "final"] == ["done"]


def test_time_in_which_nothing_ran_is_not_on_the_bill(tmp_path: Path) -> None:
    def record(index: int, *spans: list[float]) -> TrialRecord:
        return TrialRecord(index, f"t{index}", {}, spans=list(spans))

    records = [
        record(0, [0, 60], [3600, 3660]),
        record(1, [0, 30], [3630, 3690]),
    ]
    assert over_budget(BudgetConfig(minutes=2.6), records, 1, now=1e9) is None
    assert over_budget(BudgetConfig(minutes=2.5), records, 1, now=1e9) == "2.5 minutes are over"
    hours = (60 + 60 + 30 + 60) * 2 / 3600
    assert over_budget(BudgetConfig(worker_hours=hours * 1.01), records, 2, now=1e9) is None
    assert over_budget(BudgetConfig(worker_hours=hours), records, 2, now=1e9) is not None


def test_failures_end_their_trial_and_errors_of_the_code_the_sweep(tmp_path: Path) -> None:
    groups = Groups(fails={0: "nan", 1: "oom", 3: "lost"})
    records = run(sweep_of(tmp_path), groups)
    assert [(r.status, r.failure_class) for r in records[:5]] == [
        ("failed", "nan"), ("failed", "oom"), ("done", None), ("failed", "lost"), ("done", None)
    ]  # fmt: skip
    assert groups.tracker.runs[f"s-0a1b/{records[0].name}"].tags["vitray.failure_class"] == "nan"
    assert groups.tracker.runs[f"s-0a1b/{records[0].name}"].status == "FAILED"

    other, code = (
        sweep_of(tmp_path / "code", groups=1, max_code_errors=2),
        Groups(fails=dict.fromkeys(range(5), "code")),
    )
    with conducting(other, code) as conductor:
        code.run(conductor)
        assert conductor.halted == "2 trials ended in an error of the code"
        assert [r.status for r in conductor.records] == ["failed", "failed"]
    code.fails.clear()  # mended
    assert [r.status for r in run(other, code)] == ["failed", "failed", "done", "done", "done", "done"]


def test_halted_trials_are_not_ended_and_go_on(tmp_path: Path) -> None:
    sweep, groups = sweep_of(tmp_path), Groups()
    with conducting(sweep, groups) as conductor:
        first, second = conductor.next(), conductor.next()
        assert isinstance(first, TrialRecord)
        assert isinstance(second, TrialRecord)
        assert conductor.next() == "wait"
        for record in (first, second):
            conductor.begun(record.index)
        conductor.reported(first.index, result := groups.train(conductor, first))
        conductor.halted = "interrupted"
        assert conductor.must_stop(first.index)
        conductor.stopped(first.index, result)
        assert conductor.next() == "finished"
        assert not conductor.idle
        conductor.interrupt()  # the driver leaves; the second never reported
    assert {r.status for r in groups.tracker.runs.values()} == {"KILLED"}
    assert [(r.status, r.epoch) for r in read_records(sweep.folder)] == [("running", 1), ("running", 0)]
    records = run(sweep, groups)
    assert all(r.status == "done" for r in records)
    assert len(records[0].spans) == 2
    assert {r.status for r in groups.tracker.runs.values()} == {"FINISHED"}


def test_a_retry_is_on_record(tmp_path: Path) -> None:
    sweep, groups = sweep_of(tmp_path), Groups()
    with conducting(sweep, groups) as conductor:
        record = conductor.next()
        assert isinstance(record, TrialRecord)
        conductor.begun(record.index)
        for _ in range(EPOCHS):
            result = groups.train(conductor, record)
            conductor.reported(record.index, result | ({RETRY: "half the batch"} if record.epoch == 1 else {}))
        conductor.stopped(record.index, result)
    assert read_records(sweep.folder)[0].retries == ["half the batch"]
    assert groups.tracker.runs[f"s-0a1b/{record.name}"].tags["vitray.retry"] == "half the batch"


def test_two_processes_cannot_run_one_sweep(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path)
    with Ledger(sweep.folder):
        write_state(sweep, "running")
        assert is_running(sweep.folder)
        assert load_sweep(tmp_path, "s").status == "running"
        with pytest.raises(ConfigError, match="is running in another process"):
            Ledger(sweep.folder)
    assert load_sweep(tmp_path, "s").status == "interrupted"  # nobody has it


@given(st.integers(0, 400))
@settings(max_examples=8)
def test_a_torn_line_is_dropped(cut: int) -> None:
    with TemporaryDirectory() as folder:
        sweep = sweep_of(Path(folder), groups=1)
        run(sweep, Groups())
        path = sweep.folder / "ledger.jsonl"
        whole = path.read_bytes()
        path.write_bytes(whole[: max(0, len(whole) - cut)])
        records = run(sweep, Groups())
        assert [r.status for r in records] == ["done"] * 6
        assert path.read_bytes().endswith(b"\n")


def test_once_the_winner_is_retrained_the_search_stays_over(tmp_path: Path) -> None:
    """A raised budget would find other points, and the weights that are being made are of this winner."""
    sweep, groups = sweep_of(tmp_path, budget={"trials": 2}), Groups()
    with pytest.raises(KilledError), conducting(sweep, groups) as conductor:
        groups.run(conductor, kill_after=25)
    known = read_records(sweep.folder)
    assert [r.kind for r in known] == ["search", "search", "final"]
    assert not known[-1].ended
    records = run(sweep_of(tmp_path), groups)  # without the budget
    assert [r.kind for r in records] == ["search", "search", "final"]
    assert records[-1].repeats is not None
    assert records[-1].point == records[records[-1].repeats].point


def test_a_retraining_that_failed_is_done_again_by_the_next_driver(tmp_path: Path) -> None:
    sweep, groups = sweep_of(tmp_path), Groups(fails={5: "lost"})
    assert [(r.name, r.status) for r in run(sweep, groups)[5:]] == [("final", "failed")]
    groups.fails.clear()
    records = run(sweep, groups)
    assert [(r.name, r.status) for r in records[5:]] == [("final", "failed"), ("final-2", "done")]
    assert records[5].values == records[6].values
    assert [(r.name, r.status) for r in run(sweep, groups)[5:]] == [("final", "failed"), ("final-2", "done")]


def test_nothing_stays_running_in_the_tracker_of_a_driver_that_is_interrupted_at_once(tmp_path: Path) -> None:
    sweep, groups = sweep_of(tmp_path, groups=3), Groups()
    with pytest.raises(KilledError), conducting(sweep, groups) as conductor:
        groups.run(conductor, kill_after=8)
    assert [r.status for r in groups.tracker.runs.values()] == ["RUNNING"] * 3
    with conducting(sweep, groups) as conductor:
        first = conductor.next()
        assert isinstance(first, TrialRecord)
        conductor.begun(first.index)
        conductor.interrupt()
    assert [r.status for r in groups.tracker.runs.values()] == ["KILLED"] * 3
    assert all(r.status == "done" for r in run(sweep, groups))


def test_a_trial_whose_process_is_lost_gets_another_a_few_times(tmp_path: Path) -> None:
    sweep, groups = sweep_of(tmp_path, groups=1), Groups()
    with conducting(sweep, groups) as conductor:
        for _ in range(MOST_CRASHES + 1):
            record = conductor.next()
            assert isinstance(record, TrialRecord)
            assert (record.index, record.status in ("pending", "running")) == (0, True)
            conductor.begun(record.index)
            conductor.reported(record.index, groups.train(conductor, record))
            conductor.crashed(record.index, "the node is gone")
        assert (record.status, record.failure_class, record.epoch) == ("failed", "lost", EPOCHS)
        following = conductor.next()
        assert isinstance(following, TrialRecord)
        assert following.index == 1


def test_a_group_that_does_not_begin_is_noticed(tmp_path: Path) -> None:
    sweep, groups = sweep_of(tmp_path, groups=1), Groups()
    with conducting(sweep, groups) as conductor:
        record = conductor.next()
        assert isinstance(record, TrialRecord)
        conductor.begun(record.index)
        groups.clock.seconds += 200
        assert not conductor.overdue(300)
        groups.clock.seconds += 101
        assert conductor.overdue(300)
        conductor.reported(record.index, groups.train(conductor, record))
        groups.clock.seconds += 10_000
        assert not conductor.overdue(300), "it has begun; an epoch may take hours"
