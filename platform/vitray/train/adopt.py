"""A run goes on from another run's checkpoint."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import time
from dataclasses import replace
from pathlib import Path

from vitray.data.folder import Folder
from vitray.errors import CheckpointError
from vitray.train.checkpoint import Saved
from vitray.train.checkpoint_commit import Commit, read_commit
from vitray.train.checkpoint_files import Written, get, make, put, settle, shown
from vitray.train.checkpoint_names import COMMIT, Attempt, History, Name
from vitray.train.checkpoint_place import opened
from vitray.train.checkpoint_read import read_progress
from vitray.train.patience import patiently
from vitray.train.progress import STATE

_LOCAL_POLL_S, _REMOTE_POLL_S = 0.05, 0.5


def adopt(donor: Path | str, into: Path | str, step: int, *, timeout_s: float = 60.0) -> Saved:
    """Make the donor's checkpoint of ``step`` the one that ``into`` goes on from; both are places of checkpoints.

    It counts as an attempt of the receiver's, which is at rest. The files are linked, not copied, where the file system
    can: a committed checkpoint never changes. What was best so far stays the receiver's own: the donor's best weights
    lie in the donor's folder.

    Raises:
        CheckpointError: the donor has committed no checkpoint of that step in time.
        STORAGE_ERRORS: it cannot be written.
    """
    source, target = opened(donor), opened(into)
    found = await_step(source, step, timeout_s)
    commit = patiently(lambda: read_commit(source, found), source)
    patiently(lambda: make(target), target)
    before = History.of(target)
    attempt = Attempt(before.latest + 1, secrets.token_hex(4))
    name = Name.of(step, attempt, 0)
    make(target, name.text)
    written = {
        file: _bring(source, f"{found.text}/{file}", target, f"{name.text}/{file}", was)
        for file, was in commit.files.items()
        if file != STATE
    }
    mine = read_progress(target, before.committed[0]) if before.committed else None
    theirs = read_progress(source, found)
    own = (mine.best, mine.best_step) if mine is not None else (None, None)
    progress = replace(theirs, best=own[0], best_step=own[1])
    written[STATE] = put(target, f"{name.text}/{STATE}", json.dumps(progress.as_json(), indent=1).encode())
    settle(target, name.text, "")
    put(target, f"{name.text}/{COMMIT}", Commit(written, theirs.score).encode())
    put(target, attempt.fence(step), b"{}")  # also where the receiver was past that step
    settle(target, name.text, "")
    return Saved(target, name)


def await_step(place: Folder, step: int, timeout_s: float) -> Name:
    """The newest checkpoint of a step, which may be being written.

    Raises:
        CheckpointError: there is none in time.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        history = patiently(lambda: History.of(place), place)
        for name in history.committed:
            if name.step == step:
                return name
        if time.monotonic() > deadline:
            raise CheckpointError(f"there is no checkpoint of step {step}", where=shown(place))
        time.sleep(_LOCAL_POLL_S if place.on_disk else _REMOTE_POLL_S)


def _bring(source: Folder, file: str, target: Folder, to: str, was: Written) -> Written:
    if source.on_disk and target.on_disk:
        with contextlib.suppress(OSError):
            os.link(f"{source.base}/{file}", f"{target.base}/{to}")
            return was
    data, found = patiently(lambda: get(source, file), source)
    if found.sha256 != was.sha256:
        raise CheckpointError("is damaged: its bytes are not those that were written", where=f"{shown(source)}/{file}")
    return patiently(lambda: put(target, to, data.numpy().data), target)
