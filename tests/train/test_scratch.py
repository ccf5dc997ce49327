"""Temporary folders of groups: nobody else's is touched, and none outlives its process for long."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from vitray.train.scratch import Scratch

_KILLED = """
import os, signal
from vitray.train.scratch import Scratch
print(Scratch().path, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def age(folder: Path) -> None:
    before = time.time() - 3600
    os.utime(folder, (before, before))


def test_what_a_killed_process_left_goes_with_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", _KILLED], env=environment, stdout=subprocess.PIPE, check=False)
    left = Path(done.stdout.decode().strip())
    held, other = Scratch(), tmp_path / "of-somebody-else"
    other.mkdir()
    assert left.is_dir(), "it may be about to be locked"
    for folder in (left, held.path, other):
        age(folder)

    new = Scratch()

    assert not left.exists()
    assert held.path.is_dir()
    assert other.is_dir()
    for scratch in (new, held):
        scratch.remove()
        scratch.remove()
    assert list(tmp_path.iterdir()) == [other]
