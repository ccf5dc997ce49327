"""The scripts in ``jobs/`` by themselves, without a cluster."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from vitray import cli

JOBS = Path(__file__).parents[2] / "jobs"


@pytest.mark.parametrize("name", ["prepare", "train", "sweep", "predict"])
def test_a_script_is_its_command(name: str) -> None:
    done = subprocess.run([sys.executable, JOBS / f"{name}.py", "--help"], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert done.stdout.startswith("Usage:")
    assert (JOBS / f"{name}.py").read_text().lstrip("r").startswith('"""')
    assert {path.stem for path in JOBS.glob("*.py")} == {"prepare", "train", "sweep", "predict"}


def test_state_is_not_kept_in_rays_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sent = tmp_path / "runtime_resources" / "working_dir_files" / "_ray_pkg_1a0b"
    sent.mkdir(parents=True)
    monkeypatch.chdir(sent)
    monkeypatch.setattr(sys, "argv", ["jobs/train.py", "no.yaml"])
    for home, says in ((None, "would be lost"), (tmp_path / "home", "there is no such config file")):
        monkeypatch.delenv("VITRAY_HOME") if home is None else monkeypatch.setenv("VITRAY_HOME", str(home))
        with pytest.raises(SystemExit) as left:
            cli.run_as_job("train")
        assert left.value.code == 2
        assert says in capsys.readouterr().err
    assert not list(sent.iterdir())
