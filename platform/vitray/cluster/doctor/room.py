"""Is there room: on the disks that are written to, in the shared memory of Ray's object store, for open files?"""

from __future__ import annotations

import os
import resource
import shutil
import tempfile
from pathlib import Path

from vitray.cluster.doctor.finding import Finding, blocks, ok, warning
from vitray.cluster.machine import Machine

_TOO_LITTLE, _LITTLE = 200 * 2**20, 2 * 2**30  # bytes: a checkpoint and logs; a sweep of small models
_RAY_STOPS = 0.95  # of a disk in use, Ray stores no more on it
_FILES = 4096
_SHARED = Path("/dev/shm")
_OF_MEMORY = 0.3  # what Ray takes for its object store, if nobody says otherwise


def check(home: Path, object_store: float | None = None) -> list[Finding]:
    """``object_store``: bytes of this machine's; None for what a local Ray would take."""
    return [
        _disk("VITRAY_HOME", home, "set VITRAY_HOME to a folder on a larger disk, or delete old runs"),
        _disk("temporary files", Path(tempfile.gettempdir()), "make room there, or set RAY_TMPDIR to another disk"),
        _object_store(object_store),
        _open_files(),
    ]


def _disk(name: str, folder: Path, remedy: str) -> Finding:
    # Path.exists raises where it may not look.
    there = next(parent for parent in (folder, *folder.parents) if os.path.exists(parent))  # noqa: PTH110
    if not there.is_dir():
        return blocks("disk", f"{name}: {there} is no folder", remedy)
    try:
        with tempfile.TemporaryFile(dir=there) as written:
            written.write(bytes(4096))
    except OSError as error:
        return blocks("disk", f"{name}: cannot write in {there}: {error.strerror}", remedy)
    usage = shutil.disk_usage(there)
    what = f"{name}: {_bytes(usage.free)} free in {there}"
    if usage.free < _TOO_LITTLE:
        return blocks("disk", what, remedy)
    if usage.free < _LITTLE:
        return warning("disk", what, remedy)
    if usage.free < (1 - _RAY_STOPS) * usage.total:
        return warning("disk", f"{what}, less than the 5 % that Ray wants to see", remedy)
    return ok("disk", what)


def _object_store(size: float | None) -> Finding:
    try:
        shared = shutil.disk_usage(_SHARED)
    except OSError:
        return warning("object store", f"there is no {_SHARED}", "give the container one: --shm-size")
    wanted = size if size is not None else _OF_MEMORY * (Machine.here().node_memory or 0)
    room = shared.total if size is not None else shared.free  # of a Ray that runs, it is in use already
    what = f"Ray's object store takes {_bytes(wanted)}, {_SHARED} has {_bytes(room)}"
    if wanted > room:
        return warning(
            "object store", f"{what}: it would be on the disk, and slow", "enlarge it, in a container: --shm-size"
        )
    return ok("object store", what)


def _open_files() -> Finding:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)  # Ray takes as many as it may
    many = "any number of" if most == resource.RLIM_INFINITY else f"{most:,}"
    if most != resource.RLIM_INFINITY and most < _FILES:
        return warning("open files", f"a process may open {many} files", f"raise it to {_FILES} or more: ulimit -Hn")
    return ok("open files", f"a process may open {many} files")


def _bytes(count: float) -> str:
    return f"{count / 2**30:,.1f} GiB" if count >= 2**30 else f"{count / 2**20:,.0f} MiB"


def same_folder(one: Path, other: str | None) -> bool:
    """Whether a path that somebody else names, if any, is the folder."""
    return not other or os.path.realpath(other) == os.path.realpath(one)
