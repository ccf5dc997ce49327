"""A sweep's names and its state on disk; needs no Ray."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitray.errors import ConfigError, nearest
from vitray.experiment import Experiment
from vitray.files import when_there_is_room, write_whole
from vitray.tracking.tracker import DatasetInput
from vitray.train.run import Run
from vitray.tune.keys import changed
from vitray.tune.ledger import is_running, read_records
from vitray.tune.plan import SweepPlan
from vitray.tune.record import TrialRecord

_FILE = "sweep.json"
_CONFIG = "experiment.yaml"
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sweep:
    """One sweep: a name for people, a key for the tracker, a folder for its state."""

    name: str
    key: str
    folder: Path
    plan: SweepPlan
    fingerprint: str
    dataset: DatasetInput | None = None

    @property
    def run(self) -> Run:
        """The sweep's own entry in the tracker, above its trials."""
        experiment = self.plan.experiment
        return Run(self.key, self.name, "sweep", self.folder, experiment, self.fingerprint, dataset=self.dataset)

    def experiment_of(self, record: TrialRecord) -> Experiment:
        """What a trial trains, as it stands now."""
        return changed(self.plan.experiment, record.values)

    def run_of(self, record: TrialRecord) -> Run:
        """A trial's entry in the tracker: below the sweep's, or, where it trains a trial anew, below that trial's."""
        kind = {"search": "trial"}.get(record.kind, record.kind)
        folder, experiment = trial_folder(self.folder, record), self.experiment_of(record)
        return self._run(record.name, kind, folder, experiment, self.key_of(record.of) if record.of else self.key)

    def unchanged(self, record: TrialRecord) -> Run:
        """The entry of a winner that is not trained anew, below its trial's: where its test score and pictures go."""
        return self._run("final", "final", self.folder / "final", self.experiment_of(record), self.key_of(record.name))

    def key_of(self, name: str) -> str:
        """A trial's key in the tracker."""
        return f"{self.key}/{name}"

    def _run(self, name: str, kind: str, folder: Path, experiment: Experiment, parent: str) -> Run:
        return Run(self.key_of(name), name, kind, folder, experiment, self.fingerprint, parent, self.dataset)


def trial_folder(sweep: Path, record: TrialRecord) -> Path:
    """Where a trial's checkpoints and config lie."""
    return sweep / record.name if record.kind == "final" else sweep / "trials" / record.name


@dataclass(frozen=True)
class SavedSweep:
    """A sweep as it lies on disk. ``status``: running, interrupted, done or failed; ``facts``: what it came to."""

    name: str
    folder: Path
    status: str
    time: float
    search: dict[str, Any]
    fingerprint: str
    facts: dict[str, Any]
    records: Sequence[TrialRecord]

    @property
    def experiment(self) -> Experiment:
        """The resolved experiment that it was begun with."""
        return Experiment.load(self.folder / _CONFIG)

    def describe(self) -> dict[str, Any]:
        """What ``vitray sweep list`` prints of it, as plain values."""
        states = [r.status for r in self.records if r.kind == "search"]
        counts = {state: states.count(state) for state in ("done", "stopped", "failed", "running", "pending")}
        return {"name": self.name, "status": self.status, "time": self.time, "trials": counts, **self.facts}


def write_state(sweep: Sweep, status: str, **facts: Any) -> None:
    """The sweep's state, replaced as a whole; what happened to its trials is in the ledger."""
    state = {
        "name": sweep.name,
        "status": status,
        "time": time.time(),
        "search": sweep.plan.search.model_dump(mode="json") | {"trials": len(sweep.plan.points)},
        "fingerprint": sweep.fingerprint,
        "facts": facts,
    }
    path, text = sweep.folder / _FILE, json.dumps(state, default=str)
    when_there_is_room(lambda: write_whole(path, text), path, len(text))


def is_sweep(folder: Path) -> bool:
    return (folder / _FILE).is_file()


def load_sweep(runs: Path, name: str) -> SavedSweep:
    """A sweep by its name.

    Raises:
        ConfigError: there is none of that name, or its state is damaged.
    """
    folder = runs / name
    if not is_sweep(folder):
        known = [path.parent.name for path in runs.glob(f"*/{_FILE}")]
        raise ConfigError(f"there is no sweep named {name!r}", where=str(runs), remedy=nearest(name, known))
    try:
        return _read(folder)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"is damaged: {error}", where=str(folder), remedy="start the sweep anew") from None


def list_sweeps(runs: Path) -> list[SavedSweep]:
    """The sweeps in a runs folder, newest first; their trials' records without the reports."""
    found = []
    for path in runs.glob(f"*/{_FILE}"):
        try:
            found.append(_read(path.parent, reports=False))
        except (OSError, ValueError, KeyError, TypeError):
            log.warning("%s is damaged, so its sweep is not listed", path)
    return sorted(found, key=lambda saved: -saved.time)


def _read(folder: Path, *, reports: bool = True) -> SavedSweep:
    state = json.loads((folder / _FILE).read_text())
    status = str(state["status"])
    if status == "running" and not is_running(folder):
        status = "interrupted"  # its process was killed
    return SavedSweep(
        str(state["name"]),
        folder,
        status,
        float(state["time"]),
        dict(state["search"]),
        str(state["fingerprint"]),
        dict(state["facts"]),
        read_records(folder, reports=reports),
    )
