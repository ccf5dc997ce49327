"""What a run reported, on disk before anything else happens: one append-only file a run.

A line is JSON that ends in its own checksum: ``{"seq":7,"kind":"metrics",...,"crc":"1c2f00aa"}``, the CRC-32 of the
text before ``,"crc"``. A report counts as taken when ``append`` returns: the line is in the kernel by then and
survives the death of this process. ``sync`` puts it on the disk, where it survives the machine; the tracker calls it
every fifth of a second while there is something new, and at once for what happens once a run (start, tags,
artifacts, end), because an fsync for every step would cost milliseconds each.

A power cut may tear the last lines; they are recognised by their checksum and cut off when the file is opened
again. A damaged line elsewhere is skipped: each line stands for itself.

Small artifacts (up to 64 MiB) and anything below the temporary folder are copied beside the file, so that they can
change or vanish afterwards; larger ones are remembered by path and must stay until they are delivered.

Once a run has ended and is delivered, its file is compacted: ``finished/NAME.jsonl.gz``, without the copies. A server
that lost runs (a disk, an old backup) is given them again from there: ``vitray track sync --again``.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import gzip
import hashlib
import json
import os
import re
import shutil
import tempfile
import threading
import time
import zlib
from pathlib import Path
from typing import Any, NamedTuple

from vitray.errors import TrackingError

COPY_LIMIT_BYTES = 64 * 2**20
FINISHED, ENDING = "finished", ".jsonl.gz"  # the folder of compacted spools, and how their names end
AGAIN = ".again"  # the end of a folder that a compacted spool is laid out in, to be sent again
_GONE = ".gone-"
_LOG, _STATE, _FILES = "log.jsonl", "state.json", "files"
_SUFFIX = re.compile(rb',"crc":"([0-9a-f]{8})"\}$')
_SUFFIX_LENGTH = len(',"crc":"00000000"}')


class Record(NamedTuple):
    """One line: its number, its kind, its content, and the file offset just behind it."""

    seq: int
    kind: str
    body: dict[str, Any]
    end: int


def encode(seq: int, kind: str, body: dict[str, Any]) -> bytes:
    """The line of one record, newline included."""
    text = json.dumps({"seq": seq, "kind": kind, **body}, separators=(",", ":"), default=str).encode()[:-1]
    return text + b',"crc":"%08x"}\n' % zlib.crc32(text)


def decode(line: bytes) -> dict[str, Any] | None:
    """The content of one line without its newline; None when the checksum says that it is not what was written."""
    found = _SUFFIX.search(line[-_SUFFIX_LENGTH:])
    if not found or zlib.crc32(line[:-_SUFFIX_LENGTH]) != int(found[1], 16):
        return None
    content: dict[str, Any] = json.loads(line)
    return content


def folder_of(root: Path, run: str) -> Path:
    """Where a run's spool lies: a readable name, and enough of a hash to keep apart keys that read alike."""
    readable = re.sub(r"[^A-Za-z0-9._-]+", "-", run).strip("-.")[:60] or "run"
    return root / f"{readable}-{hashlib.sha256(run.encode()).hexdigest()[:10]}"


def compacted_file(folder: Path) -> Path:
    """Where the spool in ``folder`` is compacted to."""
    return folder.parent / FINISHED / f"{folder.name}{ENDING}"


