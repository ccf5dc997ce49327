"""Delivery to a real store: killed at any point, replayed, refused, lost: always one run, every point once."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest
from mlflow_view import View, look

from vitray.tracking import MlflowTracker
from vitray.tracking.delivery import Delivery
from vitray.tracking.mlflow_client import connect
from vitray.tracking.server import Server, UnavailableError
from vitray.tracking.spool import Spool, folder_of

pytestmark = pytest.mark.slow

T = TypeVar("T")
RUN = "sweep/t1"
POINTS = sorted([("loss", step, 1 / (step + 1)) for step in range(6)] + [("acc", step, step / 8) for step in range(6)])


class KilledError(BaseException):
    """Stands for SIGKILL: nothing in the code under test may catch it."""


class MortalServer(Server):
    """The real server, whose n-th request meets its end: before it is sent, or before its answer arrives."""

    def __init__(self, *args: Any, ends_at: int, error: type[BaseException], after: bool) -> None:
        super().__init__(*args)
        self.left, self._error, self._after = ends_at, error, after

    def _ask(self, question: Callable[[Any], T]) -> T:
        self.left -= 1
        if self.left == -1 and not self._after:
            raise self._error
        answer = super()._ask(question)
        if self.left == -1:
            raise self._error
        return answer


def report(spool: Spool, home: Path) -> None:
    (home / "config.yaml").write_text("x: 1")
    spool.append(
        "start",
        {"run": RUN, "name": "t1", "experiment": "digits", "parent": None, "timestamp_ms": 1000}
        | {"params": {"depth": 4}, "tags": {"a": "b"}},
    )
    for step in range(6):
        values = {"loss": 1 / (step + 1), "acc": step / 8}
        spool.append("metrics", {"step": step, "timestamp_ms": 2000 + step, "values": values})
        if step == 2:
            spool.append("artifact", {"path": spool.keep_file(home / "config.yaml"), "folder": "plots"})
            spool.append("tags", {"tags": {"c": "d"}})
    spool.append("end", {"status": "FINISHED", "timestamp_ms": 9000})


def only(uri: str) -> View:
    views = look(uri)
    assert list(views) == [RUN]
    (view,) = views[RUN]
    return view


def deleted_runs(uri: str) -> int:
    from mlflow.entities import ViewType

    client = connect(uri)
    experiments = [e.experiment_id for e in client.search_experiments()]
    return len(client.search_runs(experiments, run_view_type=ViewType.DELETED_ONLY))


def check_whole(view: View) -> None:
    assert view.points == POINTS
    assert (view.status, view.params, view.artifacts) == ("FINISHED", {"depth": "4"}, ["plots/config.yaml"])
    assert view.tags.items() >= {"a": "b", "c": "d"}.items()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("error", "after"),
    [(KilledError, False), (KilledError, True), (UnavailableError, True)],
    ids=["killed before the request", "killed before the answer", "cut off before the answer"],
)
def test_an_end_at_any_request_leaves_one_whole_run(home: Path, error: type[BaseException], after: bool) -> None:
    requests = 0
    while True:  # one request more each time, until everything is delivered before the end comes
        store = home / f"store{requests}"
        store.mkdir()
        uri = f"sqlite:///{store}/mlflow.db"
        (store / "mlflow.db").write_bytes((home / "mlflow.db").read_bytes())
        spool = Spool(store / "spool" / "run")
        report(spool, store)
        server = MortalServer(uri, store / "artifacts", ends_at=requests, error=error, after=after)
        delivery = Delivery(RUN, spool, server)
        try:
            delivery.deliver()
        except UnavailableError:
            delivery.deliver()  # the same process, a moment later
        except KilledError:
            spool.close()
            spool = Spool(store / "spool" / "run")  # the next process
            if requests % 2:
                (spool.folder / "state.json").unlink(missing_ok=True)  # the state may be lost with the first
            delivery = Delivery(RUN, spool, Server(uri, store / "artifacts"))
            delivery.deliver()
        assert delivery.finished
        spool.remove()
        check_whole(only(uri))
        assert deleted_runs(uri) == 0  # found again, rather than made again and tidied away
        if server.left >= 0:
            break
        requests += 1
    assert requests > 8  # experiment, lookups, create, params, metrics, artifact, end: all were tried


def test_a_server_that_lost_the_run_gets_all_of_it_again(home: Path, uri: str, caplog: Any) -> None:
    spool = Spool(home / "spool" / "run")
    report(spool, home)
    spool.save_state(
        {"offset": spool.read(0)[0][4].end, "run_id": "0" * 32, "experiment": "digits", "high": {"loss": 3}}
    )
    Delivery(RUN, spool, Server(uri, home / "artifacts")).deliver()
    spool.remove()
    check_whole(only(uri))
    assert "lost run" in caplog.text


def test_what_mlflow_refuses_costs_only_itself(home: Path, uri: str, caplog: Any) -> None:
    spool = Spool(home / "spool" / "run")
    start = {"run": RUN, "name": "t1", "experiment": "digits", "timestamp_ms": 1, "params": {}, "tags": {}}
    spool.append("start", start)
    for step in range(3):
        spool.append("metrics", {"step": step, "timestamp_ms": 5, "values": {"good": 1.0, "b@d?!": 2.0}})
    spool.append("artifact", {"path": str(home / "gone.bin"), "folder": ""})
    spool.append("end", {"status": "FINISHED", "timestamp_ms": 9})
    delivery = Delivery(RUN, spool, Server(uri, home / "artifacts"))
    delivery.deliver()
    assert delivery.finished
    spool.remove()
    assert only(uri).points == [("good", step, 1.0) for step in range(3)]
    assert only(uri).status == "FINISHED"
    refused = [json.loads(line) for line in (home / "spool" / "refused.jsonl").read_text().splitlines()]
    assert len(refused) == 4  # three points and the file
    assert "gone.bin" in refused[-1]["reason"]
    assert caplog.text.count("MLflow refused") == 1


def test_twins_of_a_lost_request_become_one(home: Path, uri: str) -> None:
    client = connect(uri)
    experiment = client.create_experiment("digits", artifact_location=(home / "artifacts" / "digits").as_uri())
    for _ in range(3):
        client.create_run(experiment, tags={"vitray.run": RUN})
    spool = Spool(home / "spool" / "run")
    report(spool, home)
    Delivery(RUN, spool, Server(uri, home / "artifacts")).deliver()
    spool.remove()
    check_whole(only(uri))


def test_a_run_that_a_person_deleted_stays_deleted(home: Path, uri: str, new_tracker: Any, caplog: Any) -> None:
    tracker = new_tracker()
    tracker.start_run(RUN, name="t1", experiment="digits", params={}, tags={})
    tracker.log_metrics(RUN, {"loss": 1.0}, step=1)
    assert tracker.flush(30)
    connect(uri).delete_run(only(uri).run_id)
    tracker.log_metrics(RUN, {"loss": 0.5}, step=2)
    tracker.end_run(RUN, "FINISHED")
    assert tracker.flush(30)
    assert look(uri) == {}
    assert caplog.text.count("was deleted in MLflow") == 1
    tracker.start_run(RUN, name="t1", experiment="digits", params={}, tags={})  # unless it is begun anew
    tracker.log_metrics(RUN, {"loss": 1.0}, step=1)
    assert tracker.flush(30)
    assert only(uri).points == [("loss", 1, 1.0)]


def test_the_tree_is_shown_as_a_tree(uri: str, new_tracker: Any) -> None:
    tracker = new_tracker()
    for run, parent in (("s", None), ("s/t1", "s"), ("s/t1/final", "s/t1")):
        tracker.start_run(run, name=run, experiment="digits", params={}, tags={}, parent=parent)
    assert tracker.flush(30)
    views = {run: view for run, (view,) in look(uri).items()}
    assert views["s/t1"].tags["mlflow.parentRunId"] == views["s"].run_id
    assert views["s/t1/final"].tags["mlflow.parentRunId"] == views["s/t1"].run_id


VICTIM = """
import os, signal, sys
from pathlib import Path
from vitray.tracking import MlflowTracker
home, uri, last = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
tracker = MlflowTracker(uri, home / "spool", home / "artifacts", interval_s=0.01)
tracker.start_run("sweep/t1", name="t1", experiment="digits", params={"depth": 4}, tags={"a": "b"})
for step in range(last):
    tracker.log_metrics("sweep/t1", {"loss": 1 / (step + 1), "acc": step / 8}, step=step)
    if step == 1:
        assert tracker.flush(60)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow
