"""What a job is refused for before it is sent: secrets in its config, and changes to a run that goes on."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

from vitray.cli.jobs_submit import submit
from vitray.cluster import job_client, jobs
from vitray.cluster.job_client import Dashboard
from vitray.cluster.job_request import Request, Target, training
from vitray.cluster.job_room import Nodes
from vitray.errors import ConfigError
from vitray.train.resources import Room

ROOM: Room = {"cpus": 3, "gpus": 0, "node_cpus": None, "node_memory": None, "gpu_memory": None}
TARGET = Target(Dashboard("http://head:8265"), Nodes(ROOM, 1, scales=False, here=False))
SMALL = "cluster: {use_gpu: false}\n"


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("VITRAY_HOME", raising=False)
    (tmp_path / "c.yaml").write_text(f"data: {{path: builtin:digits}}\n{SMALL}")


@pytest.mark.parametrize("uri", ["s3://me:planted-1@host/ds", "s3://bucket/ds?secret_key=planted-1"])
@pytest.mark.parametrize("resume", [None, "first"])
def test_a_config_with_a_credential_is_not_sent(tmp_path: Path, uri: str, resume: str | None) -> None:
    (tmp_path / "s.yaml").write_text(f"data: {{path: '{uri}'}}\n{SMALL}")
    for config, overrides in (("s.yaml", []), ("c.yaml", [f"data.path={uri}"])):
        if overrides and resume:
            continue
        with pytest.raises(ConfigError, match=r"^data\.path: holds a credential") as refused:
            training("train", TARGET, config, overrides, resume=resume)
        assert "planted" not in str(refused.value)
        assert "environment of the cluster's nodes" in str(refused.value)


def test_a_secret_of_the_environment_is_found_in_any_depth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "planted-secret-token")
    (tmp_path / "s.yaml").write_text(
        f"data: {{path: builtin:digits}}\ntracking: {{experiment: x-planted-secret-token}}\n{SMALL}"
    )
    with pytest.raises(ConfigError, match=r"tracking\.experiment: holds a credential") as refused:
        training("train", TARGET, "s.yaml", [])
    assert "planted" not in str(refused.value)


@pytest.mark.parametrize("config", [None, "c.yaml"])
def test_a_training_goes_on_as_it_was_begun(config: str | None) -> None:
    with pytest.raises(ConfigError, match=r"goes on as it was begun, and not with train\.epochs=50"):
        training("train", TARGET, config, ["train.epochs=50"], resume="first")
    assert training("train", TARGET, config, [], resume="first").words[:3] == ["train", "--resume", "first"]
    assert training("sweep", TARGET, None, ["search.trials=9"], resume="first").words[-1] == "search.trials=9"


@pytest.fixture
def submitted(monkeypatch: pytest.MonkeyPatch) -> list[Request]:
    """What would have been submitted to a cluster elsewhere, by the command line."""
    sent: list[Request] = []

    def take(_: Dashboard, request: Request, **__: Any) -> SimpleNamespace:
        sent.append(request)
        return SimpleNamespace(id="j", sent=[])

    monkeypatch.setattr(job_client, "find_dashboard", lambda _: TARGET.dashboard)
    monkeypatch.setattr(Target, "of", classmethod(lambda cls, *_: TARGET))
    monkeypatch.setattr(Target, "notes", [])
    monkeypatch.setattr(jobs, "submit", take)
    return sent


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("train", "--resume", "first", "train.epochs=50"), "goes on as it was begun, and not with train.epochs=50"),
        (("train", "--resume", "first", "c.yaml", "train.epochs=50"), "goes on as it was begun"),
        (("train", "--resume", "first", "--worker-gpus", "2"), "goes on as it was begun, and not with cluster.workers"),
        (("train", "--resume", "first", "--name", "x"), "--name x: a run that goes on keeps its name"),
        (("sweep", "--resume", "first", "--name", "x"), "--name x: a run that goes on keeps its name"),
    ],
)
def test_what_a_resumed_run_cannot_take_is_not_dropped(
    submitted: list[Request], words: tuple[str, ...], says: str
) -> None:
    done = CliRunner().invoke(submit, words)
    assert isinstance(done.exception, ConfigError)
    assert says in str(done.exception)
    assert not submitted


def test_the_options_of_a_submission_are_kept_for_whoever_goes_on(
    submitted: list[Request], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NCCL_DEBUG", "INFO")
    words = ("--home", "/my home", "--env", "NCCL_DEBUG", "--env", "A=b", "--stop-s", "9", "--installed")
    assert CliRunner().invoke(submit, ("train", "c.yaml", *words)).exit_code == 0
    assert CliRunner().invoke(submit, ("train", "c.yaml")).exit_code == 0
    assert submitted[0].metadata[jobs.OPTIONS] == (
        "--home '/my home' --env NCCL_DEBUG=INFO --env A=b --stop-s 9 --installed"
    )
    assert jobs.OPTIONS not in submitted[1].metadata
