"""Where state lives, and environment variables that are put back."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vitray.environment import environment
from vitray.home import Home


@pytest.fixture
def unnamed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VITRAY_HOME")


def test_the_named_home_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".vitray").mkdir()
    monkeypatch.setenv("VITRAY_HOME", str(tmp_path / "mine"))
    assert Home.find(tmp_path).root == tmp_path / "mine"


def test_a_tilde_and_a_relative_name_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("VITRAY_HOME", "~/state")
    assert Home.find().root == tmp_path / "state"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VITRAY_HOME", "state")
    assert Home.find().root == tmp_path / "state"


@pytest.mark.usefixtures("unnamed")
def test_the_nearest_home_upwards_is_taken(tmp_path: Path) -> None:
    (tmp_path / ".vitray").mkdir()
    inner = tmp_path / "project" / "deep"
    inner.mkdir(parents=True)
    assert Home.find(inner).root == tmp_path / ".vitray"
    (tmp_path / "project" / ".vitray").mkdir()
    assert Home.find(inner).root == tmp_path / "project" / ".vitray"
    (inner / ".vitray").write_text("a file is no home")
    assert Home.find(inner).root == tmp_path / "project" / ".vitray"


@pytest.mark.parametrize("named", [None, ""])
def test_without_any_home_a_new_one_is_here_and_not_yet_made(
    named: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("VITRAY_HOME")
    if named is not None:
        monkeypatch.setenv("VITRAY_HOME", named)
    monkeypatch.chdir(tmp_path)
    assert Home.find().root == tmp_path / ".vitray"
    assert list(tmp_path.iterdir()) == []


def test_everything_lies_below_the_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = Home(tmp_path)
    for folder in (home.database, home.artifacts, home.runs, home.spool, home.data):
        assert folder.parent == tmp_path
    assert home.tracking_uri == f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://server:5000")
    assert home.tracking_uri == "http://server:5000"


def test_the_environment_comes_back_also_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VITRAY_TEST_OLD", "before")
    before = dict(os.environ)

    def fail_inside() -> None:
        with environment(VITRAY_TEST_OLD="inside", VITRAY_TEST_NEW="inside"):
            assert os.environ["VITRAY_TEST_OLD"] == os.environ["VITRAY_TEST_NEW"] == "inside"
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_inside()
    assert dict(os.environ) == before
