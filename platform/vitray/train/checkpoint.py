"""Checkpoints that are whole or not there: files first, each with a checksum, and a commit record last.

A checkpoint is a folder ``step-<step>-<nonce>`` and is also a model package (:mod:`vitray.models.package`), so that
``vitray evaluate`` reads it as it is. Readers look at the commit record alone: without one the folder is debris of a
writer that died, and the next save removes it. Nothing relies on renaming a folder.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import secrets
import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from vitray.errors import CheckpointError
from vitray.models import VisionTransformer
from vitray.models.package import PackageInfo, write_package
from vitray.models.weights_file import write_weights

log = logging.getLogger(__name__)
COMMIT, STATE = "commit.json", "state.json"
_FOLDER = re.compile(r"^step-(\d+)-[0-9a-f]{8}$")
_OURS = re.compile(r"^(step-\d+-[0-9a-f]{8}|\.step-\d+-[0-9a-f]{8}\..+)$")  # also what a package was staged in


@dataclass(frozen=True)
class Progress:
    """Where a run stands: ``step`` optimizer steps are done. No random state: the next step reseeds itself.

    ``reports``: all that were made so far, as :meth:`vitray.train.report.Report.as_json` has them. ``so_far``: what
    :class:`vitray.train.meter.Meter` counted of an epoch that has no report yet.
    """

    step: int = 0
    best: float | None = None
    best_step: int | None = None
    reports: Sequence[Mapping[str, Any]] = ()
    so_far: Sequence[float] | None = None


@dataclass
class TrainState:
    """What a checkpoint carries. ``ema`` holds averaged weights by parameter name, if they are kept."""

    model: VisionTransformer
    optimizer: torch.optim.Optimizer
    ema: dict[str, torch.Tensor] | None = None


class CheckpointStore:
    """The checkpoints of one run, under ``folder``. One thread writes, so that training goes on meanwhile."""

    def __init__(self, folder: Path, *, keep: int = 2) -> None:
        self.folder, self._keep = folder, keep
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="vitray-checkpoint")
        self._pending: Future[None] | None = None

    def save(self, state: TrainState, progress: Progress, info: PackageInfo) -> Path:
        """Begin a checkpoint of ``progress.step`` from a copy of the weights, and return its folder-to-be.

        The previous save is waited for first; its failure is raised here. Once it is committed, older checkpoints
        beyond ``keep`` go (the best one stays).
        """
        self.wait()
        target = self.folder / f"step-{progress.step:09d}-{secrets.token_hex(4)}"
        weights = _copies(state.model.state_dict())
        average = _copies(state.ema) if state.ema is not None else None
        optimizer = _copies(_optimizer_tensors(state.optimizer))

        def write() -> None:
            target.mkdir(parents=True)
            # model.safetensors holds what one would use: the averaged weights where they are kept.
            write_package(target, {**weights, **(average or {})}, info)
            if average is not None:
                write_weights(target / "raw.safetensors", weights)
            write_weights(target / "optimizer.safetensors", optimizer)
            (target / STATE).write_text(json.dumps(asdict(progress), indent=1))
            commit(target)
            self._prune(progress)

        self._pending = self._writer.submit(write)
        return target

    def wait(self) -> None:
        """Return when the newest save is committed; raise what it raised."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def close(self) -> None:
        """Finish what is being written and end the thread."""
        try:
            self.wait()
        finally:
            self._writer.shutdown()

    def restore(self, state: TrainState) -> Progress:
        """Load the newest checkpoint that is whole into ``state``; a damaged one is skipped with a warning.

        Raises:
            CheckpointError: a whole checkpoint belongs to another model.
        """
        for folder in self.committed():
            try:
                verify(folder)
            except CheckpointError as error:
                log.warning("%s; going back to the one before", error)
                continue
            return _load(folder, state)
        return Progress()

    def committed(self) -> list[Path]:
        """Folders with a commit record, newest first."""
        return committed_in(self.folder)

    def best(self) -> Path | None:
        """The checkpoint of the best validation score so far; the newest where nothing was validated."""
        newest = self.newest()
        best_step = verify(newest).best_step if newest is not None else None
        return next((folder for folder in self.committed() if _step(folder) == best_step), newest)

    def newest(self) -> Path | None:
        return next(iter(self.committed()), None)

    def _prune(self, progress: Progress) -> None:
        # One beyond the step just saved was passed over as damaged, and must not push out those that are whole.
        committed = [p for p in self.committed() if _step(p) <= progress.step]
        kept = {p for p in committed if _step(p) == progress.best_step} | set(committed[: self._keep])
        for folder in self.folder.iterdir():
            if folder not in kept and _OURS.match(folder.name):
                (folder / COMMIT).unlink(missing_ok=True)  # first, so that no reader takes a half-removed folder
                shutil.rmtree(folder, ignore_errors=True)


