"""What MLflow has of a sweep in the end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from vitray.tracking.mlflow_client import connect
from vitray.tune.record import TrialRecord

KEYS = ("train/loss", "train/accuracy", "val/loss", "val/accuracy", "lr")


@dataclass
class Tracked:
    """``runs``: how many of each name; ``points``: (run, key, step, value), doubles included."""

    runs: Counter[str] = field(default_factory=Counter)
    statuses: Counter[str] = field(default_factory=Counter)
    points: list[tuple[str, str, int, float]] = field(default_factory=list)

    @classmethod
    def of(cls, uri: str, experiment: str) -> Tracked:
        client, found = connect(uri), cls()
        known = client.get_experiment_by_name(experiment)
        for run in client.search_runs([known.experiment_id], max_results=1000) if known else []:
            name = run.info.run_name
            found.runs[name] += 1
            found.statuses[run.info.status] += 1
            for key in KEYS:
                if key in run.data.metrics:
                    history = client.get_metric_history(run.info.run_id, key)
                    found.points += [(name, key, point.step, point.value) for point in history]
        return found

    def wrong(self, sweep: str, records: Sequence[TrialRecord]) -> list[str]:
        """What is missing, there twice, or not what was reported; nothing where all is well."""
        names = {sweep, *(r.name for r in records if r.spans)}
        said = [f"{count} runs named {name}" for name, count in self.runs.items() if count > 1]
        said += [f"no run named {name}" for name in names - self.runs.keys()]
        said += [f"a run named {name}, which is no trial" for name in self.runs.keys() - names]
        if self.statuses["RUNNING"]:
            said.append(f"{self.statuses['RUNNING']} runs are RUNNING")
        expected = Counter(
            (r.name, key, int(report["epoch"]), report[key])
            for r in records
            for report in r.reports
            for key in KEYS
            if key in report
        )
        found = Counter(self.points)
        said += [f"missing: {point}" for point in list((expected - found).elements())[:5]]
        said += [f"too many: {point}" for point in list((found - expected).elements())[:5]]
        return said
