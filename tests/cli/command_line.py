"""The command line as a person uses it, in this process or in one of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from vitray.cli import main


@dataclass
class Said:
    """What a command printed, its exit code and, in a process of its own, its processor seconds."""

    code: int
    out: str
    err: str
    cpu_s: float = 0.0


class Here:
    """Runs ``vitray ...`` in this process."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *words: str) -> Said:
        self._capsys.readouterr()
        with pytest.raises(SystemExit) as done:
            main(list(words))
        printed = self._capsys.readouterr()
        code = done.value.code
        assert isinstance(code, int)
        return Said(code, printed.out, printed.err)


def apart(*words: str, cwd: Path) -> Said:
    """Run ``vitray ...`` in a process of its own; processor time, since the tests share the machine."""
    process = subprocess.Popen(
        [sys.executable, "-m", "vitray.cli", *words], cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    out, err = process.communicate(timeout=120)
    return Said(process.returncode, out, err, _children_cpu_s())


_counted = 0.0


def _children_cpu_s() -> float:
    """Processor seconds of the children that ended since the last call."""
    global _counted
    times = os.times()
    before, _counted = _counted, times.children_user + times.children_system
    return _counted - before


def contents(folder: Path) -> dict[str, int]:
    """Every file below a folder, with its size."""
    return {str(p.relative_to(folder)): p.stat().st_size for p in sorted(folder.rglob("*")) if p.is_file()}
