"""What of this machine a job is sent with, where the cluster is this machine and where it is another."""

from __future__ import annotations

from pathlib import Path

import pytest

from vitray.cluster.job_paths import seen_path, seen_tracking
from vitray.cluster.job_secrets import parse_variables, refuse_secrets
from vitray.cluster.job_state import HOME_ELSE, state_notes, state_variables
from vitray.errors import ConfigError


@pytest.fixture(autouse=True)
def _somewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("VITRAY_HOME")


def test_paths_are_made_absolute_here_and_must_be_so_elsewhere(tmp_path: Path) -> None:
    def seen(text: str, *, here: bool) -> str:
        return seen_path(text, where="data.path", here=here, remedy="put it on s3://")

    assert seen("ds", here=True) == str(tmp_path / "ds")
    for text in ("/shared/ds", "s3://bucket/ds", "builtin:digits", "models:/digits@champion"):
        assert seen(text, here=True) == seen(text, here=False) == text
    for text in ("ds", "../ds", "~/ds", "./ds"):
        with pytest.raises(ConfigError, match="is on this machine, and the cluster is another") as refused:
            seen(text, here=False)
        assert "put it on s3://" in str(refused.value)


@pytest.mark.parametrize(
    "uri",
    [
        "http://127.0.0.1:5000",
        "http://localhost:5000",
        "sqlite:///mlflow.db",
        "sqlite:////a/b.db",
        "file:///a",
        "mlruns",
    ],
)
def test_a_tracking_store_of_this_machine_is_for_this_machine(uri: str) -> None:
    assert seen_tracking(uri, where="MLFLOW_TRACKING_URI", here=True)
    with pytest.raises(ConfigError, match="--tracking-uri"):
        seen_tracking(uri, where="MLFLOW_TRACKING_URI", here=False)
    for elsewhere in ("https://mlflow.example.invalid", "http://192.0.2.7:5000", "postgresql://db.invalid/mlflow"):
        assert seen_tracking(elsewhere, where="MLFLOW_TRACKING_URI", here=False) == elsewhere


def test_a_relative_database_is_this_folders(tmp_path: Path) -> None:
    assert seen_tracking("sqlite:///m.db", where="", here=True) == f"sqlite:///{tmp_path}/m.db"


def test_state_is_the_clusters_own_unless_somebody_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def sent(*, here: bool, home: str | None = None, uri: str | None = None) -> dict[str, str]:
        found = state_variables(here=here, home=home, tracking_uri=uri, stop_s=90)
        assert found.pop("RAY_JOB_STOP_SIGNAL") == "SIGINT"
        assert found.pop("RAY_JOB_STOP_WAIT_TIME_S") == "90"
        return found

    assert sent(here=False) == {}
    assert sent(here=True) == {HOME_ELSE: str(tmp_path / ".vitray")}
    assert sent(here=False, home="/shared") == sent(here=True, home="/shared") == {"VITRAY_HOME": "/shared"}
    assert sent(here=True, home="h") == {"VITRAY_HOME": str(tmp_path / "h")}
    with pytest.raises(ConfigError, match="--home"):
        sent(here=False, home="h")
    # What is asked for may be a name that means something on the cluster alone.
    assert sent(here=False, uri="http://127.0.0.1:5000") == {"MLFLOW_TRACKING_URI": "http://127.0.0.1:5000"}
    monkeypatch.setenv("VITRAY_HOME", "own")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    assert sent(here=True) == {"VITRAY_HOME": str(tmp_path / "own"), "MLFLOW_TRACKING_URI": "http://127.0.0.1:5000"}
    with pytest.raises(ConfigError, match="is set for this machine") as refused:
        sent(here=False)
    assert "--home own" in str(refused.value)
    with pytest.raises(ConfigError, match="loopback"):
        sent(here=False, home="/shared")


def test_credentials_stay_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://mlflow.example.invalid")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "planted-secret")
    monkeypatch.setenv("NCCL_DEBUG", "INFO")
    sent = state_variables(here=False, home=None, tracking_uri=None, stop_s=1)
    assert "planted-secret" not in str(sent)
    (told,) = state_notes(sent)
    assert told.startswith("MLFLOW_TRACKING_PASSWORD stay here")
    assert parse_variables(("NCCL_DEBUG", "A=b=c")) == {"NCCL_DEBUG": "INFO", "A": "b=c"}
    for word in ("AWS_SECRET_ACCESS_KEY=planted", "MLFLOW_TRACKING_PASSWORD", "A=planted-secret", "B=s3://a:planted@b"):
        with pytest.raises(ConfigError, match="credential") as refused:
            parse_variables((word,))
        assert "planted" not in str(refused.value)
        assert "environment of the cluster's nodes" in str(refused.value)
    with pytest.raises(ConfigError, match="is not set here"):
        parse_variables(("NOT_SET_ANYWHERE",))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:planted@h.invalid")
    with pytest.raises(ConfigError, match="MLFLOW_TRACKING_URI: holds a credential"):
        state_variables(here=True, home=None, tracking_uri=None, stop_s=1)
    monkeypatch.setenv("POSTGRES_PASSWORD", "vitray")  # a word that is in paths and commands anyway
    refuse_secrets({"nothing": "here", "a path": "/srv/vitray"})
