"""What a run says of the code it ran."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from vitray.train.provenance import of_ray_job, of_repository, provenance

GIT = ("git", "-c", "user.name=t", "-c", "user.email=t@t", "-c", "init.defaultBranch=main")


def git(folder: Path, *command: str) -> str:
    done = subprocess.run([*GIT, "-C", str(folder), *command], check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "code"
    folder.mkdir()
    git(folder, "init", "-q")
    (folder / "train.yaml").write_text("a: 1")
    git(folder, "add", ".")
    git(folder, "commit", "-q", "-m", "first")
    (folder / "results.txt").write_text("untracked files are not changes")
    return folder


@pytest.mark.parametrize("changed", [False, True])
def test_the_commit_and_whether_it_is_what_ran(repository: Path, changed: bool) -> None:
    if changed:
        (repository / "train.yaml").write_text("a: 2")
    tags = of_repository(repository)
    assert tags["mlflow.source.git.commit"] == git(repository, "rev-parse", "HEAD")
    assert tags["vitray.git_dirty"] == ("yes" if changed else "no")
    assert tags["mlflow.source.git.branch"] == "main"
    assert "mlflow.source.git.repoURL" not in tags


def test_outside_a_repository_nothing_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert of_repository(tmp_path) == {}
    of_repository.cache_clear()
    monkeypatch.setenv("PATH", str(tmp_path))  # nor where git is not installed
    assert of_repository(tmp_path) == {}


def test_packages_and_machine_are_there() -> None:
    tags = provenance()
    assert {"version.python", "version.torch", "version.ray", "version.mlflow", "vitray.machine"} <= set(tags)
    assert all(isinstance(value, str) and value for value in tags.values())
    assert of_ray_job() == {}  # this process is connected to none