class Spool:
    """One run's file, held open and locked by one process at a time. Thread-safe.

    ``store`` is the MLflow address that the run was last started for, as far as the file says.

    Raises (on opening):
        TrackingError: another living process reports to the same run.
    """

    def __init__(self, folder: Path, *, wait_s: float = 5.0) -> None:
        self.folder = folder
        self._lock = threading.Lock()
        self.store: str | None = None
        self._fd = self._open_locked(wait_s)
        self._size, self._seq, self.damaged = self._scan()
        os.ftruncate(self._fd, self._size)
        if self._size == 0:  # what is said of another file, which is gone, must not be believed of this one
            (folder / _STATE).unlink(missing_ok=True)
        self._dirty = False

    def _open_locked(self, wait_s: float) -> int:
        deadline = time.monotonic() + wait_s
        path = self.folder / _LOG
        while True:
            self.folder.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileNotFoundError):  # its last owner may be removing the folder just now
                fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    if os.fstat(fd).st_ino == path.stat().st_ino:
                        return fd
                except BlockingIOError:
                    pass
                except BaseException:
                    os.close(fd)
                    raise
                os.close(fd)
            if time.monotonic() >= deadline:
                raise TrackingError(
                    "another process is reporting to this run",
                    where=str(path),
                    remedy="wait for it or stop it; two trainings of one run would spoil each other's record",
                )
            time.sleep(0.02)

    def _scan(self) -> tuple[int, int, int]:
        """(bytes up to the last good line, its number, damaged lines before it)."""
        good, seq, damaged, bad, position = 0, 0, 0, 0, 0
        with os.fdopen(os.dup(self._fd), "rb") as file:
            file.seek(0)
            for line in file:
                position += len(line)
                content = decode(line[:-1]) if line.endswith(b"\n") else None
                if content is None:
                    bad += 1
                else:
                    good, seq, damaged = position, int(content["seq"]), bad
                    if content["kind"] == "start":
                        self.store = content.get("store", self.store)
        return good, seq, damaged

    @property
    def size(self) -> int:
        """Bytes taken so far."""
        return self._size

    def append(self, kind: str, body: dict[str, Any], *, durable: bool = False) -> None:
        """Take one record; with ``durable`` it is on the disk when this returns.

        Raises:
            OSError: the disk is full or gone; nothing of the record stays behind.
        """
        with self._lock:
            line = encode(self._seq + 1, kind, body)
            try:
                written = os.pwrite(self._fd, line, self._size)
                if written != len(line):
                    raise OSError(errno.ENOSPC, "no space left for a whole record", str(self.folder / _LOG))
            except OSError:
                with contextlib.suppress(OSError):
                    os.ftruncate(self._fd, self._size)  # half a line would spoil the one after it
                raise
            self._seq += 1
            self._size += len(line)
            self._dirty = True
        if durable:
            self.sync()

    def sync(self) -> None:
        """Put on the disk what is still in the kernel only."""
        with self._lock:
            dirty, self._dirty = self._dirty, False
        if dirty:
            os.fdatasync(self._fd)

    def keep_file(self, path: Path) -> str:
        """The path to upload an artifact from: a copy beside the spool where it is small or temporary."""
        temporary = path.is_relative_to(Path(tempfile.gettempdir()).resolve())
        files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
        if not temporary and sum(p.stat().st_size for p in files) > COPY_LIMIT_BYTES:
            return str(path)
        (self.folder / _FILES).mkdir(exist_ok=True)
        copy = Path(tempfile.mkdtemp(dir=self.folder / _FILES)) / path.name
        if path.is_file():
            shutil.copy2(path, copy)
        else:
            shutil.copytree(path, copy)
        return str(copy)

    def read(self, offset: int, *, max_bytes: int = 2**20) -> tuple[list[Record], int]:
        """Whole records from ``offset`` on, about ``max_bytes`` of them, and the offset where to go on."""
        size = self._size
        block = os.pread(self._fd, min(max_bytes, size - offset), offset) if size > offset else b""
        while block and b"\n" not in block and offset + len(block) < size:
            block += os.pread(self._fd, min(max_bytes, size - offset - len(block)), offset + len(block))
        block = block[: block.rfind(b"\n") + 1]
        records = []
        for line in block.splitlines(keepends=True):
            offset += len(line)
            if (content := decode(line[:-1])) is not None:
                seq, kind = content.pop("seq"), content.pop("kind")
                content.pop("crc")
                records.append(Record(seq, kind, content, offset))
        return records, offset

    def load_state(self) -> dict[str, Any]:
        """What the server has, as last saved; empty when nothing is known, which costs a harmless replay."""
        try:
            state = json.loads((self.folder / _STATE).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return state if isinstance(state, dict) and state.get("offset", 0) <= self._size else {}

    def save_state(self, state: dict[str, Any]) -> None:
        """Remember what the server has. Not synced: an older state only means that more is sent again."""
        part = self.folder / f"{_STATE}.part"
        part.write_text(json.dumps(state), encoding="utf-8")
        part.replace(self.folder / _STATE)

    def close(self) -> None:
        """Let go of the file and of its lock."""
        self.sync()
        os.close(self._fd)

    def compact(self) -> None:
        """Keep the lines of a run that is over and delivered in a compressed file, and delete the folder.

        A run that was compacted before (it was resumed) has its new lines added: gzip files may be joined.
        """
        kept = compacted_file(self.folder)
        kept.parent.mkdir(exist_ok=True)
        draft = kept.with_name(f".{kept.name}.draft")  # a kill or a full disk leaves the earlier file as it was
        before = kept.read_bytes() if kept.exists() else b""
        try:
            with draft.open("wb") as whole, os.fdopen(os.dup(self._fd), "rb") as file:
                file.seek(0)
                whole.write(before + gzip.compress(file.read(self._size), compresslevel=6, mtime=0))
                whole.flush()
                os.fsync(whole.fileno())
            draft.replace(kept)
        except BaseException:
            draft.unlink(missing_ok=True)
            raise
        self.remove()

    def remove(self) -> None:
        """Everything was delivered: delete the folder, at once for whoever looks, so that nobody finds half of it."""
        gone = self.folder.with_name(f"{_GONE}{self.folder.name}-{os.getpid()}")
        try:
            self.folder.rename(gone)
        except OSError:
            gone = self.folder
        shutil.rmtree(gone, ignore_errors=True)
        os.close(self._fd)

    def refill(self, lines: bytes) -> None:
        """Lay the lines of an earlier spool into this one, instead of what it holds.

        Raises:
            OSError: the disk is full or gone; the spool is empty then.
        """
        with self._lock:
            (self.folder / _STATE).unlink(missing_ok=True)
            try:
                os.ftruncate(self._fd, 0)
                done = 0
                while done < len(lines):
                    written = os.pwrite(self._fd, lines[done:], done)
                    if not written:
                        raise OSError(errno.ENOSPC, "no space left for all of a run", str(self.folder / _LOG))
                    done += written
                os.fdatasync(self._fd)
            except OSError:
                with contextlib.suppress(OSError):
                    os.ftruncate(self._fd, 0)
                raise
            finally:
                self._size, self._seq, self.damaged = self._scan()
            os.ftruncate(self._fd, self._size)


def leftovers(root: Path) -> list[Path]:
    """Folders of spools under ``root`` in the order their runs started, parents before their children.

    Not those that are sent again: all of them is in their compacted files.
    """

    def started(log: Path) -> tuple[int, bool, str]:
        with log.open("rb") as file:
            first = decode(file.readline().rstrip(b"\n")) or {}
        return first.get("timestamp_ms", 0), first.get("parent") is not None, str(log)

    found = []
    for gone in root.glob(f"{_GONE}*"):  # its process was killed while it deleted it
        shutil.rmtree(gone, ignore_errors=True)
    for log in root.glob(f"*/{_LOG}"):
        if log.parent.name.endswith(AGAIN):
            continue
        with contextlib.suppress(OSError):  # delivered and removed by its owner meanwhile
            found.append((started(log), log.parent))
    return [folder for _, folder in sorted(found)]