def test_sigkill_then_resume_leaves_one_run(home: Path, uri: str, new_tracker: Callable[..., MlflowTracker]) -> None:
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
    done = subprocess.run([sys.executable, "-c", VICTIM, str(home), uri, "4"], env=environment, timeout=120)
    assert done.returncode == -signal.SIGKILL
    (home / "config.yaml").write_text("x: 1")
    tracker = new_tracker()
    tracker.start_run(RUN, name="t1", experiment="digits", params={"depth": 4}, tags={"a": "b", "c": "d"})
    for step in range(2, 6):  # from the last checkpoint on, some of it for the second time
        tracker.log_metrics(RUN, {"loss": 1 / (step + 1), "acc": step / 8}, step=step)
    tracker.log_artifact(RUN, home / "config.yaml", "plots")
    tracker.end_run(RUN, "FINISHED")
    assert tracker.flush(30)
    tracker.close()
    check_whole(only(uri))
    assert [path.name for path in (home / "spool").iterdir()] == ["finished"]  # delivered spools are compacted


def test_leftovers_of_a_dead_process_are_delivered_by_the_next(
    home: Path, uri: str, new_tracker: Callable[..., MlflowTracker]
) -> None:
    spool = Spool(folder_of(home / "spool", RUN))
    report(spool, home)
    spool.close()
    tracker = new_tracker()
    tracker.start_run("another", name="x", experiment="digits", params={}, tags={})
    deadline = 100
    while (home / "spool" / spool.folder.name).exists() and deadline:
        tracker.flush(0.2)
        deadline -= 1
    (view,) = look(uri)[RUN]
    check_whole(view)


def test_libraries_stay_quiet(caplog: Any, capfd: Any, new_tracker: Callable[..., MlflowTracker]) -> None:
    with caplog.at_level(logging.DEBUG, logger="vitray"):
        tracker = new_tracker()
        tracker.start_run(RUN, name="t1", experiment="digits", params={}, tags={})
        tracker.end_run(RUN, "FINISHED")
        assert tracker.flush(30)
        tracker.close()
    assert capfd.readouterr() == ("", "")
    assert not caplog.records
