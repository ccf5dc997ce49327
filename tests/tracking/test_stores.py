"""The store that teams have, on good and bad days: PostgreSQL, ``mlflow server``, users, proxied artifacts."""

from __future__ import annotations

import contextlib
import itertools
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from bad_network import BadNetwork, first
from mlflow_server import ADMIN, ADMIN_PASSWORD, MlflowServer, Postgres, postgres
from mlflow_view import look

from vitray.cli import main
from vitray.errors import TrackingError
from vitray.home import Home
from vitray.tracking import MlflowTracker, ask_versions, registry
from vitray.tracking.access import check_access
from vitray.tracking.mlflow_client import connect

pytestmark = pytest.mark.slow
PASSWORDS = {"writer": "writers-own-secret", "reader": "readers-own-secret", ADMIN: ADMIN_PASSWORD}
Trackers = Callable[..., MlflowTracker]
As = Callable[[str | None], None]


@dataclass
class Stores:
    postgres: Postgres
    server: MlflowServer


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stores]:
    """One PostgreSQL, and on it one MLflow server with two users who are not administrators."""
    folder = tmp_path_factory.mktemp("stores")
    with postgres(folder) as database:
        server = MlflowServer(folder, database.database("mlflow"), database.database("users"))
        try:
            server.start()
            with pytest.MonkeyPatch.context() as patch:
                _become(patch, ADMIN)
                for name in ("writer", "reader"):
                    _users(server).create_user(name, PASSWORDS[name])
            yield Stores(database, server)
        finally:
            server.kill()


@pytest.fixture
def server(stores: Stores) -> MlflowServer:
    return stores.server


@pytest.fixture
def become(monkeypatch: pytest.MonkeyPatch) -> As:
    """Puts a user's credentials into the environment; None: those of nobody."""
    return lambda name: _become(monkeypatch, name)


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch, become: As) -> None:
    """A tenth of the usual pauses between two tries; and the credentials of a user who may write."""
    monkeypatch.setattr("vitray.tracking.uploader.BACKOFF_S", (0.05, 0.5))
    become("writer")


def _become(patch: pytest.MonkeyPatch, name: str | None) -> None:
    for variable in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN"):
        patch.delenv(variable, raising=False)
    if name is not None:
        patch.setenv("MLFLOW_TRACKING_USERNAME", name)
        patch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORDS[name])


def _users(server: MlflowServer) -> Any:
    from mlflow.server.auth.client import AuthServiceClient

    return AuthServiceClient(server.uri)


def start(tracker: MlflowTracker, run: str, parent: str | None = None) -> None:
    """Every test has an experiment of its own."""
    experiment = f"of {run.split('/')[0]}"
    tracker.start_run(run, name=run, experiment=experiment, params={"model.depth": 2}, tags={"a": "b"}, parent=parent)


def report(tracker: MlflowTracker, run: str, steps: range) -> None:
    for step in steps:
        tracker.log_metrics(run, {"loss": 1 / (step + 1), "accuracy": step / 1024}, step=step)


def points(steps: range) -> list[tuple[str, int, float]]:
    return [*[("accuracy", s, s / 1024) for s in steps], *[("loss", s, 1 / (s + 1)) for s in steps]]


