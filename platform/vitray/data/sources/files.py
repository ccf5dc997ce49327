"""Files below a folder or beside a listing, local or behind any pyarrow.fs URI: one way to list and read them."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import pyarrow.fs as pafs

from vitray.data.shards import locate
from vitray.data.uri import is_uri
from vitray.errors import DataError
from vitray.masking import public

_READERS = 8  # at a remote place: threads there wait for the network, not for a core


def printable(path: str) -> str:
    """A path as valid Unicode: a file name need not be UTF-8, but what Arrow and JSON hold must."""
    return path.encode("utf-8", "backslashreplace").decode()


def join(root: str, path: str) -> str:
    """A path below a root, which may be a URI with options."""
    plain, mark, options = root.partition("?") if "://" in root else (root, "", "")
    return f"{plain.rstrip('/')}/{path}{mark}{options}" if path else root


def problem(error: OSError | DataError) -> str:
    """Why a file cannot be read, in a few words."""
    if isinstance(error, DataError):
        return error.what
    if isinstance(error, FileNotFoundError):  # Arrow's texts repeat the path
        return "cannot be read: No such file or directory"
    return f"cannot be read: {error.strerror or public(str(error))[:200]}"


def _located(root: str) -> tuple[pafs.FileSystem, str]:
    """As ``locate``. Errors show no credentials."""
    return _located_uri(root) if is_uri(root) else locate(root)  # a local path may be relative to a folder that changes


@lru_cache(64)
def _located_uri(uri: str) -> tuple[pafs.FileSystem, str]:
    """Once a process: finding the region of a bucket takes a request."""
    try:
        return locate(uri)
    except DataError as error:
        raise DataError(public(error.what), where=public(uri), remedy=error.remedy) from None


class Files:
    """A folder (or one file) and what is below it. Picklable; paths are relative to it, with slashes.

    Hidden files and folders are left out. On a local disk linked folders are followed, but not in circles.

    Attributes:
        root: absolute local path, or URI.
        name: ``root`` without credentials.
        local: on a disk of this machine.
    """

    def __init__(self, root: str) -> None:
        filesystem, base = _located(root)
        self.local = isinstance(filesystem, pafs.LocalFileSystem)
        self.root = str(Path(base).resolve()) if self.local else root
        self.name = self.root if self.local else public(root)

    def show(self, path: str) -> str:
        """``path`` as it is printed in messages."""
        return printable(join(self.name, path))

    def kind(self, path: str = "") -> Literal["file", "folder"] | None:
        """What is there. Raises DataError when the place itself cannot be asked."""
        filesystem, full = self._at(path)
        try:
            (info,) = filesystem.get_file_info([full])
        except OSError as error:
            raise DataError(problem(error), where=self.show(path), remedy="check the address and access") from None
        if info.type == pafs.FileType.NotFound:
            return None
        return "folder" if info.type == pafs.FileType.Directory else "file"

    def entries(self, path: str = "") -> tuple[list[str], list[str]]:
        """Names of the visible folders, and of the other visible things, directly in ``path``; both sorted."""
        try:
            if self.local:
                with os.scandir(Path(self.root, path)) as found:
                    named = [(entry.name, entry.is_dir()) for entry in found]
            else:
                filesystem, full = self._at(path)
                infos = filesystem.get_file_info(pafs.FileSelector(full))
                named = [(info.base_name, info.type == pafs.FileType.Directory) for info in infos]
        except OSError as error:
            raise DataError(problem(error), where=self.show(path), remedy="check the address and access") from None
        visible = sorted(entry for entry in named if not entry[0].startswith("."))
        return [name for name, folder in visible if folder], [name for name, folder in visible if not folder]

    def below(self) -> list[str]:
        """All visible files, sorted; links to nowhere and pipes, too: they are then refused by name."""
        if self.local:
            return sorted(_walk(Path(self.root), "", frozenset()))
        filesystem, full = self._at("")
        try:
            infos = filesystem.get_file_info(pafs.FileSelector(full, recursive=True))
        except OSError as error:
            raise DataError(problem(error), where=self.name, remedy="check the address and access") from None
        paths = (info.path.removeprefix(f"{full}/") for info in infos if info.type == pafs.FileType.File)
        return sorted(path for path in paths if not any(part.startswith(".") for part in path.split("/")))

    def open(self, path: str = "") -> Any:
        """A readable, seekable binary file. Raises OSError, or DataError for a pipe (reading it would never end)."""
        if self.local:
            full_path = Path(self.root, path)
            if not stat.S_ISREG(full_path.stat().st_mode):
                raise DataError("not a regular file")
            return full_path.open("rb")
        filesystem, full = self._at(path)
        return filesystem.open_input_file(full)

    def read(self, path: str = "") -> bytes:
        """All bytes of one file. Raises as :meth:`open`."""
        if self.local:
            with self.open(path) as file:
                return bytes(file.read())
        filesystem, full = self._at(path)
        with filesystem.open_input_stream(full) as file:  # one request, where a seekable file costs two
            return bytes(file.read())

    def _at(self, path: str) -> tuple[pafs.FileSystem, str]:
        filesystem, base = _located(self.root)
        return filesystem, f"{base}/{path}" if path else base


@lru_cache(64)
def _files(root: str) -> Files:
    return Files(root)


def resolve(folder: Files, path: str) -> tuple[Files, str]:
    """Where ``path`` is, as some table beside the images gives it: relative to ``folder``, absolute, or a URI.

    What follows the bucket of a URI is taken as it stands: keys are seldom encoded where they are listed. Credentials
    and options are those of ``folder``, when it is at the same kind of place.
    """
    if path.startswith("/"):
        return _files("/"), path
    scheme, found, rest = path.partition("://")
    if not found:
        return folder, path
    bucket, _, key = rest.partition("/")
    if scheme == "file":
        return _files("/"), f"/{key}"
    own, _, own_rest = folder.root.partition("://")
    if own == scheme and "@" not in bucket:
        user = "".join(own_rest.partition("?")[0].rpartition("@")[:2])
        options = "".join(own_rest.partition("?")[1:])
        return _files(f"{scheme}://{user}{bucket}{options}"), key
    return _files(f"{scheme}://{bucket}"), key


def read_all(folder: Files, paths: Sequence[str]) -> Iterator[tuple[bytes, str | None]]:
    """For each path (see :func:`resolve`) its bytes, or none and why; several at a time where that helps."""

    def read(path: str) -> tuple[bytes, str | None]:
        try:
            files, inner = resolve(folder, path)
            return files.read(inner), None
        except (OSError, DataError) as error:
            return b"", problem(error)
        except ValueError as error:  # a NUL in the path
            return b"", f"cannot be read: {error}"

    if folder.local and not any("://" in path for path in paths):
        yield from map(read, paths)
        return
    with ThreadPoolExecutor(_READERS) as pool:
        yield from pool.map(read, paths)


def _walk(folder: Path, prefix: str, above: frozenset[tuple[int, int]]) -> Iterator[str]:
    info = folder.stat()
    identity = info.st_dev, info.st_ino
    if identity in above:
        return
    with os.scandir(folder) as entries:
        inside = [(entry.name, entry.is_dir()) for entry in entries if not entry.name.startswith(".")]
    for name, is_folder in inside:
        if is_folder:
            yield from _walk(folder / name, f"{prefix}{name}/", above | {identity})
        else:
            yield f"{prefix}{name}"
