"""Row 12: MLflow is killed, slow, answers with errors, comes back empty: nothing is lost, nothing is there twice."""

from __future__ import annotations

import statistics
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from injections import full, injections, record
from mlflow_view import look
from tracking_faults import FAULTS, Service

from vitray.tracking import MlflowTracker

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
_STEP_S, _STEPS = 0.02, 50
_DRAIN_S = 120.0
_FEW = {"killed": 3, "failing": 1}  # in make test, for so many seconds


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with Service(tmp_path_factory.mktemp("mlflow") / "server").running() as service:
        yield service


class Sweep:
    """Three trials below a parent, one after the other, each with a report a step, as training makes them.

    The second one goes on until the fault is over.
    """

    def __init__(self, tracker: MlflowTracker, key: str) -> None:
        self.tracker, self.key = tracker, key
        self.taken: list[tuple[str, str, int, float]] = []
        self.report_s: list[float] = []
        self.second, self.over = threading.Event(), threading.Event()

    def run(self) -> None:
        self.tracker.start_run(self.key, name=self.key, experiment="digits", params={"a": 1}, tags={})
        for trial in range(3):
            run = f"{self.key}/t{trial}"
            self.tracker.start_run(
                run, name=f"t{trial}", experiment="digits", params={"depth": trial}, tags={"b": "c"}, parent=self.key
            )
            step = 0
            while step < _STEPS or (trial == 1 and not self.over.is_set()):
                step += 1
                self._report(run, step, {"loss": trial + 1 / step, "accuracy": step / 1e4})
                if trial == 1 and step == 5:
                    self.second.set()
            self.tracker.end_run(run, "FINISHED")
        self.tracker.end_run(self.key, "FINISHED")

    def _report(self, run: str, step: int, values: dict[str, float]) -> None:
        began = time.perf_counter()
        self.tracker.log_metrics(run, values, step=step)
        self.report_s.append(time.perf_counter() - began)
        self.taken += [(run, key, step, value) for key, value in values.items()]
        time.sleep(_STEP_S)


@pytest.mark.parametrize("name", list(FAULTS))
def test_an_outage_loses_nothing(name: str, service: Service, tmp_path: Path) -> None:
    if name not in _FEW and not full():
        pytest.skip("takes its time: make faults")  # emptied: see tests/tracking/test_again
    seconds = float(injections(whole=60, few=_FEW.get(name, 0)))
    tracker = MlflowTracker(service.uri, tmp_path / "spool", tmp_path / "artifacts", interval_s=0.2)
    sweep = Sweep(tracker, name)
    training = threading.Thread(target=sweep.run)
    try:
        training.start()
        assert sweep.second.wait(60)
        assert wait_for(lambda: has(service, f"{name}/t0")), "the first trial is over and delivered"
        spoilt = service.network.spoilt
        FAULTS[name](service, seconds)
        hit = service.network.spoilt > spoilt
        sweep.over.set()
        training.join()
        drained = time.perf_counter()
        whole = tracker.flush(_DRAIN_S)
        drained = time.perf_counter() - drained
    finally:
        sweep.over.set()
        training.join()
        tracker.close()
    assert hit, "it met the fault"
    views = {run: found for run, found in look(service.uri).items() if run.partition("/")[0] == name}
    found = [(run, key, step, value) for run, [view, *_] in views.items() for key, step, value in view.points]
    missing, doubled = Counter(sweep.taken) - Counter(found), Counter(found) - Counter(sweep.taken)
    runs = sorted((run, len(found), found[0].status) for run, found in views.items())
    one_each = runs == sorted((run, 1, "FINISHED") for run in (name, *(f"{name}/t{i}" for i in range(3))))
    parent = views[name][0].run_id if name in views else None
    tree = all(view.tags.get("mlflow.parentRunId") == parent for run, [view, *_] in views.items() if run != name)
    held = whole and not missing and not doubled and one_each and tree
    outcome = f"{name} for {seconds:.0f} s: {len(found):,} of {len(sweep.taken):,} points, {doubled.total()} twice"
    figures = {"median_report_us": statistics.median(sweep.report_s) * 1e6, "slowest_ms": max(sweep.report_s) * 1e3}
    record(12, outcome, held=held, fault=name, drained_s=drained, missing=missing.total(), **figures)
    assert whole
    assert not missing
    assert not doubled
    assert one_each, runs
    assert tree
    left = [path.name for path in (tmp_path / "spool").iterdir()]
    assert left == ["finished"]


def has(service: Service, run: str) -> bool:
    found = look(service.uri).get(run)
    return found is not None and found[0].status == "FINISHED" and len(found[0].points) == 2 * _STEPS


def wait_for(condition: Callable[[], bool]) -> bool:
    until = time.monotonic() + 60
    while time.monotonic() < until:
        if condition():
            return True
        time.sleep(0.1)
    return False