def wait_for(caplog: pytest.LogCaptureFixture, text: str, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while text not in caplog.text:
        assert time.monotonic() < deadline, f"nobody said {text!r}"
        time.sleep(0.02)


def test_tracking_and_registry_behind_a_server_with_users(
    server: MlflowServer, new_tracker: Trackers, home: Path, package: Path, tmp_path: Path, become: As
) -> None:
    (tmp_path / "plot.txt").write_text("a plot")
    tracker = new_tracker(server.uri)
    start(tracker, "whole")
    start(tracker, "whole/t1", parent="whole")
    report(tracker, "whole/t1", range(1500))
    tracker.set_tags("whole/t1", {"é": "ü"})
    tracker.log_artifact("whole/t1", tmp_path / "plot.txt", "plots")
    tracker.end_run("whole/t1", "FINISHED")
    tracker.end_run("whole", "FINISHED")
    assert tracker.flush(60)
    views = look(server.uri)
    (above,), (view,) = views["whole"], views["whole/t1"]
    assert view.points == points(range(1500))
    assert (view.status, view.params, view.artifacts) == ("FINISHED", {"model.depth": "2"}, ["plots/plot.txt"])
    assert view.tags.items() >= {"a": "b", "é": "ü", "mlflow.parentRunId": above.run_id}.items()
    assert not (home / "artifacts").exists(), "the server keeps the files"

    given: dict[str, Any] = {
        "name": "whole",
        "package": package,
        "run": "whole/t1",
        "tags": {},
        "description": "Digits.",
    }
    assert registry.register_model(server.uri, **given) == 1
    assert registry.register_model(server.uri, **given) == 1
    assert registry.register_model(server.uri, **{**given, "run": "whole", "alias": "challenger"}) == 2
    assert [(v.version, v.aliases) for v in registry.list_models(server.uri, "whole")] == [
        (2, ("challenger",)),
        (1, ("champion",)),
    ]
    quick, thorough = ask_versions._quickly(server.uri, None), ask_versions._by_mlflow(server.uri, None)
    assert quick is not None
    assert sorted(quick, key=lambda v: v.uri) == sorted(thorough, key=lambda v: v.uri)
    assert registry.show_model(server.uri, "whole").description == "Digits."
    assert registry.set_alias(server.uri, "whole", 2, "champion").aliases == ("challenger", "champion")
    assert registry.resolve(server.uri, "models:/whole@champion").version == 2
    become("reader")  # everybody may read
    pulled = registry.download("models:/whole/1", tmp_path / "pulled", tracking_uri=server.uri)
    assert (pulled / "model.safetensors").read_bytes() == (package / "model.safetensors").read_bytes()
    with pytest.raises(TrackingError, match="the user 'reader' may not do this"):
        registry.set_alias(server.uri, "whole", 1, "champion")


def test_a_server_killed_midway(
    server: MlflowServer, new_tracker: Trackers, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "plot.txt").write_text("a plot")
    tracker = new_tracker(server.uri)
    start(tracker, "killed")
    start(tracker, "killed/t1", parent="killed")
    report(tracker, "killed/t1", range(40))
    assert tracker.flush(60)
    server.kill()
    try:
        report(tracker, "killed/t1", range(40, 80))
        wait_for(caplog, "takes no reports")
        start(tracker, "killed/t2", parent="killed")  # born while it is away
        report(tracker, "killed/t2", range(10))
        tracker.log_artifact("killed/t1", tmp_path / "plot.txt")
        (tmp_path / "plot.txt").unlink()
        tracker.end_run("killed/t2", "FINISHED")
        assert tracker.flush(0.5) is False
    finally:
        server.start()
    report(tracker, "killed/t1", range(80, 100))
    tracker.end_run("killed/t1", "FINISHED")
    assert tracker.flush(60)
    views = look(server.uri)
    (above,), (first_trial,), (second,) = views["killed"], views["killed/t1"], views["killed/t2"]
    assert first_trial.points == points(range(100))
    assert second.points == points(range(10))
    assert first_trial.artifacts == ["plot.txt"]
    assert first_trial.status == second.status == "FINISHED"
    assert second.tags["mlflow.parentRunId"] == above.run_id
    wait_for(caplog, "is back")
    assert caplog.text.count("takes no reports") == caplog.text.count("is back") == 1


def test_answers_that_get_lost_and_proxies_in_trouble(
    server: MlflowServer, new_tracker: Trackers, package: Path, tmp_path: Path
) -> None:
    """Of every kind of request that changes something the first is done and not heard of, the second meets an error."""
    (tmp_path / "plot.txt").write_text("a plot")
    seen: dict[str, int] = {}
    errors = itertools.cycle((503, 500, 502, 429))

    def rule(method: str, path: str) -> str | int | float:
        if method == "GET" or "/search" in path:
            return "pass"
        kind = f"{method} {'artifacts' if 'mlflow-artifacts' in path else path}"
        seen[kind] = seen.get(kind, 0) + 1
        return "lose" if seen[kind] == 1 else next(errors) if seen[kind] == 2 else "pass"

    with BadNetwork(server.port).running() as network:
        network.rule = rule
        tracker = new_tracker(network.uri)
        start(tracker, "lossy")
        start(tracker, "lossy/t1", parent="lossy")
        report(tracker, "lossy/t1", range(200))
        tracker.log_artifact("lossy/t1", tmp_path / "plot.txt")
        for run in ("lossy/t1", "lossy"):
            tracker.end_run(run, "FINISHED")
        assert tracker.flush(120)
        given: dict[str, Any] = {"name": "lossy", "package": package, "run": "lossy/t1", "tags": {}, "description": ""}
        version, tries = None, 0
        while version is None and tries < 100:  # as a person would: it may be said again until it is done
            tries += 1
            with contextlib.suppress(TrackingError):
                version = registry.register_model(network.uri, **given)
    assert len(seen) >= 10
    assert network.spoilt >= len(seen)
    views = look(server.uri)
    (view,) = views["lossy/t1"]
    assert view.points == points(range(200))
    assert (view.status, view.artifacts) == ("FINISHED", ["plot.txt"])
    assert len(views["lossy"]) == 1
    assert tries > 5
    assert [(v.version, v.aliases) for v in registry.list_models(server.uri, "lossy")] == [(version, ("champion",))]
    client = connect(server.uri)
    experiment = client.get_experiment_by_name("of lossy").experiment_id
    assert len(client.search_logged_models([experiment])) == 1


def test_a_slow_server_holds_nobody(server: MlflowServer, new_tracker: Trackers) -> None:
    with BadNetwork(server.port).running() as network:
        network.rule = lambda method, path: 0.1
        tracker = new_tracker(network.uri)
        start(tracker, "slow")
        report(tracker, "slow", range(200))
        assert not network.forwarded, "all is taken before the first answer"
        tracker.end_run("slow", "FINISHED")
        assert tracker.flush(60)
    (view,) = look(server.uri)["slow"]
    assert view.points == points(range(200))
    assert len([f for f in network.forwarded if "log-batch" in f]) < 12, "many reports a request"


def test_a_server_that_comes_back_empty_gets_the_run_anew(
    stores: Stores, server: MlflowServer, new_tracker: Trackers, caplog: pytest.LogCaptureFixture
) -> None:
    """To a user who is no administrator it says "forbidden", not "unknown"."""
    tracker = new_tracker(server.uri)
    start(tracker, "emptied")
    report(tracker, "emptied", range(50))
    assert tracker.flush(60)
    stores.postgres.run("TRUNCATE experiments CASCADE", "mlflow")
    report(tracker, "emptied", range(50, 70))
    tracker.end_run("emptied", "FINISHED")
    assert tracker.flush(60)
    (view,) = look(server.uri)["emptied"]
    assert (view.points, view.status, view.params) == (points(range(70)), "FINISHED", {"model.depth": "2"})
    assert caplog.text.count("lost run 'emptied'") == 1


def test_a_right_that_is_withdrawn_while_a_training_runs(
    server: MlflowServer, new_tracker: Trackers, become: As, caplog: pytest.LogCaptureFixture
) -> None:
    become(ADMIN)
    users, experiment = _users(server), connect(server.uri).create_experiment("of withdrawn")
    users.grant_user_permission("reader", "experiment", experiment, "EDIT")
    become("reader")
    tracker = new_tracker(server.uri)
    start(tracker, "withdrawn")
    report(tracker, "withdrawn", range(10))
    assert tracker.flush(60)
    become(ADMIN)
    users.revoke_user_permission("reader", "experiment", experiment)
    become("reader")
    report(tracker, "withdrawn", range(10, 20))
    tracker.end_run("withdrawn", "FINISHED")
    wait_for(caplog, "takes no reports (the user 'reader' may not")
    become(ADMIN)
    users.grant_user_permission("reader", "experiment", experiment, "EDIT")
    assert tracker.flush(60)
    (view,) = look(server.uri)["withdrawn"]
    assert (view.points, view.status) == (points(range(20)), "FINISHED")


CONFIG = """
data: {path: PATH}
model: {patch_size: 4, embed_dim: 16, depth: 1, num_heads: 2}
train: {epochs: 1}
cluster: {use_gpu: false}
search: {space: {model.depth: [1, 2]}, trials: 2}
tracking: {experiment: NAME}
"""


@dataclass
class Told:
    code: Any
    out: str
    err: str


@pytest.fixture
def vitray(
    server: MlflowServer,
    digits: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Callable[..., Told]:
    """Runs a command on the server, on a config that writes to ``experiment``."""

    def go(*words: str, experiment: str = "mine", uri: str = server.uri) -> Told:
        config = tmp_path / "config.yaml"
        config.write_text(CONFIG.replace("PATH", str(digits)).replace("NAME", experiment))
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        capsys.readouterr()
        with pytest.raises(SystemExit) as done:
            main([str(config) if word == "CONFIG" else word for word in words])
        printed = capsys.readouterr()
        return Told(done.value.code, printed.out, printed.err)

    return go


COMMANDS = [("models", "list"), ("train", "CONFIG"), ("sweep", "run", "CONFIG")]


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_credentials_that_are_missing_or_wrong_are_refused_at_once(
    words: tuple[str, ...], vitray: Callable[..., Told], become: As, server: MlflowServer, monkeypatch: Any
) -> None:
    become(None)
    told = vitray(*words)
    assert told.code == 2
    assert errors(told) == [
        f"error: {server.uri}: this MLflow server wants to know who you are",
        "  -> set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN",
    ]
    become("writer")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "a-wrong-guess")
    told = vitray(*words)
    assert told.code == 2
    assert errors(told)[0] == f"error: {server.uri}: this MLflow server does not accept the user 'writer'"
    assert "a-wrong-guess" not in told.err + told.out
    become(None)
    told = vitray(*words, uri=server.as_user("writer", "another-guess"))
    assert told.code == 2
    assert "does not accept the user 'writer'" in told.err
    assert "another-guess" not in told.err + told.out
    nothing_began()


def test_a_token_where_users_have_passwords(vitray: Callable[..., Told], become: As, monkeypatch: Any) -> None:
    become(None)
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "a-secret-token")
    told = vitray("models", "list")  # an error 500 of MLflow's
    assert told.code == 2
    assert "and no token" in told.err
    assert "a-secret-token" not in told.err + told.out


