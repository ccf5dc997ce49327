"""A sweep's names and its state on disk; needs no Ray."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vitray.train.run import Run
from vitray.tune.plan import SweepPlan
from vitray.tune.record import TrialRecord

_FILE = "sweep.json"
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sweep:
    """One sweep: a name for people, a key for the tracker, a folder for its state."""

    name: str
    key: str
    folder: Path
    plan: SweepPlan
    fingerprint: str

    @property
    def run(self) -> Run:
        """The sweep's own entry in the tracker, above its trials."""
        return Run(self.key, self.name, "sweep", self.folder, self.plan.experiment, self.fingerprint)

    def trial_run(self, index: int) -> Run:
        name = self.plan.trial_name(index)
        folder = self.folder / "trials" / name
        return Run(f"{self.key}/{name}", name, "trial", folder, self.plan.trial(index), self.fingerprint, self.key)


def write_state(sweep: Sweep, records: Sequence[TrialRecord], status: str, **facts: Any) -> None:
    """The sweep's state for `vitray sweep list`, replaced as a whole."""
    state = {
        "name": sweep.name,
        "key": sweep.key,
        "status": status,
        "time": time.time(),
        "search": sweep.plan.search.model_dump(mode="json"),
        "trials": [asdict(record) for record in records],
        **facts,
    }
    temporary = sweep.folder / (_FILE + ".tmp")
    temporary.write_text(json.dumps(state, default=str))
    temporary.replace(sweep.folder / _FILE)


def list_sweeps(runs: Path) -> list[dict[str, Any]]:
    """The states of the sweeps in a runs folder, newest first."""
    states = []
    for path in runs.glob(f"*/{_FILE}"):
        try:
            state = json.loads(path.read_text())
            states.append((float(state["time"]), state))
        except (OSError, ValueError, KeyError, TypeError):
            log.warning("%s is damaged, so its sweep is not listed", path)
    return [state for _, state in sorted(states, key=lambda known: -known[0])]
