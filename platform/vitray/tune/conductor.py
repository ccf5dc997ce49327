"""Who conducts a sweep: decides what runs next and what must stop, and writes down all that happens.

Runs in the driver, in the thread of Tune's loop, and knows neither Ray nor Tune. Everything that it decides follows
from the ledger, so that a sweep whose driver was killed goes on as if nothing had been.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

from vitray.errors import TrainingError
from vitray.masking import masked_values
from vitray.tracking.tracker import Status, Tracker
from vitray.tune.budget import over_budget
from vitray.tune.choose import choose, finalists
from vitray.tune.keys import Point
from vitray.tune.ledger import Ledger
from vitray.tune.proposer import Proposer
from vitray.tune.record import Kind, SweepDisplay, TrialRecord, metrics_of
from vitray.tune.state import Sweep, trial_folder

Next = TrialRecord | Literal["wait", "finished"]
FAILURE = "failure"  # keys of a result that says why its trial failed
FAILURE_CLASS = "failure_class"
RETRY = "retry"
MOST_CRASHES = 3  # times that a trial is given to a new process after its own was lost with its node


@dataclass
class Conductor:
    """One run of a sweep, from its beginning or from where the last one left off.

    ``retraining``: values for the final retraining beside the winner's. ``halted`` says why the sweep ends before it is
    done: trials then stop at their next reports and are not ended, so that they can go on.
    """

    sweep: Sweep
    ledger: Ledger
    proposer: Proposer
    tracker: Tracker
    display: SweepDisplay
    retraining: Mapping[str, Any] = field(default_factory=dict)
    now: Callable[[], float] = time.time
    halted: str | None = None

    def __post_init__(self) -> None:
        self.search = self.sweep.plan.search
        self._running: set[int] = set()  # has a group, or is about to get one
        self._open = {r.index for r in self.records if r.spans and not r.ended}  # may be RUNNING in the tracker
        self._known: set[int] = set()  # to this process's tracker
        self._crashes = Counter[int]()
        self._silent_since: dict[int, float] = {}  # has a group, and has not reported from it
        self._finals = {r.index for r in self.records if r.kind == "final" and r.status == "failed"}  # to be done again
        self._waiting = [r.index for r in self.records if not r.ended]  # an earlier driver left them
        for record in self.records:
            if record.spans and len(record.spans[-1]) == 1:  # it was killed: what came after its last word is not known
                last = record.reports[-1]["at"] if record.reports else 0.0
                self.ledger.append("pause", record.index, at=max(record.spans[-1][0], last))
        self._proposed_all = False
        self._code_errors = 0
        self._error: Exception | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles what it is given for a restore of its own, which vitray does not use

    @property
    def records(self) -> list[TrialRecord]:
        return list(self.ledger.records.values())

    @property
    def searching(self) -> list[TrialRecord]:
        """The trials that search, those that ended too."""
        return [r for r in self.records if r.kind == "search"]

    @property
    def full(self) -> bool:
        """Whether every group has a trial."""
        return len(self._running) >= self.sweep.plan.groups.groups

    @property
    def idle(self) -> bool:
        """Whether no group has a trial."""
        return not self._running

    @property
    def more_to_come(self) -> bool:
        """Whether trials that search may still be added; not once finalists, the best of all, are repeated."""
        searching = self.searching
        if self.halted or self._proposed_all or self.spent or len(searching) >= self.search.trials:
            return False
        return len(searching) == len(self.ledger.records)

    def next(self) -> Next:
        """The trial to start now; "wait" for the groups or for results; "finished" when nothing is left to start."""
        if self.halted:
            return "finished"
        if self.full:
            return "wait"
        if self._waiting:
            return self._start(self.ledger.records[self._waiting.pop(0)])
        if (record := self._search_trial()) is not None:
            return self._start(record)
        if any(not r.ended for r in self.searching):
            return "wait"
        if (record := self._repeat_trial()) is not None:
            return self._start(record)
        if any(not r.ended for r in self.records):
            return "wait"
        final = self._final_trial()
        return "finished" if final is None else self._start(final)

    def through(self) -> bool:
        """Whether nothing is left to run at all."""
        asked = self.next()
        if isinstance(asked, TrialRecord):  # to be asked for again
            self._running.discard(asked.index)
            self._waiting.insert(0, asked.index)
        return asked == "finished"

    def job(self, record: TrialRecord) -> dict[str, Any]:
        """What a trial's process needs to know, as plain values."""
        folder = str(trial_folder(self.sweep.folder, record))
        job = {"index": record.index, "name": record.name, "values": dict(record.values), "folder": folder}
        asks_at = self.sweep.plan.asks_at(record.index) if record.kind == "search" else ()
        asked = None if asks_at is None else list(asks_at)
        return {**job, "asks_at": asked, "known_epoch": record.epoch, "retried": bool(record.retries)}

    def begun(self, index: int) -> None:
        """A process has taken the trial."""
        record = self.ledger.append("begin", index, at=self.now())
        self._running.add(index)
        self._open.add(index)
        self._known.add(index)
        self._silent_since[index] = self.now()
        tags = {"vitray.sweep": self.sweep.name}
        if self.sweep.plan.weights:
            tags["vitray.init_adapted"] = self.sweep.plan.weights
        if record.kind == "repeat" and record.repeats is not None:
            tags["vitray.repeats"] = self.ledger.records[record.repeats].name
        self._guard(lambda: self.sweep.run_of(record).begin(self.tracker, tags))
        self.display.update(self.records)

    def reported(self, index: int, result: Mapping[str, Any]) -> None:
        """Take one of Tune's results. What was reported before (a trial went back to its checkpoint) is not new."""
        record = self.ledger.records[index]
        self._silent_since.pop(index, None)
        if (retry := result.get(RETRY)) and retry not in record.retries:
            self.ledger.append("retry", index, at=self.now(), what=str(retry))
        if FAILURE not in result and int(result["epoch"]) > record.epoch:
            stamp, epoch = int(result["timestamp_ms"]), int(result["epoch"])
            metrics = metrics_of(result)
            start = {key: result[key] for key in ("start_s", "warm") if key in result}
            points = metrics | ({"start_s": float(start["start_s"])} if start else {})
            # The tracker first: what the ledger has is not said again after a restart.
            self._guard(lambda: self.tracker.log_metrics(self._run(record), points, step=epoch, timestamp_ms=stamp))
            where = {"epoch": epoch, "step": int(result["step"])}
            kept = {key: value for key, value in metrics.items() if not key.startswith("system/")}
            self.ledger.append("report", index, at=stamp / 1000, **where, metrics=kept, **start)
        self.display.update(self.records)

    def must_stop(self, index: int) -> bool:
        """Whether a trial that has just reported stops there, whatever its scheduler thinks."""
        return bool(self.halted) or (self.ledger.records[index].kind == "search" and self.spent)

    def overdue(self, seconds: float) -> bool:
        """Whether a trial that was given a group so long ago has not reported from it."""
        return any(self.now() - since > seconds for since in self._silent_since.values())

    def paused(self, index: int) -> None:
        """Its scheduler has the trial wait for others; its group is free."""
        self._running.discard(index)
        self.ledger.append("pause", index, at=self.now())

    def go_on(self, index: int) -> TrialRecord:
        """A trial that waited gets a group again."""
        return self._start(self.ledger.records[index])

    def changed(self, index: int, epoch: int, donor: int, point: Point) -> TrialRecord:
        """A trial goes on from another's weights, with other values."""
        record = self.ledger.append("change", index, at=self.now(), epoch=epoch, donor=donor, point=dict(point))
        said = f"epoch {epoch}: weights of {self.ledger.records[donor].name}, " + ", ".join(
            f"{key}={value}" for key, value in point.items()
        )
        run = self._run(record)
        self._guard(lambda: self.tracker.set_tags(run, {f"vitray.change.{len(record.changes)}": said}))
        return record

    def stopped(self, index: int, result: Mapping[str, Any] | None) -> None:
        """Tune has let go of the trial: it is done, was stopped or failed, or is interrupted."""
        record = self.ledger.records[index]
        failure = (result or {}).get(FAILURE)
        if failure is None and record.epoch >= self.sweep.experiment_of(record).train.epochs:
            self._end(record, "done")
        elif failure is not None:
            self._end(record, "failed", failure=str(failure), failure_class=str((result or {}).get(FAILURE_CLASS)))
        elif self.halted:
            self._interrupt(record)
        else:
            by = "budget" if record.kind == "search" and self.spent else self.search.scheduler
            self._end(record, "stopped", ended_by=by)

    def crashed(self, index: int, reason: str) -> None:
        """The trial's own process died, and Tune has given it up: it gets another, a few times."""
        record = self.ledger.records[index]
        if record.ended:
            return
        self._crashes[index] += 1
        if self._crashes[index] > MOST_CRASHES:
            self._end(record, "failed", failure=reason, failure_class="lost")
            return
        self._running.discard(index)
        self._silent_since.pop(index, None)
        self._waiting.append(index)
        self.ledger.append("pause", index, at=self.now())

    def interrupt(self) -> None:
        """The driver leaves: nothing stays RUNNING in the tracker."""
        for record in [self.ledger.records[index] for index in sorted(self._open)]:
            if record.index not in self._known:  # an earlier driver began it
                self._guard(partial(self.sweep.run_of(record).begin, self.tracker))
            self._interrupt(record)

    def raise_error(self) -> None:
        """What the tracker raised; Tune's loop would have swallowed it."""
        if self._error is not None:
            raise self._error

    def _search_trial(self) -> TrialRecord | None:
        if not self.more_to_come:
            return None
        point = self.proposer.propose(self.searching)
        if point is None:
            self._proposed_all = True
            return None
        index = len(self.ledger.records)
        return self._new(self.sweep.plan.name_of(index, point), "search", point, point)

    def _repeat_trial(self) -> TrialRecord | None:
        if not self.search.repeats or any(r.kind == "final" for r in self.records):
            return None
        known = {(r.repeats, r.values["train.seed"]) for r in self.records if r.kind == "repeat"}
        for finalist in finalists(self.records, self.search):
            base = self.sweep.experiment_of(finalist).train.seed
            for seed in range(base + 1, base + 1 + self.search.seeds):
                if (finalist.index, seed) not in known:
                    values = {**finalist.values, "train.seed": seed}
                    name = f"repeat-{finalist.index:04d}-seed-{seed}"
                    self.display.stage(f"repeating {finalist.name} with seed {seed}")
                    return self._new(name, "repeat", finalist.point, values, repeats=finalist.index)
        return None

    def _final_trial(self) -> TrialRecord | None:
        finals = [r for r in self.records if r.kind == "final"]
        if not self.search.retrain or any(r.index not in self._finals for r in finals):
            return None
        try:
            best = choose(self.records, self.search).best
        except TrainingError:
            return None  # no trial has a score; who reads the records says so
        epochs = self.search.retrain_epochs or self.sweep.experiment_of(best).train.epochs
        values = {**best.values, **self.retraining, "train.split": "train+val", "train.epochs": epochs}
        self.display.stage(f"retraining {best.name} on train+val")
        name = f"final-{len(finals) + 1}" if finals else "final"
        return self._new(name, "final", best.point, values, repeats=best.index)

    def _new(
        self, name: str, kind: Kind, point: Point, values: Mapping[str, Any], repeats: int | None = None
    ) -> TrialRecord:
        index = len(self.ledger.records)
        return self.ledger.append(
            "trial", index, at=self.now(), name=name, kind=kind, point=dict(point), values=dict(values), repeats=repeats
        )

    def _start(self, record: TrialRecord) -> TrialRecord:
        self._running.add(record.index)
        return record

    def _end(self, record: TrialRecord, status: str, **why: Any) -> None:
        why = masked_values(why)  # an error may quote what nobody should read in a ledger, a report or a tag
        tags = {"vitray.outcome": status}
        tags |= {f"vitray.{key}": str(value) for key, value in why.items()}
        if record.retries:
            tags["vitray.retry"] = "; ".join(record.retries)
        if why.get("failure_class") == "code":
            self._code_errors += 1
            if self._code_errors >= self.search.max_code_errors:
                self.halted = self.halted or f"{self._code_errors} trials ended in an error of the code"
        self._leave(record, tags, "FAILED" if status == "failed" else "FINISHED")
        self.ledger.append("end", record.index, at=self.now(), status=status, **why)
        self.display.update(self.records)

    def _interrupt(self, record: TrialRecord) -> None:
        self._leave(record, {"vitray.outcome": "interrupted"}, "KILLED")
        self.ledger.append("pause", record.index, at=self.now())
        self.display.update(self.records)

    def _leave(self, record: TrialRecord, tags: Mapping[str, str], status: Status) -> None:
        self._running.discard(record.index)
        self._open.discard(record.index)
        self._silent_since.pop(record.index, None)
        run = self._run(record)
        self._guard(lambda: self.tracker.set_tags(run, tags))
        self._guard(lambda: self.tracker.end_run(run, status))

    def _run(self, record: TrialRecord) -> str:
        return self.sweep.key_of(record.name)  # as in Sweep.run_of, which builds the experiment too

    @property
    def spent(self) -> bool:
        """Whether the search has used up its budget."""
        return over_budget(self.search.budget, self.records, self.sweep.plan.groups.ranks, self.now()) is not None

    def _guard(self, action: Callable[[], object]) -> None:
        try:
            action()
        except Exception as error:
            self._error = self._error or error