def test_credentials_in_the_address_work_and_are_not_shown(
    vitray: Callable[..., Told], become: As, server: MlflowServer
) -> None:
    become(None)
    uri = server.as_user("writer", PASSWORDS["writer"])
    for words in (("models", "list"), ("models", "list", "--output", "json"), ("models", "show", "nothing")):
        told = vitray(*words, uri=uri)
        assert told.code == (2 if "show" in words else 0)
        assert PASSWORDS["writer"] not in told.out + told.err
    check_access(uri, "in the address")
    assert connect(uri).get_experiment_by_name("in the address") is not None


def test_who_may_only_read_is_refused_before_anything_starts(
    vitray: Callable[..., Told], become: As, server: MlflowServer
) -> None:
    client = connect(server.uri)
    client.create_experiment("theirs")
    client.create_registered_model("theirs")
    become("reader")
    for words in (("train", "CONFIG"), ("sweep", "run", "CONFIG")):
        told = vitray(*words, experiment="theirs")
        assert told.code == 2
        assert errors(told) == [
            f"error: {server.uri}: the user 'reader' may not write to the experiment 'theirs'",
            "  -> ask for EDIT permission on it, or write to one of your own: tracking.experiment=NAME",
        ]
    told = vitray("sweep", "run", "CONFIG", "tracking.model=theirs", experiment="readers own")
    assert told.code == 2
    assert "the user 'reader' may not register versions of the model 'theirs'" in told.err
    nothing_began()
    assert vitray("models", "list").code == 0