def committed_in(folder: Path) -> list[Path]:
    """Committed checkpoints of a run that perhaps goes on, newest first."""
    found = [p for p in folder.glob("step-*") if _FOLDER.match(p.name) and (p / COMMIT).is_file()]
    return sorted(found, key=lambda p: (_step(p), (p / COMMIT).stat().st_mtime_ns), reverse=True)


def verify(folder: Path) -> Progress:
    """Check every file against the commit record before a weight is loaded.

    Raises:
        CheckpointError: names the file that is missing or whose bytes are not those that were written.
    """
    try:
        record = json.loads((folder / COMMIT).read_text())
        files = record["files"]
        intact = record["sha256"] == _digest_of(files)
    except (OSError, ValueError, KeyError, TypeError):
        intact, files = False, {}
    if not intact:
        raise CheckpointError("the commit record is missing or damaged", where=str(folder))
    for name, expected in files.items():
        try:
            actual = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        except OSError:
            raise CheckpointError("is missing", where=str(folder / name)) from None
        if actual != expected:
            raise CheckpointError("is damaged: its bytes are not those that were written", where=str(folder / name))
    return _progress(folder)


def _load(folder: Path, state: TrainState) -> Progress:
    weights = load_file(folder / "model.safetensors")
    if (folder / "raw.safetensors").is_file() != (state.ema is not None):
        raise CheckpointError(
            "was made " + ("without" if state.ema is not None else "with") + " averaged weights (train.ema)",
            where=str(folder),
            remedy="resume with the config it was made with, or give the run another name",
        )
    raw = load_file(folder / "raw.safetensors") if state.ema is not None else weights
    try:
        state.model.load_state_dict(raw)
    except RuntimeError as error:
        raise CheckpointError(
            f"belongs to another model: {str(error).splitlines()[-1].strip()}",
            where=str(folder),
            remedy="resume with the config it was made with, or give the run another name",
        ) from None
    if state.ema is not None:
        for name, average in state.ema.items():
            average.copy_(weights[name])
    _restore_optimizer(state.optimizer, load_file(folder / "optimizer.safetensors"))
    return _progress(folder)


def _progress(folder: Path) -> Progress:
    state = json.loads((folder / STATE).read_text())
    return Progress(**{**state, "reports": tuple(state["reports"])})


def _optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    return {
        f"{index}.{name}": tensor
        for index, slots in optimizer.state_dict()["state"].items()
        for name, tensor in slots.items()
    }


def _restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, torch.Tensor]) -> None:
    slots: dict[int, dict[str, torch.Tensor]] = {}
    for key, tensor in tensors.items():
        index, name = key.split(".", 1)
        slots.setdefault(int(index), {})[name] = tensor
    optimizer.load_state_dict({"state": slots, "param_groups": optimizer.state_dict()["param_groups"]})


def _copies(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}


def commit(folder: Path) -> None:
    """Make every file durable, then say so."""
    files = {}
    for path in sorted(folder.iterdir()):
        with path.open("rb") as file:
            files[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
            os.fsync(file.fileno())
    temporary = folder / (COMMIT + ".tmp")
    with temporary.open("w") as file:
        json.dump({"files": files, "sha256": _digest_of(files)}, file, indent=1, sort_keys=True)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(folder / COMMIT)
    for directory in (folder, folder.parent):
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _digest_of(files: object) -> str:
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()


def _step(folder: Path) -> int:
    match = _FOLDER.match(folder.name)
    assert match is not None
    return int(match.group(1))
