"""Processes that a test has to end itself."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable

import psutil


def kill_all(processes: Iterable[psutil.Process]) -> None:
    """SIGKILL them. One that has ended since it was listed, maybe because another of them has died, is no failure."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
