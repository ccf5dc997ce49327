"""A sweep's memory on disk: one line for everything that happened to its trials, only ever appended to.

The records of the trials are a fold over it, while the sweep runs and after a restart alike, so that what was known
when the driver died is what is known when it comes back. Lines reach the operating system before anything follows
from them; they survive the death of the process, not a power cut. A torn last line is dropped.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from vitray.errors import ConfigError
from vitray.files import when_there_is_room
from vitray.tune.record import TrialRecord

FILE = "ledger.jsonl"
_LOCK = "lock"
_REPORT = b'{"event": "report"'  # how append() begins such a line


class Ledger:
    """The open ledger of a sweep that runs. One process at a time has it.

    ``past``: the trials' indices, one for each report that earlier processes wrote, in the order in which they came.

    Raises:
        ConfigError: another process runs this sweep.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = (folder / _LOCK).open("a")
        if not _take(self._lock.fileno()):
            self._lock.close()
            raise ConfigError(
                "is running in another process", where=folder.name, remedy="wait for it, or stop it with Ctrl-C"
            )
        path = folder / FILE
        self.records, self.past, whole = _fold(path)
        self._path, self._size = path, whole
        self._file = path.open("ab", buffering=0)
        self._file.truncate(whole)

    def append(self, event: str, index: int, **facts: Any) -> TrialRecord:
        """Write an event of a trial and apply it to its record; ``at`` is now unless given.

        On a full disk it waits for room: what is not written down must not be acted upon.
        """
        line = json.dumps({"event": event, "index": index, "at": time.time(), **facts}, default=str)
        data = line.encode() + b"\n"
        when_there_is_room(lambda: self._write(data), self._path, len(data))
        return _apply(self.records, json.loads(line))  # as it will be read: a tuple comes back as a list

    def _write(self, data: bytes) -> None:
        try:
            if self._file.write(data) != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            self._file.truncate(self._size)  # half a line would hide those after it
            raise
        self._size += len(data)

    def close(self) -> None:
        """Let another process have it."""
        self._file.close()
        self._lock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def read_records(folder: Path, *, reports: bool = True) -> list[TrialRecord]:
    """What is known of a sweep's trials, by index; an empty list where nothing began.

    ``reports=False`` leaves out what they reported, which is nearly all of a ledger: states alone are read ten times
    as fast.
    """
    return list(_fold(folder / FILE, reports=reports)[0].values())


def is_running(folder: Path) -> bool:
    """Whether a process of this machine has the ledger open."""
    try:
        with (folder / _LOCK).open("a") as lock:
            return not _take(lock.fileno())
    except OSError:
        return False


def _fold(path: Path, *, reports: bool = True) -> tuple[dict[int, TrialRecord], list[int], int]:
    """The records, whose reports came one after the other, and how many bytes of the file are whole lines."""
    records: dict[int, TrialRecord] = {}
    order, whole = [], 0
    for line, event in _lines(path, skip=b"" if reports else _REPORT):
        record = _apply(records, event)
        if event["event"] == "report":
            order.append(record.index)
        whole += len(line)
    return records, order, whole


def _lines(path: Path, skip: bytes = b"") -> Iterator[tuple[bytes, Mapping[str, Any]]]:
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return
    with file:
        for line in file:
            if skip and line.startswith(skip):
                continue
            try:
                event = json.loads(line) if line.endswith(b"\n") else None
            except ValueError:
                event = None
            if not isinstance(event, dict):
                return  # torn: the process died while it wrote
            yield line, event


def _apply(records: dict[int, TrialRecord], event: Mapping[str, Any]) -> TrialRecord:
    index = int(event["index"])
    if event["event"] == "trial":
        repeats = event.get("repeats")
        records[index] = TrialRecord(
            index,
            event["name"],
            event["point"],
            kind=event.get("kind", "search"),
            repeats=repeats,
            of=records[repeats].name if repeats in records else None,
            values=event["values"],
        )
    else:
        records[index].apply(event)
    return records[index]


def _take(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    os.set_inheritable(descriptor, False)
    return True
