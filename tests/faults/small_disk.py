"""A disk of a few megabytes that a test fills: a tmpfs of its own, mounted by root."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True)
class Disk:
    root: Path

    @property
    def free(self) -> int:
        there = os.statvfs(self.root)
        return there.f_bavail * there.f_frsize

    def fill(self, *, leave: int = 0) -> None:
        """Write until so many bytes are free."""
        with (self.root / "ballast").open("ab", buffering=0) as file, contextlib.suppress(OSError):
            while (more := self.free - leave) > 0:
                file.write(b"\0" * min(more, 2**20))

    def clear(self) -> None:
        (self.root / "ballast").unlink()


@contextlib.contextmanager
def small_disk(root: Path, size_mb: int) -> Iterator[Disk]:
    """Mounted at ``root``, which is made. Skips the test where that cannot be done."""
    root.mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={size_mb}m", "vitray-test", str(root)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {done.stderr.strip() or 'mount failed'}")
    try:
        yield Disk(root)
    finally:
        subprocess.run(["umount", "-l", str(root)], check=False)
