"""A dataset that appears whole or not at all, wherever it is put.

A local folder is built beside its destination and renamed into place. Elsewhere nothing can be renamed:
:mod:`vitray.data.publish` says what is done there.
"""

from __future__ import annotations

import errno
import fcntl
import glob
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from vitray.data.folder import STAGING, Folder, foreign, why
from vitray.data.manifest import MANIFEST, MARKER, Manifest
from vitray.data.publish import Publication
from vitray.data.shards import locate
from vitray.data.uri import is_uri
from vitray.errors import DataError
from vitray.masking import public


@dataclass(frozen=True, slots=True)
class Destination:
    """Where a dataset will be. ``shown`` is its name for people; ``beside`` where a rename will do, None elsewhere."""

    folder: Folder
    shown: str
    beside: Path | None

    def building(self, *, overwrite: bool) -> AbstractContextManager[Draft]:
        """A folder to fill. When the block ends, its manifest makes it the dataset; when it raises, it vanishes."""
        return _beside(self.beside, overwrite) if self.beside else _published(self)


@dataclass(slots=True)
class Draft:
    """A dataset in the making: the shards go into ``folder``, and ``manifest`` is set last.

    ``still_ours()``, called now and then, raises a DataError when somebody else began to write there.
    ``tasks_may_run`` says that after a failure some may be writing yet.
    """

    folder: Folder
    manifest: Manifest | None = None
    tasks_may_run: bool = False
    still_ours: Callable[[], None] = lambda: None


def check_destination(dest: str | Path, *, source: str, overwrite: bool) -> Destination:
    """The destination ``dest``, when a dataset made from ``source`` may be put there.

    Raises:
        DataError: a file, one inside the other, or a folder in use. With ``overwrite`` a dataset gives way to a new
            one, but a folder that holds anything else never does: it may be somebody's home.
    """
    text = str(dest)
    if not text.strip() or "\0" in text:
        raise DataError("is no path", where=repr(text), remedy="name a folder that does not exist yet, or a URI")
    if is_uri(text):
        folder = Folder(*locate(text))
        target = Destination(folder, public(text).rstrip("/"), None)
        local = str(Path(folder.base).resolve()) if folder.on_disk else None
        _check_apart(local or _bare(target.shown), source if local else _bare(source), target.shown)
    else:
        path = Path(text).expanduser().resolve()
        target = Destination(Folder.local(path), text, path)
        _check_apart(str(path), source, text)
        if path.exists() and not path.is_dir():
            raise DataError("is a file", where=text, remedy="name a folder that does not exist yet")
    _check_free(target, overwrite)
    return target


def _bare(uri: str) -> str:
    """A URI without credentials and options, so that two of them can be compared."""
    scheme, separator, rest = uri.partition("?")[0].partition("://")
    return f"{scheme}{separator}{rest.rpartition('@')[2]}".rstrip("/")


def _check_apart(dest: str, source: str, shown: str) -> None:
    if f"{dest}/".startswith(f"{source}/") or f"{source}/".startswith(f"{dest}/"):
        raise DataError(f"lies inside or around its source {source}", where=shown, remedy="choose a folder elsewhere")


def _check_free(target: Destination, overwrite: bool) -> None:
    try:
        names = target.folder.entries()
        unfinished = MARKER in names and not target.beside
        # Deeper only where it may be ours: it could be a home, or a bucket with millions of objects.
        strangers = foreign(target.folder.files()) if MANIFEST in names or unfinished else []
    except OSError as error:
        raise DataError(
            f"cannot be looked into: {why(error)}",
            where=target.shown,
            remedy="check its name, and that it may be read and written",
        ) from None
    if strangers or (names and MANIFEST not in names and not unfinished):
        kind = "holds a dataset and other files, too" if MANIFEST in names else "is not empty and no finished dataset"
        raise DataError(
            f"{kind} (for one, {min(strangers or names)!r})",
            where=target.shown,
            remedy="choose another folder, or empty this one yourself",
        )
    if MANIFEST in names and not overwrite:
        raise DataError(
            "holds a dataset already",
            where=target.shown,
            remedy="choose another folder, or replace it with --overwrite",
        )


@contextmanager
def _beside(target: Path, overwrite: bool) -> Iterator[Draft]:
    """A new folder beside ``target``; it becomes ``target`` when the block ends, and vanishes when the block raises.

    What a killed process left behind is swept by the next one: its lock is gone, while a running one's is held.

    Raises:
        OSError: the folder cannot be made or renamed.
        DataError: ``target`` is no longer free.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{target.name}.preparing-"
    guard = _hold(target.parent)  # nobody sweeps between the making of a folder and its lock
    try:
        for left in target.parent.glob(glob.escape(prefix) + "*"):
            _sweep(left)
        path = target.parent / f"{prefix}{secrets.token_hex(4)}"
        path.mkdir()
        lock = _hold(path)
    finally:
        os.close(guard)
    try:
        draft = Draft(Folder.local(path))
        yield draft
        assert draft.manifest is not None
        shutil.rmtree(path / STAGING, ignore_errors=True)
        draft.manifest.write(path)
        _put_in_place(path, target, target.parent / f"{prefix}{secrets.token_hex(4)}", overwrite)
    finally:
        shutil.rmtree(path, ignore_errors=True)  # gone already when all went well
        os.close(lock)


def _put_in_place(path: Path, target: Path, old: Path, overwrite: bool) -> None:
    if overwrite and target.exists():
        target.rename(old)
    try:
        path.rename(target)
    except OSError as error:
        if old.exists():
            old.rename(target)
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        raise DataError(
            "was filled by somebody else meanwhile", where=str(target), remedy="look at what is there now"
        ) from None
    shutil.rmtree(old, ignore_errors=True)


@contextmanager
def _published(target: Destination) -> Iterator[Draft]:
    publication = Publication(target.folder, target.shown)
    draft = Draft(target.folder, still_ours=publication.still_ours)
    try:
        yield draft
        assert draft.manifest is not None
        publication.commit(draft.manifest.to_json().encode())
    except BaseException:
        publication.withdraw(tasks_may_run=draft.tasks_may_run)
        raise


def _hold(folder: Path) -> int:
    """An open, locked descriptor of ``folder``; a file system without locks loses only the sweeping."""
    descriptor = os.open(folder, os.O_RDONLY)
    with suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    return descriptor


def _sweep(left: Path) -> None:
    with suppress(OSError):  # no locks here, or not ours to remove
        lock = os.open(left, os.O_RDONLY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(left)
        except BlockingIOError:
            pass  # its maker is alive
        finally:
            os.close(lock)
