"""A run goes on from another run's checkpoint."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import time
from pathlib import Path

from vitray.errors import CheckpointError
from vitray.train.checkpoint import COMMIT, STATE, commit, committed_in

_POLL_S = 0.05


def adopt(donor: Path, into: Path, step: int, *, timeout_s: float = 60.0) -> Path:
    """Make the donor's checkpoint of ``step`` the newest of the checkpoints in ``into``; both are checkpoint folders.

    The files are linked, not copied, where the file system can: a committed checkpoint never changes. What was best
    so far stays the receiver's own: the donor's best weights lie in the donor's folder.

    Raises:
        CheckpointError: the donor has committed no checkpoint of that step in time.
    """
    source = _await(donor, step, timeout_s)
    target = into / f"step-{step:09d}-{secrets.token_hex(4)}"
    target.mkdir(parents=True)
    for file in source.iterdir():
        if file.name not in (COMMIT, STATE):
            _link(file, target / file.name)
    state = json.loads((source / STATE).read_text())
    before: dict[str, object] = next((json.loads((folder / STATE).read_text()) for folder in committed_in(into)), {})
    state |= {key: before.get(key) for key in ("best", "best_step")}
    (target / STATE).write_text(json.dumps(state, indent=1))
    commit(target)  # last, and with a time of its own: of one step the newest counts
    return target


def _await(donor: Path, step: int, timeout_s: float) -> Path:
    deadline = time.monotonic() + timeout_s
    while True:
        for folder in committed_in(donor):
            if folder.name.startswith(f"step-{step:09d}-"):
                return folder
        if time.monotonic() > deadline:
            raise CheckpointError(f"there is no checkpoint of step {step}", where=str(donor))
        time.sleep(_POLL_S)  # it is being written


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
