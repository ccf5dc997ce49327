"""A ledger on a full disk waits for room, and has every event once and whole."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from vitray.tune.ledger import FILE, Ledger, read_records


class FullDisk:
    """A ledger's file whose disk takes half of a line, then nothing for a while."""

    def __init__(self, file: Any, refusals: int) -> None:
        self._file, self._refusals = file, refusals
        self.refused = threading.Event()

    def write(self, data: bytes) -> int:
        if not self._refusals:
            return int(self._file.write(data))
        self._refusals -= 1
        self.refused.set()
        if self._refusals % 2:
            return int(self._file.write(data[: len(data) // 2]))
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def test_it_waits_for_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr("vitray.files._AGAIN_S", 0.01)
    with Ledger(tmp_path) as ledger:
        ledger.append("trial", 0, name="a", point={}, values={})
        disk = FullDisk(ledger._file, refusals=5)
        monkeypatch.setattr(ledger, "_file", disk)
        ledger.append("begin", 0)
        ledger.append("report", 0, epoch=1, metrics={"val/loss": 0.5})
        assert disk.refused.is_set()
    lines = (tmp_path / FILE).read_bytes().splitlines()
    assert len(lines) == 3
    [record] = read_records(tmp_path)
    assert (record.status, record.epoch) == ("running", 1)
    assert caplog.text.count("the disk is full") == 1
    assert caplog.text.count("there is room again") == 1


def test_another_failure_is_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Ledger(tmp_path) as ledger:
        ledger.append("trial", 0, name="a", point={}, values={})

        def broken(data: bytes) -> int:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        disk = FullDisk(ledger._file, refusals=0)
        monkeypatch.setattr(disk, "write", broken)
        monkeypatch.setattr(ledger, "_file", disk)
        with pytest.raises(OSError, match="Input/output"):
            ledger.append("begin", 0)
