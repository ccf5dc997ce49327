"""Runs as people know them: a name, a folder, an entry in the tracker."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vitray import __version__
from vitray.errors import ConfigError, InterruptedRunError, OutOfMemoryError, failure_class, nearest
from vitray.experiment import Experiment
from vitray.files import when_there_is_room, write_whole
from vitray.home import Home
from vitray.masking import masked
from vitray.overrides import to_yaml
from vitray.tracking.tracker import DatasetInput, Tracker
from vitray.train.messages import Note
from vitray.train.provenance import provenance
from vitray.train.report import OnNote, OnProgress, OnReport, Report
from vitray.train.retry import after_out_of_memory, retry_note

if TYPE_CHECKING:  # Ray and torch: not needed to name a run
    from vitray.train.worker_group import WorkerGroup

_FILE = "experiment.yaml"
_SWEEP, _LEDGER = (
    "sweep.json",
    "ledger.jsonl",
)  # what makes a folder a sweep
_BEFORE = {"key", "lock", _LEDGER, "earlier.json"}  # written before a run or a sweep can be resumed


@dataclass(frozen=True)
class Run:
    """One tracked training: ``key`` names it for the tracker, for ever and everywhere."""

    key: str
    name: str
    kind: str
    folder: Path
    experiment: Experiment
    fingerprint: str
    parent: str | None = None
    dataset: DatasetInput | None = None

    def begin(self, tracker: Tracker, extra_tags: Mapping[str, str] | None = None) -> None:
        """Enter the run in the tracker (or find it there), with its config as an artifact."""
        tracker.start_run(
            self.key,
            name=self.name,
            experiment=self.experiment.tracking.experiment,
            params={k: v for k, v in self.experiment.flat().items() if v is not None},
            tags={
                "vitray.kind": self.kind,
                "vitray.version": __version__,
                "vitray.config_hash": self.experiment.identity,
                "vitray.dataset_fingerprint": self.fingerprint,
                **provenance(),
                **(extra_tags or {}),
            },
            parent=self.parent,
        )
        if self.dataset is not None:
            tracker.log_input(self.key, self.dataset)
        self.write_config()
        shown = self.folder / "shown" / _FILE  # the one to go on with may hold a key to the data
        shown.parent.mkdir(exist_ok=True)
        text = masked((self.folder / _FILE).read_text(encoding="utf-8"))
        when_there_is_room(lambda: write_whole(shown, text), shown, len(text))
        tracker.log_artifact(self.key, shown)

    def write_config(self) -> Path:
        """The resolved experiment as YAML in the run's folder; ``vitray train`` reads it again."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / _FILE
        # Whole, whenever it is killed: it is written anew at every start, and without it there is nothing to resume.
        text = to_yaml(self.experiment.model_dump(mode="json"))
        when_there_is_room(lambda: write_whole(path, text), path, len(text))
        return path


def train_run(
    run: Run,
    group: WorkerGroup,
    tracker: Tracker,
    *,
    on_report: OnReport = lambda report: True,
    on_progress: OnProgress | None = None,
    on_note: OnNote = lambda note: None,
    extra_tags: Mapping[str, str] | None = None,
) -> Report | None:
    """Train a run's experiment in a group, from its newest checkpoint on, and track it. Returns the last report.

    Once it may run out of memory: it goes on with smaller micro-batches (:mod:`vitray.train.retry`), says so in the
    tag ``vitray.retry`` and to ``on_note``, as of ranks that come and go (tags ``vitray.ranks.step-120`` and so on).

    Ctrl-C has the ranks save at their next step and stop; a second one does not wait for that.

    Raises:
        InterruptedRunError: Ctrl-C; says what is saved. The run is then KILLED in the tracker.
        VitrayError: why it failed; the run is then FAILED in the tracker.
    """
    run.begin(tracker, extra_tags)
    last: Report | None = None

    def take(report: Report) -> bool:
        nonlocal last
        if last is not None and report.step <= last.step:
            return True  # said again by ranks that go on from its checkpoint
        last = report
        tracker.log_metrics(run.key, report.metrics, step=report.epoch, timestamp_ms=report.timestamp_ms)
        return on_report(report)

    def tell(note: Note) -> None:
        if note.step is not None:
            tracker.set_tags(run.key, {f"vitray.ranks.step-{note.step}": note.text})
        on_note(note.text)

    try:
        try:
            group.run(run.experiment, run.folder, take, on_progress, tell)
        except OutOfMemoryError:
            if (smaller := after_out_of_memory(run.experiment)) is None:
                raise
            note = retry_note(smaller)
            tracker.set_tags(run.key, {"vitray.retry": note})
            on_note(note)
            group.run(smaller, run.folder, take, on_progress, tell)
    except KeyboardInterrupt:
        on_note("stopping after a checkpoint of this step (Ctrl-C again: at once)")
        saved: int | None = None
        try:
            saved = group.stop(take)
        finally:
            unfinished = last is None or last.epoch < run.experiment.train.epochs
            if unfinished:
                tracker.end_run(run.key, "KILLED")
        if unfinished:
            done = f"interrupted; step {saved} is saved" if saved is not None else "interrupted"
            raise InterruptedRunError(done, where=run.name) from None
    except Exception as error:
        tracker.set_tags(run.key, {"vitray.failure": str(error), "vitray.failure_class": failure_class(error)})
        tracker.end_run(run.key, "FAILED")
        raise
    tracker.end_run(run.key, "FINISHED")
    return last


def new_name(home: Home, wanted: str, *, exact: bool, remedy: str) -> str:
    """A run's name that is free: ``wanted``, or (unless ``exact``) ``wanted-2`` and so on.

    Raises:
        ConfigError: ``exact`` and taken.
    """
    if not _taken(home.runs / wanted):
        return wanted
    if exact:
        raise ConfigError(f"a run named {wanted!r} exists already", where=str(home.runs / wanted), remedy=remedy)
    number = 2
    while _taken(home.runs / f"{wanted}-{number}"):
        number += 1
    return f"{wanted}-{number}"


def _taken(folder: Path) -> bool:
    """Whether there is something to go on with, or of somebody's. Who was killed in the instant in which it began has
    left the key or the config of a sweep that never was: resume would not find it, so its name is free."""
    if not folder.exists():
        return False
    if (folder / _SWEEP).is_file():
        return True
    left = {path.name for path in folder.iterdir() if not path.name.startswith(".")}
    return not left <= ({*_BEFORE, _FILE} if _LEDGER in left else _BEFORE)


def saved_experiment(home: Home, name: str) -> Experiment:
    """The experiment of an earlier run.

    Raises:
        ConfigError: there is no run of that name.
    """
    path = home.runs / name / _FILE
    if (home.runs / name / _SWEEP).is_file():
        raise ConfigError(f"{name!r} is a sweep, not a training run", where=str(home.runs), remedy="name a run")
    if not path.is_file():
        known = [p.parent.name for p in home.runs.glob(f"*/{_FILE}")]
        raise ConfigError(f"there is no run named {name!r}", where=str(home.runs), remedy=nearest(name, known))
    return Experiment.load(path)
