"""A node whose object store is full, and the disk that it spills to as well: nothing more can be handed over there."""

from __future__ import annotations

import contextlib
import shutil

import psutil
import ray

_FALLBACK = "--fallback_directory="  # of a raylet's command line


def is_full(error: BaseException) -> bool:
    """Whether an object could not be made for want of room, here or in a task."""
    cause = error.cause if isinstance(error, ray.exceptions.RayTaskError) else error
    return isinstance(cause, (ray.exceptions.OutOfDiskError, ray.exceptions.ObjectStoreFullError))


def full(needed: int) -> str:
    """What to tell of that, in a clause: which disk, what is free there, and the bytes that are ``needed``."""
    folder = spill_folder()
    what = f"Ray's object store on this node is full, and so is the disk that it spills to, {folder}: "
    with contextlib.suppress(OSError):
        what += f"{shutil.disk_usage(folder).free / 1e6:,.1f} MB are free and "
    return what + f"{needed / 1e6:,.1f} MB are needed"


def spill_folder() -> str:
    """Where this node's objects go when its store is full: only the raylet knows, whose child a worker is."""
    node = ray._private.worker._global_node
    session: str = node.get_session_dir_path() if node is not None else "Ray's temporary folder"
    try:
        raylets = [psutil.Process(), *psutil.Process().parents()]
        words = [word for process in raylets for word in process.cmdline() if word.startswith(_FALLBACK)]
    except psutil.Error:
        return session
    return words[0].removeprefix(_FALLBACK) if words else session