def test_a_server_that_is_away_or_in_trouble_refuses_nobody(server: MlflowServer) -> None:
    with BadNetwork(server.port).running() as network:
        network.rule = first(100, "", 503)
        check_access(network.uri, "anything")
        assert network.spoilt
    began = time.monotonic()
    check_access(network.uri, "anything")  # nobody listens there any more
    assert time.monotonic() - began < 8


def errors(told: Told) -> list[str]:
    """The message, without what was noted before it; one alone, and no traceback."""
    assert "Traceback" not in told.err
    assert told.err.count("error: ") == 1
    return told.err[told.err.index("error: ") :].splitlines()


def nothing_began() -> None:
    assert not any("raylet" in p.name() for p in psutil.Process(os.getpid()).children(recursive=True))
    assert not Home.find().runs.exists()


def test_postgres_without_a_server(stores: Stores, new_tracker: Trackers, home: Path, package: Path) -> None:
    uri = stores.postgres.database("direct")
    tracker = new_tracker(uri)
    start(tracker, "direct")
    report(tracker, "direct", range(20))
    tracker.end_run("direct", "FINISHED")
    assert tracker.flush(60)
    (view,) = look(uri)["direct"]
    assert (view.points, view.status) == (points(range(20)), "FINISHED")
    given: dict[str, Any] = {"name": "direct", "package": package, "run": "direct", "tags": {}, "description": ""}
    assert registry.register_model(uri, **given) == registry.register_model(uri, **given) == 1
    (version,) = registry.list_models(uri)
    assert version.aliases == ("champion",)
    assert registry.download("models:/direct@champion", tracking_uri=uri).is_relative_to(home / "artifacts")
